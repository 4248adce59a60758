//! The program as a person meets it: `kah` in processes of their own, real kubectl, plain HTTP.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on should stop"
)]

mod check;
mod clusters;
mod doctor;
mod enrol;
mod fleet;
mod four;
mod heals;
mod health;
mod import;
mod inside;
mod join;
mod login;
mod original;
mod prompts;
mod recovery;
mod restore;
mod story;
mod trust;
mod up;
