//! Kube AI Hub: net.
