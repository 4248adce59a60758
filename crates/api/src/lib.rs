//! Kube AI Hub: api.

pub mod seed;
