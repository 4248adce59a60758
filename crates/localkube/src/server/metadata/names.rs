//! Names, label keys and label values, with the words of `k8s.io/apimachinery/pkg/util/validation`.

use crate::kind::NameRule;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const KEY: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const KEY_FORM: &str = "a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
const VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn too_long(most: usize) -> String {
    format!("must be no more than {most} bytes")
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`
fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// What is wrong with a name.
pub(in crate::server) fn check_name(rule: NameRule, name: &str) -> Vec<String> {
    let mut faults = Vec::new();
    match rule {
        NameRule::PathSegment => {
            if name == "." || name == ".." {
                faults.push(format!("may not be '{name}'"));
            }
            for illegal in ["/", "%"] {
                if name.contains(illegal) {
                    faults.push(format!("may not contain '{illegal}'"));
                }
            }
        }
        NameRule::Label => {
            if name.len() > 63 {
                faults.push(too_long(63));
            }
            if !is_label(name) {
                // A dot is not among the characters of a label; the rule says so by itself.
                faults.push(LABEL.to_owned());
            }
        }
        NameRule::Subdomain => {
            if name.len() > 253 {
                faults.push(too_long(253));
            }
            if !is_subdomain(name) {
                faults.push(SUBDOMAIN.to_owned());
            }
        }
    }
    faults
}

/// What is wrong with a label or annotation key, or a finalizer.
pub(in crate::server) fn check_label_key(key: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let name = match key.split_once('/') {
        None => key,
        Some((_, name)) if name.contains('/') => return vec![KEY_FORM.to_owned()],
        Some((prefix, name)) => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".to_owned());
            } else if prefix.len() > 253 {
                faults.push(format!("prefix part {}", too_long(253)));
            } else if !is_subdomain(prefix) {
                faults.push(format!("prefix part {SUBDOMAIN}"));
            }
            name
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        faults.push(format!("name part {}", too_long(63)));
    }
    if !is_qualified(name) {
        faults.push(KEY.to_owned());
    }
    faults
}

/// What is wrong with a label value.
pub(in crate::server) fn check_label_value(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > 63 {
        faults.push(too_long(63));
    }
    if !value.is_empty() && !is_qualified(value) {
        faults.push(VALUE.to_owned());
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rule() {
        let long = "a".repeat(64);
        for (rule, name, good) in [
            (NameRule::Subdomain, "a.b-c.1", true),
            (NameRule::Subdomain, "A", false),
            (NameRule::Subdomain, "a..b", false),
            (NameRule::Subdomain, "-a", false),
            (NameRule::Subdomain, long.as_str(), true),
            (NameRule::Label, "a.b", false),
            (NameRule::Label, long.as_str(), false),
            (NameRule::Label, "1a", true),
            (NameRule::PathSegment, "system:node", true),
            (NameRule::PathSegment, "a%b", false),
            (NameRule::PathSegment, "..", false),
        ] {
            assert_eq!(check_name(rule, name).is_empty(), good, "{rule:?} {name}");
        }
        for (key, good) in [
            ("app", true),
            ("example.com/App_1", true),
            ("a/b/c", false),
            ("/a", false),
            ("a/", false),
            ("a b", false),
        ] {
            assert_eq!(check_label_key(key).is_empty(), good, "{key}");
        }
    }
}
