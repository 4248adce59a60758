//! `pods/NAME/log`: which container, which run, and Kubernetes' words when there is nothing to read.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::container::Logs;
use super::log::Log;
use super::reader::{self, Options};
use super::{Inner, SIMULATED};
use crate::connect::{Body, BoxError, Connect, full, refuse};
use crate::status::ApiError;

/// Chunks of a log that wait for a slow reader.
const QUEUE: usize = 8;

/// The name of the container that is meant.
pub fn container(pod: &Pod, wanted: Option<&str>) -> Result<String, ApiError> {
    let spec = pod.spec.clone().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let names: Vec<&str> = spec.containers.iter().map(|c| c.name.as_str()).collect();
    let init: Vec<&str> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|c| c.name.as_str())
        .collect();
    match wanted {
        Some(wanted) if names.contains(&wanted) || init.contains(&wanted) => Ok(wanted.to_owned()),
        Some(wanted) => Err(ApiError::bad_request(format!(
            "container {wanted} is not valid for pod {name}"
        ))),
        None => match names.as_slice() {
            [only] => Ok((*only).to_owned()),
            _ => {
                let mut choice = format!("choose one of: [{}]", names.join(" "));
                if !init.is_empty() {
                    choice.push_str(&format!(
                        " or one of the init containers: [{}]",
                        init.join(" ")
                    ));
                }
                Err(ApiError::bad_request(format!(
                    "a container name must be specified for pod {name}, {choice}"
                )))
            }
        },
    }
}

/// Logs that an earlier run of this program left in the Pod's folder: the last one it wrote.
pub fn earlier(folder: &Path, pod: &Pod) -> HashMap<String, Logs> {
    let statuses = pod
        .status
        .iter()
        .flat_map(|s| s.container_statuses.iter().flatten());
    statuses
        .filter_map(|status| {
            let file = format!("{}.log", status.restart_count);
            let path = folder.join("logs").join(&status.name).join(file);
            path.exists().then(|| {
                let logs = Logs {
                    current: Some(Log::finished(path)),
                    previous: None,
                };
                (status.name.clone(), logs)
            })
        })
        .collect()
}

/// Answers one request for a log.
pub fn answer(node: &Inner, connect: &Connect) -> Response<Body> {
    match start(node, connect) {
        Ok(body) => {
            let mut response = Response::new(body);
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            response
        }
        Err(error) => refuse(&error),
    }
}

fn start(node: &Inner, connect: &Connect) -> Result<Body, ApiError> {
    let now = (node.options.clock)();
    let query = connect.request.uri().query().unwrap_or_default();
    let options = Options::parse(query, now).map_err(ApiError::bad_request)?;
    let pod: Pod = serde_json::from_value(connect.object.clone())
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let name = container(&pod, options.container.as_deref())?;
    let spec = pod.spec.clone().unwrap_or_default();
    if spec.node_name.is_none() {
        return Ok(full(Bytes::new()));
    }
    let local = spec
        .containers
        .iter()
        .any(|container| container.name == name && super::pod::is_local(node, container));
    if !local {
        let text = "This container is simulated by localkube: no process stands behind it and it has no log \
                    of its own.\n";
        let mut text = text.to_owned();
        if options.timestamps {
            text.insert_str(0, &format!("{now:.9} "));
        }
        tracing::trace!(
            annotation = SIMULATED,
            "the log of a simulated container was asked for"
        );
        return Ok(full(text));
    }
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let logs = node
        .pods()
        .get(&uid)
        .and_then(|handle| handle.live.logs.borrow().get(&name).cloned())
        .unwrap_or_default();
    let pod_name = pod.metadata.name.clone().unwrap_or_default();
    let found = if options.previous {
        logs.previous.ok_or_else(|| {
            ApiError::bad_request(format!(
                "previous terminated container {name:?} in pod {pod_name:?} not found"
            ))
        })?
    } else {
        logs.current.ok_or_else(|| {
            let why = waiting(&pod, &name);
            ApiError::bad_request(format!(
                "container {name:?} in pod {pod_name:?} is waiting to start: {why}"
            ))
        })?
    };
    let (sender, receiver) = mpsc::channel(QUEUE);
    let shutdown = node.shutdown.clone();
    node.tasks.spawn(async move {
        let result = tokio::select! {
            () = shutdown.cancelled() => return,
            result = reader::read(found, options, sender) => result,
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a log could not be read to its end");
        }
    });
    let frames = ReceiverStream::new(receiver).map(|chunk| Ok::<_, BoxError>(Frame::data(chunk)));
    Ok(StreamBody::new(frames).boxed_unsync())
}

fn waiting(pod: &Pod, name: &str) -> String {
    let find = |status: &&ContainerStatus| status.name == name;
    let statuses = pod
        .status
        .iter()
        .flat_map(|s| s.container_statuses.iter().flatten());
    statuses
        .into_iter()
        .find(find)
        .and_then(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone())
        .unwrap_or_else(|| "ContainerCreating".to_owned())
}
