//! Which names a CustomResourceDefinition gets, and its conditions.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{flag, items, text, texts, versions};

/// Sets `status` (accepted names, stored versions, conditions). `others` are all stored CRDs.
pub fn establish(crd: &mut Value, others: &[Value], now: Timestamp) {
    let (accepted, conflict) = accept(crd, others);
    let storage: Vec<String> = versions(crd)
        .filter(|version| flag(version, "storage"))
        .map(|version| text(version, "name").to_owned())
        .collect();
    let mut stored = texts(&crd["status"]["storedVersions"]);
    for version in storage {
        if !stored.contains(&version) {
            stored.push(version);
        }
    }
    let established = [
        (
            "NamesAccepted",
            "True",
            "NoConflicts",
            "no conflicts found".to_owned(),
        ),
        (
            "Established",
            "True",
            "InitialNamesAccepted",
            "the initial names have been accepted".to_owned(),
        ),
    ];
    let conditions = match conflict {
        None => established,
        Some((reason, message)) => [
            ("NamesAccepted", "False", reason, message),
            (
                "Established",
                "False",
                "NotAccepted",
                "not all names are accepted".to_owned(),
            ),
        ],
    };
    let before = crd["status"]["conditions"].clone();
    let conditions: Vec<Value> = conditions
        .into_iter()
        .map(|(kind, status, reason, message)| {
            let unchanged =
                items(&before).find(|old| old["type"] == kind && old["status"] == status);
            let since = unchanged.map_or_else(
                || rfc3339(now).into(),
                |old| old["lastTransitionTime"].clone(),
            );
            json!({"type": kind, "status": status, "lastTransitionTime": since, "reason": reason, "message": message})
        })
        .collect();
    crd["status"] =
        json!({"conditions": conditions, "acceptedNames": accepted, "storedVersions": stored});
}

/// The names that no other CRD of the group has, and what is wrong with the last that one has: the
/// reason and the message.
fn accept(crd: &Value, others: &[Value]) -> (Value, Option<(&'static str, String)>) {
    let spec = &crd["spec"];
    let own_name = &crd["metadata"]["name"];
    let (mut resources, mut kinds) = (Vec::new(), Vec::new());
    for other in others {
        if other["metadata"]["name"] == *own_name || other["spec"]["group"] != spec["group"] {
            continue;
        }
        let names = &other["status"]["acceptedNames"];
        resources.extend([text(names, "plural"), text(names, "singular")].map(str::to_owned));
        resources.extend(texts(&names["shortNames"]));
        kinds.extend([text(names, "kind"), text(names, "listKind")].map(str::to_owned));
    }
    let names = &spec["names"];
    // Names accepted before stay, whatever has been asked for since.
    let mut accepted = match &crd["status"]["acceptedNames"] {
        Value::Object(before) => before.clone(),
        _ => Map::new(),
    };
    let mut fault = None;
    let mut take = |field: &str, reason: &'static str, taken: &[String]| {
        let wanted = match &names[field] {
            Value::String(name) => vec![name.clone()],
            list => texts(list),
        };
        let used: Vec<String> = wanted
            .iter()
            .filter(|name| taken.contains(name))
            .map(|name| format!("{name:?} is already in use"))
            .collect();
        match used.as_slice() {
            [] if names[field].is_null() => {
                accepted.shift_remove(field);
            }
            [] => {
                accepted.insert(field.to_owned(), names[field].clone());
            }
            [one] => fault = Some((reason, one.clone())),
            several => fault = Some((reason, format!("[{}]", several.join(", ")))),
        }
    };
    take("plural", "PluralConflict", &resources);
    take("singular", "SingularConflict", &resources);
    take("shortNames", "ShortNamesConflict", &resources);
    take("kind", "KindConflict", &kinds);
    take("listKind", "ListKindConflict", &kinds);
    take("categories", "", &[]);
    for field in ["kind", "plural"] {
        accepted.entry(field).or_insert_with(|| "".into());
    }
    accepted.sort_keys();
    (Value::Object(accepted), fault)
}

fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
