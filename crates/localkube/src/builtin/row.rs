//! How a row is written: group and version once, then one call a property.

use serde_json::Value;

use crate::kind::{Column, Columns, Kind, NameRule, Scale, Strategy, Subresource};
use crate::status::FieldError;

const ALL: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
pub(super) const CONNECT: &[&str] = &["create", "delete", "get", "patch", "update"];
pub(super) const CREATE: &[&str] = &["create"];
pub(super) const STREAM: &[&str] = &["create", "get"];
pub(super) const READ_WRITE: &[&str] = &["get", "patch", "update"];

/// Where rows of one group version start.
#[derive(Clone, Copy)]
pub(super) struct Group(pub &'static str, pub &'static str);

impl Group {
    pub fn namespaced(self, plural: &str, kind: &str) -> Row {
        self.row(plural, kind, true)
    }

    pub fn cluster(self, plural: &str, kind: &str) -> Row {
        self.row(plural, kind, false)
    }

    fn row(self, plural: &str, kind: &str, namespaced: bool) -> Row {
        Row(Kind {
            group: self.0.to_owned(),
            version: self.1.to_owned(),
            plural: plural.to_owned(),
            singular: kind.to_ascii_lowercase(),
            kind: kind.to_owned(),
            list_kind: format!("{kind}List"),
            namespaced,
            short_names: Vec::new(),
            categories: Vec::new(),
            verbs: ALL.to_vec(),
            status_subresource: false,
            scale: None,
            subresources: Vec::new(),
            storage_version: self.1.to_owned(),
            columns: Columns::Default,
            strategy: Strategy::PLAIN,
            schema: None,
            selectable_fields: Vec::new(),
            generation: false,
        })
    }
}

/// A kind in the making.
pub(super) struct Row(Kind);

impl Row {
    pub fn short(mut self, names: &[&str]) -> Self {
        self.0.short_names = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// Part of `kubectl get all`.
    pub fn all(self) -> Self {
        self.category("all")
    }

    pub fn category(mut self, name: &str) -> Self {
        self.0.categories.push(name.to_owned());
        self
    }

    /// A review: it is answered, never stored.
    pub fn create_only(mut self) -> Self {
        self.0.verbs = CREATE.to_vec();
        self
    }

    pub fn without(mut self, verb: &str) -> Self {
        self.0.verbs.retain(|known| *known != verb);
        self
    }

    pub fn status(mut self) -> Self {
        self.0.status_subresource = true;
        self
    }

    pub fn scale(mut self) -> Self {
        self.0.scale = Some(Scale {
            spec_replicas: ".spec.replicas".to_owned(),
            status_replicas: ".status.replicas".to_owned(),
            label_selector: Some(".spec.selector".to_owned()),
        });
        self
    }

    pub fn generation(mut self) -> Self {
        self.0.generation = true;
        self
    }

    pub fn sub(
        mut self,
        name: &'static str,
        kind: &'static str,
        verbs: &'static [&'static str],
    ) -> Self {
        self.0.subresources.push(Subresource {
            name,
            kind,
            group_version: None,
            verbs,
        });
        self
    }

    /// A subresource whose objects belong to another group version.
    pub fn foreign_sub(
        mut self,
        name: &'static str,
        group_version: (&'static str, &'static str),
        kind: &'static str,
    ) -> Self {
        self.0.subresources.push(Subresource {
            name,
            kind,
            group_version: Some(group_version),
            verbs: CREATE,
        });
        self
    }

    pub fn select(mut self, fields: &[(&'static str, &'static str)]) -> Self {
        self.0.selectable_fields = fields.to_vec();
        self
    }

    pub fn print(
        mut self,
        columns: &'static [Column],
        cells: fn(&Value, jiff::Timestamp) -> Vec<Value>,
    ) -> Self {
        self.0.columns = Columns::Built(columns, cells);
        self
    }

    /// Defaults on create and update.
    pub fn defaults(mut self, default: fn(&mut Value)) -> Self {
        self.0.strategy.default = default;
        self
    }

    /// What only a new object gets: its first status, what admission adds.
    pub fn created(mut self, prepare: fn(&mut Value)) -> Self {
        self.0.strategy.prepare_create = prepare;
        self
    }

    /// What an update keeps or recounts.
    pub fn updated(mut self, prepare: fn(&mut Value, &Value)) -> Self {
        self.0.strategy.prepare_update = prepare;
        self
    }

    /// Rules, with the old object on update.
    pub fn validate(mut self, validate: fn(&Value, Option<&Value>) -> Vec<FieldError>) -> Self {
        self.0.strategy.validate = validate;
        self
    }

    pub fn names(mut self, rule: NameRule) -> Self {
        self.0.strategy.name = rule;
        self
    }

    pub fn build(self) -> Kind {
        self.0
    }
}
