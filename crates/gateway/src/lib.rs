//! Kube AI Hub: gateway.
