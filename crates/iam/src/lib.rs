//! Kube AI Hub: iam.
