//! YAML as a tree that remembers where each thing stood.

use std::{collections::HashMap, ops::Range};

use granit_parser::{Event, Parser, ScalarStyle, StructureStyle};
use serde_json::{Map, Number, Value};

use super::ConfigError;

const MAXIMUM_BYTES: usize = 1024 * 1024;
const MAXIMUM_NODES: usize = 50_000;
const MAXIMUM_DEPTH: usize = 64;

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) content: Content,
    pub(super) range: Range<usize>,
    pub(super) line: usize,
    /// Column of its first character, from 0.
    pub(super) column: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Content {
    Scalar {
        text: String,
        style: ScalarStyle,
    },
    List(Vec<Node>),
    Map {
        entries: Vec<(Node, Node)>,
        flow: bool,
    },
    /// What another place of the file also stands for; never edited in place.
    Alias(Box<Node>),
}

struct Builder<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl Node {
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        if text.len() > MAXIMUM_BYTES {
            return Err(syntax(1, "the file is longer than 1 MiB"));
        }
        let mut builder = Builder {
            parser: Parser::new_from_str(text),
            anchors: HashMap::new(),
            nodes: 0,
        };
        loop {
            match builder.next()? {
                Some((Event::StreamStart | Event::DocumentStart(..), _)) => {}
                Some((Event::StreamEnd | Event::DocumentEnd, _)) | None => {
                    let content = Content::Scalar {
                        text: String::new(),
                        style: ScalarStyle::Plain,
                    };
                    return Ok(Self {
                        content,
                        range: text.len()..text.len(),
                        line: 1,
                        column: 0,
                    });
                }
                Some((event, span)) => return builder.node(event, span, 0),
            }
        }
    }

    /// The last entry of this key, whatever its letters' case.
    pub(super) fn entry(&self, key: &str) -> Option<&(Self, Self)> {
        let Content::Map { entries, .. } = &self.content else {
            return None;
        };
        entries.iter().rev().find(|(name, _)| {
            name.text()
                .is_some_and(|name| name.eq_ignore_ascii_case(key))
        })
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// As JSON; `lower` puts keys in lower case, which stops at lists.
    pub(super) fn to_value(&self, lower: bool) -> Value {
        match &self.content {
            Content::Scalar {
                text,
                style: ScalarStyle::Plain,
            } => plain(text),
            Content::Scalar { text, .. } => Value::String(text.clone()),
            Content::List(items) => {
                Value::Array(items.iter().map(|item| item.to_value(false)).collect())
            }
            Content::Alias(node) => node.to_value(lower),
            Content::Map { entries, .. } => {
                let mut map = Map::new();
                for (key, value) in entries {
                    let name = key.text().unwrap_or_default();
                    let value = value.to_value(lower);
                    if name == "<<" {
                        if let Value::Object(merged) = value {
                            for (key, value) in merged {
                                map.entry(key).or_insert(value);
                            }
                        }
                    } else {
                        map.insert(
                            if lower {
                                name.to_lowercase()
                            } else {
                                name.to_owned()
                            },
                            value,
                        );
                    }
                }
                Value::Object(map)
            }
        }
    }
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, granit_parser::Span)>, ConfigError> {
        loop {
            let next = self
                .parser
                .next()
                .transpose()
                .map_err(|error| syntax(error.marker().line(), &error.kind().to_string()))?;
            // Comments are no values; edits keep them because they work on the text.
            if !matches!(next, Some((Event::Comment(..), _))) {
                return Ok(next);
            }
        }
    }

    fn node(
        &mut self,
        event: Event<'a>,
        span: granit_parser::Span,
        depth: usize,
    ) -> Result<Node, ConfigError> {
        let line = span.start.line();
        self.nodes += 1;
        if self.nodes > MAXIMUM_NODES || depth > MAXIMUM_DEPTH {
            return Err(syntax(line, "too many values, or nested too deeply"));
        }
        let mut range = span.byte_range().unwrap_or_default();
        let (content, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                // A tag such as `!!str` makes text of what looks like something else.
                let style = if tag.is_some() && style == ScalarStyle::Plain {
                    ScalarStyle::Literal
                } else {
                    style
                };
                (
                    Content::Scalar {
                        text: text.into_owned(),
                        style,
                    },
                    anchor,
                )
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        Some((Event::SequenceEnd, end)) => {
                            range.end = end.byte_range().unwrap_or_default().end;
                            break;
                        }
                        Some((event, span)) => items.push(self.node(event, span, depth + 1)?),
                        None => return Err(syntax(line, "the file ends within a list")),
                    }
                }
                (Content::List(items), anchor)
            }
            Event::MappingStart(style, anchor, _) => {
                let mut entries = Vec::new();
                loop {
                    let key = match self.next()? {
                        Some((Event::MappingEnd, end)) => {
                            range.end = end.byte_range().unwrap_or_default().end;
                            break;
                        }
                        Some((event, span)) => self.node(event, span, depth + 1)?,
                        None => return Err(syntax(line, "the file ends within a mapping")),
                    };
                    let Some((event, span)) = self.next()? else {
                        return Err(syntax(line, "the file ends within a mapping"));
                    };
                    entries.push((key, self.node(event, span, depth + 1)?));
                }
                (
                    Content::Map {
                        entries,
                        flow: style == StructureStyle::Flow,
                    },
                    anchor,
                )
            }
            Event::Alias(id) => {
                let target = self
                    .anchors
                    .get(&id)
                    .cloned()
                    .ok_or_else(|| syntax(line, "unknown alias"))?;
                self.nodes += count(&target);
                (Content::Alias(Box::new(target)), 0)
            }
            _ => return Err(syntax(line, "a value was expected")),
        };
        let node = Node {
            content,
            range,
            line,
            column: span.start.col(),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }
}

fn count(node: &Node) -> usize {
    1 + match &node.content {
        Content::Scalar { .. } => 0,
        Content::List(items) => items.iter().map(count).sum(),
        Content::Map { entries, .. } => entries.iter().map(|(_, value)| 1 + count(value)).sum(),
        Content::Alias(node) => count(node),
    }
}

fn syntax(line: usize, message: &str) -> ConfigError {
    ConfigError::Syntax {
        line,
        message: message.to_owned(),
    }
}

/// A plain scalar by the rules of YAML 1.1, as the original's parser has them.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    if let Ok(number) = text.parse::<i64>() {
        return Value::Number(number.into());
    }
    let numeric = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte))
        && text.bytes().any(|byte| byte.is_ascii_digit());
    if numeric && let Some(number) = text.parse().ok().and_then(Number::from_f64) {
        return Value::Number(number);
    }
    Value::String(text.to_owned())
}
