//! `kah cluster list` and `kah cluster show`: what the host's controllers tell of each cluster, and whether the person's own login opens it.

use kah_api::access::AccessCode;
use kah_cluster::doctor;
use kah_controllers::cluster::status::{ACCEPTED, HOST_ACCESS};
use serde::Serialize;
use serde_json::Value;

use crate::{
    access::{self, Access, Cluster},
    commands::{lines, no_cluster},
    failure::Failure,
    hub::Hub,
    output::{self, Format},
    watched::{self, Look, Table},
};

/// What a Cluster's status tells.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    /// Status of the condition `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<String>,
    /// Reason of the condition `HostAccess`.
    #[serde(skip_serializing_if = "Option::is_none")]
    host_access: Option<String>,
    /// Its message.
    #[serde(skip)]
    host_access_message: Option<String>,
    /// Whether nobody is kept out by it.
    #[serde(skip)]
    host_access_holds: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    trust: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kubernetes_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kube_sphere_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_days: Option<i64>,
}

impl Told {
    fn of(object: &Value) -> Self {
        let text = |pointer: &str| {
            let text = object.pointer(pointer)?.as_str()?;
            (!text.is_empty()).then(|| text.to_owned())
        };
        let number = |pointer: &str| object.pointer(pointer)?.as_i64();
        let condition = |kind: &str, field: &str| {
            let conditions = object.pointer("/status/conditions")?.as_array()?;
            let found = conditions.iter().find(|it| it["type"] == kind)?;
            Some(found.get(field)?.as_str()?.to_owned())
        };
        Self {
            ready: condition("Ready", "status"),
            host_access: condition(HOST_ACCESS, "reason"),
            host_access_message: condition(HOST_ACCESS, "message"),
            host_access_holds: condition(HOST_ACCESS, "status").is_some_and(|it| it == "True"),
            trust: text("/status/hub/trust"),
            route: text("/status/hub/route"),
            kubernetes_version: text("/status/kubernetesVersion"),
            kube_sphere_version: text("/status/kubeSphereVersion"),
            nodes: number("/status/nodeCount"),
            latency: text("/status/hub/latency"),
            certificate_days: number("/status/hub/certificateDays"),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    role: &'static str,
    connection: String,
    #[serde(flatten)]
    told: Told,
    #[serde(flatten)]
    access: Access,
}

impl Row {
    fn new(cluster: Cluster, access: Access) -> Self {
        let told = Told::of(&cluster.object);
        let access = beside(&told, access);
        Self {
            told,
            role: role(&cluster),
            name: cluster.name,
            connection: cluster.connection,
            access,
        }
    }

    fn cells(&self) -> Vec<String> {
        let told = &self.told;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let number = |number: Option<i64>| number.map(|it| it.to_string()).unwrap_or_default();
        let version = told
            .kubernetes_version
            .as_ref()
            .or(self.access.version.as_ref());
        vec![
            self.name.clone(),
            self.role.to_owned(),
            text(&told.ready),
            self.access
                .code
                .clone()
                .unwrap_or_else(|| opens(&self.access)),
            text(&told.trust),
            text(&told.route),
            version.cloned().unwrap_or_default(),
            number(told.nodes),
            text(&told.latency),
            number(told.certificate_days),
            // A cell has room for a command; all the rest is told by `kah cluster show`.
            text(if self.access.repair.is_some() {
                &self.access.repair
            } else {
                &self.access.remedy
            }),
        ]
    }
}

/// What the login shows; where it opens the cluster, what the host's controllers mind all the same.
fn beside(told: &Told, access: Access) -> Access {
    let minded = told.host_access.as_deref().filter(|it| *it != ACCEPTED);
    let Some(reason) = minded.filter(|_| access.ok && access.code.is_none()) else {
        return access;
    };
    let message = told.host_access_message.as_deref().unwrap_or_default();
    let version = access.version;
    match reason.parse::<AccessCode>() {
        Ok(code) => {
            let (_, evidence) = doctor::parts(message);
            let mut finding = doctor::finding(&access.cluster, code, evidence);
            if told.host_access_holds {
                finding.severity = doctor::Severity::Warning;
            }
            Access {
                version,
                ..Access::of(finding, true)
            }
        }
        Err(_) => Access {
            version,
            code: Some(reason.to_owned()),
            evidence: told.host_access_message.clone(),
            remedy: Some("Look at the log of ks-controller-manager on the host.".into()),
            ..Access::new(&access.cluster, true)
        },
    }
}

fn role(cluster: &Cluster) -> &'static str {
    if cluster.host { "host" } else { "member" }
}

fn opens(access: &Access) -> String {
    match access.code.as_deref() {
        _ if access.ok => "Yes",
        Some(code) => code,
        None => "No",
    }
    .to_owned()
}

/// `kah cluster list`
pub async fn list(format: Format, watch: bool) -> Result<(), Failure> {
    if watch {
        return watched::watch(format, async || {
            let rows = rows().await?;
            Look::new(table(&rows), &rows)
        })
        .await;
    }
    match format {
        Format::Name => {
            let (hub, _) = Hub::of_login().await?;
            let clusters = access::clusters(&hub).await?;
            output::data(&lines(clusters.iter().map(|cluster| cluster.name.as_str())))
        }
        Format::Table => output::data(&table(&rows().await?).text()),
        _ => output::value(&rows().await?, format),
    }
}

async fn rows() -> Result<Vec<Row>, Failure> {
    let (hub, _) = Hub::of_login().await?;
    let clusters = access::clusters(&hub).await?;
    let answers = access::ask(&hub, clusters.iter().map(|cluster| cluster.name.as_str())).await?;
    let both = clusters.into_iter().zip(answers);
    Ok(both
        .map(|(cluster, access)| Row::new(cluster, access))
        .collect())
}

fn table(rows: &[Row]) -> Table {
    Table {
        header: vec![
            "NAME",
            "ROLE",
            "READY",
            "ACCESS",
            "TRUST",
            "ROUTE",
            "VERSION",
            "NODES",
            "LATENCY",
            "CERT-DAYS",
            "WHAT TO DO",
        ],
        rows: rows.iter().map(Row::cells).collect(),
    }
}

/// `kah cluster show`
pub async fn show(name: &str, format: Format) -> Result<(), Failure> {
    let (hub, _) = Hub::of_login().await?;
    let mut cluster = access::clusters(&hub)
        .await?
        .into_iter()
        .find(|cluster| cluster.name == name)
        .ok_or_else(|| no_cluster(name))?;
    without_secrets(&mut cluster.object);
    match format {
        Format::Name => output::data(&format!("{name}\n")),
        Format::Json | Format::Yaml => output::value(&cluster.object, format),
        Format::Table => {
            let answers = access::ask(&hub, [name]).await?;
            output::data(&output::table(
                &["FIELD", "VALUE"],
                &facts(&cluster, answers),
            ))
        }
    }
}

/// Whoever may see the object may read its credentials there; a screen is no place for them.
fn without_secrets(object: &mut Value) {
    if let Some(Value::Object(connection)) = object.pointer_mut("/spec/connection") {
        connection.remove("kubeconfig");
        connection.remove("token");
    }
    if let Some(Value::Object(metadata)) = object.pointer_mut("/metadata") {
        metadata.remove("managedFields");
        // `kubectl apply` leaves the whole object here, credentials and all.
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
}

fn facts(cluster: &Cluster, answers: Vec<Access>) -> Vec<Vec<String>> {
    let told = Told::of(&cluster.object);
    let answers: Vec<Access> = answers.into_iter().map(|it| beside(&told, it)).collect();
    let connection = cluster.object.pointer("/spec/connection");
    let endpoint = |field: &str| Some(connection?.get(field)?.as_str()?.to_owned());
    let restores = cluster
        .object
        .pointer("/spec/autoRestore")
        .and_then(Value::as_bool);
    let mut rows: Vec<(&str, Option<String>)> = vec![
        ("Name", Some(cluster.name.clone())),
        ("Role", Some(role(cluster).to_owned())),
        ("Ready", told.ready),
        ("Host access", told.host_access),
        ("Trust", told.trust),
        ("Connection", Some(cluster.connection.clone())),
        ("Route", told.route),
        ("Kubernetes API", endpoint("kubernetesAPIEndpoint")),
        ("ks-apiserver", endpoint("kubesphereAPIEndpoint")),
        ("Kubernetes", told.kubernetes_version.clone()),
        ("KubeSphere", told.kube_sphere_version),
        ("Nodes", told.nodes.map(|it| it.to_string())),
        ("Latency", told.latency),
        (
            "Certificate days",
            told.certificate_days.map(|it| it.to_string()),
        ),
        (
            "Restores itself",
            restores.filter(|it| *it).map(|_| "Yes".to_owned()),
        ),
    ];
    for answer in answers {
        rows.push(("Access", Some(opens(&answer))));
        if told.kubernetes_version.is_none() {
            rows.push(("Kubernetes", answer.version));
        }
        rows.extend([
            ("Evidence", answer.evidence),
            ("Meaning", answer.meaning),
            ("What to do", answer.remedy),
        ]);
    }
    rows.into_iter()
        .filter_map(|(title, value)| Some(vec![title.to_owned(), value?]))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster(object: Value) -> Cluster {
        Cluster {
            name: "m".into(),
            host: false,
            connection: "direct".into(),
            object,
        }
    }

    fn access(ok: bool, code: Option<&str>) -> Access {
        Access {
            code: code.map(str::to_owned),
            version: Some("v1.30.0".into()),
            ..Access::new("m", ok)
        }
    }

    #[test]
    fn a_row_tells_what_the_status_tells_and_what_the_login_opens() {
        let full = json!({"status": {
            "kubernetesVersion": "v1.36.2",
            "nodeCount": 3,
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "HostAccess", "status": "True", "reason": "CredentialExpiring"}],
            "hub": {"trust": "federated", "route": "tunnel", "latency": "<20ms", "certificateDays": 12},
        }});
        let row = |object, access| Row::new(cluster(object), access).cells().join("|");
        assert_eq!(
            row(full.clone(), access(true, None)),
            "m|member|True|CredentialExpiring|federated|tunnel|v1.36.2|3|<20ms|12|kah restore-access m"
        );
        assert_eq!(
            row(full, access(false, Some("UserMissing"))),
            "m|member|True|UserMissing|federated|tunnel|v1.36.2|3|<20ms|12|"
        );
        // Without controllers there is what the answer says.
        assert_eq!(
            row(json!({}), access(true, None)),
            "m|member||Yes|||v1.30.0||||"
        );
    }

    /// The login may open what others cannot open, or what is about to break.
    #[test]
    fn what_the_host_minds_is_told_although_the_login_opens_the_member() {
        use kah_cluster::doctor::finding;
        for (reason, message, shown, to_do) in [
            ("Accepted", "All is well.".to_owned(), "Yes", ""),
            (
                "WrongRole",
                finding("m", AccessCode::WrongRole, "the role is host").sentence(),
                "WrongRole",
                "kah restore-access m",
            ),
            (
                "CredentialExpiring",
                finding("m", AccessCode::CredentialExpiring, "in 5 days").sentence(),
                "CredentialExpiring",
                "kah restore-access m",
            ),
            (
                "NotProven",
                "no administrator".to_owned(),
                "NotProven",
                "Look at the log of ks-controller-manager on the host.",
            ),
        ] {
            let condition = json!({"type": "HostAccess", "status": "False", "reason": reason, "message": message});
            let object = json!({"status": {"conditions": [condition]}});
            let cells = Row::new(cluster(object.clone()), access(true, None)).cells();
            assert_eq!(cells[3], shown);
            assert_eq!(cells.last().unwrap(), to_do);
            let facts = facts(&cluster(object), vec![access(true, None)]);
            let value = |title: &str| {
                let row = facts.iter().find(|row| row[0] == title);
                row.map(|row| row[1].clone())
            };
            assert_eq!(value("Host access").as_deref(), Some(reason));
            assert_eq!(value("Access").as_deref(), Some("Yes"));
            if let Some(told) = value("What to do") {
                assert!(told.contains(to_do), "{told}");
            }
        }
    }

    #[test]
    fn the_repairing_step_is_named() {
        let evidence = "401: Unauthorized: token not found in cache";
        let finding = kah_cluster::doctor::finding("m", AccessCode::TokenNotInCache, evidence);
        let refused = Access::of(finding, false);
        let cells = Row::new(cluster(json!({})), refused.clone()).cells();
        assert_eq!(cells.last().unwrap(), "kah restore-access m");
        let facts = facts(&cluster(json!({})), vec![refused]);
        let told = facts.iter().find(|row| row[0] == "What to do").unwrap();
        assert!(
            told[1].starts_with("Run `kah restore-access m`, or by hand: On the member, set"),
            "{told:?}"
        );
    }
}
