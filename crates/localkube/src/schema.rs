//! Structural schemas of custom resources: validation, defaults, pruning.

/// A compiled structural schema.
pub struct Schema {}
