//! Changes of single values in the text of `kubesphere.yaml`: every other byte stays (differences.md R4).

use granit_parser::ScalarStyle;

use super::{
    ConfigError,
    tree::{Content, Node},
};

/// Why a value was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The text cannot be read, before or after the change.
    #[error("change a key of kubesphere.yaml")]
    Unreadable(#[source] ConfigError),
    /// A key on the way holds something other than a mapping, or the value is not a plain one.
    #[error("change a key of kubesphere.yaml: {0} cannot be changed in place")]
    Shape(String),
}

/// Sets one scalar, named by the keys that lead to it, and gives the new text. Comments, order and the value's
/// quotes are kept; missing keys are added. Of duplicate keys the last, which counts, is changed.
///
/// # Errors
/// [`EditError`]; the text is then to be left as it was.
pub fn set(text: &str, path: &[&str], value: &str) -> Result<String, EditError> {
    let tree = Node::parse(text).map_err(EditError::Unreadable)?;
    let mut node = &tree;
    let mut indent = 0;
    for (depth, key) in path.iter().enumerate() {
        let shape = || EditError::Shape(path.get(..=depth).unwrap_or(path).join("."));
        let missing = path.get(depth..).unwrap_or_default();
        match &node.content {
            Content::Map { entries, flow } => {
                if let Some((name, found)) = node.entry(key) {
                    indent = name.column;
                    node = found;
                    if depth + 1 == path.len() {
                        return checked(
                            replace(text, name, node, value).ok_or_else(shape)?,
                            path,
                            value,
                        );
                    }
                    if is_absent(node) && depth + 1 < path.len() {
                        let rest = path.get(depth + 1..).unwrap_or_default();
                        let block = block(rest, value, indent + 2);
                        let at = after_colon(text, name).ok_or_else(shape)?;
                        let end = node.range.end.max(at);
                        let spliced = splice(
                            text,
                            at..end,
                            &format!("\n{}", block.trim_end_matches('\n')),
                        );
                        return checked(spliced.ok_or_else(shape)?, path, value);
                    }
                } else if *flow {
                    let mut inner = quoted(value, ScalarStyle::Plain);
                    for (index, key) in missing.iter().rev().enumerate() {
                        inner = if index == 0 {
                            format!("{key}: {inner}")
                        } else {
                            format!("{key}: {{{inner}}}")
                        };
                    }
                    let comma = if entries.is_empty() { "" } else { ", " };
                    let at = node.range.start + 1;
                    return checked(
                        splice(text, at..at, &format!("{inner}{comma}")).ok_or_else(shape)?,
                        path,
                        value,
                    );
                } else {
                    let (first, _) = entries.first().ok_or_else(shape)?;
                    let start = text
                        .get(..first.range.start)
                        .ok_or_else(shape)?
                        .rfind('\n')
                        .map_or(0, |at| at + 1);
                    let lead = text.get(start..first.range.start).ok_or_else(shape)?;
                    if !lead.bytes().all(|byte| byte == b' ') {
                        return Err(shape());
                    }
                    let block = block(missing, value, lead.len());
                    return checked(
                        splice(text, start..start, &block).ok_or_else(shape)?,
                        path,
                        value,
                    );
                }
            }
            Content::Scalar { text: content, .. } if depth == 0 && content.is_empty() => {
                let newline = if text.is_empty() || text.ends_with('\n') {
                    ""
                } else {
                    "\n"
                };
                return checked(
                    format!("{text}{newline}{}", block(missing, value, indent)),
                    path,
                    value,
                );
            }
            _ => return Err(shape()),
        }
    }
    Err(EditError::Shape(String::new()))
}

/// Reads the result again: what is handed out says what was asked for.
fn checked(text: String, path: &[&str], value: &str) -> Result<String, EditError> {
    let tree = Node::parse(&text).map_err(EditError::Unreadable)?;
    let found = path
        .iter()
        .try_fold(&tree, |node, key| node.entry(key).map(|(_, value)| value));
    if found.and_then(Node::text) == Some(value) {
        Ok(text)
    } else {
        Err(EditError::Shape(path.join(".")))
    }
}

fn is_absent(node: &Node) -> bool {
    matches!(
        &node.content,
        Content::Scalar { text, style: ScalarStyle::Plain } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    )
}

fn replace(text: &str, name: &Node, node: &Node, value: &str) -> Option<String> {
    let Content::Scalar { style, .. } = &node.content else {
        return None;
    };
    if matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) {
        return None;
    }
    if node.range.is_empty() && *style == ScalarStyle::Plain {
        let at = after_colon(text, name)?;
        return splice(
            text,
            at..at,
            &format!(" {}", quoted(value, ScalarStyle::Plain)),
        );
    }
    splice(text, node.range.clone(), &quoted(value, *style))
}

/// The place right behind the colon of a key.
fn after_colon(text: &str, name: &Node) -> Option<usize> {
    let rest = text.get(name.range.end..)?;
    let colon = rest.find(':')?;
    rest.get(..colon)?
        .trim()
        .is_empty()
        .then_some(name.range.end + colon + 1)
}

fn splice(text: &str, range: std::ops::Range<usize>, new: &str) -> Option<String> {
    Some(format!(
        "{}{new}{}",
        text.get(..range.start)?,
        text.get(range.end..)?
    ))
}

/// Nested keys, one a line, each two columns further in.
fn block(keys: &[&str], value: &str, indent: usize) -> String {
    let mut out = String::new();
    for (depth, key) in keys.iter().enumerate() {
        out.push_str(&" ".repeat(indent + 2 * depth));
        out.push_str(key);
        out.push(':');
        if depth + 1 == keys.len() {
            out.push(' ');
            out.push_str(&quoted(value, ScalarStyle::Plain));
        }
        out.push('\n');
    }
    out
}

/// Whether plain text would read as a truth value, as nothing, or as a number in another form than decimal (YAML 1.1).
fn is_word(value: &str) -> bool {
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    WORDS.iter().any(|word| value.eq_ignore_ascii_case(word)) || is_odd_number(value)
}

/// `0x1f`, `0o17`, `0b1`, `1_000`, `1e3`; a duration as `10m0s` is none.
fn is_odd_number(value: &str) -> bool {
    let hexadecimal = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    let lower = value.to_ascii_lowercase();
    let based = ["0x", "0o", "0b"]
        .iter()
        .find_map(|base| lower.strip_prefix(base));
    based.is_some_and(hexadecimal)
        || (value.starts_with(|first: char| first.is_ascii_digit())
            && lower
                .bytes()
                .all(|byte| byte.is_ascii_digit() || b"._e".contains(&byte))
            && lower.contains(['_', 'e']))
}

/// The value in the style of the one that it replaces; quoted where plain text would read as something else.
fn quoted(value: &str, style: ScalarStyle) -> String {
    let plain = !value.is_empty()
        && value
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && !value.starts_with(['-', '.'])
        && !is_word(value)
        && (value.len() < 20
            || !value
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.'));
    match style {
        ScalarStyle::Plain if plain => value.to_owned(),
        ScalarStyle::SingleQuoted if !value.contains(['\n', '\r']) => {
            format!("'{}'", value.replace('\'', "''"))
        }
        // JSON's strings are YAML's double-quoted ones.
        _ => serde_json::Value::String(value.to_owned()).to_string(),
    }
}
