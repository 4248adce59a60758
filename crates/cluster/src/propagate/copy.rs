//! What the copy of an object in one member looks like.

use std::collections::BTreeMap;

use kah_api::{
    iam::MANAGED_LABEL,
    tenant::{Override, WorkspaceTemplateSpec},
};
use kah_iam::{password::is_hash, users::RESERVED};
use kube::api::{DynamicObject, ObjectMeta, TypeMeta};
use serde_json::{Map, Value, json};

use super::{HOST_LABEL, Kind, OURS, Owner};

/// What `kubectl apply` leaves on an object describes that object, not a copy of it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A cluster, as placements see it.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The Cluster's name.
    pub name: &'a str,
    /// The Cluster's labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Whether hashes of passwords go there: [`takes_passwords`](super::takes_passwords).
    pub passwords: bool,
}

/// What a member should hold of one source.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// This.
    Copy(Box<DynamicObject>),
    /// What it holds now, for the reason given: the source is not fit to be copied.
    AsItIs(String),
    /// Nothing.
    Nothing,
}

/// What a member at this place should hold of a source.
#[must_use]
pub fn wanted(kind: &Kind, source: &DynamicObject, owner: &Owner, place: Place<'_>) -> Wanted {
    if source.metadata.deletion_timestamp.is_some() {
        return Wanted::Nothing;
    }
    let mut content = if kind.is_placed() {
        match placed(source, place) {
            Ok(Some(content)) => content,
            Ok(None) => return Wanted::Nothing,
            Err(reason) => return Wanted::AsItIs(reason),
        }
    } else {
        Content::of(kind, source)
    };
    if kind.name == "User" {
        if !may_travel(&content) {
            return Wanted::AsItIs("its password is not hashed".to_owned());
        }
        without_reserved_groups(&mut content);
        if !place.passwords {
            without_password(&mut content);
        }
    }
    let name = source.metadata.name.as_deref().unwrap_or_default();
    if ["User", "Group"].contains(&kind.name) && name.starts_with(RESERVED) {
        return Wanted::AsItIs(format!("names that begin with {RESERVED} are reserved"));
    }
    let mut labels = content.labels;
    labels.insert(MANAGED_LABEL.to_owned(), "true".to_owned());
    labels.insert(HOST_LABEL.to_owned(), owner.as_str().to_owned());
    let resource = kind.copy();
    Wanted::Copy(Box::new(DynamicObject {
        types: Some(TypeMeta {
            api_version: resource.api_version,
            kind: resource.kind,
        }),
        metadata: ObjectMeta {
            name: source.metadata.name.clone(),
            labels: Some(labels),
            annotations: Some(content.annotations).filter(|annotations| !annotations.is_empty()),
            ..ObjectMeta::default()
        },
        data: Value::Object(content.fields),
    }))
}

#[derive(Default)]
struct Content {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    fields: Map<String, Value>,
}

impl Content {
    fn of(kind: &Kind, source: &DynamicObject) -> Self {
        let own = |(name, _): &(&String, &String)| !name.starts_with(OURS);
        let labels = source.metadata.labels.iter().flatten().filter(own);
        let annotations = source.metadata.annotations.iter().flatten().filter(own);
        let owned = |(name, value): (&String, &String)| (name.clone(), value.clone());
        Self {
            labels: labels.map(owned).collect(),
            annotations: annotations
                .filter(|(name, _)| kind.annotations && *name != LAST_APPLIED)
                .map(owned)
                .collect(),
            fields: kind
                .fields
                .iter()
                .filter_map(|field| {
                    Some((
                        (*field).to_owned(),
                        without_nulls(source.data.get(*field)?)?,
                    ))
                })
                .collect(),
        }
    }
}

/// An API server takes null for a mistake where the schema does not allow it; Go writes it for an empty list.
fn without_nulls(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(object) => {
            let kept = object
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), without_nulls(value)?)));
            Some(Value::Object(kept.collect()))
        }
        other => Some(other.clone()),
    }
}

/// A member of another make may believe what the text of an object says of the system's own groups.
fn without_reserved_groups(content: &mut Content) {
    let groups = content
        .fields
        .get_mut("spec")
        .and_then(|spec| spec.get_mut("groups"))
        .and_then(Value::as_array_mut);
    if let Some(groups) = groups {
        groups.retain(|group| {
            group
                .as_str()
                .is_none_or(|group| !group.starts_with(RESERVED))
        });
    }
}

fn without_password(content: &mut Content) {
    let spec = content
        .fields
        .get_mut("spec")
        .and_then(Value::as_object_mut);
    if let Some(spec) = spec {
        spec.remove("password");
    }
}

/// Whether a user's password is a hash. Without one there is nothing to give away: an identity provider knows the user.
fn may_travel(content: &Content) -> bool {
    let password = content
        .fields
        .get("spec")
        .and_then(|spec| spec.get("password"));
    password
        .and_then(Value::as_str)
        .is_none_or(|password| password.is_empty() || is_hash(password))
}

/// What a WorkspaceTemplate makes of a cluster: `None` where it is not placed there.
fn placed(source: &DynamicObject, place: Place<'_>) -> Result<Option<Content>, String> {
    let spec = source.data.get("spec").unwrap_or(&Value::Null);
    let read: WorkspaceTemplateSpec = serde_json::from_value(spec.clone())
        .map_err(|_| "its spec has not the shape of a WorkspaceTemplate's".to_owned())?;
    // Taken for "selects nothing", a misspelt operator would delete workspaces.
    let operators = read.placement.cluster_selector.iter();
    for expression in operators.flat_map(|selector| selector.match_expressions.iter().flatten()) {
        if !["In", "NotIn", "Exists", "DoesNotExist"].contains(&expression.operator.as_str()) {
            return Err(format!(
                "spec.placement.clusterSelector: {:?} is no operator (In, NotIn, Exists, DoesNotExist are)",
                expression.operator
            ));
        }
    }
    if !read.placement.selects(place.name, place.labels) {
        return Ok(None);
    }
    let template = spec.get("template").unwrap_or(&Value::Null);
    let labels = template.pointer("/metadata/labels");
    let mut workspace = json!({
        "metadata": { "labels": labels.cloned().unwrap_or_else(|| json!({})) },
        "spec": template.get("spec").and_then(without_nulls).unwrap_or_else(|| json!({})),
    });
    for change in read
        .overrides
        .iter()
        .filter(|one| one.cluster_name == place.name)
    {
        override_with(&mut workspace, change)?;
    }
    // An override may put anything anywhere.
    let spec = workspace.get_mut("spec").filter(|spec| spec.is_object());
    let Some(spec) = spec.map(Value::take) else {
        return Err(format!(
            "spec.overrides for cluster {:?} leave no Workspace with a spec",
            place.name
        ));
    };
    let labels = workspace
        .pointer("/metadata/labels")
        .and_then(Value::as_object);
    Ok(Some(Content {
        labels: labels
            .into_iter()
            .flatten()
            .filter(|(name, _)| !name.starts_with(OURS))
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect(),
        annotations: BTreeMap::new(),
        fields: Map::from_iter([("spec".to_owned(), spec)]),
    }))
}

fn override_with(workspace: &mut Value, overrides: &Override) -> Result<(), String> {
    let changes = overrides.cluster_overrides.iter().map(|change| {
        let op = if change.op.is_empty() {
            "replace"
        } else {
            &change.op
        };
        json!({ "op": op, "path": change.path, "value": change.value })
    });
    let cannot = |reason: String| {
        let cluster = &overrides.cluster_name;
        format!("spec.overrides for cluster {cluster:?} cannot be applied: {reason}")
    };
    let patch: json_patch::Patch =
        serde_json::from_value(changes.collect()).map_err(|error| cannot(error.to_string()))?;
    json_patch::patch(workspace, &patch).map_err(|error| cannot(error.to_string()))
}
