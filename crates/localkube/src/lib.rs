//! A Kubernetes API in this process: storage, discovery, watch, patch, tables, and Pods that run as
//! local processes. It is for trying, developing and testing; production runs on real Kubernetes.
//!
//! The room knows nothing of the product: schemas, CRDs and the image that counts as "our own" are
//! passed in. Its judges are kubectl, kube-rs and the same requests sent to a real kube-apiserver.

mod apply;
pub mod authentication;
pub mod authority;
pub mod builtin;
pub mod cluster;
pub mod connect;
pub mod controllers;
pub mod crd;
pub mod discovery;
pub mod exec;
pub mod identity;
pub mod kind;
pub mod node;
pub mod node_port;
pub mod openapi;
pub mod patch;
pub mod port_forward;
pub mod proxy;
pub mod rbac;
pub mod recorder;
pub mod registry;
pub mod reviews;
pub mod schema;
pub mod selector;
pub mod serve;
pub mod server;
pub mod service_account;
pub mod status;
pub mod store;
pub mod table;
mod websocket;

pub use cluster::{Cluster, Error, Options};
