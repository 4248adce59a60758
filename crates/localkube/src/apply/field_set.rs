//! Sets of fields, in the form of `FieldsV1`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The key under which `FieldsV1` says that a field with fields below it is itself in the set.
const ITSELF: &str = ".";

/// A set of fields of an object. Each step of a path is written as `FieldsV1` writes it: `f:name` for a
/// field, `k:{"name":"x"}` for an item of a list with keys, `v:"x"` for an item of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet(BTreeMap<String, Node>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    /// Whether the field itself is in the set.
    member: bool,
    below: FieldSet,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

/// The step to a field of an object.
pub(super) fn field_step(name: &str) -> String {
    format!("f:{name}")
}

impl FieldSet {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the field at the end of a path.
    pub fn insert(&mut self, path: &[String]) {
        let Some((last, way)) = path.split_last() else {
            return;
        };
        let mut at = self;
        for step in way {
            at = &mut at.0.entry(step.clone()).or_default().below;
        }
        at.0.entry(last.clone()).or_default().member = true;
    }

    /// A set of one field, given as field names.
    pub fn of(names: &[&str]) -> FieldSet {
        let mut set = FieldSet::default();
        set.insert(
            &names
                .iter()
                .map(|name| field_step(name))
                .collect::<Vec<_>>(),
        );
        set
    }

    /// Whether the field one step away is in the set.
    pub fn has(&self, step: &str) -> bool {
        self.0.get(step).is_some_and(|node| node.member)
    }

    /// What of the set lies below one step.
    pub fn below(&self, step: &str) -> Option<&FieldSet> {
        self.0
            .get(step)
            .map(|node| &node.below)
            .filter(|below| !below.is_empty())
    }

    /// Steps from here, and what lies below each.
    pub fn steps_mut(&mut self) -> impl Iterator<Item = (&String, &mut bool, &mut FieldSet)> {
        self.0
            .iter_mut()
            .map(|(step, node)| (step, &mut node.member, &mut node.below))
    }

    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut set = self.clone();
        for (step, theirs) in &other.0 {
            let node = set.0.entry(step.clone()).or_default();
            node.member |= theirs.member;
            node.below = node.below.union(&theirs.below);
        }
        set
    }

    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |ours, theirs| Node {
            member: ours.member && theirs.is_some_and(|theirs| theirs.member),
            below: theirs.map_or_else(FieldSet::default, |theirs| {
                ours.below.intersection(&theirs.below)
            }),
        })
    }

    /// Without the fields of another set; fields below them stay.
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |ours, theirs| match theirs {
            Some(theirs) => Node {
                member: ours.member && !theirs.member,
                below: ours.below.difference(&theirs.below),
            },
            None => ours.clone(),
        })
    }

    /// Without the fields of another set and all that lies below them.
    pub fn without(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |ours, theirs| match theirs {
            Some(theirs) if theirs.member => Node::default(),
            Some(theirs) => Node {
                member: ours.member,
                below: ours.below.without(&theirs.below),
            },
            None => ours.clone(),
        })
    }

    fn combine(&self, other: &FieldSet, node: impl Fn(&Node, Option<&Node>) -> Node) -> FieldSet {
        let nodes = self
            .0
            .iter()
            .map(|(step, ours)| (step.clone(), node(ours, other.0.get(step))))
            .filter(|(_, node)| !node.is_empty());
        FieldSet(nodes.collect())
    }

    /// Every field of the set as Kubernetes writes a path: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.write_paths("", &mut paths);
        paths
    }

    fn write_paths(&self, way: &str, paths: &mut Vec<String>) {
        for (step, node) in &self.0 {
            let path = format!("{way}{}", step_text(step));
            if node.member {
                paths.push(path.clone());
            }
            node.below.write_paths(&path, paths);
        }
    }

    /// As `FieldsV1`.
    pub fn to_value(&self) -> Value {
        let fields = self.0.iter().map(|(step, node)| {
            let mut below = match node.below.to_value() {
                Value::Object(below) => below,
                _ => Map::new(),
            };
            if node.member && !below.is_empty() {
                below.shift_insert(0, ITSELF.to_owned(), Value::Object(Map::new()));
            }
            (step.clone(), Value::Object(below))
        });
        Value::Object(fields.collect())
    }

    /// From `FieldsV1`. `None` for anything else.
    pub fn from_value(value: &Value) -> Option<FieldSet> {
        let mut nodes = BTreeMap::new();
        for (step, below) in value.as_object()? {
            if step == ITSELF {
                continue;
            }
            let node = Node {
                member: below
                    .as_object()
                    .is_some_and(|below| below.is_empty() || below.contains_key(ITSELF)),
                below: FieldSet::from_value(below)?,
            };
            nodes.insert(canonical(step)?, node);
        }
        Some(FieldSet(nodes))
    }
}

/// A step with its JSON as this program writes it, so that equal steps are equal texts.
fn canonical(step: &str) -> Option<String> {
    let (form, rest) = step.split_once(':')?;
    match form {
        "f" => Some(step.to_owned()),
        "i" => rest.parse::<i64>().ok().map(|_| step.to_owned()),
        "k" | "v" => {
            let mut value: Value = serde_json::from_str(rest).ok()?;
            value.sort_all_objects();
            Some(format!("{form}:{value}"))
        }
        _ => None,
    }
}

pub(super) fn step_text(step: &str) -> String {
    match step.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> = keys
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            format!("[{}]", keys.join(","))
        }
        Some(("v", value)) => format!("[={value}]"),
        Some((_, index)) => format!("[{index}]"),
        None => step.to_owned(),
    }
}
