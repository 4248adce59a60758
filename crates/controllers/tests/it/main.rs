//! The reconcilers against whole control planes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod propagation;
mod trust;
