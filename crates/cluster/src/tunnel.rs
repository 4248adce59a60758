//! The way to members that dial out to their host.

pub mod authority;
