//! A line of the built-in shell, taken apart: quotes, variables, and the three ways to join commands.

/// How a command hangs on the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    Always,
    /// `&&`
    IfGood,
    /// `||`
    IfBad,
}

/// A part of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Text(String),
    /// Name of a variable, `?` for the last exit code; quoted ones are never split.
    Variable {
        name: String,
        quoted: bool,
    },
}

/// A command of a line: its words are filled in when it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub join: Join,
    pub words: Vec<Vec<Part>>,
}

/// Takes a line apart; the message of `sh: …` if it cannot.
pub fn parse(line: &str) -> Result<Vec<Command>, String> {
    let mut commands = Vec::new();
    let mut join = Join::Always;
    let mut words: Vec<Vec<Part>> = Vec::new();
    let mut word: Option<Vec<Part>> = None;
    let mut letters = line.chars().peekable();
    let text = |word: &mut Option<Vec<Part>>, letter: char| {
        let parts = word.get_or_insert_default();
        match parts.last_mut() {
            Some(Part::Text(text)) => text.push(letter),
            _ => parts.push(Part::Text(letter.to_string())),
        }
    };
    while let Some(letter) = letters.next() {
        let next = match letter {
            '\'' => {
                word.get_or_insert_default().push(Part::Text(String::new()));
                loop {
                    match letters.next() {
                        Some('\'') => break,
                        Some(inner) => text(&mut word, inner),
                        None => return Err("syntax error: unterminated quoted string".to_owned()),
                    }
                }
                continue;
            }
            '"' => {
                word.get_or_insert_default().push(Part::Text(String::new()));
                loop {
                    match letters.next() {
                        Some('"') => break,
                        Some('\\') => match letters.next() {
                            Some(inner @ ('"' | '\\' | '$' | '`')) => text(&mut word, inner),
                            Some(inner) => {
                                text(&mut word, '\\');
                                text(&mut word, inner);
                            }
                            None => {
                                return Err("syntax error: unterminated quoted string".to_owned());
                            }
                        },
                        Some('$') => variable(&mut letters, word.get_or_insert_default(), true),
                        Some(inner) => text(&mut word, inner),
                        None => return Err("syntax error: unterminated quoted string".to_owned()),
                    }
                }
                continue;
            }
            '\\' => {
                if let Some(inner) = letters.next() {
                    text(&mut word, inner);
                }
                continue;
            }
            '$' => {
                variable(&mut letters, word.get_or_insert_default(), false);
                continue;
            }
            '#' if word.is_none() => {
                while letters.next_if(|letter| *letter != '\n').is_some() {}
                continue;
            }
            ' ' | '\t' | '\r' => {
                words.extend(word.take());
                continue;
            }
            ';' | '\n' => Join::Always,
            '&' if letters.next_if_eq(&'&').is_some() => Join::IfGood,
            '|' if letters.next_if_eq(&'|').is_some() => Join::IfBad,
            '|' | '&' | '<' | '>' | '(' | ')' | '`' => {
                return Err(format!(
                    "syntax error: unexpected \"{letter}\" (this small shell has no pipes, files or jobs)"
                ));
            }
            other => {
                text(&mut word, other);
                continue;
            }
        };
        words.extend(word.take());
        if words.is_empty() && (next != Join::Always || join != Join::Always) {
            return Err("syntax error: a command is missing".to_owned());
        }
        if !words.is_empty() {
            let words = std::mem::take(&mut words);
            commands.push(Command { join, words });
        }
        join = next;
    }
    words.extend(word.take());
    if !words.is_empty() {
        commands.push(Command { join, words });
    } else if join != Join::Always {
        return Err("syntax error: a command is missing".to_owned());
    }
    Ok(commands)
}

fn variable(
    letters: &mut std::iter::Peekable<std::str::Chars<'_>>,
    parts: &mut Vec<Part>,
    quoted: bool,
) {
    let mut name = String::new();
    if letters.next_if_eq(&'{').is_some() {
        while let Some(letter) = letters.next_if(|letter| *letter != '}') {
            name.push(letter);
        }
        letters.next();
    } else if letters.next_if_eq(&'?').is_some() {
        name.push('?');
    } else {
        while let Some(letter) = letters.next_if(|l| l.is_ascii_alphanumeric() || *l == '_') {
            name.push(letter);
        }
    }
    if name.is_empty() {
        parts.push(Part::Text("$".to_owned()));
    } else {
        parts.push(Part::Variable { name, quoted });
    }
}

/// The words of a command with its variables filled in. An unquoted variable may become several words or none.
pub fn expand(words: &[Vec<Part>], value: impl Fn(&str) -> String) -> Vec<String> {
    let mut out = Vec::new();
    for word in words {
        let mut current: Option<String> = None;
        for part in word {
            match part {
                Part::Text(text) => current.get_or_insert_default().push_str(text),
                Part::Variable { name, quoted: true } => {
                    current.get_or_insert_default().push_str(&value(name));
                }
                Part::Variable { name, .. } => {
                    let text = value(name);
                    let mut pieces = text.split_ascii_whitespace();
                    if text.starts_with(|l: char| l.is_ascii_whitespace()) {
                        out.extend(current.take());
                    }
                    if let Some(first) = pieces.next() {
                        current.get_or_insert_default().push_str(first);
                    }
                    for piece in pieces {
                        out.extend(current.replace(piece.to_owned()));
                    }
                }
            }
        }
        out.extend(current);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(line: &str) -> Vec<Vec<String>> {
        let value = |name: &str| match name {
            "A" => "1 2".to_owned(),
            "?" => "7".to_owned(),
            _ => String::new(),
        };
        let commands = parse(line).unwrap();
        commands.iter().map(|c| expand(&c.words, value)).collect()
    }

    #[test]
    fn lines_come_apart_as_in_a_shell() {
        let table: [(&str, &[&[&str]]); 10] = [
            ("echo a  b", &[&["echo", "a", "b"]]),
            ("echo 'a  b' \"c $A\"", &[&["echo", "a  b", "c 1 2"]]),
            ("echo $A$?", &[&["echo", "1", "27"]]),
            ("echo ${A}x $NONE \"\"", &[&["echo", "1", "2x", ""]]),
            ("a; b && c || d", &[&["a"], &["b"], &["c"], &["d"]]),
            ("a # b", &[&["a"]]),
            ("a\\ b", &[&["a b"]]),
            ("echo '$A' \\$A", &[&["echo", "$A", "$A"]]),
            (" ; ", &[]),
            ("echo $", &[&["echo", "$"]]),
        ];
        for (line, expected) in table {
            assert_eq!(words(line), expected, "{line}");
        }
        for line in ["a | b", "a > b", "'a", "\"a", "&& a", "a &&", "a & b"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_breaks_it(line in "[ -~\\n]{0,60}") {
            if let Ok(commands) = parse(&line) {
                for command in commands {
                    expand(&command.words, |_| "x y".to_owned());
                }
            }
        }
    }
}
