//! Bytes on wires: TLS, the reverse proxy and the splice after an upgrade.
//!
//! This room knows addresses, bytes and HTTP. What stands behind an address, who asks and whether they may is decided elsewhere.
//!
//! * [`Upstream`] is one address that requests are sent to, with its credentials, pools and time limits.
//! * [`Forward`] is what one request needs beside the request itself.
//! * [`Dial`] gives an upstream connections by another way than TCP from here.
//! * [`tunnel`] carries many streams over one connection that the other side dialled.
//! * [`ProxyError`] says what went wrong on the way, and whose fault it is.

mod body;
mod connect;
mod dial;
mod error;
mod gauge;
mod headers;
mod shown;
mod splice;
mod tls;
pub mod tunnel;
mod upgrade;
mod upstream;

pub use body::{Body, BoxError, empty, full};
pub use connect::{Address, Allow};
pub use dial::{Dial, DialError, Dialling, Duplex};
pub use error::{Kind, ProxyError};
pub use gauge::{Gauges, Open};
pub use headers::{is_upgrade, request_header_passes, response_header_passes, upgrade_protocols};
pub use shown::{Shown, shown_certificates};
pub use splice::splice;
pub use tls::{ClientCertificate, Roots, TlsSettings, Verify};
pub use upstream::{Credential, Forward, Limits, Upstream, UpstreamSettings};
