//! Callers and their credentials, as the gateway asks about them.

#![allow(
    clippy::unwrap_used,
    reason = "what helpers of tests do is not seen as a test"
)]

mod authentication;
