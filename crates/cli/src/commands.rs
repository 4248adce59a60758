//! The commands that ask a host.

use std::path::Path;

use base64::Engine;
use kah_api::seed;
use serde_json::{Value, json};

use crate::access::{self, Access};
use crate::failure::{Exit, Failure};
use crate::hub::{Hub, normal_address};
use crate::login;
use crate::output::{self, Format};
use crate::watched::{self, Look, Table};

/// `kah login`
pub async fn login(address: &str, user: &str, password_stdin: bool) -> Result<(), Failure> {
    let address = normal_address(address)?;
    let path = login::path(|name| std::env::var(name).ok())?;
    let password = login::password(password_stdin)?;
    let issued = Hub::new(&address, None)?
        .token(login::password_grant(user, &password))
        .await?;
    let now = jiff::Timestamp::now().as_second();
    login::store(&path, &issued.into_login(&address, user, now))?;
    output::talk(&format!("Logged in to {address} as {user}."));
    Ok(())
}

/// `kah logout`
pub async fn logout() -> Result<(), Failure> {
    let path = login::path(|name| std::env::var(name).ok())?;
    if let Ok(stored) = login::load(&path) {
        let hub = Hub::new(&stored.address, Some(stored.token()))?;
        // The host may be gone, or the token ended: what is stored here goes in any case.
        if hub.get("/oauth/logout").await.is_err() {
            output::talk(&format!("{} could not be told.", stored.address));
        }
    }
    let was = login::remove(&path)?;
    output::talk(if was {
        "Logged out."
    } else {
        "There was no login."
    });
    Ok(())
}

/// `kah whoami`
pub async fn whoami(format: Format) -> Result<(), Failure> {
    let (hub, stored) = Hub::of_login().await?;
    let user: Value = hub
        .read(&format!(
            "/apis/iam.kubesphere.io/v1alpha2/users/{}",
            stored.user
        ))
        .await?;
    let email = user.pointer("/spec/email").and_then(Value::as_str);
    match format {
        Format::Name => output::data(&format!("{}\n", stored.user)),
        Format::Table => output::data(&output::table(
            &["USER", "EMAIL", "ADDRESS"],
            &[vec![
                stored.user.as_str(),
                email.unwrap_or(""),
                &stored.address,
            ]],
        )),
        _ => output::value(
            &json!({"user": stored.user, "email": email, "address": stored.address}),
            format,
        ),
    }
}

/// `kah doctor`
pub async fn doctor(names: &[String], format: Format, watch: bool) -> Result<(), Failure> {
    if watch {
        return watched::watch(format, async || {
            let answers = examined(names).await?;
            Look::new(findings(&answers), &answers)
        })
        .await;
    }
    let answers = examined(names).await?;
    let ill: Vec<&Access> = answers.iter().filter(|answer| !answer.ok).collect();
    match format {
        Format::Table => output::data(&findings(&answers).text())?,
        Format::Name => output::data(&lines(ill.iter().map(|answer| answer.cluster.as_str())))?,
        _ => output::value(&answers, format)?,
    }
    let mut clusters: Vec<&str> = answers.iter().map(|it| it.cluster.as_str()).collect();
    clusters.dedup();
    let mut wrong: Vec<&str> = ill.iter().map(|it| it.cluster.as_str()).collect();
    wrong.dedup();
    match wrong.as_slice() {
        [] => Ok(()),
        wrong => Err(Failure::new(
            format!(
                "Something is wrong with {} of {} clusters.",
                wrong.len(),
                clusters.len()
            ),
            "Follow the last column, then run `kah doctor` again.",
        )
        .exit(Exit::Found)),
    }
}

async fn examined(names: &[String]) -> Result<Vec<Access>, Failure> {
    let (hub, _) = Hub::of_login().await?;
    let mut asked = access::clusters(&hub).await?;
    if !names.is_empty() {
        let unknown = names
            .iter()
            .find(|name| !asked.iter().any(|cluster| cluster.name == **name));
        if let Some(unknown) = unknown {
            return Err(no_cluster(unknown));
        }
        asked.retain(|cluster| names.contains(&cluster.name));
    }
    access::examine(&hub, &asked).await
}

fn findings(answers: &[Access]) -> Table {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Table {
        header: vec![
            "CLUSTER",
            "FINDING",
            "SEVERITY",
            "EVIDENCE",
            "MEANING",
            "WHAT TO DO",
        ],
        rows: answers
            .iter()
            .map(|answer| {
                let code = match answer.code.as_deref() {
                    Some(code) => code,
                    None if answer.ok && !answer.unknown.is_empty() => "OK in part",
                    None if answer.ok => "OK",
                    None => "Unknown",
                };
                vec![
                    answer.cluster.clone(),
                    code.to_owned(),
                    answer.severity.as_deref().map_or_else(
                        || if answer.ok { "" } else { "error" }.to_owned(),
                        str::to_lowercase,
                    ),
                    text(&answer.evidence),
                    text(&answer.meaning),
                    text(&answer.remedy),
                ]
            })
            .collect(),
    }
}

/// `kah kubeconfig`
pub async fn kubeconfig(only: Option<&str>, file: Option<&Path>) -> Result<(), Failure> {
    let (hub, stored) = Hub::of_login().await?;
    let names: Vec<String> = access::clusters(&hub)
        .await?
        .into_iter()
        .map(|cluster| cluster.name)
        .filter(|name| only.is_none_or(|only| only == name))
        .collect();
    if let (Some(only), true) = (only, names.is_empty()) {
        return Err(no_cluster(only));
    }
    let authority = authority(&hub, &stored.address).await?;
    let text = kubeconfig_text(&stored, authority.as_deref(), &names)?;
    match file {
        None => output::data(&text),
        Some(path) => {
            login::write_private(path, text.as_bytes()).map_err(|error| {
                Failure::new(
                    format!("write {}", path.display()),
                    "Give another file with -o.",
                )
                .because(error)
            })?;
            output::talk(&format!(
                "Wrote {} contexts to {}.",
                names.len(),
                path.display()
            ));
            Ok(())
        }
    }
}

/// For a plain address: the authority behind the TLS that the same port speaks. kubectl sends tokens over TLS only.
async fn authority(hub: &Hub, address: &str) -> Result<Option<String>, Failure> {
    if address.starts_with("https:") {
        return Ok(None);
    }
    let path = format!(
        "/api/v1/namespaces/{}/configmaps/{}",
        seed::NAMESPACE,
        seed::CERTIFICATE
    );
    let answer = hub.get(&path).await?;
    let map: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    match map.pointer("/data/ca.crt").and_then(Value::as_str) {
        Some(authority) if answer.status.is_success() => Ok(Some(authority.to_owned())),
        _ => Err(Failure::new(
            format!("{address} offers no TLS, and kubectl sends a token over TLS only."),
            "Log in at an https address of the host.",
        )),
    }
}

fn kubeconfig_text(
    stored: &login::Login,
    authority: Option<&str>,
    names: &[String],
) -> Result<String, Failure> {
    let user = &stored.user;
    let clusters: Vec<Value> = names
        .iter()
        .map(|name| {
            let mut cluster = json!({"server": format!("{}/clusters/{name}", stored.address)});
            if let Some(authority) = authority {
                let address = stored.address.replacen("http://", "https://", 1);
                cluster["server"] = format!("{address}/clusters/{name}").into();
                cluster["certificate-authority-data"] = base64::engine::general_purpose::STANDARD
                    .encode(authority)
                    .into();
            }
            json!({"name": name, "cluster": cluster})
        })
        .collect();
    let contexts: Vec<Value> = names
        .iter()
        .map(|name| json!({"name": name, "context": {"cluster": name, "user": user}}))
        .collect();
    serde_saphyr::to_string(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": clusters,
        "contexts": contexts,
        "current-context": names.first(),
        "users": [{"name": user, "user": {"token": stored.access_token}}],
    }))
    .map_err(|error| Failure::new("write a kubeconfig", "Report this.").because(error.to_string()))
}

/// There is none of this name.
pub fn no_cluster(name: &str) -> Failure {
    Failure::new(
        format!("There is no cluster {name}."),
        "See what there is with `kah cluster list`.",
    )
}

/// One a line.
pub fn lines<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("{name}\n")).collect()
}

#[cfg(test)]
mod tests {
    use kah_api::access::AccessCode;
    use kah_cluster::doctor::finding;

    use super::*;

    #[test]
    fn each_finding_tells_how_bad_it_is() {
        let of = |code, ok| Access::of(finding("m", code, "seen"), ok);
        for (answer, code, severity) in [
            (Access::new("m", true), "OK", ""),
            (Access::new("m", false), "Unknown", "error"),
            (of(AccessCode::WrongRole, false), "WrongRole", "error"),
            (
                of(AccessCode::CredentialExpiring, true),
                "CredentialExpiring",
                "warning",
            ),
        ] {
            let table = findings(&[answer]);
            assert_eq!(table.header[1..3], ["FINDING", "SEVERITY"]);
            assert_eq!(table.rows[0][1..3], [code, severity]);
        }
    }
}
