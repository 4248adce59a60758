//! The gateway as a whole, on scripted surroundings.

mod answers;
mod fleet;
mod identity;
mod room;
mod routes;
mod security;
mod wire;
