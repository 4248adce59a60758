//! Names of ReplicaSets: a hash of the Pod template, in letters that form no words.

use k8s_openapi::api::core::v1::PodTemplateSpec;

/// The label that tells the Pods of one template from those of another.
pub const HASH_LABEL: &str = "pod-template-hash";

const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Whether two templates are the same but for the hash label.
pub fn same(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    without_hash(a) == without_hash(b)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let metadata = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut metadata.labels {
        labels.remove(HASH_LABEL);
    }
    metadata.labels = metadata.labels.take().filter(|labels| !labels.is_empty());
    metadata.annotations = metadata.annotations.take().filter(|map| !map.is_empty());
    metadata.creation_timestamp = None;
    template
}

/// 32-bit FNV-1a over the template and the number of collisions, in the alphabet of
/// `k8s.io/apimachinery/pkg/util/rand.SafeEncodeString`.
pub fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let json = serde_json::to_vec(template).unwrap_or_default();
    let mut hash: u32 = 2_166_136_261;
    let collisions = collisions.map(i32::to_le_bytes);
    for byte in json.iter().chain(collisions.iter().flatten()) {
        hash = (hash ^ u32::from(*byte)).wrapping_mul(16_777_619);
    }
    encode(&hash.to_string())
}

fn encode(text: &str) -> String {
    text.bytes()
        .filter_map(|byte| LETTERS.get(usize::from(byte) % LETTERS.len()))
        .map(|letter| char::from(*letter))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({
            "metadata": {"labels": {"app": "a"}},
            "spec": {"containers": [{"name": "c", "image": image}]},
        }))
        .unwrap()
    }

    #[test]
    fn hashes_tell_templates_and_collisions_apart() {
        let first = hash(&template("a"), None);
        assert_eq!(first, hash(&template("a"), None));
        assert_ne!(first, hash(&template("b"), None));
        assert_ne!(first, hash(&template("a"), Some(1)));
        assert!(first.bytes().all(|byte| LETTERS.contains(&byte)));
    }

    #[test]
    fn the_alphabet_is_that_of_kubernetes() {
        assert_eq!(encode("0123456789"), "456789bcdf");
    }

    #[test]
    fn the_hash_label_does_not_make_a_template_different() {
        let mut labelled = template("a");
        labelled
            .metadata
            .get_or_insert_default()
            .labels
            .get_or_insert_default()
            .insert(HASH_LABEL.to_owned(), "x".to_owned());
        assert!(same(&template("a"), &labelled));
        assert!(!same(&template("b"), &labelled));
    }
}
