//! Kube AI Hub: api.
