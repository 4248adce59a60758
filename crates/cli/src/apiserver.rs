//! `kah apiserver`.

use crate::failure::Failure;

/// Its flags.
#[derive(clap::Args)]
pub struct Arguments {}

/// Serves until it is told to stop.
pub async fn run(_arguments: Arguments) -> Result<(), Failure> {
    Err(Failure::new("kah apiserver is not there yet.", "Wait."))
}
