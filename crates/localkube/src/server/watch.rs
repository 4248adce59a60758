//! Watch: a stream of events, one JSON document a line.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::connect::{Body, BoxError};
use crate::kind::Kind;
use crate::registry::DEFINITIONS;
use crate::selector::Selector;
use crate::status::ApiError;
use crate::store::{Event, Key, Store, StoreError, Stored, Watch, prefix};

use super::answer::{Form, Format, View};
use super::context::{Context, in_version, options_fault};
use super::read::too_large;

/// Between bookmarks.
const BOOKMARKS: Duration = Duration::from_secs(30);
/// How long a watch lasts when its client does not say.
const LIFE: Duration = Duration::from_secs(45 * 60);
/// The longest that a client may ask for.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

struct Stream {
    kind: Arc<Kind>,
    form: Form,
    selector: Selector,
    watch: Watch,
    /// Changes of the definition that the kind comes from, unless it is built in.
    definition: Option<Watch>,
    /// Lines that are ready.
    ready: VecDeque<Bytes>,
    bookmarks: bool,
    next_bookmark: Instant,
    end: Instant,
    shutdown: CancellationToken,
    /// Nothing comes after what is ready.
    over: bool,
    /// A Table has carried the column definitions.
    columns_sent: bool,
    now: fn() -> jiff::Timestamp,
}

pub(super) fn watch(
    store: &Store,
    context: &Context,
    shutdown: CancellationToken,
    now: fn() -> jiff::Timestamp,
) -> Result<Response<Body>, ApiError> {
    let query = &context.query;
    let mut selector = context.selector()?;
    if context.target.watch_prefix && !context.target.name.is_empty() {
        let text = format!("metadata.name={}", context.target.name);
        selector.fields = crate::selector::FieldSelector::parse(&context.kind, &text)?;
    }
    let initial = query
        .get("sendInitialEvents")
        .map(|text| !matches!(text, "false" | "0"));
    let matching = query.get("resourceVersionMatch").unwrap_or_default();
    let fault = |detail: &str| {
        Err(options_fault(
            "ListOptions",
            "resourceVersionMatch",
            "FieldValueForbidden",
            format!("Forbidden: {detail}"),
        ))
    };
    match initial {
        Some(_) if matching != "NotOlderThan" => {
            return fault(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
        }
        None if !matching.is_empty() => {
            return fault(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        _ => {}
    }
    let bookmarks = query.flag("allowWatchBookmarks");
    let timeout = query
        .number("timeoutSeconds")?
        .and_then(|seconds| u64::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0)
        .map_or(LIFE, Duration::from_secs)
        .min(LONGEST);
    let given = context.resource_version()?;
    let current = store.revision();
    if let Some(revision) = given.filter(|revision| *revision > current) {
        return Err(too_large(revision, current));
    }
    let resource = context.kind.storage_key();
    let prefix = prefix(context.namespace());
    // Without a revision, or from any, a watch starts with what is there.
    let from_state = initial.unwrap_or_else(|| given.unwrap_or(0) == 0);
    let mut lines = Vec::new();
    let from = if from_state {
        let page = store
            .list(&resource, &prefix, None, None, None)
            .map_err(|error| ApiError::internal(error.to_string()))?;
        lines.extend(page.items.into_iter().map(|(_, stored)| stored));
        page.revision
    } else {
        match given {
            None | Some(0) => current,
            Some(revision) => revision,
        }
    };
    let started = store.watch(&resource, &prefix, from);
    let watch = match started {
        Ok(watch) => watch,
        Err(error) => {
            // As kube-apiserver does: the stream starts, and its one event is the error.
            let line = line(
                "ERROR",
                &expired(&error).to_status().to_string().into_bytes(),
            );
            return Ok(respond(context.form, stream::iter([Ok(Frame::data(line))])));
        }
    };
    let name = match context.kind.group.as_str() {
        "" => context.kind.plural.clone(),
        group => format!("{}.{group}", context.kind.plural),
    };
    let definition = match store.get(&Key::new(DEFINITIONS, "", &name)) {
        // From the revision that was read: an end between here and there is not missed.
        Some(stored) => store.watch(DEFINITIONS, &name, stored.revision).ok(),
        None => None,
    };
    let start = Instant::now();
    let mut stream = Stream {
        kind: context.kind.clone(),
        form: context.form,
        selector,
        watch,
        definition,
        ready: VecDeque::new(),
        bookmarks,
        next_bookmark: start + BOOKMARKS,
        end: start + timeout,
        shutdown,
        over: false,
        columns_sent: false,
        now,
    };
    for stored in lines {
        if stream.selector.is_empty() || stream.selector.matches(&stored.value()) {
            stream.push("ADDED", &stored);
        }
    }
    if initial == Some(true) && bookmarks {
        stream.push_bookmark(true);
    }
    Ok(respond(
        context.form,
        stream::unfold(stream, |mut stream| async move {
            let bytes = stream.next().await?;
            Some((Ok(Frame::data(bytes)), stream))
        }),
    ))
}

fn respond<S>(form: Form, stream: S) -> Response<Body>
where
    S: futures::Stream<Item = Result<Frame<Bytes>, BoxError>> + Send + 'static,
{
    let json = Form {
        format: Format::Json,
        ..form
    };
    let mut response = json.answer(StatusCode::OK, Bytes::new());
    *response.body_mut() = StreamBody::new(stream).boxed_unsync();
    response
}

fn expired(error: &StoreError) -> ApiError {
    match error {
        StoreError::Expired { asked, oldest } => {
            ApiError::gone(format!("too old resource version: {asked} ({oldest})"))
        }
        other => ApiError::internal(other.to_string()),
    }
}

fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + 40);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(kind.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line.into()
}

/// Ends when the definition has been removed; of a built-in kind never.
async fn removed(definition: &mut Option<Watch>) {
    let Some(watch) = definition else {
        return std::future::pending().await;
    };
    loop {
        match watch.next().await {
            Ok(events) if events.iter().any(|event| event.deleted) => return,
            Ok(_) => {}
            // Too far behind to know, or the store is closed: a new watch finds out.
            Err(_) => return,
        }
    }
}

impl Stream {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.ready.is_empty() {
                return Some(self.take());
            }
            if self.over {
                return None;
            }
            let wake = if self.bookmarks {
                self.end.min(self.next_bookmark)
            } else {
                self.end
            };
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => self.over = true,
                () = removed(&mut self.definition) => {
                    // What was deleted with the definition is told before the end.
                    let events = self.watch.poll();
                    self.take_in(events);
                    self.over = true;
                }
                events = self.watch.next() => self.take_in(events),
                () = tokio::time::sleep_until(wake) => {
                    let now = Instant::now();
                    if self.bookmarks && now >= self.next_bookmark {
                        self.next_bookmark = now + BOOKMARKS;
                        let events = self.watch.poll();
                        let quiet = events.as_ref().is_ok_and(Vec::is_empty);
                        self.take_in(events);
                        if quiet {
                            self.push_bookmark(false);
                        }
                    }
                    if now >= self.end {
                        self.over = true;
                    }
                }
            }
        }
    }

    /// Everything that is ready, as one piece.
    fn take(&mut self) -> Bytes {
        if self.ready.len() == 1 {
            return self.ready.pop_front().unwrap_or_default();
        }
        let mut bytes = Vec::with_capacity(self.ready.iter().map(Bytes::len).sum());
        for line in self.ready.drain(..) {
            bytes.extend_from_slice(&line);
        }
        bytes.into()
    }

    fn take_in(&mut self, events: Result<Vec<Arc<Event>>, StoreError>) {
        match events {
            Ok(events) => {
                for event in events {
                    self.push_event(&event);
                }
            }
            Err(StoreError::Closed) => self.over = true,
            Err(error) => {
                let status = expired(&error).to_status().to_string();
                self.ready.push_back(line("ERROR", status.as_bytes()));
                self.over = true;
            }
        }
    }

    /// To a client with a selector, an object that begins to match is added, one that ceases to is deleted.
    fn push_event(&mut self, event: &Event) {
        if self.selector.is_empty() {
            let kind = match (event.deleted, &event.previous) {
                (true, _) => "DELETED",
                (false, Some(_)) => "MODIFIED",
                (false, None) => "ADDED",
            };
            self.push(kind, &event.object);
            return;
        }
        let matches = |stored: &Stored| self.selector.matches(&stored.value());
        let before = event.previous.as_ref().is_some_and(matches);
        let after = !event.deleted && matches(&event.object);
        match (before, after) {
            (false, false) => {}
            (false, true) => self.push("ADDED", &event.object),
            (true, true) => self.push("MODIFIED", &event.object),
            (true, false) if event.deleted => self.push("DELETED", &event.object),
            (true, false) => {
                if let Some(previous) = &event.previous {
                    self.push("DELETED", &previous.restamp(event.revision));
                }
            }
        }
    }

    fn push(&mut self, kind: &str, stored: &Stored) {
        let plain = self.form.view == View::Whole && self.kind.version == self.kind.storage_version;
        let line = if plain {
            line(kind, &stored.bytes)
        } else {
            let object = in_version(&self.kind, stored.value());
            let mut object = self.form.view_object(&self.kind, object, (self.now)());
            if matches!(self.form.view, View::Table(_)) {
                if self.columns_sent {
                    object["columnDefinitions"] = Value::Null;
                }
                self.columns_sent = true;
            }
            line(kind, object.to_string().as_bytes())
        };
        self.ready.push_back(line);
    }

    fn push_bookmark(&mut self, initial: bool) {
        let mut metadata = json!({"resourceVersion": self.watch.revision().to_string()});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({
            "kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata,
        });
        let object = match self.form.view {
            View::Whole => object,
            View::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            View::Table(_) => {
                let columns = std::mem::replace(&mut self.columns_sent, true);
                let mut table = self
                    .form
                    .view_object(&self.kind, object.clone(), (self.now)());
                if columns {
                    table["columnDefinitions"] = Value::Null;
                }
                table
            }
        };
        self.ready
            .push_back(line("BOOKMARK", object.to_string().as_bytes()));
    }
}
