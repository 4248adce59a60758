//! What docs/security-tests.md says: that every test that it names is there, that each line of the list of attacks has a row, and that no listener of the
//! product is missing in its second table.

use std::{collections::BTreeSet, fs, io, path::Path};

use crate::tidy::sources;

const PAGE: &str = "docs/security-tests.md";

/// The lines of the list of attacks that have a row each.
const LINES: &[&str] = &[
    "H1", "H2", "H3", "H4", "H5", "H6", "H8", "H9", "H11", "H14", "T1", "T2", "T3", "T5", "T6",
    "T8", "T9", "T10", "T12", "T13", "T15", "S1", "S3", "S4", "S5", "S6", "S8", "S9", "S10", "S11",
    "S14", "W1", "W2", "W4", "W5", "W8", "W11", "W12",
];

pub fn check(root: &Path, faults: &mut Vec<String>) -> io::Result<()> {
    let page = fs::read_to_string(root.join(PAGE))?;
    let mut files = Vec::new();
    sources(&root.join("crates"), &mut files)?;
    let (mut tests, mut listeners) = (BTreeSet::new(), BTreeSet::new());
    for file in files {
        let text = fs::read_to_string(&file)?;
        tests.extend(functions(&text).map(str::to_owned));
        let shown = file.strip_prefix(root).unwrap_or(&file).display();
        if listens(&shown.to_string(), &text) {
            listeners.insert(shown.to_string());
        }
    }
    faults.extend(page_faults(&page, &tests, &listeners));
    Ok(())
}

fn functions(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let line = line.trim_start();
        let rest = line
            .strip_prefix("fn ")
            .or_else(|| line.strip_prefix("async fn "))?;
        rest.split(['(', '<']).next()
    })
}

/// Whether the product opens a port here.
fn listens(path: &str, text: &str) -> bool {
    let is_test = path.contains("/tests/")
        || path.contains("/benches/")
        || path.contains("/testkit/")
        || path.ends_with("tests.rs");
    !is_test
        && text
            .lines()
            .take_while(|line| !line.trim_start().starts_with("#[cfg(test)]"))
            .any(|line| line.contains("TcpListener::bind("))
}

/// Words in backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn page_faults(page: &str, tests: &BTreeSet<String>, listeners: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let (mut lines, mut listed) = (BTreeSet::new(), BTreeSet::new());
    for (number, row) in page.lines().enumerate() {
        let number = number + 1;
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, first, second, ..] = cells.as_slice() else {
            continue;
        };
        if let Some(path) = quoted(first).next() {
            listed.insert(path.to_owned());
        }
        if !LINES.contains(first) {
            continue;
        }
        lines.insert(*first);
        let word = first.to_ascii_lowercase();
        for name in quoted(second) {
            if !tests.contains(name) {
                faults.push(format!("{PAGE}:{number}: {name} is no test"));
            }
            if !name.split('_').any(|part| part == word) {
                faults.push(format!("{PAGE}:{number}: {name} does not say {first}"));
            }
        }
        if second.len() < 3 {
            faults.push(format!("{PAGE}:{number}: no test, and no reason"));
        }
    }
    for line in LINES.iter().filter(|line| !lines.contains(*line)) {
        faults.push(format!("{PAGE}: no row for {line}"));
    }
    for path in listeners.difference(&listed) {
        faults.push(format!("{path}: a listener that {PAGE} does not list"));
    }
    for path in listed.difference(listeners) {
        faults.push(format!("{PAGE}: {path} opens no port"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn page(extra: &str) -> String {
        let rows = LINES.iter().map(|line| format!("| {line} | not yet |\n"));
        rows.collect::<String>() + extra
    }

    #[test]
    fn a_row_names_tests_that_are_there_and_say_so() {
        let tests = set(&["h1_h2_x", "t5_x"]);
        let faults = |extra: &str| page_faults(&page(extra), &tests, &set(&[])).len();
        assert_eq!(faults("| H1 | `h1_h2_x` |\n| H2 | `h1_h2_x` |\n"), 0);
        assert_eq!(faults("| H1 | `h1_gone` |\n"), 1);
        assert_eq!(faults("| H1 | `t5_x` |\n"), 1);
        assert_eq!(faults("| H1 | |\n"), 1);
        assert_eq!(page_faults("", &tests, &set(&[])).len(), LINES.len());
    }

    #[test]
    fn every_listener_is_listed() {
        assert!(listens(
            "crates/a/src/b.rs",
            "let x = TcpListener::bind(y);"
        ));
        assert!(!listens("crates/a/tests/it/b.rs", "TcpListener::bind(y);"));
        assert!(!listens(
            "crates/a/src/b.rs",
            "#[cfg(test)]\nTcpListener::bind(y);"
        ));
        let faults = |extra: &str| page_faults(&page(extra), &set(&[]), &set(&["a.rs"]));
        assert_eq!(faults("").len(), 1);
        assert_eq!(faults("| `a.rs` | tokens |\n"), Vec::<String>::new());
        assert_eq!(faults("| `a.rs` | x |\n| `b.rs` | x |\n").len(), 1);
    }

    #[test]
    fn functions_by_name() {
        let text = "fn a() {}\n    async fn b<T>() {}\nlet fn_c = 1;";
        assert_eq!(functions(text).collect::<Vec<_>>(), ["a", "b"]);
    }
}
