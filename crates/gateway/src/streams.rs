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

/// Terminals, forwarded ports and other upgrades that go on at one time. Their connections no longer count at the listener.
const UPGRADES: usize = 4096;

/// A password is dear to check, and does not end by itself: it is asked in one round out of so many.
const PASSWORD_ROUNDS: u64 = 30;

/// What goes on now. A stream is forgotten when nobody holds its token any more.
pub(crate) struct Streams {
    all: Mutex<Vec<Stream>>,
    /// Upgrades at most.
    upgrades: usize,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            all: Mutex::default(),
            upgrades: UPGRADES,
        }
    }
}

/// More upgrades go on than may.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

#[derive(Clone)]
struct Stream {
    ends: Weak<CancellationToken>,
    upgrade: bool,
    /// Whom to judge again; nobody has nothing that could end.
    authorization: Option<HeaderValue>,
    /// What this server itself has allowed; a member judges what it is asked.
    target: Option<Arc<Target>>,
}

impl Streams {
    /// The token that ends this request's stream; none for a caller without a credential, unless it asks for an upgrade, which counts in any case.
    pub(crate) fn begin(
        &self,
        headers: &HeaderMap,
        target: Option<&Target>,
    ) -> Result<Option<Arc<CancellationToken>>, TooMany> {
        let upgrade = kah_net::is_upgrade(headers);
        let authorization = headers.get(header::AUTHORIZATION).cloned();
        if authorization.is_none() && !upgrade {
            return Ok(None);
        }
        let mut streams = self.lock();
        if upgrade {
            let open = |stream: &&Stream| stream.upgrade && stream.ends.strong_count() > 0;
            if streams.iter().filter(open).count() >= self.upgrades {
                return Err(TooMany);
            }
        }
        let ends = Arc::new(CancellationToken::new());
        streams.push(Stream {
            ends: Arc::downgrade(&ends),
            upgrade,
            authorization,
            target: target.cloned().map(Arc::new),
        });
        Ok(Some(ends))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Stream>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
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
            let Some(authorization) = stream.authorization else {
                continue;
            };
            let bearer = authorization
                .to_str()
                .is_ok_and(|value| value.starts_with("Bearer "));
            if !bearer && !round.is_multiple_of(PASSWORD_ROUNDS) {
                continue;
            }
            let caller = match known.get(&authorization) {
                Some(caller) => caller.clone(),
                None => {
                    let asked = callers.authenticate(Some(&authorization)).await;
                    let caller = asked.ok();
                    known.insert(authorization, caller.clone());
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
        assert_eq!(streams.begin(&HeaderMap::new(), None).map(drop), Ok(()));
        assert_eq!(streams.count(), 0);
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        let ends = streams.begin(&headers, None).unwrap();
        assert_eq!(streams.count(), 1);
        drop(ends);
        assert!(
            streams
                .lock()
                .iter()
                .all(|stream| stream.ends.upgrade().is_none())
        );
    }

    #[test]
    fn upgrades_are_bounded_whoever_asks_for_them() {
        let streams = Streams {
            upgrades: 2,
            ..Streams::default()
        };
        let (mut plain, mut upgrade) = (HeaderMap::new(), HeaderMap::new());
        upgrade.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        upgrade.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        plain.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        let first = streams.begin(&upgrade, None).unwrap().unwrap();
        upgrade.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer b"));
        let _second = streams.begin(&upgrade, None).unwrap().unwrap();
        assert_eq!(streams.begin(&upgrade, None).map(drop), Err(TooMany));
        let _watches: Vec<_> = (0..9)
            .map(|_| streams.begin(&plain, None).unwrap().unwrap())
            .collect();
        drop(first);
        assert!(streams.begin(&upgrade, None).is_ok());
    }
}
