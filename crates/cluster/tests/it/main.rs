//! The fleet, seen from the member's end.

#[allow(dead_code)]
#[path = "../../../testkit/src/member.rs"]
mod member;

mod connection;
mod doctor;
mod enrol;
mod forward;
mod join;
mod killed;
mod kubeconfig;
mod obstacles;
mod registry;
mod restore;
mod tunnel;
mod validation;

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderValue, Request};
use kah_cluster::{CallerCredential, Form, Hop, Registry};
use kah_net::{Body, Limits};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub fn registry() -> Registry {
    Registry::new(
        Limits::default(),
        CancellationToken::new(),
        TaskTracker::new(),
    )
}

/// A Cluster object with this connection.
pub fn cluster(name: &str, uid: &str, connection: Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "cluster.kubesphere.io/v1alpha1", "kind": "Cluster",
        "metadata": { "name": name, "uid": uid },
        "spec": { "joinFederation": true, "connection": connection },
    }))
    .expect("object")
}

pub fn kubeconfig(server: &str, cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: k\n  cluster: {{server: '{server}'{cluster}}}\n\
         users:\n- name: u\n  user: {{{user}}}\ncontexts:\n- name: c\n  context: {{cluster: k, user: u}}\n"
    )
}

/// A connection through the service proxy of the kube-apiserver at this address.
pub fn proxied(server: &str) -> Value {
    let text = kubeconfig(server, "", "token: stored");
    json!({ "type": "direct", "kubeconfig": STANDARD.encode(text) })
}

pub fn straight(server: &str) -> Value {
    json!({ "type": "direct", "kubesphereAPIEndpoint": server })
}

pub fn hop(target: &str) -> Hop {
    Hop {
        target: target.parse().expect("target"),
        form: Form::Segment,
        caller: CallerCredential::User {
            name: "caller".into(),
            authorization: HeaderValue::from_static("Bearer caller"),
        },
        client: Some([10, 0, 0, 9].into()),
        long_running: false,
        ends: None,
    }
}

pub fn get() -> Request<Body> {
    Request::builder()
        .uri("/")
        .body(kah_net::empty())
        .expect("request")
}

/// Waits for a condition, at most 10 s.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let ticks = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(10), ticks)
            .await
            .is_ok(),
        "{what}"
    );
}
