//! Many streams over one connection that the other side dialled.
//!
//! From the outside in: HTTP/1.1 that is upgraded to a websocket, so that it passes whatever passes browsers; TLS, by which both ends know each
//! other whoever stands between them; and yamux, which carries streams, each with a flow control of its own.
//!
//! * [`connect`] dials, [`answer`] and [`accept`] are the other end.
//! * [`session`] turns either into a [`Session`], which opens streams, and [`Incoming`], which gives those of the other side.
//! * [`read_frame`] and [`write_frame`] are what the two ends say to each other before bytes flow.

mod accept;
mod connect;
mod frame;
mod session;
mod stream;
mod websocket;

pub use accept::{NoUpgrade, Transport, accept, answer};
pub use connect::{ConnectSettings, Dialled, ProxiedDial, Proxies, connect};
pub use frame::{LARGEST_FRAME, read_frame, write_frame};
pub use session::{Incoming, NoStream, Session, SessionLimits, Side, session};
pub use stream::Stream;
pub use websocket::WebSocketIo;
