//! The annotation in which `kubectl apply` without `--server-side` remembers what it sent.

use serde_json::Value;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Most bytes of all annotations together; a configuration that is longer is not remembered.
const LONGEST: usize = 256 << 10;

fn annotation(object: &Value) -> Option<&str> {
    object
        .get("metadata")?
        .get("annotations")?
        .get(ANNOTATION)?
        .as_str()
        .filter(|text| !text.is_empty())
}

/// What was sent last.
pub(super) fn read(object: &Value) -> Option<Value> {
    serde_json::from_str(annotation(object)?).ok()
}

/// Keeps the annotation of an object that has one in step with what is applied now.
pub(super) fn follow(object: &mut Value, config: &Value) {
    if annotation(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(metadata) = config.get_mut("metadata").and_then(Value::as_object_mut)
        && let Some(annotations) = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
    {
        annotations.shift_remove(ANNOTATION);
    }
    config.sort_all_objects();
    let text = format!("{config}\n");
    let annotations = object
        .get_mut("metadata")
        .and_then(|metadata| metadata.get_mut("annotations"))
        .and_then(Value::as_object_mut);
    if let Some(annotations) = annotations {
        if text.len() > LONGEST {
            annotations.shift_remove(ANNOTATION);
        } else {
            annotations.insert(ANNOTATION.to_owned(), text.into());
        }
    }
}
