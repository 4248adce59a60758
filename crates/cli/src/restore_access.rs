//! `kah restore-access`: what is wrong, what would change, and, after a yes, the change.

use std::{convert::Infallible, path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use kah_api::access::AUTHORITY_CHANGED;

use crate::failure::Failure;
use crate::hub::{Answer, Hub, Next};
use crate::output::{self, Format};
use crate::progress::Progress;

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(500);

/// What was typed.
pub struct Options {
    /// The cluster.
    pub cluster: String,
    /// A kubeconfig that takes the place of the stored one.
    pub kubeconfig: Option<PathBuf>,
    /// The fingerprint of the authority that is trusted from now on.
    pub accept_ca: Option<String>,
    /// Only the plan.
    pub dry_run: bool,
    /// Do not ask.
    pub yes: bool,
    /// How the outcome is printed.
    pub format: Format,
}

/// Plans, shows, asks, restores.
pub async fn run(options: &Options) -> Result<(), Failure> {
    let (hub, _) = Hub::of_login().await?;
    let path = format!(
        "/kapis/hub.kubeaihub.io/v1/clusters/{}/restore-access",
        options.cluster
    );
    let mut wanted = json!({});
    if let Some(file) = &options.kubeconfig {
        let text = std::fs::read(file).map_err(|error| {
            Failure::new(
                format!("read {}", file.display()),
                "Name a file that holds a kubeconfig of the member.",
            )
            .because(error)
        })?;
        wanted["kubeconfig"] = STANDARD.encode(text).into();
    }
    if let Some(fingerprint) = &options.accept_ca {
        wanted["acceptCa"] = fingerprint.as_str().into();
    }
    let mut answer = hub.post(&path, &body(&wanted, None)).await?;
    if let Some(shown) = unaccepted(options, &answer).filter(|_| output::is_attended()) {
        output::talk(&answer.message());
        let question = format!("The new fingerprint is {shown}. Is this the member's?");
        output::confirmed(&question, "Give it with --accept-ca.")?;
        wanted["acceptCa"] = shown.into();
        answer = hub.post(&path, &body(&wanted, None)).await?;
    }
    let planned = understand(&options.cluster, &answer)?;
    if options.dry_run || text(&planned, "outcome") == "NothingToDo" {
        return print(&planned, options.format);
    }
    if !options.yes {
        for line in plan(&planned) {
            output::talk(&line);
        }
        let question = format!("Change this on {}?", options.cluster);
        output::confirmed(&question, "Add --yes, or look only with --dry-run.")?;
    }
    let restore = async {
        let agreed = body(&wanted, Some(whats(&planned)));
        understand(&options.cluster, &hub.post(&path, &agreed).await?)
    };
    let done = if options.format == Format::Table {
        tokio::select! {
            done = restore => done,
            never = follow(&hub, &options.cluster) => match never {},
        }
    } else {
        restore.await
    };
    print(&done?, options.format)
}

/// What is asked of the host: the plan, or what was agreed to.
fn body(wanted: &Value, agreed: Option<Vec<&str>>) -> Value {
    let mut body = wanted.clone();
    body["dryRun"] = agreed.is_none().into();
    if let Some(agreed) = agreed {
        body["agreed"] = agreed.into();
    }
    body
}

/// The fingerprint that is to be accepted, where a person may still be asked about it: `--yes` speaks of the plan, not of whom to trust.
fn unaccepted(options: &Options, answer: &Answer) -> Option<String> {
    let is_open = !options.yes && options.accept_ca.is_none() && options.kubeconfig.is_none();
    answer.cause(AUTHORITY_CHANGED).filter(|_| is_open)
}

/// Shows how far the restore is, as the Cluster object says it, until it is dropped.
async fn follow(hub: &Hub, cluster: &str) -> Infallible {
    let path = format!("/apis/cluster.kubesphere.io/v1alpha1/clusters/{cluster}");
    let mut progress = Progress::begin(&format!("Restoring access to {cluster}"));
    loop {
        // Whatever cannot be read is not shown.
        let object = hub.read::<Value>(&path).await.unwrap_or_default();
        progress.step(step(&object).unwrap_or_default());
        tokio::time::sleep(LOOK).await;
    }
}

/// Where the restore of this Cluster object stands, in words; `None` where none goes on.
fn step(object: &Value) -> Option<&'static str> {
    let state = object.pointer("/metadata/annotations/hub.kubeaihub.io~1restore")?;
    let state: Value = serde_json::from_str(state.as_str()?).ok()?;
    match text(&state, "step") {
        "Planned" => Some("changing the configuration"),
        "Changed" => Some("waiting for ks-apiserver to read it"),
        "Restarted" => Some("ks-apiserver restarts"),
        "Undoing" => Some("it did not help; everything is put back"),
        _ => None,
    }
}

fn understand(cluster: &str, answer: &Answer) -> Result<Value, Failure> {
    let look = format!("Look with `kah doctor {cluster}`.");
    answer.understood(
        &format!("Access to {cluster} was not restored"),
        &Next {
            cluster,
            conflict: &look,
            otherwise: &look,
        },
    )
}

fn text<'a>(report: &'a Value, field: &str) -> &'a str {
    report
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn flag(report: &Value, field: &str) -> bool {
    report.get(field).and_then(Value::as_bool) == Some(true)
}

/// What the plan does.
fn whats(report: &Value) -> Vec<&str> {
    let actions = report.get("actions").and_then(Value::as_array);
    let actions = actions.into_iter().flatten();
    actions.map(|action| text(action, "what")).collect()
}

/// The plan, a line each.
fn plan(report: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let code = text(report, "code");
    if !code.is_empty() {
        lines.push(format!("{code}: {}", text(report, "evidence")));
    }
    let actions = report.get("actions").and_then(Value::as_array);
    for action in actions.into_iter().flatten() {
        lines.push(format!("  {}", text(action, "what")));
        lines.push(format!("  - {}", text(action, "from")));
        lines.push(format!("  + {}", text(action, "to")));
    }
    let changes = report.get("changes").and_then(Value::as_array);
    if changes.is_some_and(|changes| !changes.is_empty()) {
        lines.push("  ks-apiserver is restarted if it does not read this while it runs.".into());
    }
    lines
}

fn print(report: &Value, format: Format) -> Result<(), Failure> {
    let cluster = text(report, "cluster");
    match format {
        Format::Json | Format::Yaml => output::value(report, format),
        Format::Name => output::data(&format!("{cluster}\n")),
        Format::Table => {
            let lines = match text(report, "outcome") {
                "NothingToDo" => vec![format!(
                    "{cluster} accepts the host's tokens: there is nothing to do."
                )],
                "Planned" => plan(report),
                _ if flag(report, "restarted") => vec![format!(
                    "Access to {cluster} is restored; its ks-apiserver was restarted."
                )],
                _ => vec![format!(
                    "Access to {cluster} is restored, without a restart."
                )],
            };
            let lines = lines
                .iter()
                .map(|line| format!("{}\n", output::harmless(line)));
            output::data(&lines.collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_shows_before_and_after() {
        let report = json!({
            "cluster": "m", "outcome": "Planned", "code": "TokenNotInCache", "evidence": "401: x",
            "changes": [{"key": "a.b", "from": "2h0m0s", "to": "0"}], "scaled": true,
            "actions": [
                {"what": "a.b", "from": "2h0m0s", "to": "0"},
                {"what": "Deployment ks-apiserver, replicas", "from": "0", "to": "1"},
            ],
        });
        let lines = plan(&report);
        assert_eq!(lines.first().unwrap(), "TokenNotInCache: 401: x");
        assert!(lines.contains(&"  - 2h0m0s".to_owned()) && lines.contains(&"  + 0".to_owned()));
        assert!(lines.iter().any(|line| line.contains("restarted if")));
    }

    #[test]
    fn how_far_it_is_stands_in_the_cluster() {
        let object = |step: &str| {
            let state = json!({"id": "1", "step": step}).to_string();
            json!({"metadata": {"annotations": {"hub.kubeaihub.io/restore": state}}})
        };
        assert_eq!(step(&object("Restarted")), Some("ks-apiserver restarts"));
        assert_eq!(step(&object("Restored")), None);
        assert_eq!(step(&json!({"metadata": {}})), None);
    }

    #[test]
    fn a_refusal_says_what_to_do_next() {
        let refusal = |status: u16, body: &'static str| {
            let answer = Answer {
                status: http::StatusCode::from_u16(status).unwrap(),
                refusal: None,
                body: bytes::Bytes::from_static(body.as_bytes()),
            };
            understand("m", &answer).unwrap_err().to_string()
        };
        let body = r#"{"message":"no","details":{"causes":[{"reason":"ClockSkew","message":"Set the clocks."}]}}"#;
        assert!(refusal(422, body).ends_with("\nSet the clocks."));
        let busy = r#"{"message":"busy","details":{"causes":[{"reason":"RestoreUnderWay","message":"Try again."}]}}"#;
        assert!(refusal(409, busy).ends_with(": busy\nTry again."));
        assert!(refusal(409, r#"{"message":"busy"}"#).contains("kah doctor m"));
        assert!(refusal(502, "{}").contains("kah doctor m"));
    }

    /// Only a person who was not asked yet is asked whom to trust.
    #[test]
    fn a_new_authority_is_asked_about_where_nobody_has_answered() {
        let refused = r#"{"message":"no","details":{"name":"m","causes":[
            {"reason":"TLSUntrusted","message":"`kah restore-access m --accept-ca BB`"},
            {"reason":"AuthorityChanged","message":"BB","field":"acceptCa"}]}}"#;
        for (body, yes, accept_ca, asked) in [
            (refused, false, None, Some("BB")),
            (refused, true, None, None),
            (refused, false, Some("CC"), None),
            (r#"{"message":"no"}"#, false, None, None),
            ("boom", false, None, None),
        ] {
            let options = Options {
                cluster: "m".into(),
                kubeconfig: None,
                accept_ca: accept_ca.map(str::to_owned),
                dry_run: false,
                yes,
                format: Format::Table,
            };
            let answer = Answer {
                status: http::StatusCode::UNPROCESSABLE_ENTITY,
                refusal: None,
                body: bytes::Bytes::from_static(body.as_bytes()),
            };
            assert_eq!(unaccepted(&options, &answer).as_deref(), asked);
            if body == refused {
                let said = understand("m", &answer).unwrap_err().to_string();
                assert!(said.ends_with("`kah restore-access m --accept-ca BB`"));
            }
        }
    }
}
