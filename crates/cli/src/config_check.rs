//! `kah config check`.

use std::path::Path;

use crate::failure::Failure;
use crate::output::Format;

/// Checks one file.
pub fn run(_file: &Path, _format: Format) -> Result<(), Failure> {
    Ok(())
}
