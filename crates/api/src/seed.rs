//! The objects that a cluster of ours starts with: what an installation applies once, and nothing overwrites later.

use base64::Engine;
use serde_json::{Value, json};

/// Namespace of everything that is ours in a cluster.
pub const NAMESPACE: &str = "kubesphere-system";
/// Name of the Deployment and of the Service.
pub const SERVER: &str = "ks-apiserver";
/// Name of the Deployment that runs a host's reconcilers.
pub const CONTROLLERS: &str = "ks-controller-manager";
/// Where its Pod serves metrics. Not 8080: where a Pod is a process of this machine, something else often listens there on every address.
pub const METRICS: u16 = 9190;
/// Name of the ConfigMap that holds `kubesphere.yaml`.
pub const CONFIG: &str = "kubesphere-config";
/// Name of the Secret with the certificate of ks-apiserver, and of the ConfigMap with the authority that signed it.
pub const CERTIFICATE: &str = "ks-apiserver-certificate";
/// The Service account of ks-apiserver.
pub const ACCOUNT: &str = "kubesphere";

/// What a cluster is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one with the address and the login.
    Host,
    /// One that the host forwards to.
    Member,
}

/// What the objects of one cluster depend on.
pub struct Seed<'a> {
    /// Host or member.
    pub role: Role,
    /// The secret that host and members share.
    pub jwt_secret: &'a str,
    /// `authentication.oauthOptions.accessTokenMaxAge` as it is written: `2h` on a host, `0` on a member.
    pub access_token_max_age: &'a str,
    /// Image of ks-apiserver.
    pub image: &'a str,
    /// bcrypt hash of admin's password.
    pub password_hash: &'a str,
    /// Makes the Service a NodePort on this port.
    pub node_port: Option<u16>,
    /// `hub.allowedAddresses` of a host.
    pub allowed_addresses: &'a [&'a str],
}

/// All objects of one cluster, in an order in which they can be created. The CRDs are not among them.
pub fn objects(seed: &Seed<'_>) -> Vec<Value> {
    let mut objects = vec![
        namespace(NAMESPACE),
        namespace("kubesphere-controls-system"),
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": ACCOUNT, "namespace": NAMESPACE},
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": ACCOUNT},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
        }),
    ];
    objects.extend(administrator(seed.password_hash));
    objects.extend([
        configuration(seed),
        service(seed.node_port),
        deployment(seed.image),
    ]);
    if seed.role == Role::Host {
        objects.push(controllers(seed.image));
    }
    objects
}

/// Tells a cluster among these objects its own name, as the host's controller would do later.
pub fn name(objects: &mut [Value], name: &str) {
    for object in objects {
        if object["kind"] == "ConfigMap"
            && object["metadata"]["name"] == CONFIG
            && let Some(text) = object["data"]["kubesphere.yaml"].as_str()
            && let Ok(named) =
                crate::config::edit::set(text, &["multicluster", "clusterName"], name)
        {
            object["data"]["kubesphere.yaml"] = named.into();
        }
    }
}

/// The certificate that ks-apiserver shows, and for its clients the authority behind it. All PEM.
pub fn certificate(chain: &str, key: &str, authority: &str) -> [Value; 2] {
    [
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": CERTIFICATE, "namespace": NAMESPACE},
            "stringData": {"tls.crt": chain, "tls.key": key},
        }),
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": CERTIFICATE, "namespace": NAMESPACE},
            "data": {"ca.crt": authority},
        }),
    ]
}

fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubesphere.io/workspace": "system-workspace"}},
    })
}

/// The user admin and what lets it do everything.
fn administrator(password_hash: &str) -> [Value; 3] {
    [
        json!({
            "apiVersion": "iam.kubesphere.io/v1alpha2",
            "kind": "GlobalRole",
            "metadata": {"name": "platform-admin", "annotations": {"kubesphere.io/creator": "admin"}},
            "rules": [
                {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
                {"nonResourceURLs": ["*"], "verbs": ["*"]},
            ],
        }),
        json!({
            "apiVersion": "iam.kubesphere.io/v1alpha2",
            "kind": "User",
            "metadata": {"name": "admin", "annotations": {"iam.kubesphere.io/uninitialized": "true"}},
            "spec": {"email": "admin@kubesphere.io", "password": password_hash},
            "status": {"state": "Active"},
        }),
        json!({
            "apiVersion": "iam.kubesphere.io/v1alpha2",
            "kind": "GlobalRoleBinding",
            "metadata": {"name": "admin"},
            "roleRef": {"apiGroup": "iam.kubesphere.io/v1alpha2", "kind": "GlobalRole", "name": "platform-admin"},
            "subjects": [{"apiGroup": "iam.kubesphere.io/v1alpha2", "kind": "User", "name": "admin"}],
        }),
    ]
}

/// The ConfigMap. The two settings that decide over access stand on lines of their own, and no comment names
/// them, so that `grep` prints each once.
fn configuration(seed: &Seed<'_>) -> Value {
    let (role, enable) = match seed.role {
        Role::Host => ("host", true),
        Role::Member => ("member", false),
    };
    let text = format!(
        r#"# Configuration of this cluster's ks-apiserver. Changes are read while it runs.
authentication:
  authenticateRateLimiterMaxTries: 10
  authenticateRateLimiterDuration: 10m0s
  loginHistoryRetentionPeriod: 168h
  maximumClockSkew: 10s
  multipleLogin: true
  # Signs and verifies tokens: the same on the host and on every member.
  jwtSecret: "{secret}"
  oauthOptions:
    # How long a token lives, kept in this cluster's own cache. A member must have 0 here:
    # it then asks no cache, and accepts what the host has issued.
    accessTokenMaxAge: {age}
    clients:
    - name: kubesphere
      secret: kubesphere
      redirectURIs:
      - '*'
multicluster:
  enable: {enable}
  clusterRole: {role}
  hostClusterName: host
{hub}"#,
        secret = seed.jwt_secret,
        age = seed.access_token_max_age,
        hub = hub(seed),
    );
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG, "namespace": NAMESPACE},
        "data": {"kubesphere.yaml": text},
    })
}

/// The section of ours, where there is anything to say.
fn hub(seed: &Seed<'_>) -> String {
    if seed.role == Role::Member || seed.allowed_addresses.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "hub:\n  # Clusters may join although they are at these addresses of this machine.\n  allowedAddresses:\n",
    );
    for range in seed.allowed_addresses {
        text.push_str("  - ");
        text.push_str(range);
        text.push('\n');
    }
    text
}

/// The Service. Its port has no name, because the host asks for it as `:ks-apiserver:`.
fn service(node_port: Option<u16>) -> Value {
    let mut port = json!({"port": 80, "protocol": "TCP", "targetPort": 9090});
    if let Some(number) = node_port {
        port["nodePort"] = number.into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": SERVER, "namespace": NAMESPACE, "labels": labels()},
        "spec": {
            "type": if node_port.is_some() { "NodePort" } else { "ClusterIP" },
            "selector": labels(),
            "ports": [port],
        },
    })
}

fn labels() -> Value {
    json!({"app": SERVER, "tier": "backend"})
}

fn deployment(image: &str) -> Value {
    let probe = json!({
        "httpGet": {"path": "/healthz", "port": 9090, "scheme": "HTTP"},
        "periodSeconds": 1,
        "timeoutSeconds": 5,
        "failureThreshold": 8,
    });
    let mut liveness = probe.clone();
    liveness["initialDelaySeconds"] = 15.into();
    liveness["periodSeconds"] = 10.into();
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": SERVER, "namespace": NAMESPACE, "labels": labels()},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels()},
            "template": {
                "metadata": {"labels": labels()},
                "spec": {
                    "serviceAccountName": ACCOUNT,
                    "terminationGracePeriodSeconds": 10,
                    "containers": [{
                        "name": SERVER,
                        "image": image,
                        "args": [
                            "apiserver", "--bind-address", "$(POD_IP)", "--insecure-port", "9090",
                            "--tls-cert-file", "/etc/kubesphere-certificate/tls.crt",
                            "--tls-private-key", "/etc/kubesphere-certificate/tls.key",
                        ],
                        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                        "ports": [{"containerPort": 9090, "protocol": "TCP"}],
                        "readinessProbe": probe,
                        "livenessProbe": liveness,
                        "volumeMounts": [
                            {"name": CONFIG, "mountPath": "/etc/kubesphere"},
                            {"name": CERTIFICATE, "mountPath": "/etc/kubesphere-certificate", "readOnly": true},
                        ],
                    }],
                    "volumes": [
                        {"name": CONFIG, "configMap": {"name": CONFIG}},
                        {"name": CERTIFICATE, "secret": {"secretName": CERTIFICATE, "optional": true}},
                    ],
                },
            },
        },
    })
}

/// The reconcilers of a host.
fn controllers(image: &str) -> Value {
    let labels = json!({"app": CONTROLLERS, "tier": "backend"});
    let probe = json!({
        "httpGet": {"path": "/healthz", "port": METRICS, "scheme": "HTTP"},
        "periodSeconds": 5,
        "timeoutSeconds": 5,
        "failureThreshold": 8,
    });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": CONTROLLERS, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": ACCOUNT,
                    "terminationGracePeriodSeconds": 10,
                    "containers": [{
                        "name": CONTROLLERS,
                        "image": image,
                        "args": ["controller-manager", "--metrics-bind-address", format!("$(POD_IP):{METRICS}")],
                        "env": [
                            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                        ],
                        "ports": [{"containerPort": METRICS, "protocol": "TCP"}],
                        "readinessProbe": probe,
                        "livenessProbe": probe,
                        "volumeMounts": [{"name": CONFIG, "mountPath": "/etc/kubesphere"}],
                    }],
                    "volumes": [{"name": CONFIG, "configMap": {"name": CONFIG}}],
                },
            },
        },
    })
}

/// The Cluster object of the host itself.
pub fn host_cluster(kubeconfig: &str, server: &str) -> Value {
    let mut cluster = member_cluster("host", kubeconfig, server, None);
    cluster["metadata"]["labels"] =
        json!({"cluster-role.kubesphere.io/host": "", "kubesphere.io/managed": "true"});
    cluster
}

/// The Cluster object of a member that the host reaches by a kubeconfig, whose kube-apiserver is at `server`:
/// through the endpoint of its ks-apiserver if one is given, else through its kube-apiserver.
pub fn member_cluster(name: &str, kubeconfig: &str, server: &str, endpoint: Option<&str>) -> Value {
    let mut cluster = json!({
        "apiVersion": "cluster.kubesphere.io/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": name},
        "spec": {
            "joinFederation": true,
            "enable": true,
            "provider": "kubesphere",
            "connection": {
                "type": "direct",
                "kubernetesAPIEndpoint": server,
                "kubeconfig": base64::engine::general_purpose::STANDARD.encode(kubeconfig),
            },
        },
    });
    if let Some(endpoint) = endpoint {
        cluster["spec"]["connection"]["kubesphereAPIEndpoint"] = endpoint.into();
    }
    cluster
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(role: Role) -> Seed<'static> {
        Seed {
            role,
            jwt_secret: "s3cret",
            access_token_max_age: "0",
            image: "image",
            password_hash: "hash",
            node_port: None,
            allowed_addresses: &["127.0.0.0/8"],
        }
    }

    #[test]
    fn a_host_allows_the_addresses_that_it_was_given() {
        for (role, expected) in [(Role::Host, true), (Role::Member, false)] {
            let map = configuration(&seed(role));
            let text = map["data"]["kubesphere.yaml"].as_str().unwrap();
            let read = crate::config::Configuration::read(text, &Default::default()).unwrap();
            assert_eq!(read.hub.allowed_addresses.len(), usize::from(expected));
            assert!(read.findings().is_empty(), "{:?}", read.findings());
        }
    }

    #[test]
    fn the_documented_commands_find_one_line_each() {
        let map = configuration(&seed(Role::Member));
        let text = map["data"]["kubesphere.yaml"].as_str().unwrap();
        for (word, line) in [
            ("jwtSecret", "  jwtSecret: \"s3cret\""),
            ("accessTokenMaxAge", "    accessTokenMaxAge: 0"),
        ] {
            let found: Vec<&str> = text.lines().filter(|l| l.contains(word)).collect();
            assert_eq!(found, [line]);
            assert!(!line.contains("apiVersion"));
        }
        assert!(map["metadata"].get("annotations").is_none());
    }

    #[test]
    fn a_cluster_can_be_told_its_name() {
        let mut all = objects(&seed(Role::Member));
        name(&mut all, "m");
        let text = |objects: &[Value]| {
            let map = objects.iter().find(|it| it["kind"] == "ConfigMap").unwrap();
            map["data"]["kubesphere.yaml"].as_str().unwrap().to_owned()
        };
        let before = text(&objects(&seed(Role::Member)));
        let told: Vec<String> = text(&all)
            .lines()
            .filter(|line| !before.contains(*line))
            .map(str::to_owned)
            .collect();
        assert_eq!(told, ["  clusterName: m"]);
    }

    #[test]
    fn only_a_host_has_reconcilers() {
        let has = |role| {
            objects(&seed(role))
                .iter()
                .any(|it| it["metadata"]["name"] == CONTROLLERS)
        };
        assert!(has(Role::Host) && !has(Role::Member));
    }

    #[test]
    fn only_the_host_has_a_node_port() {
        assert_eq!(service(None)["spec"]["type"], "ClusterIP");
        assert_eq!(service(Some(30880))["spec"]["ports"][0]["nodePort"], 30880);
        assert!(
            service(Some(30880))["spec"]["ports"][0]
                .get("name")
                .is_none()
        );
    }

    #[test]
    fn every_object_can_be_addressed() {
        for object in objects(&seed(Role::Host)) {
            assert!(object["apiVersion"].is_string() && object["kind"].is_string());
            assert!(object["metadata"]["name"].is_string());
        }
    }
}
