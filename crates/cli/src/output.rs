//! stdout carries data, stderr carries talk.

use std::{
    borrow::Cow,
    io::{BufRead, IsTerminal, Write},
};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::failure::Failure;

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
    /// Names only, one a line.
    Name,
}

/// Writes `text` to stdout. A reader that went away (`| head`) is no failure.
pub fn data(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(
            "write to standard output",
            "Check where the output goes.",
        )
        .because(error)),
        _ => Ok(()),
    }
}

/// Writes a line, or several, for the person to stderr.
pub fn talk(text: &str) {
    let lines: Vec<_> = text.split('\n').map(harmless).collect();
    // Nobody can be told that stderr is closed.
    let _ = writeln!(std::io::stderr().lock(), "{}", lines.join("\n"));
}

/// A text in which every character stands for itself. What members say reaches terminals, and a terminal obeys control characters; the others are
/// those that show a text in another order than it has.
pub fn harmless(text: &str) -> Cow<'_, str> {
    let harms = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
    };
    if !text.contains(harms) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if harms(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

/// Whether there is a person to ask.
pub fn is_attended() -> bool {
    std::io::stdin().is_terminal()
}

/// Asks the person a question that only a yes answers well.
///
/// # Errors
/// The answer is another one, or nobody is there to answer; `otherwise` says what to do then.
pub fn confirmed(question: &str, otherwise: &str) -> Result<(), Failure> {
    if !is_attended() {
        return Err(Failure::new(
            "Nothing was changed: nobody is there to say yes.",
            otherwise,
        ));
    }
    talk(&format!("{question} [y/N]"));
    let mut said = String::new();
    // Whatever cannot be read is no yes.
    let _ = std::io::stdin().lock().read_line(&mut said);
    answered(&said)
}

fn answered(said: &str) -> Result<(), Failure> {
    match said.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(
            "Nothing was changed: the answer was not yes.",
            "Run it again and answer y to go on.",
        )),
    }
}

/// Prints a value as JSON or YAML.
pub fn value(value: &impl Serialize, format: Format) -> Result<(), Failure> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::new("write the answer as text", "Try another form with -o.").because(error)
    };
    let text = match format {
        Format::Yaml => {
            serde_saphyr::to_string(value).map_err(|error| failed(error.to_string().into()))?
        }
        _ => {
            let mut text =
                serde_json::to_string_pretty(value).map_err(|error| failed(error.into()))?;
            text.push('\n');
            text
        }
    };
    data(&text)
}

/// Columns without borders, as kubectl prints them; never wider than the terminal only where there is one.
pub fn table<R: AsRef<str>>(header: &[&str], rows: &[Vec<R>]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| harmless(cell.as_ref())));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_members_are_no_commands_to_a_terminal() {
        for (text, shown) in [
            ("plain, é and 漢字", "plain, é and 漢字"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\nhost   OK", "a\\nhost   OK"),
            ("\r\u{7}\u{9b}0m\u{7f}", "\\r\\u{7}\\u{9b}0m\\u{7f}"),
            ("\u{202e}txt.exe", "\\u{202e}txt.exe"),
        ] {
            assert_eq!(harmless(text), shown);
            let rows = [vec!["m", text]];
            let printed = table(&["NAME", "EVIDENCE"], &rows);
            assert_eq!(printed.lines().count(), 2, "{printed}");
            assert!(printed.ends_with(&format!("m      {shown}\n")), "{printed}");
        }
    }

    #[test]
    fn only_a_yes_ends_well() {
        for (said, code) in [
            ("y\n", None),
            (" Yes \n", None),
            ("n\n", Some(1)),
            ("", Some(1)),
            ("yy\n", Some(1)),
        ] {
            let code_of = answered(said).err().map(|failure| failure.code());
            assert_eq!(code_of, code, "{said:?}");
        }
    }

    #[test]
    fn tables_have_no_borders_and_no_trailing_space() {
        let rows = [vec!["host", "Yes"], vec!["member-1", "TokenNotInCache"]];
        assert_eq!(
            table(&["NAME", "ACCESS"], &rows),
            "NAME       ACCESS\nhost       Yes\nmember-1   TokenNotInCache\n"
        );
    }
}
