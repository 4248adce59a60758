//! The Deployment of the original's own agent, for those who run its tunnel (multicluster.md §4.1). Ours is in [`crate::enrol`].

use k8s_openapi::api::core::v1::Service;
use kah_api::seed;
use kube::Api;

use crate::{Host, host::clusters};

/// What of the configuration it depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tower {
    /// `multicluster.proxyPublishAddress`; wins over the service.
    pub address: String,
    /// `multicluster.proxyPublishService`
    pub service: String,
    /// `multicluster.agentImage`
    pub image: String,
}

/// Why there is no Deployment. The texts are the original's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TowerError {
    /// No such Cluster.
    #[error("cluster.cluster.kubesphere.io {0:?} not found")]
    Unknown(String),
    /// Not one that dials out.
    #[error("cluster {0} is not using proxy connection")]
    NotProxy(String),
    /// Nothing configured.
    #[error("neither proxy address nor proxy service provided")]
    NotConfigured,
    /// No such Service.
    #[error("service {name} not found in namespace {namespace}")]
    NoService {
        /// Its name.
        name: String,
        /// Its namespace.
        namespace: String,
    },
    /// A Service without ports.
    #[error("there are no ports in proxy service {0} spec")]
    NoPorts(String),
    /// A Service that is not published.
    #[error(
        "cannot generate agent deployment yaml for member cluster  because {0} service has no public address, please check {0} status, or set address  mannually in ClusterConfiguration"
    )]
    NotPublished(String),
    /// No URL.
    #[error("invalid proxy address {0}, should format like http[s]://1.2.3.4:123")]
    Address(String),
    /// The host's kube-apiserver refused, or was not reached.
    #[error("{0}")]
    Api(Box<kube::Error>),
}

/// The Deployment that the member of this Cluster applies, as YAML.
///
/// # Errors
/// [`TowerError`].
pub async fn agent_deployment(
    host: &Host,
    tower: &Tower,
    name: &str,
) -> Result<String, TowerError> {
    let object = clusters(host.client.clone())
        .get_opt(name)
        .await
        .map_err(|error| TowerError::Api(Box::new(error)))?
        .ok_or_else(|| TowerError::Unknown(name.to_owned()))?;
    let connection = &object.data["spec"]["connection"];
    if connection["type"] != "proxy" {
        return Err(TowerError::NotProxy(name.to_owned()));
    }
    let address = if tower.address.is_empty() {
        published(host, &tower.service).await?
    } else {
        tower.address.clone()
    };
    if address.parse::<http::Uri>().is_err() {
        return Err(TowerError::Address(address));
    }
    let token = connection["token"].as_str().unwrap_or_default();
    Ok(yaml(name, token, &address, &tower.image))
}

/// `http://` and what publishes the Service: over all entries the last wins, an address beats a name within one.
async fn published(host: &Host, configured: &str) -> Result<String, TowerError> {
    if configured.is_empty() {
        return Err(TowerError::NotConfigured);
    }
    let mut words = configured.split('.');
    let name = words.next().unwrap_or_default().to_owned();
    let namespace = words.next().unwrap_or(seed::NAMESPACE).to_owned();
    let services: Api<Service> = Api::namespaced(host.client.clone(), &namespace);
    let service = services
        .get_opt(&name)
        .await
        .map_err(|error| TowerError::Api(Box::new(error)))?
        .ok_or(TowerError::NoService { name, namespace })?;
    let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
    let Some(port) = ports.first() else {
        return Err(TowerError::NoPorts(configured.to_owned()));
    };
    let entries = service
        .status
        .and_then(|status| status.load_balancer?.ingress)
        .unwrap_or_default();
    let host = entries
        .into_iter()
        .filter_map(|entry| {
            let given = |text: &String| !text.is_empty();
            entry.ip.filter(given).or(entry.hostname.filter(given))
        })
        .next_back()
        .ok_or_else(|| TowerError::NotPublished(configured.to_owned()))?;
    Ok(format!("http://{host}:{}", port.port))
}

/// The YAML of the original, byte for byte, but for the `---` that its answers begin with from the second on.
fn yaml(name: &str, token: &str, address: &str, image: &str) -> String {
    let argument = |name: &str, value: &str| scalar(&format!("--{name}={value}"));
    format!(
        r#"apiVersion: apps/v1
kind: Deployment
metadata:
  creationTimestamp: null
  name: cluster-agent
  namespace: kubesphere-system
spec:
  selector:
    matchLabels:
      app: agent
      app.kubernetes.io/part-of: tower
  strategy: {{}}
  template:
    metadata:
      creationTimestamp: null
      labels:
        app: agent
        app.kubernetes.io/part-of: tower
    spec:
      containers:
      - command:
        - /agent
        - {name}
        - {token}
        - {address}
        - --keepalive=10s
        - --kubesphere-service=ks-apiserver.kubesphere-system.svc:80
        - --kubernetes-service=kubernetes.default.svc:443
        - --v=0
        image: {image}
        name: agent
        resources:
          limits:
            cpu: "1"
            memory: 200M
          requests:
            cpu: 100m
            memory: 100M
      serviceAccountName: kubesphere
status: {{}}
"#,
        name = argument("name", name),
        token = argument("token", token),
        address = argument("proxy-server", address),
        image = scalar(image),
    )
}

/// As it is where that can only be read as a text, in quotes otherwise (security-tests.md J16).
fn scalar(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=./@+%:".contains(&byte);
    let odd = text.is_empty() || text.ends_with(':') || !text.bytes().all(plain);
    if odd {
        serde_json::Value::from(text).to_string()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn j16_nothing_becomes_structure() {
        let given = yaml(
            "gondor",
            "randomtoken",
            "http://139.198.121.121:8080",
            "kubesphere/tower:v1.0",
        );
        assert!(given.contains("\n        - --name=gondor\n        - --token=randomtoken\n        - --proxy-server=http://139.198.121.121:8080\n"));
        assert!(
            given.contains("        image: kubesphere/tower:v1.0\n")
                && given.contains("cpu: \"1\"\n")
        );
        for value in ["a\n- b", "a: b", "a # b", "\"", "{x}", "", "x:"] {
            let text = yaml("m", value, "http://a", value);
            let read: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
            let container = &read["spec"]["template"]["spec"]["containers"][0];
            assert_eq!(
                container["command"][2],
                format!("--token={value}"),
                "{text}"
            );
            assert_eq!(container["image"], value, "{text}");
        }
    }
}
