//! One PolicyRule: what it allows, and how it is written in messages.

use serde_json::Value;

use super::{full_resource, quoted};
use crate::identity::Attributes;

/// `rbac.authorization.k8s.io/v1` PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Verbs; `*` is every verb.
    pub verbs: Vec<String>,
    /// API groups; `*` is every group.
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale` or `*`.
    pub resources: Vec<String>,
    /// Only these objects, if any is named.
    pub resource_names: Vec<String>,
    /// Paths; a trailing `*` covers what follows.
    pub non_resource_urls: Vec<String>,
}

const ALL: &str = "*";

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == ALL || item == wanted)
}

impl Rule {
    fn read(value: &Value) -> Self {
        let list = |field: &str| {
            let items = value.get(field).and_then(Value::as_array);
            items
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        };
        Rule {
            verbs: list("verbs"),
            api_groups: list("apiGroups"),
            resources: list("resources"),
            resource_names: list("resourceNames"),
            non_resource_urls: list("nonResourceURLs"),
        }
    }

    /// Whether this rule alone allows a request.
    pub fn allows(&self, attributes: &Attributes) -> bool {
        if !has(&self.verbs, &attributes.verb) {
            return false;
        }
        if !attributes.is_resource {
            return self
                .non_resource_urls
                .iter()
                .any(|rule| covers_path(rule, &attributes.path));
        }
        has(&self.api_groups, &attributes.group)
            && self.allows_resource(&full_resource(attributes), &attributes.subresource)
            && (self.resource_names.is_empty() || self.resource_names.contains(&attributes.name))
    }

    fn allows_resource(&self, full: &str, subresource: &str) -> bool {
        self.resources.iter().any(|resource| {
            resource == ALL
                || resource == full
                || (!subresource.is_empty()
                    && resource
                        .strip_prefix("*/")
                        .is_some_and(|rest| rest == subresource))
        })
    }

    /// The rule taken apart: one verb and one object, name or path each.
    pub(super) fn parts(&self) -> Vec<Rule> {
        let mut parts = Vec::new();
        for verb in &self.verbs {
            let verbs = vec![verb.clone()];
            for group in &self.api_groups {
                for resource in &self.resources {
                    let part = Rule {
                        verbs: verbs.clone(),
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Rule::default()
                    };
                    if self.resource_names.is_empty() {
                        parts.push(part);
                    } else {
                        parts.extend(self.resource_names.iter().map(|name| Rule {
                            resource_names: vec![name.clone()],
                            ..part.clone()
                        }));
                    }
                }
            }
            parts.extend(self.non_resource_urls.iter().map(|url| Rule {
                verbs: verbs.clone(),
                non_resource_urls: vec![url.clone()],
                ..Rule::default()
            }));
        }
        parts
    }

    /// Whether everything that `part` (of [`Rule::parts`]) allows is allowed by this rule.
    pub(super) fn covers(&self, part: &Rule) -> bool {
        let within = |own: &[String], wanted: &[String]| wanted.iter().all(|item| has(own, item));
        if !within(&self.verbs, &part.verbs) {
            return false;
        }
        if let Some(url) = part.non_resource_urls.first() {
            return self
                .non_resource_urls
                .iter()
                .any(|own| covers_path(own, url));
        }
        within(&self.api_groups, &part.api_groups)
            && part.resources.iter().all(|resource| {
                let subresource = resource.split_once('/').map_or("", |(_, sub)| sub);
                self.allows_resource(resource, subresource)
            })
            && (self.resource_names.is_empty()
                || (!part.resource_names.is_empty()
                    && part
                        .resource_names
                        .iter()
                        .all(|name| self.resource_names.contains(name))))
    }

    /// How messages write the rule.
    pub(super) fn compact(&self) -> String {
        let mut fields = Vec::new();
        for (name, list) in [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ] {
            if !list.is_empty() {
                let items: Vec<String> = list.iter().map(|item| quoted(item)).collect();
                fields.push(format!("{name}:[{}]", items.join(" ")));
            }
        }
        format!("{{{}}}", fields.join(", "))
    }
}

pub(super) fn read_all(role: &Value) -> Vec<Rule> {
    let rules = role.get("rules").and_then(Value::as_array);
    rules.into_iter().flatten().map(Rule::read).collect()
}

fn covers_path(rule: &str, path: &str) -> bool {
    rule == ALL
        || rule == path
        || rule
            .strip_suffix(ALL)
            .is_some_and(|prefix| path.starts_with(prefix))
}
