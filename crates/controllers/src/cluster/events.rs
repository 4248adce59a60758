//! Events about Cluster objects. Clusters have no namespace, so the Events lie in `default`, where `kubectl describe` looks.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{Api, api::PostParams, core::DynamicObject};

/// Where they lie.
const NAMESPACE: &str = "default";
/// Who writes them.
const SOURCE: &str = "ks-controller-manager";
/// Bytes of a message that Kubernetes takes.
const LONGEST: usize = 1024;

/// One thing that happened to a Cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// Whether somebody should do something.
    pub warning: bool,
    /// An access code, or another word for machines.
    pub reason: String,
    /// The sentence for people.
    pub message: String,
}

/// Tells it. That an Event could not be written is logged and stops nothing.
pub async fn tell(client: &kube::Client, about: &DynamicObject, news: News, now: Timestamp) {
    let events: Api<Event> = Api::namespaced(client.clone(), NAMESPACE);
    let name = about.metadata.name.clone().unwrap_or_default();
    let time = Some(Time(now));
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:016x}", rand::random::<u64>())),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("cluster.kubesphere.io/v1alpha1".into()),
            kind: Some("Cluster".into()),
            name: about.metadata.name.clone(),
            uid: about.metadata.uid.clone(),
            ..ObjectReference::default()
        },
        type_: Some(if news.warning { "Warning" } else { "Normal" }.into()),
        reason: Some(news.reason),
        message: Some(cut(news.message)),
        source: Some(EventSource {
            component: Some(SOURCE.into()),
            ..EventSource::default()
        }),
        reporting_component: Some(SOURCE.into()),
        first_timestamp: time.clone(),
        last_timestamp: time,
        count: Some(1),
        ..Event::default()
    };
    if let Err(error) = events.create(&PostParams::default(), &event).await {
        tracing::warn!(cluster = name, %error, "tell an Event");
    }
}

fn cut(mut text: String) -> String {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
