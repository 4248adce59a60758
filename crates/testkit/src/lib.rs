//! What tests stand on: control planes, real and embedded; the real kubectl; fleets; scripted members.

pub mod kubectl;
pub mod plane;
