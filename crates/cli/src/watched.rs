//! A table that is looked at again and again.

use std::{io::IsTerminal, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    failure::{Exit, Failure},
    output::{self, Format},
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

    /// The names that are no more.
    fn gone<'a>(&self, before: &'a Self) -> Vec<&'a str> {
        let has = |name: &str| {
            self.rows
                .iter()
                .any(|row| row.first().is_some_and(|it| it == name))
        };
        let names = before.rows.iter().filter_map(|row| row.first());
        let mut gone: Vec<&str> = names
            .map(String::as_str)
            .filter(|name| !has(name))
            .collect();
        gone.dedup();
        gone
    }

    /// The rows of a cluster, in order.
    fn of<'a>(&'a self, name: Option<&'a String>) -> impl Iterator<Item = &'a Vec<String>> {
        self.rows.iter().filter(move |row| row.first() == name)
    }

    /// Whether this row is to be printed after those. Of a cluster of which anything changed all rows are: else nothing would say that one is gone.
    fn is_news(&self, row: &[String], before: &Self) -> bool {
        !self.of(row.first()).eq(before.of(row.first()))
    }

    /// What is to be added to what was printed before: the rows of clusters that are new or changed, and those that have gone.
    fn since(&self, before: &Self) -> Self {
        let is_new = |row: &&Vec<String>| self.is_news(row, before);
        let mut rows: Vec<Vec<String>> = self.rows.iter().filter(is_new).cloned().collect();
        for name in self.gone(before) {
            rows.push(vec![name.to_owned(), "has left".into()]);
        }
        Self {
            header: self.header.clone(),
            rows,
        }
    }
}

/// What one look shows: a table, and the same rows as data.
pub struct Look {
    /// For people.
    pub table: Table,
    /// One for each row of the table.
    pub items: Vec<Value>,
}

impl Look {
    /// Of these rows, shown so.
    ///
    /// # Errors
    /// A row cannot be written as JSON.
    pub fn new(table: Table, rows: &[impl Serialize]) -> Result<Self, Failure> {
        let items: Result<Vec<Value>, _> = rows.iter().map(serde_json::to_value).collect();
        let items = items.map_err(|error| {
            Failure::new("write the answer as JSON", "Leave -o out.").because(error)
        })?;
        Ok(Self { table, items })
    }

    /// The data of the rows of clusters that are new or changed, and of clusters that have gone: one document a line.
    fn lines(&self, before: Option<&Table>) -> String {
        let is_new =
            |row: &Vec<String>| before.is_none_or(|before| self.table.is_news(row, before));
        let rows = self.table.rows.iter().zip(&self.items);
        let mut lines: Vec<String> = rows
            .filter(|(row, _)| is_new(row))
            .map(|(_, item)| item.to_string())
            .collect();
        for name in before
            .into_iter()
            .flat_map(|before| self.table.gone(before))
        {
            lines.push(json!({"cluster": name, "left": true}).to_string());
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

/// Prints the table whenever it changes, until Ctrl-C: anew on a terminal, elsewhere only what changed; as JSON what changed, a document a line. A
/// host that does not answer for a while is no end; a login that is refused is.
///
/// # Errors
/// The first look fails, or the login is refused.
pub async fn watch(
    format: Format,
    look: impl AsyncFn() -> Result<Look, Failure>,
) -> Result<(), Failure> {
    if !matches!(format, Format::Table | Format::Json) {
        return Err(Failure::new(
            "what is watched cannot be printed in that form",
            "Give -o json, or no -o.",
        ));
    }
    let terminal = std::io::stdout().is_terminal();
    let work = async {
        let mut before: Option<Table> = None;
        let mut complained = false;
        loop {
            match look().await {
                Ok(look) => {
                    complained = false;
                    match format {
                        Format::Json => output::data(&look.lines(before.as_ref()))?,
                        _ => print(before.as_ref(), &look.table, terminal)?,
                    }
                    before = Some(look.table);
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
        // One finding of two is over.
        let before = table(&[&["a", "X"], &["a", "Y"], &["b", "Z"]]);
        let after = table(&[&["a", "Y"], &["b", "Z"]]);
        assert_eq!(after.since(&before).rows, table(&[&["a", "Y"]]).rows);
    }

    #[test]
    fn changes_are_documents_one_a_line() {
        let before = table(&[&["a", "Yes"], &["b", "Yes"], &["c", "Yes"]]);
        let rows = [json!({"name": "a"}), json!({"b": "X"})];
        let after = Look::new(table(&[&["a", "Yes"], &["b", "X"]]), &rows).unwrap();
        assert_eq!(
            after.lines(Some(&before)),
            "{\"b\":\"X\"}\n{\"cluster\":\"c\",\"left\":true}\n"
        );
        assert_eq!(after.lines(None).lines().count(), 2);
        assert_eq!(after.lines(Some(&after.table)), "");
    }
}
