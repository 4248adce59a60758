//! Reconcilers at work, on embedded control planes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod stage;
mod trust;
