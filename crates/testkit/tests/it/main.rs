//! Tests of whole planes, with real clients.

mod kubectl;
mod original;
mod port_forward;
