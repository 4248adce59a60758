//! Watches, followed logs, terminals and forwarded ports end when the caller's credential or right does (security-tests.md W5, T13).
//!
//! A request is judged when it comes; what goes on after that is judged again every so often, by the same two questions. A member does not judge again
//! the token by which its host vouched for a caller, which is good for a moment only: whether the user exists, is not disabled and has the right it
//! knows itself, and the caller's own credential is judged by the host, which ends the stream that it forwards.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderValue, header};
use kah_api::path::Target;
use tokio_util::sync::CancellationToken;

use crate::{
    callers::{Caller, Callers, Rejection},
    gateway::Gateway,
};

/// A password is dear to check, and does not end by itself: it is asked in one round out of so many.
const PASSWORD_ROUNDS: u64 = 30;
/// Rounds in a row in which nothing could be decided about a credential, before it counts as ended: half a minute at the usual pace.
const MOST_UNDECIDED: u32 = 15;

/// What goes on now. A stream is forgotten when nobody holds its token any more.
pub(crate) struct Streams {
    all: Mutex<Vec<Stream>>,
    /// Upgrades at most.
    upgrades: usize,
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
    /// The user for whom a host has vouched.
    vouched: Option<Arc<str>>,
    /// Rounds in a row that decided nothing.
    undecided: Arc<AtomicU32>,
    /// What this server itself has allowed; a member judges what it is asked.
    target: Option<Arc<Target>>,
}

impl Streams {
    pub(crate) fn new(upgrades: usize) -> Self {
        Self {
            all: Mutex::default(),
            upgrades,
        }
    }

    /// The token that ends this request's stream; none for a caller without a credential, unless it asks for an upgrade, which counts in any case.
    pub(crate) fn begin(
        &self,
        headers: &HeaderMap,
        caller: &Caller,
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
            vouched: caller.vouched.then(|| caller.name.as_str().into()),
            undecided: Arc::default(),
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
        let mut known: HashMap<HeaderValue, Result<Caller, Rejection>> = HashMap::new();
        for stream in open {
            let Some(ends) = stream.ends.upgrade() else {
                continue;
            };
            let Some(authorization) = stream.authorization else {
                continue;
            };
            let undecided = stream.undecided.load(Ordering::Relaxed);
            let rests = !round.is_multiple_of(PASSWORD_ROUNDS) && undecided == 0;
            if rests && is_password(&authorization) {
                continue;
            }
            let caller = match (&stream.vouched, known.get(&authorization)) {
                (Some(user), _) => callers.vouched_for(user),
                (None, Some(caller)) => caller.clone(),
                (None, None) => {
                    let caller = callers.authenticate(Some(&authorization)).await;
                    known.insert(authorization, caller.clone());
                    caller
                }
            };
            let may = match caller {
                Ok(caller) => stream
                    .target
                    .is_none_or(|target| callers.authorize(&caller, &target).is_ok()),
                Err(rejection) if rejection.undecided && undecided + 1 < MOST_UNDECIDED => {
                    stream.undecided.store(undecided + 1, Ordering::Relaxed);
                    continue;
                }
                Err(_) => false,
            };
            stream.undecided.store(0, Ordering::Relaxed);
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

/// As authentication reads the scheme: in any case.
fn is_password(authorization: &HeaderValue) -> bool {
    let text = authorization.to_str().unwrap_or_default().trim();
    let scheme = text.split(' ').next().unwrap_or_default();
    scheme.eq_ignore_ascii_case("basic")
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
    use std::net::IpAddr;

    use futures::future::BoxFuture;

    use super::*;
    use crate::callers::{GrantError, Profile, Tokens};

    /// Says of every credential what it was told to say, and counts how often it is asked.
    struct Says(Mutex<Result<(), bool>>, AtomicU32);

    impl Says {
        fn now(&self, word: Result<(), bool>) {
            *self.0.lock().unwrap() = word;
        }
    }

    impl Callers for Says {
        fn authenticate<'a>(
            &'a self,
            _: Option<&'a HeaderValue>,
        ) -> BoxFuture<'a, Result<Caller, Rejection>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            let word = *self.0.lock().unwrap();
            let said = word.map(|()| caller()).map_err(|undecided| Rejection {
                text: String::new(),
                bearer: true,
                undecided,
            });
            Box::pin(async { said })
        }

        fn vouched_for(&self, _: &str) -> Result<Caller, Rejection> {
            Ok(caller())
        }

        fn authorize(&self, _: &Caller, _: &Target) -> Result<(), String> {
            Ok(())
        }

        fn password<'a>(
            &'a self,
            _: &'a str,
            _: &'a str,
            _: Option<IpAddr>,
            _: Option<&'a str>,
        ) -> BoxFuture<'a, Result<Tokens, GrantError>> {
            Box::pin(async { Err(GrantError::Invalid(String::new())) })
        }

        fn refresh<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Tokens, GrantError>> {
            Box::pin(async { Err(GrantError::Invalid(String::new())) })
        }

        fn profile(&self, _: &str) -> Option<Profile> {
            None
        }

        fn revoke<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), String>> {
            Box::pin(async { Ok(()) })
        }
    }

    fn caller() -> Caller {
        Caller {
            name: "a".into(),
            groups: Vec::new(),
            anonymous: false,
            vouched: false,
        }
    }

    fn begin(streams: &Streams, authorization: &'static str) -> Arc<CancellationToken> {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_static(authorization);
        headers.insert(header::AUTHORIZATION, value);
        streams.begin(&headers, &caller(), None).unwrap().unwrap()
    }

    #[test]
    fn a_stream_is_forgotten_with_its_token_and_nobody_has_none() {
        let streams = Streams::new(9);
        let nobody = streams.begin(&HeaderMap::new(), &caller(), None);
        assert_eq!(nobody.map(drop), Ok(()));
        assert_eq!(streams.count(), 0);
        let ends = begin(&streams, "Bearer a");
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
        let streams = Streams::new(2);
        let (mut plain, mut upgrade) = (HeaderMap::new(), HeaderMap::new());
        upgrade.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        upgrade.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        plain.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        let first = streams.begin(&upgrade, &caller(), None).unwrap().unwrap();
        upgrade.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer b"));
        let _second = streams.begin(&upgrade, &caller(), None).unwrap().unwrap();
        assert_eq!(
            streams.begin(&upgrade, &caller(), None).map(drop),
            Err(TooMany)
        );
        let _watches: Vec<_> = (0..9)
            .map(|_| streams.begin(&plain, &caller(), None).unwrap().unwrap())
            .collect();
        drop(first);
        assert!(streams.begin(&upgrade, &caller(), None).is_ok());
    }

    #[tokio::test]
    async fn every_spelling_of_a_token_is_judged_in_every_round_and_passwords_seldom() {
        for (authorization, asked) in [
            ("Bearer a", 3),
            ("bearer a", 3),
            ("BEARER a", 3),
            (" bEaReR a", 3),
            ("Basic a", 0),
            ("basic a", 0),
        ] {
            let (streams, says) = (Streams::new(9), Says(Mutex::new(Ok(())), 0.into()));
            let ends = begin(&streams, authorization);
            for round in 1..=3 {
                streams.judge(&says, round).await;
            }
            assert_eq!(says.1.load(Ordering::Relaxed), asked, "{authorization}");
            says.now(Err(false));
            streams.judge(&says, PASSWORD_ROUNDS).await;
            assert!(ends.is_cancelled(), "{authorization}");
        }
    }

    #[tokio::test]
    async fn d6_only_a_verdict_ends_a_stream_at_once_and_none_at_all_in_the_end() {
        for authorization in ["Bearer a", "Basic a"] {
            let (streams, says) = (Streams::new(9), Says(Mutex::new(Err(true)), 0.into()));
            let ends = begin(&streams, authorization);
            // A queue that is full for a while.
            let mut round = PASSWORD_ROUNDS;
            for _ in 1..MOST_UNDECIDED {
                streams.judge(&says, round).await;
                round += 1;
            }
            assert!(!ends.is_cancelled(), "{authorization}");
            says.now(Ok(()));
            streams.judge(&says, round).await;
            // For longer than that.
            says.now(Err(true));
            round = 2 * PASSWORD_ROUNDS;
            for left in (0..MOST_UNDECIDED).rev() {
                streams.judge(&says, round).await;
                assert_eq!(ends.is_cancelled(), left == 0, "{authorization}");
                round += 1;
            }
        }
    }
}
