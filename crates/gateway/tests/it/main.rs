//! The gateway as a whole, on scripted surroundings.

#![allow(
    clippy::unwrap_used,
    reason = "what helpers of tests do is not seen as a test"
)]

mod answers;
mod fleet;
mod identity;
mod room;
mod routes;
mod security;
mod tokens;
mod tunnel;
mod wire;
