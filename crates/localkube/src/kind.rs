//! What a kind is: a row of data. No code outside this row asks "is this a Pod?".

use std::sync::Arc;

use serde_json::Value;

use crate::status::FieldError;

/// One served resource, in one version. Built-in kinds and kinds made from a CRD have the same shape.
#[derive(Clone)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: String,
    pub version: String,
    /// Plural resource name as it stands in paths, e.g. `deployments`.
    pub plural: String,
    pub singular: String,
    /// e.g. `Deployment`.
    pub kind: String,
    /// e.g. `DeploymentList`.
    pub list_kind: String,
    pub namespaced: bool,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    /// Verbs in discovery order; a verb that is absent is answered 405.
    pub verbs: Vec<&'static str>,
    pub status_subresource: bool,
    pub scale: Option<Scale>,
    /// Further subresources, e.g. `log`, `exec`, `binding`, `token`: (name, kind with group/version, verbs).
    pub subresources: Vec<Subresource>,
    /// The version under which objects are stored. All versions of one group+plural share storage.
    pub storage_version: String,
    /// Columns of `kubectl get`; the first is always Name.
    pub columns: Columns,
    /// What happens on the way in, beyond what every object gets.
    pub strategy: Strategy,
    /// Structural schema of a CRD version: validation, defaults, pruning. `None` for built-in kinds.
    pub schema: Option<Arc<crate::schema::Schema>>,
    /// Fields besides metadata.name and metadata.namespace that a fieldSelector may name, as dotted paths
    /// with the value an absent field counts as, e.g. ("status.phase", "").
    pub selectable_fields: Vec<(&'static str, &'static str)>,
    /// Whether `metadata.generation` is kept (it moves when anything but metadata and status changes).
    pub generation: bool,
}

#[derive(Clone)]
pub struct Subresource {
    pub name: &'static str,
    pub kind: &'static str,
    /// (group, version) when it differs from the parent's.
    pub group_version: Option<(&'static str, &'static str)>,
    pub verbs: &'static [&'static str],
}

/// JSON paths (dotted, leading dot) of the scale subresource.
#[derive(Clone)]
pub struct Scale {
    pub spec_replicas: String,
    pub status_replicas: String,
    /// Path of a label selector: a LabelSelector object for built-in kinds, a string for CRDs.
    pub label_selector: Option<String>,
}

/// How a table of objects is printed.
#[derive(Clone)]
pub enum Columns {
    /// Definitions and a function that gives the cells of one object, in the same order.
    /// `now` comes in because ages are printed.
    Built(&'static [Column], fn(&Value, jiff::Timestamp) -> Vec<Value>),
    /// `additionalPrinterColumns` of a CRD: (definition, JSONPath). Name comes before, Age is added if none are given.
    Printed(Vec<(OwnedColumn, String)>),
    /// Name and Created At, as Kubernetes prints kinds it has no printer for.
    Default,
}

#[derive(Clone, Copy)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `number`, `boolean`, `date`.
    pub kind: &'static str,
    /// `name` for the Name column, else empty.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
}

#[derive(Clone)]
pub struct OwnedColumn {
    pub name: String,
    pub kind: String,
    pub format: String,
    pub description: String,
    pub priority: i32,
}

/// Per-kind behaviour. Each function gets the whole object; none of them does IO.
#[derive(Clone, Copy)]
pub struct Strategy {
    /// Fills defaults, as kube-apiserver does on create and update.
    pub default: fn(&mut Value),
    /// Called on create after defaults (e.g. sets `status.phase: Pending`, drops a status the client sent).
    pub prepare_create: fn(&mut Value),
    /// Called on update with (new, old): keeps immutable system fields, e.g. a Service's clusterIP.
    pub prepare_update: fn(&mut Value, &Value),
    /// All that is wrong with the object, in Kubernetes' words. `old` is there on update (immutable fields).
    pub validate: fn(new: &Value, old: Option<&Value>) -> Vec<FieldError>,
    /// The rule for `metadata.name`.
    pub name: NameRule,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameRule {
    /// RFC 1123 subdomain, at most 253 characters: the rule of most kinds.
    Subdomain,
    /// RFC 1123 label, at most 63 characters (namespaces).
    Label,
    /// Any path segment: RBAC kinds (`system:node`).
    PathSegment,
}

impl Strategy {
    /// Nothing special.
    pub const PLAIN: Strategy = Strategy {
        default: |_| {},
        prepare_create: |_| {},
        prepare_update: |_, _| {},
        validate: |_, _| Vec::new(),
        name: NameRule::Subdomain,
    };
}

impl Kind {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods` or `deployments.apps`: how error messages name the resource.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// The storage prefix that all versions of the resource share: `plural.group`.
    pub fn storage_key(&self) -> String {
        self.qualified()
    }
}
