//! Whether the person's own token opens each cluster, asked over the host's real route.

use futures::StreamExt;
use http::StatusCode;
use kah_api::access::AccessCode;
use kah_cluster::doctor::{Finding, finding, what_to_do};
use serde::Serialize;
use serde_json::Value;

use crate::failure::{Exit, Failure};
use crate::hub::{Answer, Hub};

/// Clusters asked at the same time.
const AT_ONCE: usize = 16;

/// What to do about a 403.
const NO_ROLE: &str =
    "This login has no role for that: ask an administrator of the host for one, or to run this.";

/// A Cluster object as far as the commands show it.
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Whether it is the host itself.
    pub host: bool,
    /// `direct` or `proxy`.
    pub connection: String,
    /// The object as the host gave it.
    pub object: Value,
}

/// What asking one cluster brought to light.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// The cluster.
    pub cluster: String,
    /// Whether the token was accepted.
    pub ok: bool,
    /// The stable name of the cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The HTTP status and the words of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// What it means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meaning: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Version of the cluster's Kubernetes, where it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `Error` or `Warning`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// The command that may repair it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair: Option<String>,
    /// What to do as commands, each for the cluster that it names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    /// What was looked at, and how it went; with the first row of a cluster.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Value>,
    /// The stages that nothing can be said about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

impl Access {
    /// What a finding tells of it.
    pub fn of(finding: Finding, ok: bool) -> Self {
        Self {
            code: Some(finding.code.to_string()),
            remedy: Some(finding.what_to_do()),
            evidence: Some(finding.evidence),
            meaning: Some(finding.consequence),
            severity: Some(finding.severity.as_str().to_owned()),
            repair: finding.repair,
            commands: finding.commands,
            ..Self::new(&finding.cluster, ok)
        }
    }

    /// Nothing is known of it yet but whether it is open.
    pub fn new(cluster: &str, ok: bool) -> Self {
        Self {
            cluster: cluster.to_owned(),
            ok,
            code: None,
            evidence: None,
            meaning: None,
            remedy: None,
            version: None,
            severity: None,
            repair: None,
            commands: Vec::new(),
            stages: Vec::new(),
            unknown: Vec::new(),
        }
    }
}

/// All clusters, the host first, then by name.
pub async fn clusters(hub: &Hub) -> Result<Vec<Cluster>, Failure> {
    let list: Value = hub
        .read("/apis/cluster.kubesphere.io/v1alpha1/clusters")
        .await?;
    let items = list.get("items").and_then(Value::as_array);
    let mut clusters: Vec<Cluster> = items
        .into_iter()
        .flatten()
        .filter_map(|object| {
            let text = |pointer: &str| Some(object.pointer(pointer)?.as_str()?.to_owned());
            Some(Cluster {
                name: text("/metadata/name")?,
                host: object
                    .pointer("/metadata/labels/cluster-role.kubesphere.io~1host")
                    .is_some(),
                connection: text("/spec/connection/type").unwrap_or_default(),
                object: object.clone(),
            })
        })
        .collect();
    clusters.sort_by(|a, b| b.host.cmp(&a.host).then_with(|| a.name.cmp(&b.name)));
    Ok(clusters)
}

/// Asks these clusters, several at once; the answers keep the order.
pub async fn ask<'a>(
    hub: &Hub,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<Access>, Failure> {
    let answers: Vec<Result<Access, Failure>> =
        futures::stream::iter(names.into_iter().map(|name| one(hub, name)))
            .buffered(AT_ONCE)
            .collect()
            .await;
    answers.into_iter().collect()
}

/// Has these clusters examined by the host, several at once; the answers keep the order. Each finding is a row.
pub async fn examine(
    hub: &Hub,
    clusters: impl IntoIterator<Item = &Cluster>,
) -> Result<Vec<Access>, Failure> {
    let answers: Vec<Result<Vec<Access>, Failure>> =
        futures::stream::iter(clusters.into_iter().map(async |cluster| {
            if cluster.host {
                return Ok(vec![one(hub, &cluster.name).await?]);
            }
            let path = format!(
                "/kapis/hub.kubeaihub.io/v1/clusters/{}/doctor",
                cluster.name
            );
            let answer = hub.get(&path).await?;
            if answer.status == StatusCode::UNAUTHORIZED && answer.refusal.is_none() {
                return Err(login_ended(&answer));
            }
            Ok(match serde_json::from_slice::<Value>(&answer.body) {
                Ok(report) if answer.status.is_success() => rows(&cluster.name, &report),
                _ if answer.status == StatusCode::NOT_FOUND => vec![Access {
                    evidence: Some("it has left the fleet meanwhile".into()),
                    ..Access::new(&cluster.name, true)
                }],
                // One that cannot be examined says nothing of the others.
                _ => vec![Access {
                    evidence: Some(format!(
                        "the host answered {}: {}",
                        answer.status.as_u16(),
                        answer.message()
                    )),
                    remedy: Some(
                        if answer.status == StatusCode::FORBIDDEN {
                            NO_ROLE
                        } else {
                            "Try again; if it stays, look at the log of ks-apiserver on the host."
                        }
                        .into(),
                    ),
                    ..Access::new(&cluster.name, false)
                }],
            })
        }))
        .buffered(AT_ONCE)
        .collect()
        .await;
    let rows: Result<Vec<Vec<Access>>, Failure> = answers.into_iter().collect();
    Ok(rows?.into_iter().flatten().collect())
}

fn rows(cluster: &str, report: &Value) -> Vec<Access> {
    let text = |value: &Value, field: &str| Some(value.get(field)?.as_str()?.to_owned());
    let texts = |value: &Value, field: &str| -> Vec<String> {
        let items = value.get(field).and_then(Value::as_array);
        items
            .into_iter()
            .flatten()
            .filter_map(|item| Some(item.as_str()?.to_owned()))
            .collect()
    };
    let version = text(report, "kubernetes");
    let findings = report.get("findings").and_then(Value::as_array);
    let mut rows: Vec<Access> = findings
        .into_iter()
        .flatten()
        .map(|finding| {
            let by_hand = text(finding, "remedy").unwrap_or_default();
            let severity = text(finding, "severity");
            let repair = text(finding, "repair");
            Access {
                code: text(finding, "code"),
                evidence: text(finding, "evidence"),
                meaning: text(finding, "consequence"),
                remedy: Some(what_to_do(repair.as_deref(), &by_hand)),
                version: version.clone(),
                commands: texts(finding, "commands"),
                repair,
                severity: severity.clone(),
                ..Access::new(cluster, severity.as_deref() == Some("Warning"))
            }
        })
        .collect();
    let unknown = texts(report, "unknown");
    if rows.is_empty() {
        rows.push(Access {
            version,
            evidence: (!unknown.is_empty())
                .then(|| format!("not looked at: {}", unknown.join(", "))),
            ..Access::new(cluster, true)
        });
    }
    if let Some(first) = rows.first_mut() {
        let stages = report.get("stages").and_then(Value::as_array);
        first.stages = stages.cloned().unwrap_or_default();
        first.unknown = unknown;
    }
    rows
}

fn login_ended(answer: &Answer) -> Failure {
    Failure::new(
        format!("The host does not accept the login: {}", answer.message()),
        "Log in again with `kah login ADDRESS --user NAME`.",
    )
    .exit(Exit::Login)
}

async fn one(hub: &Hub, name: &str) -> Result<Access, Failure> {
    // A path that needs a login on the member: nothing there answers it to a stranger.
    let answer = hub.get(&format!("/clusters/{name}/version")).await?;
    if answer.status == StatusCode::UNAUTHORIZED && answer.refusal.is_none() {
        return Err(login_ended(&answer));
    }
    Ok(judge(name, &answer))
}

fn judge(name: &str, answer: &Answer) -> Access {
    let value: Option<Value> = serde_json::from_slice(&answer.body).ok();
    if answer.status.is_success() {
        let version = value.as_ref().and_then(|value| value.get("gitVersion"));
        return Access {
            version: version.and_then(|version| Some(version.as_str()?.to_owned())),
            ..Access::new(name, true)
        };
    }
    let code = answer.refusal.clone().or_else(|| {
        let causes = value.as_ref()?.pointer("/details/causes")?.as_array()?;
        let reasons = causes
            .iter()
            .filter_map(|cause| cause.get("reason")?.as_str());
        reasons
            .filter(|reason| reason.parse::<AccessCode>().is_ok())
            .map(str::to_owned)
            .next()
    });
    let cause: Option<AccessCode> = code.as_deref().and_then(|code| code.parse().ok());
    let evidence = format!("{}: {}", answer.status.as_u16(), answer.message());
    if let Some(cause) = cause {
        return Access::of(finding(name, cause, &evidence), false);
    }
    Access {
        evidence: Some(evidence),
        remedy: Some(if answer.status == StatusCode::FORBIDDEN {
            NO_ROLE.to_owned()
        } else {
            format!("Look at the logs of ks-apiserver on {name}.")
        }),
        code,
        ..Access::new(name, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn answer(status: u16, refusal: Option<&str>, body: &'static str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            refusal: refusal.map(str::to_owned),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn a_refusal_is_named_by_its_header() {
        let body = r#"{"kind":"Status","message":"Unauthorized: token not found in cache"}"#;
        let access = judge("m", &answer(401, Some("TokenNotInCache"), body));
        assert_eq!(access.code.as_deref(), Some("TokenNotInCache"));
        assert_eq!(
            access.evidence.as_deref(),
            Some("401: Unauthorized: token not found in cache")
        );
        assert!(access.remedy.unwrap().contains("accessTokenMaxAge to 0"));
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_doctor() {
        let another = kah_api::cluster::Stranger::Another {
            cluster: "m".into(),
        };
        let another = another.to_string();
        for (words, meaning, remedy, repair) in [
            (
                "signature is invalid",
                "checks tokens with another jwtSecret",
                "Compare authentication.jwtSecret",
                Some("kah restore-access m"),
            ),
            (
                "token is signed with a key that is not trusted here",
                "does not know the keys",
                "Tell it the keys again",
                Some("kah restore-access m"),
            ),
            (&another, "another cluster", "let it leave", None),
        ] {
            let body = serde_json::json!({"message": format!("Unauthorized: {words}")});
            let answer = Answer {
                status: StatusCode::UNAUTHORIZED,
                refusal: Some("SignatureInvalid".to_owned()),
                body: Bytes::from(body.to_string()),
            };
            let access = judge("m", &answer);
            let told = access.meaning.unwrap();
            assert!(told.contains(meaning), "{words}: {told}");
            let told = access.remedy.unwrap();
            assert!(told.contains(remedy), "{words}: {told}");
            assert_eq!(access.repair.as_deref(), repair, "{words}");
        }
    }

    #[test]
    fn or_by_the_causes_of_its_status() {
        let body = r#"{"kind":"Status","message":"x","details":{"causes":[{"reason":"Other"},{"reason":"MemberUnreachable"}]}}"#;
        let access = judge("m", &answer(502, None, body));
        assert_eq!(access.code.as_deref(), Some("MemberUnreachable"));
    }

    #[test]
    fn a_report_becomes_a_row_a_finding() {
        let report = serde_json::json!({
            "cluster": "m", "healthy": false, "kubernetes": "1.36",
            "findings": [
                {"code": "TokenNotInCache", "severity": "Error", "evidence": "e", "remedy": "By hand.", "repair": "kah restore-access m"},
                {"code": "CredentialExpiring", "severity": "Warning", "evidence": "w", "remedy": "r"},
            ],
            "stages": [{"name": "token", "outcome": "Failed"}],
        });
        let found = rows("m", &report);
        assert_eq!(
            found.iter().map(|row| row.ok).collect::<Vec<_>>(),
            [false, true]
        );
        assert!(
            found[0]
                .remedy
                .as_ref()
                .unwrap()
                .starts_with("Run `kah restore-access m`")
        );
        assert_eq!((found[0].stages.len(), found[1].stages.len()), (1, 0));
        let unseen = serde_json::json!({"findings": [], "unknown": ["configuration"]});
        let found = rows("m", &unseen);
        assert!(
            found[0].ok
                && found[0]
                    .evidence
                    .as_ref()
                    .unwrap()
                    .contains("not looked at: configuration")
        );
    }

    #[test]
    fn what_has_no_code_still_says_where_to_look() {
        let access = judge("m", &answer(500, None, "boom"));
        assert_eq!(access.code, None);
        let forbidden = judge("m", &answer(403, None, "no"));
        assert_eq!(forbidden.remedy.as_deref(), Some(NO_ROLE));
        assert!(!access.ok && access.remedy.unwrap().contains("logs"));
        assert!(judge("m", &answer(200, None, "{}")).ok);
    }
}
