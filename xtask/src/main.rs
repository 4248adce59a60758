//! Repository checks that neither rustc nor clippy can make: `cargo xtask tidy`.

mod security;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

#[allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that prints"
)]
fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."));
    match std::env::args().nth(1).as_deref() {
        Some("tidy") => match tidy::check(root) {
            Ok(faults) if faults.is_empty() => {
                println!("tidy: nothing to say");
                ExitCode::SUCCESS
            }
            Ok(faults) => {
                for fault in &faults {
                    eprintln!("{fault}");
                }
                eprintln!("tidy: {} faults", faults.len());
                ExitCode::FAILURE
            }
            Err(error) => {
                eprintln!("tidy: reading the repository: {error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: cargo xtask tidy");
            ExitCode::from(2)
        }
    }
}
