//! Events, as `kubectl describe` shows them.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Gives the current time.
pub type Clock = fn() -> jiff::Timestamp;

/// Events waiting to be written; more are dropped, since they are an aid and never state.
const QUEUE: usize = 1024;
/// Events remembered so that a repeated one is counted instead of written again.
const REMEMBERED: usize = 2048;

/// Writes Events in the background, so that nobody waits for them. Clones share one writer.
#[derive(Clone)]
pub struct Recorder {
    component: &'static str,
    host: Option<String>,
    sender: mpsc::Sender<Note>,
}

struct Note {
    component: &'static str,
    host: Option<String>,
    object: ObjectReference,
    warning: bool,
    reason: &'static str,
    message: String,
    at: jiff::Timestamp,
    clock: Clock,
}

impl Recorder {
    /// A recorder and the task that writes for it and for all clones, until `shutdown`.
    pub fn new(
        client: kube::Client,
        shutdown: CancellationToken,
    ) -> (Recorder, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let recorder = Recorder {
            component: "localkube",
            host: None,
            sender,
        };
        (recorder, write(client, receiver, shutdown))
    }

    /// The same recorder, speaking for another component, e.g. `deployment-controller`.
    pub fn component(&self, component: &'static str) -> Recorder {
        Recorder {
            component,
            ..self.clone()
        }
    }

    /// The same recorder, naming the node that its events come from.
    pub fn host(&self, host: &str) -> Recorder {
        Recorder {
            host: Some(host.to_owned()),
            ..self.clone()
        }
    }

    /// Something went as it should.
    pub fn normal(
        &self,
        clock: Clock,
        object: ObjectReference,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.send(clock, object, false, reason, message.into());
    }

    /// Something went wrong.
    pub fn warning(
        &self,
        clock: Clock,
        object: ObjectReference,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.send(clock, object, true, reason, message.into());
    }

    fn send(
        &self,
        clock: Clock,
        object: ObjectReference,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        let note = Note {
            component: self.component,
            host: self.host.clone(),
            object,
            warning,
            reason,
            message,
            at: clock(),
            clock,
        };
        if self.sender.try_send(note).is_err() {
            tracing::debug!(reason, "an event was dropped: too many are waiting");
        }
    }
}

type Identity = (
    &'static str,
    Option<String>,
    Option<String>,
    &'static str,
    String,
);

async fn write(client: kube::Client, mut notes: mpsc::Receiver<Note>, shutdown: CancellationToken) {
    let mut seen: HashMap<Identity, (String, i32)> = HashMap::new();
    loop {
        let note = tokio::select! {
            () = shutdown.cancelled() => return,
            note = notes.recv() => match note {
                Some(note) => note,
                None => return,
            },
        };
        let namespace = note.object.namespace.clone();
        let namespace = namespace.as_deref().unwrap_or("default");
        let events: Api<Event> = Api::namespaced(client.clone(), namespace);
        let identity = (
            note.component,
            note.object.uid.clone(),
            note.object.field_path.clone(),
            note.reason,
            note.message.clone(),
        );
        let now = (note.clock)();
        if let Some((name, count)) = seen.get_mut(&identity) {
            let patch = json!({"count": *count + 1, "lastTimestamp": Time(now)});
            let patched = events
                .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
                .await;
            if patched.is_ok() {
                *count += 1;
                continue;
            }
        }
        if seen.len() >= REMEMBERED {
            seen.clear();
        }
        let name = format!(
            "{}.{:016x}",
            note.object.name.as_deref().unwrap_or("unknown"),
            note.at.as_nanosecond()
        );
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: note.object,
            reason: Some(note.reason.to_owned()),
            message: Some(note.message),
            source: Some(EventSource {
                component: Some(note.component.to_owned()),
                host: note.host.clone(),
            }),
            first_timestamp: Some(Time(note.at)),
            last_timestamp: Some(Time(note.at)),
            count: Some(1),
            type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
            reporting_component: Some(note.component.to_owned()),
            reporting_instance: Some(note.host.unwrap_or_default()),
            ..Event::default()
        };
        match events.create(&PostParams::default(), &event).await {
            Ok(_) => {
                seen.insert(identity, (name, 1));
            }
            // A namespace that is ending refuses new objects; nothing is lost by that.
            Err(error) => tracing::debug!(%error, "an event could not be written"),
        }
    }
}

/// What an event is about.
pub fn reference<K>(object: &K) -> ObjectReference
where
    K: kube::Resource<DynamicType = ()>,
{
    object.object_ref(&())
}
