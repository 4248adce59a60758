//! `kubesphere.yaml` (configuration.md).
