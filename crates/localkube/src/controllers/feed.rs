//! Watches that feed the queues.

use std::fmt::Debug;

use futures::StreamExt;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

/// What a watch tells.
pub enum Change<'a, K> {
    /// The object exists and looks like this.
    Applied(&'a K),
    /// The object has gone; this is how it looked.
    Deleted(&'a K),
    /// Everything has been told anew; what was not told has gone in the meantime.
    Resynced,
}

/// Calls `on` for each change of the objects of `api`, until `shutdown`. Lost watches are taken up again.
pub async fn feed<K>(
    api: Api<K>,
    config: watcher::Config,
    shutdown: CancellationToken,
    mut on: impl FnMut(Change<'_, K>) + Send,
) where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let stream = watcher(api, config).default_backoff();
    let mut stream = std::pin::pin!(stream);
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            event = stream.next() => event,
        };
        match event {
            None => return,
            Some(Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                on(Change::Applied(&object));
            }
            Some(Ok(watcher::Event::Delete(object))) => on(Change::Deleted(&object)),
            Some(Ok(watcher::Event::InitDone)) => on(Change::Resynced),
            Some(Ok(watcher::Event::Init)) => {}
            Some(Err(error)) => tracing::debug!(%error, "a watch ended and is taken up again"),
        }
    }
}
