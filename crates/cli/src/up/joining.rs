//! The host is told where its members are; those that are new are joined.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::Namespace;
use kah_api::cluster::{Cluster, HOST_LABEL, Trust};
use kah_api::seed;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::data::DataDir;
use super::standing::Standing;
use super::trust;
use crate::failure::Failure;

const NEXT: &str =
    "Look at the host's Cluster objects with kubectl, or start anew with another --data-dir.";

/// A member that runs.
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// As its administrator.
    pub client: Client,
    /// Its administrator's kubeconfig.
    pub kubeconfig: &'a str,
    /// Its Kubernetes API.
    pub address: &'a str,
    /// The trust of one that is new.
    pub trust: Trust,
}

/// Joins the members that are new, gives the host the present address of those that stayed, and leaves out those that have left. What was joined is
/// noted after it was, so a start that is cut short joins the rest at the next.
pub async fn join(
    data: &DataDir,
    host: &Client,
    members: &[Member<'_>],
) -> Result<BTreeMap<String, Standing>, Failure> {
    let mut record = data.joined().of_host(&identity("host", host).await?);
    let clusters = clusters(host).await?;
    let joined = members.iter().map(|member| {
        let (clusters, record) = (&clusters, &record);
        async move {
            let uid = identity(member.name, &member.client).await?;
            let before = record.has(member.name, &uid);
            let standing = Standing::of(member.name, &uid, before, clusters);
            settle(host, member, &standing, clusters).await?;
            Ok((member.name, uid, standing))
        }
    });
    let joined: Vec<Result<_, Failure>> = futures::future::join_all(joined).await;
    let mut failed = None;
    let mut standings = BTreeMap::new();
    for result in joined {
        match result {
            Ok((name, uid, standing)) => {
                if standing.cluster(name).is_some() {
                    record.add(name, &uid);
                }
                standings.insert(name.to_owned(), standing);
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    data.keep_joined(&record)?;
    failed.map_or(Ok(standings), Err)
}

/// The name by which a member that does not run is in the fleet, if it is.
pub async fn kept_as(
    data: &DataDir,
    host: &Client,
    names: Vec<String>,
) -> Result<Vec<(String, String)>, Failure> {
    let record = data.joined().of_host(&identity("host", host).await?);
    let clusters = clusters(host).await?;
    let name_of = |name: String| {
        let cluster = match record.identity(&name) {
            Some(uid) => Standing::of(&name, uid, true, &clusters)
                .cluster(&name)
                .map(str::to_owned),
            // Of a start that was cut short, or of an older version.
            None => clusters
                .iter()
                .map(ResourceExt::name_any)
                .find(|it| *it == name),
        };
        cluster.map(|cluster| (name, cluster))
    };
    Ok(names.into_iter().filter_map(name_of).collect())
}

async fn settle(
    host: &Client,
    member: &Member<'_>,
    standing: &Standing,
    clusters: &[Cluster],
) -> Result<(), Failure> {
    let Some(name) = standing.cluster(member.name) else {
        return Ok(());
    };
    let Some(known) = clusters.iter().find(|cluster| cluster.name_any() == name) else {
        let mut object = seed::member_cluster(name, member.kubeconfig, member.address, None);
        if member.trust == Trust::Federated {
            let uid = trust::acquaint(name, host, &member.client).await?;
            object["spec"]["trust"] = Trust::Federated.as_str().into();
            object["status"] = json!({"uid": uid});
        }
        return write(host, name, object).await;
    };
    let own = *standing == Standing::Joined;
    // One that is leaving is told nothing any more, and one that joined by itself was told when it did.
    if own && known.spec.trust == Trust::Federated && known.metadata.deletion_timestamp.is_none() {
        trust::acquaint(name, host, &member.client).await?;
    }
    match connection(member, own, known) {
        Some(connection) => give(host, name, &connection).await,
        None => Ok(()),
    }
}

/// What the connection of a Cluster has to become. One with the member's own name gets all that this start has; one that somebody else made keeps its
/// credential, and gets the address if it has another one on this machine. What an agent connects needs neither.
fn connection(member: &Member<'_>, own: bool, known: &Cluster) -> Option<Value> {
    let connection = &known.spec.connection;
    if connection.kind == "proxy" {
        return None;
    }
    if own {
        return Some(json!({
            "kubeconfig": STANDARD.encode(member.kubeconfig),
            "kubernetesAPIEndpoint": member.address,
        }));
    }
    let mut changed = json!({});
    let stored = connection.kubeconfig.as_ref()?;
    if let Some(text) = readdressed(&String::from_utf8_lossy(&stored.0), member.address) {
        changed["kubeconfig"] = STANDARD.encode(text).into();
    }
    let endpoint = &connection.kubernetes_api_endpoint;
    if is_here(endpoint) && endpoint != member.address {
        changed["kubernetesAPIEndpoint"] = member.address.into();
    }
    changed
        .as_object()
        .is_some_and(|fields| !fields.is_empty())
        .then_some(changed)
}

/// The kubeconfig with `address` in the place of other addresses on this machine; `None` where nothing changes.
fn readdressed(kubeconfig: &str, address: &str) -> Option<String> {
    let mut value: Value = serde_saphyr::from_str(kubeconfig).ok()?;
    let mut changed = false;
    let clusters = value.get_mut("clusters").and_then(Value::as_array_mut)?;
    for cluster in clusters {
        let server = cluster.pointer_mut("/cluster/server");
        if let Some(server) = server
            && server
                .as_str()
                .is_some_and(|server| is_here(server) && server != address)
        {
            *server = address.into();
            changed = true;
        }
    }
    changed
        .then(|| serde_saphyr::to_string(&value).ok())
        .flatten()
}

/// Whether a URL leads to this machine, where an address of a member may be one of an earlier start.
pub fn is_here(url: &str) -> bool {
    let host = url.parse::<http::Uri>().ok();
    let host = host.as_ref().and_then(http::Uri::host).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

async fn identity(name: &str, client: &Client) -> Result<String, Failure> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let failed = |error: kube::Error| {
        Failure::new(format!("read the identity of {name}"), NEXT).because(error)
    };
    let namespace = namespaces.get("kube-system").await.map_err(failed)?;
    Ok(namespace.uid().unwrap_or_default())
}

async fn clusters(host: &Client) -> Result<Vec<Cluster>, Failure> {
    let clusters: Api<Cluster> = Api::all(host.clone());
    let found = clusters.list(&ListParams::default()).await;
    let found = found
        .map_err(|error| Failure::new("read the host's Cluster objects", NEXT).because(error))?;
    let members = found.items.into_iter();
    Ok(members
        .filter(|cluster| !cluster.labels().contains_key(HOST_LABEL))
        .collect())
}

/// Creates a Cluster object, or gives the one that exists the present kubeconfig and address.
pub async fn write(host: &Client, name: &str, object: Value) -> Result<(), Failure> {
    let connection = json!({
        "kubeconfig": object.pointer("/spec/connection/kubeconfig"),
        "kubernetesAPIEndpoint": object.pointer("/spec/connection/kubernetesAPIEndpoint"),
    });
    let new: DynamicObject = serde_json::from_value(object)
        .map_err(|error| Failure::new("write a Cluster object", "Report this.").because(error))?;
    let clusters = kah_cluster::clusters(host.clone());
    match clusters.create(&PostParams::default(), &new).await {
        // Of an earlier start; or the host's controllers made that of the host.
        Err(kube::Error::Api(status)) if status.code == 409 => give(host, name, &connection).await,
        created => created.map(drop).map_err(failed(name)),
    }
}

async fn give(host: &Client, name: &str, connection: &Value) -> Result<(), Failure> {
    let patch = json!({"spec": {"connection": connection}});
    kah_cluster::clusters(host.clone())
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map(drop)
        .map_err(failed(name))
}

fn failed(name: &str) -> impl FnOnce(kube::Error) -> Failure {
    move |error| Failure::new(format!("join {name} to the host"), NEXT).because(error)
}

#[cfg(test)]
mod tests {
    use kah_localkube::{Cluster as Plane, Options};

    use super::*;
    use crate::up::standing::Record;

    async fn plane(name: &str, folder: Option<&std::path::Path>, crds: Vec<Value>) -> Plane {
        let mut options = Options::new(name);
        options.controllers = false;
        options.data_dir = folder.map(std::path::Path::to_owned);
        options.crds = crds;
        Plane::start(options).await.unwrap()
    }

    fn definitions() -> Vec<Value> {
        let all = kah_api::definition::all().into_iter();
        all.map(|it| serde_json::to_value(it).unwrap()).collect()
    }

    async fn up(
        data: &DataDir,
        host: &Plane,
        member: &Plane,
    ) -> Result<BTreeMap<String, Standing>, Failure> {
        let address = format!("https://{}", member.address());
        let member = Member {
            name: "member-1",
            client: member.client(),
            kubeconfig: member.admin_kubeconfig(),
            address: &address,
            trust: Trust::SharedSecret,
        };
        join(data, &host.client(), &[member]).await
    }

    #[tokio::test]
    async fn what_was_cut_short_is_joined_and_what_left_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path().join("data")).unwrap();
        let state = folder.path().join("host");
        let member = plane("member-1", None, Vec::new()).await;
        let stands = |it: Standing| BTreeMap::from([("member-1".to_owned(), it)]);

        // The first start ends before there is a Cluster: here, because there is no such kind yet.
        let host = plane("host", Some(&state), Vec::new()).await;
        assert!(up(&data, &host, &member).await.is_err());
        host.stop().await;

        let host = plane("host", Some(&state), definitions()).await;
        assert_eq!(
            up(&data, &host, &member).await.unwrap(),
            stands(Standing::New)
        );
        // It was joined, and not noted any more: that is made up for.
        data.keep_joined(&Record::default()).unwrap();
        for _ in 0..2 {
            assert_eq!(
                up(&data, &host, &member).await.unwrap(),
                stands(Standing::Joined)
            );
        }
        let clusters = kah_cluster::clusters(host.client());
        clusters
            .delete("member-1", &Default::default())
            .await
            .unwrap();
        for _ in 0..2 {
            let left = up(&data, &host, &member).await.unwrap();
            assert_eq!(left, stands(Standing::Left));
            assert!(clusters.get_opt("member-1").await.unwrap().is_none());
        }

        // Back under another name, and later at another address.
        let old = "https://127.0.0.1:1";
        let kubeconfig = member.admin_kubeconfig();
        let kubeconfig = readdressed(kubeconfig, old).unwrap();
        let mut shop = seed::member_cluster("shop", &kubeconfig, old, None);
        shop["status"] = json!({"uid": identity("member-1", &member.client()).await.unwrap()});
        write(&host.client(), "shop", shop).await.unwrap();
        let found = up(&data, &host, &member).await.unwrap();
        assert_eq!(found, stands(Standing::As("shop".to_owned())));
        assert!(clusters.get_opt("member-1").await.unwrap().is_none());
        let shop = clusters.get("shop").await.unwrap().data["spec"]["connection"].take();
        let address = format!("https://{}", member.address());
        assert_eq!(shop["kubernetesAPIEndpoint"], address);
        let stored = STANDARD
            .decode(shop["kubeconfig"].as_str().unwrap())
            .unwrap();
        let stored = String::from_utf8(stored).unwrap();
        assert!(
            stored.contains(&address) && !stored.contains(old),
            "{stored}"
        );
        let names = vec!["member-1".into(), "member-2".into(), "shop".into()];
        let kept = kept_as(&data, &host.client(), names).await.unwrap();
        let pair = |name: &str| (name.to_owned(), "shop".to_owned());
        assert_eq!(kept, [pair("member-1"), pair("shop")]);
        host.stop().await;
        member.stop().await;
    }

    #[test]
    fn only_addresses_of_this_machine_are_replaced() {
        let with = |server: &str| {
            format!("clusters: [{{name: c, cluster: {{server: \"{server}\", x: y}}}}]\nusers: []\n")
        };
        let here = "https://127.0.0.1:7";
        for (server, expected) in [
            ("https://127.0.0.1:6", true),
            ("https://[::1]:6", true),
            ("https://localhost:6", true),
            (here, false),
            ("https://10.0.0.1:6", false),
            ("https://shop.example.org", false),
            ("", false),
        ] {
            let found = readdressed(&with(server), here);
            assert_eq!(found.is_some(), expected, "{server}");
            let found: Option<Value> = found.map(|text| serde_saphyr::from_str(&text).unwrap());
            let wanted: Value = serde_saphyr::from_str(&with(here)).unwrap();
            assert!(found.is_none_or(|found| found == wanted), "{server}");
        }
        assert_eq!(readdressed("a: [", here), None);
    }
}
