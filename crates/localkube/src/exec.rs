//! `pods/NAME/exec`: a small built-in shell in the Pod's own folder. It never runs a program of the machine.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::connect::{Body, Connect, refuse};
use crate::status::ApiError;

/// Where commands run.
pub struct Target {
    /// Nothing outside of this folder can be reached.
    pub root: PathBuf,
    /// What `env` shows.
    pub variables: Vec<(String, String)>,
    /// Ends every session.
    pub stopped: CancellationToken,
}

/// Answers a request for exec.
pub fn answer(target: Result<Target, ApiError>, connect: Connect) -> http::Response<Body> {
    let _ = connect;
    match target {
        Ok(_) => refuse(&ApiError::new(
            501,
            "NotImplemented",
            "exec is not offered yet",
        )),
        Err(error) => refuse(&error),
    }
}
