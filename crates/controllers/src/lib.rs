//! Reconcilers of a host: each compares what is with what should be, and mends the difference.
//!
//! A reconciler takes no input: it is woken, reads the stored objects anew, and acts. It never calls the gateway, nor is it called by it.

pub mod propagation;
