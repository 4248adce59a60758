//! What a member applies to join by an agent: the agent, what it may do, and what it needs to know.
//!
//! Through the tunnel the host can do on the member what the agent's account may do, and nothing else. Every rule here says what needs it; a test
//! enumerates them and fails when there is one more.

use kah_api::{image::Image, seed};

use super::Proxy;
use serde_json::{Value, json};

/// Name of everything that belongs to the agent in a member.
pub const AGENT: &str = "kah-agent";
/// Name of the ConfigMap by which a member trusts its host.
pub const TRUST: &str = "hub-trust";

/// What the objects of one member depend on.
#[derive(Clone)]
pub struct Member<'a> {
    /// Name of the Cluster.
    pub cluster: &'a str,
    /// The hub's address.
    pub hub: &'a str,
    /// The authority behind the hub's certificate, PEM, where it is not one that everybody trusts.
    pub hub_authority: Option<&'a str>,
    /// Whether the hub's address may be plain HTTP.
    pub insecure_hub: bool,
    /// An HTTP proxy on the way to the hub. Secret.
    pub proxy: Option<&'a Proxy>,
    /// The image of the agent; none: [`image`].
    pub image: Option<&'a Image>,
    /// The fingerprint of the tunnel's authority.
    pub pin: &'a str,
    /// The join token. Secret.
    pub token: &'a str,
}

/// The image of the agent where nobody names another: this program's own.
#[must_use]
pub fn image() -> String {
    format!("kubeaihub.io/kah:{}", env!("CARGO_PKG_VERSION"))
}

/// All objects, in an order in which they can be created.
#[must_use]
pub fn objects(member: &Member<'_>) -> Vec<Value> {
    let [cluster_role, role] = roles();
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named()}),
        cluster_role,
        binding("ClusterRole", json!({"name": AGENT, "labels": labels()})),
        role,
        binding("Role", named()),
        secret(member),
        deployment(member),
    ]
}

/// The objects as YAML. Values are written by a serialiser, so none of them can become structure.
#[must_use]
pub fn text(member: &Member<'_>) -> String {
    let mut text = String::from(
        "# The agent by which this cluster joins a Kube AI Hub. It holds a join token: keep it to yourself.\n",
    );
    for object in objects(member) {
        text.push_str("---\n");
        // Plain JSON is YAML too, should the serialiser ever refuse.
        let yaml = serde_saphyr::to_string(&object).unwrap_or_else(|_| object.to_string());
        text.push_str(&yaml);
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}

/// What the agent's account may do: in the whole cluster, and in the namespace of ks-apiserver.
#[must_use]
pub fn roles() -> [Value; 2] {
    let follow = [
        "get", "list", "watch", "create", "update", "patch", "delete",
    ];
    let cluster = json!([
        // The identity of the cluster.
        {"apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["kube-system"], "verbs": ["get"]},
        // How many nodes there are.
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]},
        // The version of Kubernetes.
        {"nonResourceURLs": ["/version"], "verbs": ["get"]},
        // Which users were granted the cluster.
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterrolebindings"], "verbs": ["list"]},
        // What the host propagates.
        {
            "apiGroups": ["iam.kubesphere.io"],
            "resources": [
                "users", "globalroles", "globalrolebindings", "workspaceroles", "workspacerolebindings",
                "groups", "groupbindings",
            ],
            "verbs": follow,
        },
        {"apiGroups": ["tenant.kubesphere.io"], "resources": ["workspaces"], "verbs": follow},
        // Leaving.
        {
            "apiGroups": ["rbac.authorization.k8s.io"],
            "resources": ["clusterrolebindings"],
            "resourceNames": [AGENT],
            "verbs": ["delete"],
        },
    ]);
    let namespaced = json!([
        // Doctor and restore.
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [seed::CONFIG], "verbs": ["get", "update"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": [seed::SERVER], "verbs": ["get", "patch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        // Trust in the host's keys. What is created has no name yet when it is judged.
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [TRUST], "verbs": ["get", "update", "delete"]},
        // The agent's own certificate.
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [AGENT], "verbs": ["get", "update", "delete"]},
        // Leaving.
        {"apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": [AGENT], "verbs": ["delete"]},
        {"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": [AGENT], "verbs": ["delete"]},
    ]);
    [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": AGENT, "labels": labels()},
            "rules": cluster,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": named(),
            "rules": namespaced,
        }),
    ]
}

fn labels() -> Value {
    json!({"app.kubernetes.io/name": AGENT, "app.kubernetes.io/part-of": "kube-ai-hub"})
}

fn named() -> Value {
    json!({"name": AGENT, "namespace": seed::NAMESPACE, "labels": labels()})
}

fn binding(role: &str, metadata: Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": format!("{role}Binding"),
        "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": AGENT},
        "subjects": [{"kind": "ServiceAccount", "name": AGENT, "namespace": seed::NAMESPACE}],
    })
}

fn secret(member: &Member<'_>) -> Value {
    let mut data = json!({
        "cluster": member.cluster,
        "hub": member.hub,
        "pin": member.pin,
        "token": member.token,
    });
    if let Some(authority) = member.hub_authority {
        data["hub-ca.crt"] = authority.into();
    }
    if member.insecure_hub {
        data["insecure-hub"] = "true".into();
    }
    if let Some(proxy) = member.proxy {
        data["proxy"] = proxy.url.as_str().into();
        data["no-proxy"] = proxy.no.as_str().into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": named(),
        "type": "Opaque",
        "stringData": data,
    })
}

/// The proxy as the usual variables say it. They come from the Secret: the URL may hold a password.
fn environment() -> Value {
    let variable = |name: &str, key: &str| json!({"name": name, "valueFrom": {"secretKeyRef": {"name": AGENT, "key": key}}});
    json!([
        variable("HTTPS_PROXY", "proxy"),
        variable("HTTP_PROXY", "proxy"),
        variable("NO_PROXY", "no-proxy"),
    ])
}

fn deployment(member: &Member<'_>) -> Value {
    let name = json!({"app.kubernetes.io/name": AGENT});
    let mut object = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": named(),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": name},
            "template": {
                "metadata": {
                    "labels": labels(),
                    // A new token starts the agent anew.
                    "annotations": {"hub.kubeaihub.io/join": super::token::mark(member.token)},
                },
                "spec": {
                    "serviceAccountName": AGENT,
                    "securityContext": {
                        "runAsNonRoot": true,
                        "runAsUser": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [{
                        "name": "agent",
                        "image": member.image.map_or_else(image, Image::to_string),
                        "args": ["agent"],
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "readOnlyRootFilesystem": true,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        "resources": {
                            "requests": {"cpu": "10m", "memory": "32Mi"},
                            "limits": {"memory": "256Mi"},
                        },
                    }],
                },
            },
        },
    });
    if member.proxy.is_some()
        && let Some(container) = object.pointer_mut("/spec/template/spec/containers/0")
    {
        container["env"] = environment();
    }
    object
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn member() -> Member<'static> {
        Member {
            cluster: "member-1",
            hub: "https://hub.example.org",
            hub_authority: None,
            insecure_hub: false,
            proxy: None,
            image: None,
            pin: "PIN",
            token: "TOKEN",
        }
    }

    /// One line for each verb on each thing.
    fn permissions() -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        let texts = |value: &Value| -> Vec<String> {
            let items = value.as_array().into_iter().flatten();
            items
                .map(|item| item.as_str().unwrap().to_owned())
                .collect()
        };
        for (scope, role) in ["cluster", "namespace"].iter().zip(roles()) {
            for rule in role["rules"].as_array().unwrap() {
                for verb in texts(&rule["verbs"]) {
                    for url in texts(&rule["nonResourceURLs"]) {
                        lines.insert(format!("{scope} {verb} {url}"));
                    }
                    for (group, resource) in texts(&rule["apiGroups"]).iter().flat_map(|group| {
                        texts(&rule["resources"])
                            .into_iter()
                            .map(move |r| (group.clone(), r))
                    }) {
                        let names = texts(&rule["resourceNames"]);
                        let names = if names.is_empty() {
                            vec!["*".to_owned()]
                        } else {
                            names
                        };
                        for name in names {
                            lines.insert(format!("{scope} {verb} {group}/{resource}/{name}"));
                        }
                    }
                }
            }
        }
        lines
    }

    #[test]
    fn d10_the_agent_may_do_this_and_nothing_else() {
        let mut expected: BTreeSet<String> = [
            "cluster get /namespaces/kube-system",
            "cluster list /nodes/*",
            "cluster get /version",
            "cluster list rbac.authorization.k8s.io/clusterrolebindings/*",
            "cluster delete rbac.authorization.k8s.io/clusterrolebindings/kah-agent",
            "namespace get /configmaps/kubesphere-config",
            "namespace update /configmaps/kubesphere-config",
            "namespace get apps/deployments/ks-apiserver",
            "namespace patch apps/deployments/ks-apiserver",
            "namespace get /pods/*",
            "namespace list /pods/*",
            "namespace get /pods/log/*",
            "namespace create /configmaps/*",
            "namespace get /configmaps/hub-trust",
            "namespace update /configmaps/hub-trust",
            "namespace delete /configmaps/hub-trust",
            "namespace get /secrets/kah-agent",
            "namespace update /secrets/kah-agent",
            "namespace delete /secrets/kah-agent",
            "namespace delete apps/deployments/kah-agent",
            "namespace delete /serviceaccounts/kah-agent",
        ]
        .into_iter()
        .map(str::to_owned)
        .collect();
        for kind in [
            "iam.kubesphere.io/users",
            "iam.kubesphere.io/globalroles",
            "iam.kubesphere.io/globalrolebindings",
            "iam.kubesphere.io/workspaceroles",
            "iam.kubesphere.io/workspacerolebindings",
            "iam.kubesphere.io/groups",
            "iam.kubesphere.io/groupbindings",
            "tenant.kubesphere.io/workspaces",
        ] {
            for verb in [
                "get", "list", "watch", "create", "update", "patch", "delete",
            ] {
                expected.insert(format!("cluster {verb} {kind}/*"));
            }
        }
        assert_eq!(permissions(), expected);
        assert!(
            permissions()
                .iter()
                .all(|line| !line.contains("*/") && !line.contains(" * "))
        );
    }

    /// `deploy/agent.yaml` shows what a member is given, word for word but for the values of one member.
    #[test]
    fn the_manifest_is_the_one_in_deploy() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/agent.yaml");
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        let made = text(&member()).replace(&image(), "kubeaihub.io/kah:VERSION");
        assert_eq!(made, kept, "write this to deploy/agent.yaml:\n{made}");
    }

    #[test]
    fn a_proxy_comes_from_the_secret() {
        let proxy = Proxy {
            url: "http://me:secret@proxy:3128".to_owned(),
            no: ".svc".to_owned(),
        };
        let mut behind = member();
        behind.proxy = Some(&proxy);
        let objects = objects(&behind);
        let of = |kind: &str| {
            objects
                .iter()
                .find(|object| object["kind"] == kind)
                .unwrap()
        };
        assert_eq!(of("Secret")["stringData"]["proxy"], proxy.url);
        let deployment = of("Deployment").to_string();
        assert!(
            deployment.contains("HTTPS_PROXY") && !deployment.contains("secret@"),
            "{deployment}"
        );
    }

    #[test]
    fn the_agent_runs_the_image_that_was_named() {
        let named: Image = "registry.example.org:5000/kah@sha256:0a".parse().unwrap();
        for (wanted, expected) in [(None, image()), (Some(&named), named.to_string())] {
            let mut member = member();
            member.image = wanted;
            let deployment = deployment(&member);
            let found = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
            assert_eq!(*found, expected);
        }
    }

    /// The image that is made of `deploy/Dockerfile` runs as the manifest has it run, and is made by the compiler of this workspace.
    #[test]
    fn the_image_is_what_the_manifest_expects() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let read = |path: &str| std::fs::read_to_string(format!("{root}/{path}")).unwrap();
        let file = read("deploy/Dockerfile");
        let has = |line: &str| file.lines().any(|it| it.starts_with(line));
        let deployment = deployment(&member());
        let pod = &deployment["spec"]["template"]["spec"];
        let user = &pod["securityContext"]["runAsUser"];
        assert!(has(&format!("USER {user}:{user}")), "{file}");
        // The manifest gives arguments alone.
        assert!(has("ENTRYPOINT [\"/usr/bin/kah\"]") && pod["containers"][0]["command"].is_null());
        let workspace = read("Cargo.toml");
        let version = workspace
            .lines()
            .find_map(|line| line.strip_prefix("rust-version = "))
            .unwrap();
        assert!(
            has(&format!("FROM rust:{}-", version.trim_matches('"'))),
            "{version}"
        );
    }

    #[test]
    fn j16_values_stay_values() {
        for value in [
            "a\n---\nkind: Secret",
            "\"}}\nx: y",
            "{{x}}",
            "*anchor",
            "!!python/object",
            "yes",
            "0x10",
            "~",
            "- a",
            "a: b",
            "# c",
            "'",
            "\u{85}\u{2028}\t",
            "$(id)`id`",
        ] {
            let mut odd = member();
            (odd.token, odd.hub, odd.pin, odd.hub_authority) = (value, value, value, Some(value));
            let text = text(&odd);
            let documents: Vec<Value> = text
                .split("\n---\n")
                .skip(1)
                .map(|document| serde_saphyr::from_str(document).unwrap())
                .collect();
            assert_eq!(documents, objects(&odd), "{value:?}");
        }
    }
}
