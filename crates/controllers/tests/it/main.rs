//! The reconcilers against whole control planes.

mod propagation;
