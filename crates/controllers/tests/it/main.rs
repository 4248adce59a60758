//! The reconcilers over a host on localkube, with members that are scripted.

#![allow(clippy::unwrap_used)]

mod clusters;
mod leader;
mod restores;
mod stage;
