//! The gateway as a whole, on scripted surroundings.

#![allow(
    clippy::unwrap_used,
    reason = "what helpers of tests do is not seen as a test"
)]

// The stand-in alone: the rest of testkit would make every room a part of this one's tests.
#[allow(dead_code)]
#[path = "../../../testkit/src/member.rs"]
mod member;

mod answers;
mod fleet;
mod identity;
mod left;
mod proven;
mod room;
mod routes;
mod security;
mod tokens;
mod tunnel;
mod ways;
mod wire;
