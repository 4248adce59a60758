//! `kah cluster join` and `kah cluster leave`.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::StatusCode;
use jiff::{Timestamp, Unit};
use kah_cluster::doctor::what_to_do;
use serde_json::{Value, json};

use crate::arguments::Join;
use crate::failure::{Exit, Failure};
use crate::hub::{Answer, Hub};
use crate::output::{self, Format};
use crate::progress;

const CLUSTERS: &str = "/kapis/hub.kubeaihub.io/v1/clusters";
/// Bytes: what the host takes, in base64 and with all the rest, is no more than a megabyte.
const LARGEST_KUBECONFIG: usize = 512 * 1024;

/// Joins a cluster, in one of the two ways.
pub async fn join(wanted: &Join) -> Result<(), Failure> {
    match &wanted.kubeconfig {
        Some(kubeconfig) => direct(wanted, kubeconfig).await,
        None => invite(wanted).await,
    }
}

/// Has the host invite a cluster, and prints what to apply there.
async fn invite(wanted: &Join) -> Result<(), Failure> {
    let name = &wanted.name;
    let (hub, login) = Hub::of_login().await?;
    let address = wanted.hub_address.as_ref().unwrap_or(&login.address);
    let body = json!({
        "name": name,
        "agent": true,
        "hub": address,
        "insecureHub": wanted.insecure_hub,
        "proxy": wanted.proxy,
        "noProxy": wanted.no_proxy.as_deref().unwrap_or_default(),
        "image": wanted.image,
        "force": wanted.force,
    });
    let invitation = understand(name, &hub.post(CLUSTERS, &body).await?)?;
    let text = |field: &str| {
        let text = invitation.get(field).and_then(Value::as_str);
        text.map(str::to_owned).ok_or_else(|| {
            Failure::new(
                format!("understand the host's answer: it has no {field}"),
                "Check that host and command are of the same version.",
            )
        })
    };
    let (url, expires, manifest) = (text("url")?, text("expires")?, text("manifest")?);
    let line = format!("kubectl apply -f {url}");
    match wanted.output.output {
        Format::Table => output::data(&format!("{line}\n"))?,
        Format::Yaml => output::data(&manifest)?,
        Format::Name => output::data(&format!("{name}\n"))?,
        Format::Json => {
            let told = json!({"cluster": name, "expires": expires, "url": url, "command": line});
            output::value(&told, Format::Json)?;
        }
    }
    let until = expires
        .parse::<Timestamp>()
        .and_then(|expires| expires.round(Unit::Second))
        .map_or(expires, |expires| expires.to_string());
    output::talk(&format!(
        "{name} joins when one of its administrators applies this in it, with a kubeconfig of {name} and not of the host. It holds a token that is good for one cluster, once, until {until}."
    ));
    if url.starts_with("https:") {
        output::talk(&format!(
            "If kubectl does not trust the host's certificate, make a new token and apply it at once: `kah cluster join {name} --agent -o yaml | kubectl --context CONTEXT apply -f -`."
        ));
    } else {
        output::talk(&format!(
            "{address} is not https: the token travels in clear."
        ));
    }
    output::talk(&if wanted.force {
        format!(
            "If {name} has enrolled before, only that cluster can use it, and its agent goes on meanwhile; when it has enrolled anew, the certificates it had before are good for nothing."
        )
    } else {
        format!("Until its agent has connected, `kah cluster show {name}` says MemberUnreachable.")
    });
    Ok(())
}

/// Has the host look at a cluster, and join it.
async fn direct(join: &Join, kubeconfig: &Path) -> Result<(), Failure> {
    let (name, dry_run) = (join.name.as_str(), join.dry_run);
    let text = std::fs::read(kubeconfig).map_err(|error| {
        Failure::new(
            format!("read {}", kubeconfig.display()),
            "Give the cluster's kubeconfig with --kubeconfig FILE.",
        )
        .because(error)
    })?;
    if text.len() > LARGEST_KUBECONFIG {
        return Err(Failure::new(
            format!(
                "{} has {} bytes: a kubeconfig has at most {LARGEST_KUBECONFIG}",
                kubeconfig.display(),
                text.len()
            ),
            "Give the cluster's kubeconfig with --kubeconfig FILE.",
        ));
    }
    let (hub, _) = Hub::of_login().await?;
    let mut wanted = json!({
        "name": name,
        "kubeconfig": STANDARD.encode(text),
        "dryRun": true,
        "force": join.force,
        "trust": join.trust.map(|trust| trust.trust().as_str()),
    });
    let looking = hub.post(CLUSTERS, &wanted);
    let looked = progress::during(&format!("Looking at {name}"), looking).await?;
    let mut report = understand(name, &looked)?;
    let actions = report.get("actions").and_then(Value::as_array);
    for action in actions.into_iter().flatten().filter_map(Value::as_str) {
        output::talk(&format!("  {action}"));
    }
    if !dry_run {
        wanted["dryRun"] = false.into();
        // As it was announced: a cluster that offers something else by now is refused.
        wanted["trust"] = report.get("trust").cloned().unwrap_or_default();
        let joining = hub.post(CLUSTERS, &wanted);
        let joined = progress::during(&format!("Joining {name}"), joining).await?;
        report = understand(name, &joined)?;
    }
    let server = report.get("server").and_then(Value::as_str);
    let server = server.unwrap_or_default();
    let trust = report.get("trust").and_then(Value::as_str);
    let trust = trust.unwrap_or_default();
    let findings = report.get("findings").and_then(Value::as_array);
    for finding in findings.into_iter().flatten() {
        let text = |field: &str| finding.get(field).and_then(Value::as_str).unwrap_or("");
        // Nothing can be restored before it has joined.
        let repair = finding.get("repair").and_then(Value::as_str);
        let repair = repair.filter(|_| !dry_run);
        output::talk(&format!(
            "{}: {}. {}",
            text("code"),
            text("evidence"),
            what_to_do(repair, text("remedy"))
        ));
    }
    match join.output.output {
        Format::Name => output::data(&format!("{name}\n")),
        Format::Table if dry_run => output::data(&format!(
            "{name} at {server} can join, with {trust} trust.\n"
        )),
        Format::Table => output::data(&format!(
            "{name} at {server} has joined, with {trust} trust.\n"
        )),
        format => output::value(&report, format),
    }
}

/// Takes a member out of the fleet.
pub async fn leave(name: &str, yes: bool, format: Format) -> Result<(), Failure> {
    let (hub, _) = Hub::of_login().await?;
    let question = format!("Nobody will reach {name} through the host any more. Go on?");
    if !yes {
        output::confirmed(&question, "Add --yes.")?;
    }
    // It is cleaned meanwhile, which takes as long as it holds much of the host's.
    let path = format!("{CLUSTERS}/{name}");
    let answer = progress::during(&format!("{name} is leaving"), hub.delete(&path)).await?;
    let left = understand(name, &answer)?;
    match format {
        Format::Table => output::data(&format!("{name} has left.\n"))?,
        Format::Name => output::data(&format!("{name}\n"))?,
        format => output::value(&left, format)?,
    }
    let texts = |field: &str| {
        let items = left.pointer(&format!("/member/{field}"));
        let items = items.and_then(Value::as_array).into_iter().flatten();
        items
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let remains = texts("remains");
    if !remains.is_empty() {
        output::talk(&format!(
            "In {name} there may still be {}. One of its administrators sees to that with:",
            remains.join(", ")
        ));
        for command in texts("commands") {
            output::talk(&format!("  {command}"));
        }
    }
    Ok(())
}

fn understand(name: &str, answer: &Answer) -> Result<Value, Failure> {
    let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status.is_success() {
        return Ok(value);
    }
    let said = format!("{name}: {}", answer.message());
    let cause = |field: &str| value.pointer(&format!("/details/causes/0/{field}"));
    let remedy = cause("message").and_then(Value::as_str);
    let next = match (answer.status, remedy) {
        (StatusCode::UNAUTHORIZED, _) => {
            return Err(
                Failure::new(said, "Log in again with `kah login ADDRESS --user NAME`.")
                    .exit(Exit::Login),
            );
        }
        (_, Some(remedy)) if !remedy.is_empty() => remedy.to_owned(),
        (StatusCode::CONFLICT, _) => "See what there is with `kah cluster list`.".into(),
        (StatusCode::NOT_FOUND, _) => "See what there is with `kah cluster list`.".into(),
        (StatusCode::FORBIDDEN, _) => "Ask an administrator of the host to run this.".into(),
        (StatusCode::BAD_REQUEST, _) if answer.message().starts_with("kubeconfig: the address") => {
            "If that is the cluster, have an administrator of the host add the address to hub.allowedAddresses in its kubesphere.yaml.".into()
        }
        (StatusCode::BAD_REQUEST, _) if answer.message().starts_with("kubeconfig: the name") => {
            "See that the host resolves the name, or give an address in its place.".into()
        }
        (StatusCode::BAD_REQUEST, _) if answer.message().contains("unusual form") => {
            "Correct that and try again.".into()
        }
        (StatusCode::BAD_REQUEST, _) if answer.message().starts_with("kubeconfig") => {
            "Make one that needs no files or programs: `kubectl config view --minify --flatten --raw`, with a client certificate or a token."
                .into()
        }
        (StatusCode::BAD_REQUEST, _) if answer.message().starts_with("hub:") => {
            "Give the host's address as the cluster sees it with --hub-address https://HOST.".into()
        }
        (StatusCode::BAD_REQUEST, _) => "Correct that and try again.".into(),
        _ => "Look at the logs of ks-apiserver on the host.".into(),
    };
    Err(Failure::new(said, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_says_to_do_comes_before_what_the_command_knows() {
        let refused = |status: StatusCode, body: Value| {
            let answer = Answer {
                status,
                refusal: None,
                body: body.to_string().into(),
            };
            understand("m", &answer).unwrap_err()
        };
        let cause = |reason: &str, message: &str| json!({"message": "no", "details": {"causes": [{"reason": reason, "message": message}]}});
        for (body, said) in [
            (
                cause("JoinUnderWay", "Try again in 12 s."),
                "m: no\nTry again in 12 s.",
            ),
            (cause("", "Use --force."), "m: no\nUse --force."),
            (
                json!({"message": "no"}),
                "m: no\nSee what there is with `kah cluster list`.",
            ),
        ] {
            let failure = refused(StatusCode::CONFLICT, body);
            assert_eq!(failure.to_string(), said);
            assert_eq!(failure.code(), Exit::Failed as u8);
        }
    }
}
