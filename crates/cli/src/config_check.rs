//! `kah config check`: what is wrong with a kubesphere.yaml, before a server meets it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use kah_api::config::{ConfigError, Configuration};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::output::{self, Format};

/// Bytes of a file that are read at most: a ConfigMap holds no more.
const MAX_FILE: u64 = 1024 * 1024;

/// One thing that is wrong.
#[derive(Serialize)]
struct Fault {
    severity: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    message: String,
}

/// Checks one file; what is found goes to stdout.
pub fn run(path: &Path, format: Format) -> Result<(), Failure> {
    let text = read(path)?;
    let faults = check(&text);
    match format {
        Format::Table if faults.is_empty() => output::talk("Nothing to say."),
        Format::Table => {
            let rows: Vec<Vec<&str>> = faults
                .iter()
                .map(|fault| vec![fault.severity, fault.message.as_str()])
                .collect();
            output::data(&output::table(&["SEVERITY", "FINDING"], &rows))?;
        }
        Format::Name => {
            let keys = faults.iter().filter_map(|fault| fault.key.as_deref());
            output::data(&keys.map(|key| format!("{key}\n")).collect::<String>())?;
        }
        Format::Json | Format::Yaml => output::value(&faults, format)?,
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        format!("{} findings in {}.", faults.len(), path.display()),
        "Correct the file; docs/exit-codes.md lists what the exit code means.",
    )
    .exit(Exit::Found))
}

fn check(text: &str) -> Vec<Fault> {
    let error = |error: &ConfigError| Fault {
        severity: "Error",
        key: match error {
            ConfigError::Value { path, .. } => Some(path.clone()),
            _ => None,
        },
        message: error.to_string(),
    };
    let configuration = match Configuration::read(text, &BTreeMap::new()) {
        Ok(configuration) => configuration,
        Err(unreadable) => return vec![error(&unreadable)],
    };
    let invalid = configuration.validate().err();
    let unknown = configuration.findings().iter().map(|finding| Fault {
        severity: "Warning",
        key: Some(finding.path.clone()),
        message: finding.to_string(),
    });
    invalid.iter().map(error).chain(unknown).collect()
}

fn read(path: &Path) -> Result<String, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(
            format!("read {}", path.display()),
            "Give the path of a kubesphere.yaml, or - for standard input.",
        )
        .because(error)
    };
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin()
            .take(MAX_FILE)
            .read_to_string(&mut text)
            .map_err(failed)?;
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_FILE)
            .read_to_string(&mut text)
            .map_err(failed)?;
    }
    Ok(text)
}
