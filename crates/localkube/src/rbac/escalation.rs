//! No one may give, by a role or binding, what they do not hold themselves.

use serde_json::Value;

use super::rule::{self, Rule};
use super::{Policy, quoted, text};
use crate::identity::{Attributes, User};
use crate::status::ApiError;

const GROUP: &str = "rbac.authorization.k8s.io";

impl Policy {
    /// Refuses a write of a role or binding that would give more than the writer has. `plural` is
    /// `roles`, `clusterroles`, `rolebindings` or `clusterrolebindings`; call it on create and update,
    /// and not for other kinds.
    ///
    /// # Errors
    /// 403 that lists what is missing; 404 for a binding to a role that does not exist, unless the
    /// writer may bind it unseen.
    pub fn check_escalation(
        &self,
        user: &User,
        plural: &str,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        if super::is_master(user) {
            return Ok(());
        }
        match plural {
            "roles" | "clusterroles" => self.check_role(user, plural, new, old),
            "rolebindings" | "clusterrolebindings" => self.check_binding(user, plural, new, old),
            _ => Ok(()),
        }
    }

    fn check_role(
        &self,
        user: &User,
        plural: &str,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let unchanged = |field: &str| old.is_some_and(|old| old.get(field) == new.get(field));
        if unchanged("rules") && unchanged("aggregationRule") {
            return Ok(());
        }
        let (namespace, name) = (
            text(new, "/metadata/namespace"),
            text(new, "/metadata/name"),
        );
        let may = |verb: &str| self.may(user, verb, plural, &namespace, &name);
        if may("escalate") {
            return Ok(());
        }
        let refuse = |why: String| Err(ApiError::forbidden(GROUP, plural, &name, &why));
        let aggregates = new
            .get("aggregationRule")
            .is_some_and(|rule| !rule.is_null());
        if aggregates && !unchanged("aggregationRule") {
            let all = [
                Rule {
                    verbs: star(),
                    api_groups: star(),
                    resources: star(),
                    ..Rule::default()
                },
                Rule {
                    verbs: star(),
                    non_resource_urls: star(),
                    ..Rule::default()
                },
            ];
            if self.missing(user, &namespace, &all).is_some() {
                return refuse(
                    "must have cluster-admin privileges to use an aggregationRule".to_owned(),
                );
            }
        }
        match self.missing(user, &namespace, &rule::read_all(new)) {
            Some(missing) => refuse(self.shortfall(user, plural, &namespace, &missing)),
            None => Ok(()),
        }
    }

    fn check_binding(
        &self,
        user: &User,
        plural: &str,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let unchanged = |field: &str| old.is_some_and(|old| old.get(field) == new.get(field));
        if unchanged("subjects") && unchanged("roleRef") {
            return Ok(());
        }
        let (namespace, name) = (
            text(new, "/metadata/namespace"),
            text(new, "/metadata/name"),
        );
        let (kind, role) = (text(new, "/roleRef/kind"), text(new, "/roleRef/name"));
        let roles = if kind == "ClusterRole" {
            "clusterroles"
        } else {
            "roles"
        };
        if self.may(user, "bind", roles, &namespace, &role) {
            return Ok(());
        }
        let rules = if kind == "ClusterRole" {
            self.cluster_roles.get(&role)
        } else {
            self.roles.get(&(namespace.clone(), role.clone()))
        };
        let rules = rules.ok_or_else(|| ApiError::not_found(GROUP, plural, &role))?;
        match self.missing(user, &namespace, rules) {
            Some(missing) => {
                let why = self.shortfall(user, plural, &namespace, &missing);
                Err(ApiError::forbidden(GROUP, plural, &name, &why))
            }
            None => Ok(()),
        }
    }

    fn may(&self, user: &User, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let attributes = Attributes {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            is_resource: true,
            ..Attributes::default()
        };
        self.authorize(user, &attributes).is_ok()
    }

    /// The parts of `wanted` that the user does not hold.
    fn missing(&self, user: &User, namespace: &str, wanted: &[Rule]) -> Option<Vec<Rule>> {
        let held: Vec<&Rule> = self.rules_of(user, namespace).collect();
        let missing: Vec<Rule> = wanted
            .iter()
            .flat_map(Rule::parts)
            .filter(|part| !held.iter().any(|rule| rule.covers(part)))
            .collect();
        (!missing.is_empty()).then_some(missing)
    }

    fn shortfall(&self, user: &User, plural: &str, namespace: &str, missing: &[Rule]) -> String {
        let groups: Vec<String> = user.groups.iter().map(|group| quoted(group)).collect();
        let mut text = format!(
            "user {} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            quoted(&user.name),
            groups.join(" "),
            compact(missing).join("\n"),
        );
        // Kubernetes names the resource of the request here, whatever the role's own kind is.
        let unresolved: Vec<String> = self
            .dangling(user, namespace)
            .map(|name| format!("{plural}.{GROUP} {} not found", quoted(name)))
            .collect();
        if !unresolved.is_empty() {
            text.push_str(&format!("; resolution errors: [{}]", unresolved.join(", ")));
        }
        text
    }
}

fn star() -> Vec<String> {
    vec!["*".to_owned()]
}

/// Parts that differ only in the verb are written as one; all sorted.
fn compact(parts: &[Rule]) -> Vec<String> {
    let mut merged: Vec<Rule> = Vec::new();
    for part in parts {
        let bare = |rule: &Rule| Rule {
            verbs: Vec::new(),
            ..rule.clone()
        };
        let same = merged
            .iter_mut()
            .find(|rule| part.non_resource_urls.is_empty() && bare(rule) == bare(part));
        match same {
            Some(rule) => {
                for verb in &part.verbs {
                    if !rule.verbs.contains(verb) {
                        rule.verbs.push(verb.clone());
                    }
                }
            }
            None => merged.push(part.clone()),
        }
    }
    let mut lines: Vec<String> = merged.iter().map(Rule::compact).collect();
    lines.sort();
    lines.dedup();
    lines
}
