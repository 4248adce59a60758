//! HTTP in: the filter chain, the routes, the way to members and to the local kube-apiserver.
//!
//! * [`Gateway`] answers one request; its file reads from the outermost layer to the innermost.
//! * [`serve`] is the listener before it.
//! * [`Follower`] watches the configuration's file.
//! * [`ROUTES`] is everything that is answered here and not passed on.

mod answer;
mod audit;
mod callers;
mod clusters;
mod edge;
mod gateway;
mod handlers;
mod health;
mod hub;
mod kube_proxy;
mod member;
mod metrics;
mod oauth;
mod receive;
mod reload;
mod routes;
mod server;
mod sessions;
mod settings;
mod streams;

pub use audit::{Audit, AuditLog, Object, Record};
pub use callers::{
    Caller, Callers, GrantError, Profile, Rejection, Tokens, is_open, needs_no_role,
};
pub use gateway::{Counters, Gateway, GatewayParts, Peer};
pub use kube_proxy::KubeProxy;
pub use reload::{Follower, ReloadCounters, read};
pub use routes::{Endpoint, ROUTES, Route};
pub use server::{Encryption, ServerLimits, serve};
pub use sessions::Sessions;
pub use settings::{Client, Settings};
