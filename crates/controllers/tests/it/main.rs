//! The reconcilers against whole control planes, with members that are whole or scripted.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod clusters;
mod leader;
mod propagation;
mod renewal;
mod restores;
mod stage;
mod trust;
mod tunnel;
