//! Events, as `kubectl describe` shows them.

/// Gives the current time.
pub type Clock = fn() -> jiff::Timestamp;
