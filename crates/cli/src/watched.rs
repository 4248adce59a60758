//! A table that is looked at again and again.

use std::{io::IsTerminal, time::Duration};

use crate::{
    failure::{Exit, Failure},
    output,
};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(2);
/// Clears the terminal and begins at its top.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Columns for people. The first names the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Names of the columns.
    pub header: Vec<&'static str>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// As it is printed.
    pub fn text(&self) -> String {
        output::table(&self.header, &self.rows)
    }

    /// What is to be added to what was printed before: rows that are new or changed, and those that have gone.
    fn since(&self, before: &Self) -> Self {
        let is_new = |row: &&Vec<String>| !before.rows.contains(row);
        let mut rows: Vec<Vec<String>> = self.rows.iter().filter(is_new).cloned().collect();
        let has = |name: &str| {
            let mut names = self.rows.iter().filter_map(|row| row.first());
            names.any(|it| it == name)
        };
        for name in before.rows.iter().filter_map(|row| row.first()) {
            if !has(name) && !rows.iter().any(|row| row.first() == Some(name)) {
                rows.push(vec![name.clone(), "has left".into()]);
            }
        }
        Self {
            header: self.header.clone(),
            rows,
        }
    }
}

/// Prints the table whenever it changes, until Ctrl-C: anew on a terminal, elsewhere only what changed. A host that does not answer for a while is no
/// end; a login that is refused is.
///
/// # Errors
/// The first look fails, or the login is refused.
pub async fn watch(look: impl AsyncFn() -> Result<Table, Failure>) -> Result<(), Failure> {
    let terminal = std::io::stdout().is_terminal();
    let work = async {
        let mut before: Option<Table> = None;
        let mut complained = false;
        loop {
            match look().await {
                Ok(table) => {
                    complained = false;
                    print(before.as_ref(), &table, terminal)?;
                    before = Some(table);
                }
                Err(failure) if before.is_none() || failure.code() == Exit::Login as u8 => {
                    return Err(failure);
                }
                Err(failure) if !complained => {
                    output::talk(&format!("kah: {failure}"));
                    complained = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(EVERY).await;
        }
    };
    tokio::select! {
        ended = work => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

fn print(before: Option<&Table>, table: &Table, terminal: bool) -> Result<(), Failure> {
    match before {
        Some(before) if before == table => Ok(()),
        _ if terminal => output::data(&format!("{CLEAR}{}", table.text())),
        None => output::data(&table.text()),
        Some(before) => {
            let text = table.since(before).text();
            // The header was printed at the beginning.
            let rows = text.split_once('\n').map_or("", |(_, rows)| rows);
            output::data(rows)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[&[&str]]) -> Table {
        Table {
            header: vec!["NAME", "ACCESS"],
            rows: rows
                .iter()
                .map(|row| row.iter().map(|cell| (*cell).to_owned()).collect())
                .collect(),
        }
    }

    #[test]
    fn only_what_changed_is_added() {
        let before = table(&[&["a", "Yes"], &["b", "Yes"], &["c", "Yes"]]);
        let after = table(&[&["a", "Yes"], &["b", "TokenNotInCache"], &["d", "Yes"]]);
        assert_eq!(
            after.since(&before).rows,
            table(&[&["b", "TokenNotInCache"], &["d", "Yes"], &["c", "has left"]]).rows
        );
        assert!(after.since(&after).rows.is_empty());
    }
}
