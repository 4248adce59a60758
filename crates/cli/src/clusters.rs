//! `kah cluster list` and `kah cluster show`: what the host's controllers tell of each cluster, and whether the person's own login opens it.

use kah_api::access::AccessCode;
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
            host_access: condition("HostAccess", "reason"),
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
        Self {
            told: Told::of(&cluster.object),
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
        let warned = told
            .host_access
            .as_deref()
            .filter(|it| self.access.ok && *it == AccessCode::CredentialExpiring.as_str());
        vec![
            self.name.clone(),
            self.role.to_owned(),
            text(&told.ready),
            warned.map_or_else(|| opens(&self.access), str::to_owned),
            text(&told.trust),
            text(&told.route),
            version.cloned().unwrap_or_default(),
            number(told.nodes),
            text(&told.latency),
            number(told.certificate_days),
            text(&self.access.remedy),
        ]
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
            "m|member|True|CredentialExpiring|federated|tunnel|v1.36.2|3|<20ms|12|"
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
}
