//! The part of JSONPath that printer columns use: fields, indices, wildcards and one comparison.

use serde_json::Value;

#[derive(Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// `[?(@.path=="value")]`.
    Equal(Vec<String>, Value),
}

/// A parsed path.
#[derive(Debug, PartialEq)]
pub(super) struct JsonPath(Vec<Step>);

impl JsonPath {
    /// Parses a path such as `.status.conditions[?(@.type=="Ready")].status`; `None` if it is none of these forms.
    pub fn parse(path: &str) -> Option<JsonPath> {
        let path = path.trim();
        let path = match path.strip_prefix('{') {
            Some(inner) => inner.strip_suffix('}')?,
            None => path,
        };
        let mut rest = path.strip_prefix('$').unwrap_or(path);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(tail) = rest.strip_prefix('[') {
                let end = closing(tail)?;
                let (inside, after) = tail.split_at(end);
                steps.push(bracket(inside.trim())?);
                rest = after.strip_prefix(']')?;
            } else {
                let tail = rest.strip_prefix('.').unwrap_or(rest);
                let (field, after) = field(tail);
                match field.as_str() {
                    "" if after.starts_with('[') => {}
                    "" => return None,
                    "*" => steps.push(Step::All),
                    _ => steps.push(Step::Field(field)),
                }
                rest = after;
            }
        }
        Some(JsonPath(steps))
    }

    /// The first value that the path leads to.
    pub fn first<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        let mut found = vec![object];
        for step in &self.0 {
            found = found
                .into_iter()
                .flat_map(|value| follow(step, value))
                .collect();
        }
        found.into_iter().next()
    }
}

fn follow<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => {
            let Some(list) = value.as_array() else {
                return Vec::new();
            };
            let at = if *index < 0 {
                list.len().checked_sub(index.unsigned_abs() as usize)
            } else {
                usize::try_from(*index).ok()
            };
            at.and_then(|at| list.get(at)).into_iter().collect()
        }
        Step::All => match value {
            Value::Array(list) => list.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        },
        Step::Equal(path, wanted) => value
            .as_array()
            .into_iter()
            .flatten()
            .filter(|element| {
                path.iter()
                    .try_fold(*element, |value, field| value.get(field))
                    == Some(wanted)
            })
            .collect(),
    }
}

/// A field name up to the next dot or bracket; a backslash keeps the character after it.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '.' | '[' => return (name, text.get(at..).unwrap_or_default()),
            '\\' => name.extend(characters.next().map(|(_, next)| next)),
            _ => name.push(character),
        }
    }
    (name, "")
}

/// Where the bracket that is already open closes, quotes respected.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(character),
            (None, ']') => return Some(at),
            _ => {}
        }
    }
    None
}

fn bracket(inside: &str) -> Option<Step> {
    if inside == "*" {
        return Some(Step::All);
    }
    if let Ok(index) = inside.parse() {
        return Some(Step::Index(index));
    }
    if let Some(name) = quoted(inside) {
        return Some(Step::Field(name.to_owned()));
    }
    let filter = inside.strip_prefix("?(")?.strip_suffix(')')?;
    let (path, wanted) = filter.split_once("==")?;
    let path = path.trim().strip_prefix("@.")?;
    let path = path.split('.').map(str::to_owned).collect();
    let wanted = wanted.trim();
    let wanted = match quoted(wanted) {
        Some(text) => Value::from(text),
        None => serde_json::from_str(wanted).ok()?,
    };
    Some(Step::Equal(path, wanted))
}

fn quoted(text: &str) -> Option<&str> {
    ['\'', '"']
        .into_iter()
        .find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_values() {
        let object = json!({
            "spec": {"a.b": 1, "list": [{"n": "x"}, {"n": "y"}]},
            "status": {"conditions": [
                {"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"},
            ]},
        });
        for (path, wanted) in [
            (".spec.list[0].n", Some(json!("x"))),
            (".spec.list[-1].n", Some(json!("y"))),
            (".spec.list[*].n", Some(json!("x"))),
            ("{.spec.list[1].n}", Some(json!("y"))),
            (".spec['a.b']", Some(json!(1))),
            (".spec.a\\.b", Some(json!(1))),
            (
                ".status.conditions[?(@.type==\"Ready\")].status",
                Some(json!("True")),
            ),
            (".status.conditions[?(@.type=='None')].status", None),
            (".nope.x", None),
            (".spec.list[7]", None),
        ] {
            let parsed = JsonPath::parse(path).expect(path);
            assert_eq!(parsed.first(&object), wanted.as_ref(), "{path}");
        }
    }

    #[test]
    fn broken_paths_are_refused() {
        for path in [".spec[", ".spec[?(x)]", "{.a", ".a..b", ".é[\"]"] {
            assert_eq!(JsonPath::parse(path), None, "{path}");
        }
    }
}
