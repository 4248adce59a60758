//! What things are: request targets, configuration, the objects of our API groups, refusals and causes.
//!
//! This room does no input or output and knows nothing of the others.

#![recursion_limit = "256"] // for the definitions of resources, written as JSON

pub mod access;
pub mod cluster;
pub mod config;
pub mod definition;
pub mod go_json;
pub mod iam;
pub mod image;
pub mod network;
pub mod path;
pub mod seed;
pub mod status;
pub mod tenant;
pub mod time;
pub mod version;

pub use status::Status;
