//! JSON as Go's encoder writes it: `<`, `>` and `&` escaped, indentation by a number of spaces.

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

/// One line, no newline at the end. A value that cannot be written as JSON gives `null`.
#[must_use]
pub fn compact<T: Serialize + ?Sized>(value: &T) -> String {
    escape(&serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned()))
}

/// Indented by `spaces` a level, no newline at the end. kapis answers use 1, a Status for people 2.
#[must_use]
pub fn pretty<T: Serialize + ?Sized>(value: &T, spaces: usize) -> String {
    let indent = vec![b' '; spaces];
    let mut out = Vec::with_capacity(256);
    let mut serializer =
        Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(&indent));
    if value.serialize(&mut serializer).is_err() {
        return "null".to_owned();
    }
    escape(&String::from_utf8(out).unwrap_or_default())
}

/// Escapes what Go escapes. These characters stand only inside strings in JSON text, so the text need
/// not be parsed.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn escapes_and_indents_as_go_does() {
        let value = serde_json::json!({"a": "<&>", "b": {}, "c": []});
        assert_eq!(
            super::compact(&value),
            r#"{"a":"\u003c\u0026\u003e","b":{},"c":[]}"#
        );
        assert_eq!(
            super::pretty(&value, 1),
            "{\n \"a\": \"\\u003c\\u0026\\u003e\",\n \"b\": {},\n \"c\": []\n}"
        );
    }
}
