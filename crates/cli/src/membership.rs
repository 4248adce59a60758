//! `kah cluster join` and `kah cluster leave`.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::StatusCode;
use serde_json::{Value, json};

use crate::arguments::TrustWord;
use crate::failure::{Exit, Failure};
use crate::hub::{Answer, Hub};
use crate::output;

const CLUSTERS: &str = "/kapis/hub.kubeaihub.io/v1/clusters";

/// Has the host look at a cluster, and join it.
pub async fn join(
    name: &str,
    kubeconfig: &Path,
    dry_run: bool,
    force: bool,
    trust: Option<TrustWord>,
) -> Result<(), Failure> {
    let text = std::fs::read(kubeconfig).map_err(|error| {
        Failure::new(
            format!("read {}", kubeconfig.display()),
            "Give the cluster's kubeconfig with --kubeconfig FILE.",
        )
        .because(error)
    })?;
    let (hub, _) = Hub::of_login().await?;
    output::talk(&format!("Looking at {name} …"));
    let wanted = json!({
        "name": name,
        "kubeconfig": STANDARD.encode(text),
        "dryRun": dry_run,
        "force": force,
        "trust": trust.map(|trust| trust.trust().as_str()),
    });
    let report = understand(name, &hub.post(CLUSTERS, &wanted).await?)?;
    let server = report.get("server").and_then(Value::as_str);
    let server = server.unwrap_or_default();
    let trust = report.get("trust").and_then(Value::as_str);
    let trust = trust.unwrap_or_default();
    let findings = report.get("findings").and_then(Value::as_array);
    for finding in findings.into_iter().flatten() {
        let text = |field: &str| finding.get(field).and_then(Value::as_str).unwrap_or("");
        output::talk(&format!(
            "{}: {} {}",
            text("code"),
            text("evidence"),
            text("remedy")
        ));
    }
    output::data(&if dry_run {
        format!("{name} at {server} can join, with {trust} trust.\n")
    } else {
        format!("{name} at {server} has joined, with {trust} trust.\n")
    })
}

/// Takes a member out of the fleet.
pub async fn leave(name: &str, yes: bool) -> Result<(), Failure> {
    let (hub, _) = Hub::of_login().await?;
    let question = format!("Nobody will reach {name} through the host any more. Go on?");
    if !yes && !output::confirmed(&question, "Add --yes.")? {
        return Ok(());
    }
    let answer = hub.delete(&format!("{CLUSTERS}/{name}")).await?;
    understand(name, &answer)?;
    output::data(&format!("{name} has left.\n"))
}

fn understand(name: &str, answer: &Answer) -> Result<Value, Failure> {
    let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status.is_success() {
        return Ok(value);
    }
    let said = format!("{name}: {}", answer.message());
    let cause = |field: &str| value.pointer(&format!("/details/causes/0/{field}"));
    let remedy = cause("message").and_then(Value::as_str);
    let broken = matches!(
        cause("reason").and_then(Value::as_str),
        Some("TokenNotInCache" | "SignatureInvalid")
    );
    let next = match (answer.status, remedy) {
        (StatusCode::UNAUTHORIZED, _) => {
            return Err(
                Failure::new(said, "Log in again with `kah login ADDRESS --user NAME`.")
                    .exit(Exit::Login),
            );
        }
        (_, Some(remedy)) if broken => format!(
            "Join it with --force and run `kah restore-access {name}`, or by hand: {remedy}"
        ),
        (_, Some(remedy)) if !remedy.is_empty() => remedy.to_owned(),
        (StatusCode::CONFLICT, _) => "See what there is with `kah cluster list`.".into(),
        (StatusCode::NOT_FOUND, _) => "See what there is with `kah cluster list`.".into(),
        (StatusCode::FORBIDDEN, _) => "Ask an administrator of the host to run this.".into(),
        (StatusCode::BAD_REQUEST, _) if answer.message().starts_with("kubeconfig") => {
            "Make one that needs no files or programs: `kubectl config view --minify --flatten --raw`, with a client certificate or a token."
                .into()
        }
        (StatusCode::BAD_REQUEST, _) => "Correct that and try again.".into(),
        _ => "Look at the logs of ks-apiserver on the host.".into(),
    };
    Err(Failure::new(said, next))
}
