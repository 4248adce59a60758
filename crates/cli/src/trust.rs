//! `kah cluster trust`, `kah trust show` and `kah trust rotate`.

use serde_json::{Value, json};

use crate::arguments::TrustWord;
use crate::failure::Failure;
use crate::hub::{Answer, Hub, Next};
use crate::output::{self, Format};
use crate::progress;

const TRUST: &str = "/kapis/hub.kubeaihub.io/v1/trust";

/// Moves a member to a trust. Into one that gives it secrets only at a yes.
pub async fn move_to(
    cluster: &str,
    trust: TrustWord,
    yes: bool,
    format: Format,
) -> Result<(), Failure> {
    if trust == TrustWord::SharedSecret && !yes {
        output::confirmed(
            &format!(
                "{cluster} will get users' own tokens, and the host's jwtSecret if it has another: whoever controls it can act as anybody on the host. Go on?"
            ),
            "Add --yes.",
        )?;
    }
    let (hub, _) = Hub::of_login().await?;
    let word = trust.trust().as_str();
    let path = format!("/kapis/hub.kubeaihub.io/v1/clusters/{cluster}/trust");
    let wanted = json!({"trust": word});
    let moving = hub.put(&path, &wanted);
    let answer = progress::during(&format!("Moving {cluster} to {word}"), moving).await?;
    let report = understand(&format!("The trust of {cluster} was not moved"), &answer)?;
    match format {
        Format::Json | Format::Yaml => output::value(&report, format),
        Format::Name => output::data(&format!("{cluster}\n")),
        Format::Table => {
            for change in list(&report, "changes") {
                let field = |name| text(change, name);
                output::talk(&format!(
                    "{}: {} -> {}",
                    field("key"),
                    field("from"),
                    field("to")
                ));
            }
            let moved = report.get("moved").and_then(Value::as_bool) == Some(true);
            output::data(&if moved {
                format!("{cluster} knows callers by {word} trust now.\n")
            } else {
                format!("{cluster} knows callers by {word} trust already.\n")
            })
        }
    }
}

/// Shows keys, and what each member holds.
pub async fn show(format: Format) -> Result<(), Failure> {
    let (hub, _) = Hub::of_login().await?;
    let found: Value = hub.read(TRUST).await?;
    match format {
        Format::Json | Format::Yaml => output::value(&found, format),
        Format::Name => {
            let names = list(&found, "members").map(|member| text(member, "cluster"));
            output::data(&names.map(|name| format!("{name}\n")).collect::<String>())
        }
        Format::Table => output::data(&tables(&found)),
    }
}

/// Begins to change the signing key.
pub async fn rotate(force: bool) -> Result<(), Failure> {
    let (hub, _) = Hub::of_login().await?;
    let query = if force { "?force=true" } else { "" };
    let path = format!("{TRUST}/rotate{query}");
    let answer = hub.post(&path, &json!({})).await?;
    let report = understand("The signing key was not changed", &answer)?;
    output::talk(
        "Members are told of the new key first; then it signs, and the old one is forgotten. See it with `kah trust show`.",
    );
    if let Some(words) = left_behind(&report) {
        output::talk(&words);
    }
    output::data(&format!("{}\n", output::harmless(&text(&report, "next"))))
}

/// Who is not waited for, where that was asked for.
fn left_behind(report: &Value) -> Option<String> {
    report.get("behind")?;
    let behind: Vec<&str> = list(report, "behind").filter_map(Value::as_str).collect();
    Some(if behind.is_empty() {
        "All members followed the keys so far; one that does not follow the new one is not waited for.".into()
    } else {
        format!(
            "Not waited for, and refusing the host's tokens until they are told: {}",
            behind.join(", ")
        )
    })
}

fn tables(found: &Value) -> String {
    let keys: Vec<Vec<String>> = list(found, "keys")
        .map(|key| {
            let age = key.get("age").and_then(Value::as_i64).unwrap_or_default();
            vec![text(key, "id"), text(key, "state"), days(age)]
        })
        .collect();
    let members: Vec<Vec<String>> = list(found, "members")
        .map(|member| {
            let accepts = member.get("accepts").and_then(Value::as_array);
            let accepts: Vec<&str> = accepts
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            vec![
                text(member, "cluster"),
                text(member, "trust"),
                text(member, "told"),
                accepts.join(","),
                text(member, "evidence"),
            ]
        })
        .collect();
    format!(
        "{}\n{}",
        output::table(&["KEY", "STATE", "AGE"], &keys),
        output::table(
            &["MEMBER", "TRUST", "TOLD", "ACCEPTS", "EVIDENCE"],
            &members
        )
    )
}

/// An age as kubectl shows one.
fn days(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value
        .get(field)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn text(value: &Value, field: &str) -> String {
    let text = value.get(field).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

fn understand(what: &str, answer: &Answer) -> Result<Value, Failure> {
    answer.understood(
        what,
        &Next {
            cluster: "CLUSTER",
            conflict: "See where it stands with `kah trust show`.",
            otherwise: "Look with `kah doctor` and `kah trust show`.",
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_members_are_shown_in_columns() {
        let found = json!({
            "issuer": "kubeaihub:x",
            "keys": [{"id": "1-a", "state": "active", "age": 7200}],
            "members": [
                {"cluster": "m1", "trust": "federated", "told": "current", "accepts": ["1-a"]},
                {"cluster": "m2", "trust": "shared-secret"},
            ],
        });
        assert_eq!(
            tables(&found),
            "KEY   STATE    AGE\n1-a   active   2h\n\n\
             MEMBER   TRUST           TOLD      ACCEPTS   EVIDENCE\n\
             m1       federated       current   1-a\n\
             m2       shared-secret\n"
        );
        assert_eq!(
            [0, 59, 60, 86_400].map(days),
            ["0s", "59s", "1m", "1d"].map(str::to_owned)
        );
    }

    #[test]
    fn who_is_left_behind_is_named() {
        assert_eq!(left_behind(&json!({"next": "a"})), None);
        let words = left_behind(&json!({"next": "a", "behind": ["m1", "m2"]})).unwrap();
        assert!(words.ends_with(": m1, m2"), "{words}");
        assert!(
            left_behind(&json!({"behind": []}))
                .unwrap()
                .starts_with("All")
        );
    }

    #[test]
    fn a_refusal_says_what_to_do_next() {
        for (status, next) in [
            (401, "kah login"),
            (404, "kah cluster list"),
            (409, "kah trust show"),
            (422, "kah doctor"),
        ] {
            let answer = Answer {
                status: http::StatusCode::from_u16(status).unwrap(),
                refusal: None,
                body: bytes::Bytes::from_static(br#"{"message":"no"}"#),
            };
            let said = understand("It was not done", &answer)
                .unwrap_err()
                .to_string();
            assert!(
                said.contains("not done: no") && said.contains(next),
                "{said}"
            );
        }
    }
}
