//! ClusterRoles whose rules are gathered from other ClusterRoles by label.

use serde_json::Value;

/// ClusterRoles with an `aggregationRule` whose rules are not what they should be, with the right rules
/// in place. Run until nothing comes back: aggregated roles may feed others.
pub fn aggregate(cluster_roles: &[Value]) -> Vec<Value> {
    let mut sorted: Vec<&Value> = cluster_roles.iter().collect();
    sorted.sort_by_key(|role| name(role));
    let mut changed = Vec::new();
    for role in cluster_roles {
        let Some(selectors) = role
            .pointer("/aggregationRule/clusterRoleSelectors")
            .and_then(Value::as_array)
        else {
            continue;
        };
        let mut rules: Vec<Value> = Vec::new();
        for selector in selectors {
            for source in &sorted {
                if name(source) == name(role) || !selects(selector, source) {
                    continue;
                }
                for rule in source
                    .get("rules")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
            }
        }
        let rules = Value::Array(rules);
        let empty = Value::Array(Vec::new());
        if role
            .get("rules")
            .filter(|rules| !rules.is_null())
            .unwrap_or(&empty)
            != &rules
        {
            let mut role = role.clone();
            if let Some(fields) = role.as_object_mut() {
                fields.insert("rules".to_owned(), rules);
            }
            changed.push(role);
        }
    }
    changed
}

fn name(role: &Value) -> &str {
    role.pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A LabelSelector over the labels of an object.
fn selects(selector: &Value, object: &Value) -> bool {
    let label = |key: &str| {
        object
            .pointer("/metadata/labels")
            .and_then(|labels| labels.get(key))
            .and_then(Value::as_str)
    };
    let equal = selector.get("matchLabels").and_then(Value::as_object);
    let equal = equal
        .into_iter()
        .flatten()
        .all(|(key, value)| label(key) == value.as_str());
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    equal
        && expressions.into_iter().flatten().all(|expression| {
            let field = |name: &str| {
                expression
                    .get(name)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            let found = label(field("key"));
            let listed = || {
                let values = expression.get("values").and_then(Value::as_array);
                values
                    .into_iter()
                    .flatten()
                    .any(|value| value.as_str() == found)
            };
            match field("operator") {
                "In" => found.is_some() && listed(),
                "NotIn" => found.is_none() || !listed(),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}
