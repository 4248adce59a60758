//! Watches, followed logs, terminals and forwarded ports end when the caller's credential or right does (security-tests.md W5, T13).
//!
//! A request is judged when it comes; what goes on after that is judged again every so often, by the same two questions.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, header};
use kah_api::path::Target;
use tokio_util::sync::CancellationToken;

use crate::{
    callers::{Caller, Callers},
    gateway::Gateway,
};

/// A password is dear to check, and does not end by itself: it is asked in one round out of so many.
const PASSWORD_ROUNDS: u64 = 30;

/// What goes on now. A stream is forgotten when nobody holds its token any more.
#[derive(Default)]
pub(crate) struct Streams(Mutex<Vec<Stream>>);

#[derive(Clone)]
struct Stream {
    ends: Weak<CancellationToken>,
    authorization: HeaderValue,
    /// What this server itself has allowed; a member judges what it is asked.
    target: Option<Arc<Target>>,
}

impl Streams {
    /// The token that ends this request's stream; none for a caller without a credential.
    pub(crate) fn begin(
        &self,
        headers: &HeaderMap,
        target: Option<&Target>,
    ) -> Option<Arc<CancellationToken>> {
        let ends = Arc::new(CancellationToken::new());
        let stream = Stream {
            ends: Arc::downgrade(&ends),
            authorization: headers.get(header::AUTHORIZATION)?.clone(),
            target: target.cloned().map(Arc::new),
        };
        self.lock().push(stream);
        Some(ends)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Stream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges everything that goes on, once.
    pub(crate) async fn judge(&self, callers: &dyn Callers, round: u64) {
        let open: Vec<Stream> = {
            let mut streams = self.lock();
            streams.retain(|stream| stream.ends.strong_count() > 0);
            streams.clone()
        };
        // Many streams of one caller are one question.
        let mut known: HashMap<HeaderValue, Option<Caller>> = HashMap::new();
        for stream in open {
            let Some(ends) = stream.ends.upgrade() else {
                continue;
            };
            let bearer = stream
                .authorization
                .to_str()
                .is_ok_and(|value| value.starts_with("Bearer "));
            if !bearer && !round.is_multiple_of(PASSWORD_ROUNDS) {
                continue;
            }
            let caller = match known.get(&stream.authorization) {
                Some(caller) => caller.clone(),
                None => {
                    let asked = callers.authenticate(Some(&stream.authorization)).await;
                    let caller = asked.ok();
                    known.insert(stream.authorization.clone(), caller.clone());
                    caller
                }
            };
            let may = caller.is_some_and(|caller| {
                stream
                    .target
                    .is_none_or(|target| callers.authorize(&caller, &target).is_ok())
            });
            if !may {
                ends.cancel();
            }
        }
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.lock().len()
    }
}

impl Gateway {
    /// Ends, until `stop`, what goes on for callers whose credential or right has ended; looks after every `pause`.
    pub async fn end_streams(&self, pause: Duration, stop: CancellationToken) {
        let mut round = 0;
        let looks = async {
            loop {
                tokio::time::sleep(pause).await;
                round += 1;
                self.judge_streams(round).await;
            }
        };
        stop.run_until_cancelled(looks).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_forgotten_with_its_token_and_nobody_has_none() {
        let streams = Streams::default();
        assert!(streams.begin(&HeaderMap::new(), None).is_none());
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        let ends = streams.begin(&headers, None);
        assert_eq!(streams.count(), 1);
        drop(ends);
        assert!(
            streams
                .lock()
                .iter()
                .all(|stream| stream.ends.upgrade().is_none())
        );
    }
}
