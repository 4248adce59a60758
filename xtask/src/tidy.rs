//! Import order of the rooms, sizes and names of files, and words that do not belong into the product's code.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Which rooms a room may import (ARCHITECTURE.md). `testkit` and the repository's own tools may import all.
const ROOMS: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("net", &[]),
    ("localkube", &[]),
    ("iam", &["api"]),
    ("cluster", &["api", "net", "iam"]),
    ("controllers", &["api", "iam", "cluster"]),
    ("gateway", &["api", "net", "iam", "cluster"]),
    (
        "cli",
        &[
            "api",
            "net",
            "localkube",
            "iam",
            "cluster",
            "controllers",
            "gateway",
        ],
    ),
];

/// Lines of a file of the product, its inline tests not counted.
const LONGEST: usize = 600;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "manager"];

/// What the product's code does not contain, and why.
const WORDS: &[(&str, &str)] = &[
    ("todo!(", "finish it, or answer as what is not served"),
    (
        "unimplemented!(",
        "finish it, or answer as what is not served",
    ),
    (".unwrap()", "no panics: return the error"),
    (".expect(", "no panics: return the error"),
    ("panic!(", "no panics: return the error"),
    ("std::process::exit", "return an ExitCode from main"),
    ("static mut", "no globals"),
    (
        "thread::sleep",
        "await a timer of the runtime, or a condition",
    ),
];

/// What no file of ours contains, tests included.
const WORDS_EVERYWHERE: &[(&str, &str)] = &[
    ("#[ignore", "a test that does not run cannot fail"),
    ("dbg!(", "left over"),
];

/// Every fault found, as `path:line: what`.
pub fn check(root: &Path) -> io::Result<Vec<String>> {
    let mut faults = Vec::new();
    manifests(root, &mut faults)?;
    let mut files = Vec::new();
    for folder in ["crates", "xtask", "bench"] {
        sources(&root.join(folder), &mut files)?;
    }
    for file in files {
        let text = fs::read_to_string(&file)?;
        let shown = file.strip_prefix(root).unwrap_or(&file);
        source(shown, &text, &mut faults);
    }
    crate::security::check(root, &mut faults)?;
    faults.sort();
    Ok(faults)
}

fn manifests(root: &Path, faults: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(root.join("crates"))? {
        let folder = entry?.path();
        let Some(room) = folder.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let manifest = fs::read_to_string(folder.join("Cargo.toml"))?;
        faults.extend(manifest_faults(room, &manifest));
    }
    Ok(())
}

fn manifest_faults(room: &str, manifest: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let path = format!("crates/{room}/Cargo.toml");
    if !manifest.contains("[lints]\nworkspace = true") {
        faults.push(format!("{path}: inherit the lints of the workspace"));
    }
    let allowed = match ROOMS.iter().find(|(name, _)| *name == room) {
        Some((_, allowed)) => *allowed,
        None if room == "testkit" => return faults,
        None => {
            faults.push(format!(
                "{path}: a room that ARCHITECTURE.md and xtask do not know"
            ));
            return faults;
        }
    };
    let mut section = "";
    for (number, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            section = line;
        }
        // What tests import is their own affair, as long as it is no cycle.
        if section.contains("dev-dependencies") || !section.contains("dependencies") {
            continue;
        }
        let Some(rest) = line.strip_prefix("kah-") else {
            continue;
        };
        let other = rest
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .next()
            .unwrap_or(rest);
        if !allowed.contains(&other) {
            faults.push(format!(
                "{path}:{}: {room} must not import {other}",
                number + 1
            ));
        }
    }
    faults
}

pub(crate) fn sources(folder: &Path, into: &mut Vec<PathBuf>) -> io::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                sources(&path, into)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

fn source(path: &Path, text: &str, faults: &mut Vec<String>) {
    let shown = path.display();
    let stem = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or("");
    if stem == "mod" {
        faults.push(format!("{shown}: name the file after the module"));
    }
    if EMPTY_NAMES.contains(&stem) {
        faults.push(format!("{shown}: a name that says what is inside"));
    }
    let own_check = path.starts_with("xtask");
    let test = path
        .components()
        .any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "benches")))
        || path.starts_with("crates/testkit")
        || path.starts_with("bench")
        || stem == "tests"
        || stem.ends_with("_tests");
    let product = text
        .lines()
        .take_while(|line| !line.trim_start().starts_with("#[cfg(test)]"))
        .count();
    if !test && product > LONGEST {
        faults.push(format!(
            "{shown}: {product} lines, more than {LONGEST}: find the seam"
        ));
    }
    if own_check {
        return;
    }
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        let in_product = !test && number < product;
        let words = WORDS_EVERYWHERE
            .iter()
            .chain(WORDS.iter().filter(|_| in_product));
        for (word, why) in words {
            if code.contains(word) {
                faults.push(format!("{shown}:{}: {word} — {why}", number + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> Vec<String> {
        let mut faults = Vec::new();
        source(Path::new(path), text, &mut faults);
        faults
    }

    #[test]
    fn imports_run_one_way() {
        let manifest = "[dependencies]\nkah-api.workspace = true\nkah-gateway.workspace = true\n\n\
                        [dev-dependencies]\nkah-testkit.workspace = true\n[lints]\nworkspace = true\n";
        assert_eq!(
            manifest_faults("iam", manifest),
            ["crates/iam/Cargo.toml:3: iam must not import gateway"]
        );
        assert!(manifest_faults("cli", manifest).is_empty());
        assert_eq!(manifest_faults("misc", manifest).len(), 1);
    }

    #[test]
    fn words_are_judged_where_they_stand() {
        assert_eq!(faults("crates/net/src/a.rs", "x.unwrap();").len(), 1);
        assert_eq!(faults("crates/net/src/a.rs", "// x.unwrap();").len(), 0);
        assert_eq!(
            faults("crates/net/src/a.rs", "#[cfg(test)]\nx.unwrap();").len(),
            0
        );
        assert_eq!(faults("crates/net/tests/it/a.rs", "x.unwrap();").len(), 0);
        assert_eq!(faults("crates/net/tests/it/a.rs", "#[ignore]").len(), 1);
    }

    #[test]
    fn files_have_names_and_an_end() {
        assert_eq!(faults("crates/net/src/proxy/mod.rs", "").len(), 1);
        assert_eq!(faults("crates/net/src/utils.rs", "").len(), 1);
        assert_eq!(
            faults("crates/net/src/a.rs", &"x\n".repeat(LONGEST + 1)).len(),
            1
        );
        assert_eq!(
            faults("crates/net/src/a.rs", &"x\n".repeat(LONGEST)).len(),
            0
        );
    }

    #[test]
    fn the_repository_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert_eq!(check(root).unwrap(), Vec::<String>::new());
    }
}
