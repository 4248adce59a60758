//! Kube AI Hub: testkit.
