//! The room from outside.

mod apply;
mod cluster;
mod durability;
mod exec;
mod model;
mod pods;
mod rest;
mod support;
