//! The room from outside.

mod durability;
mod model;
mod rest;
