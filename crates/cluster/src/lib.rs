//! Kube AI Hub: cluster.
