//! Role-based access control, as `rbac.authorization.k8s.io/v1` defines it.

use std::collections::HashMap;

use serde_json::Value;

use crate::identity::{Attributes, User};
use crate::status::ApiError;

mod aggregation;
mod bootstrap;
mod escalation;
mod rule;

pub use aggregation::aggregate;
pub use bootstrap::bootstrap;
pub use rule::Rule;

/// Roles and bindings, compiled: made anew whenever one of them changes.
#[derive(Default)]
pub struct Policy {
    cluster_roles: HashMap<String, Vec<Rule>>,
    /// By namespace and name.
    roles: HashMap<(String, String), Vec<Rule>>,
    cluster_bindings: Vec<Binding>,
    bindings: HashMap<String, Vec<Binding>>,
}

struct Binding {
    /// As explanations name it: kind and name, with the namespace of a RoleBinding.
    shown: String,
    subjects: Vec<Subject>,
    role: RoleRef,
}

struct Subject {
    /// A group, or else a user.
    group: bool,
    name: String,
    /// As explanations name it.
    shown: String,
}

struct RoleRef {
    cluster: bool,
    name: String,
}

impl Policy {
    /// Compiles stored objects. What is malformed grants nothing.
    pub fn from_objects(
        cluster_roles: &[Value],
        roles: &[Value],
        cluster_role_bindings: &[Value],
        role_bindings: &[Value],
    ) -> Self {
        let mut bindings: HashMap<String, Vec<Binding>> = HashMap::new();
        for binding in role_bindings {
            let namespace = text(binding, "/metadata/namespace");
            bindings
                .entry(namespace.clone())
                .or_default()
                .extend(Binding::read(binding, &namespace));
        }
        Policy {
            cluster_roles: cluster_roles
                .iter()
                .map(|role| (text(role, "/metadata/name"), rule::read_all(role)))
                .collect(),
            roles: roles
                .iter()
                .map(|role| {
                    let key = (
                        text(role, "/metadata/namespace"),
                        text(role, "/metadata/name"),
                    );
                    (key, rule::read_all(role))
                })
                .collect(),
            cluster_bindings: cluster_role_bindings
                .iter()
                .filter_map(|binding| Binding::read(binding, ""))
                .collect(),
            bindings,
        }
    }

    /// Whether the user may do this.
    ///
    /// # Errors
    /// The text that follows `… is forbidden: ` in Kubernetes' answer.
    pub fn authorize(&self, user: &User, attributes: &Attributes) -> Result<(), String> {
        let allowed = is_master(user)
            || self
                .rules_of(user, &attributes.namespace)
                .any(|rule| rule.allows(attributes));
        if allowed {
            Ok(())
        } else {
            Err(refusal(user, attributes))
        }
    }

    /// Why the user may do this, in Kubernetes' words; `None` if they may not. Members of
    /// system:masters may do everything, whatever the bindings say, and no reason is given.
    pub fn explain(&self, user: &User, attributes: &Attributes) -> Option<String> {
        if is_master(user) {
            return Some(String::new());
        }
        self.bindings_of(user, &attributes.namespace)
            .find(|(binding, _)| {
                self.role(&binding.role, &attributes.namespace)
                    .is_some_and(|rules| rules.iter().any(|rule| rule.allows(attributes)))
            })
            .map(|(binding, subject)| {
                let kind = if binding.role.cluster {
                    "ClusterRole"
                } else {
                    "Role"
                };
                format!(
                    "RBAC: allowed by {} of {kind} {} to {}",
                    binding.shown,
                    quoted(&binding.role.name),
                    subject.shown,
                )
            })
    }

    /// Every rule that holds for the user in a namespace (empty: at the cluster scope only): those of
    /// cluster-wide bindings come first.
    pub fn rules_of<'a>(
        &'a self,
        user: &'a User,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Rule> {
        self.bindings_of(user, namespace)
            .filter_map(move |(binding, _)| self.role(&binding.role, namespace))
            .flatten()
    }

    /// Bindings of the user whose role does not exist: the names of these roles.
    fn dangling<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = &'a str> {
        self.bindings_of(user, namespace)
            .filter(move |(binding, _)| self.role(&binding.role, namespace).is_none())
            .map(|(binding, _)| binding.role.name.as_str())
    }

    /// The bindings that count in a namespace, each with the subject by which it covers the user.
    fn bindings_of<'a>(
        &'a self,
        user: &'a User,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Binding, &'a Subject)> {
        let local = self
            .bindings
            .get(namespace)
            .filter(|_| !namespace.is_empty())
            .into_iter()
            .flatten();
        self.cluster_bindings
            .iter()
            .chain(local)
            .filter_map(move |binding| Some((binding, binding.subject(user)?)))
    }

    fn role(&self, role: &RoleRef, namespace: &str) -> Option<&Vec<Rule>> {
        if role.cluster {
            self.cluster_roles.get(&role.name)
        } else {
            self.roles.get(&(namespace.to_owned(), role.name.clone()))
        }
    }
}

impl Binding {
    fn read(binding: &Value, namespace: &str) -> Option<Self> {
        let name = text(binding, "/metadata/name");
        let shown = if namespace.is_empty() {
            format!("ClusterRoleBinding {}", quoted(&name))
        } else {
            format!("RoleBinding {}", quoted(&format!("{name}/{namespace}")))
        };
        let role = RoleRef {
            cluster: match text(binding, "/roleRef/kind").as_str() {
                "ClusterRole" => true,
                // A ClusterRoleBinding cannot point into a namespace.
                "Role" if !namespace.is_empty() => false,
                _ => return None,
            },
            name: text(binding, "/roleRef/name"),
        };
        let subjects = binding.get("subjects").and_then(Value::as_array);
        let subjects = subjects
            .into_iter()
            .flatten()
            .filter_map(|subject| Subject::read(subject, namespace))
            .collect();
        Some(Binding {
            shown,
            subjects,
            role,
        })
    }

    fn subject(&self, user: &User) -> Option<&Subject> {
        self.subjects.iter().find(|subject| {
            if subject.group {
                user.groups.contains(&subject.name)
            } else {
                subject.name == user.name
            }
        })
    }
}

impl Subject {
    fn read(subject: &Value, binding_namespace: &str) -> Option<Self> {
        let (kind, name) = (text(subject, "/kind"), text(subject, "/name"));
        let mut namespace = text(subject, "/namespace");
        if namespace.is_empty() {
            namespace = binding_namespace.to_owned();
        }
        let account = kind == "ServiceAccount";
        if account && namespace.is_empty() || !matches!(&*kind, "User" | "Group" | "ServiceAccount")
        {
            return None;
        }
        let shown = if account {
            quoted(&format!("{name}/{namespace}"))
        } else {
            quoted(&name)
        };
        Some(Subject {
            group: kind == "Group",
            shown: format!("{kind} {shown}"),
            name: if account {
                format!("system:serviceaccount:{namespace}:{name}")
            } else {
                name
            },
        })
    }
}

fn is_master(user: &User) -> bool {
    user.groups.iter().any(|group| group == "system:masters")
}

fn refusal(user: &User, attributes: &Attributes) -> String {
    let (name, verb) = (quoted(&user.name), &attributes.verb);
    if !attributes.is_resource {
        return format!(
            "User {name} cannot {verb} path {}",
            quoted(&attributes.path)
        );
    }
    let scope = if attributes.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {}", quoted(&attributes.namespace))
    };
    format!(
        "User {name} cannot {verb} resource {} in API group {} {scope}",
        quoted(&full_resource(attributes)),
        quoted(&attributes.group),
    )
}

/// The 403 answer for attributes that [`Policy::authorize`] refused.
pub fn forbidden(attributes: &Attributes, why: &str) -> ApiError {
    if !attributes.is_resource {
        let mut error = ApiError::new(403, "Forbidden", format!("forbidden: {why}"));
        error.details = serde_json::json!({});
        return error;
    }
    ApiError::forbidden(
        &attributes.group,
        &attributes.resource,
        &attributes.name,
        why,
    )
}

fn full_resource(attributes: &Attributes) -> String {
    if attributes.subresource.is_empty() {
        attributes.resource.clone()
    } else {
        format!("{}/{}", attributes.resource, attributes.subresource)
    }
}

/// As Go's `%q` for what names can hold.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn text(value: &Value, path: &str) -> String {
    value
        .pointer(path)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests;
