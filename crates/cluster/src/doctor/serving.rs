//! The certificates that a member's servers show to the host: their end is told before it has come.

use std::time::Duration;

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use kah_net::{Upstream, Verify};

use super::Expiry;
use crate::{Member, Route};

/// What the words about any of them begin with.
pub(crate) const SERVING_CERTIFICATE: &str = "the serving certificate of";
pub(super) const KUBE_APISERVER: &str = "the serving certificate of its kube-apiserver";
const KS_APISERVER: &str = "the serving certificate of its ks-apiserver";
/// What was seen so long ago may have been renewed meanwhile, although the connections that were made then live on.
const LONG_AGO: Duration = Duration::from_secs(3600);
/// For one look.
const LOOK: Duration = Duration::from_millis(1500);

/// A certificate that a server of a member has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// Whose it is, and when it ends.
    pub expiry: Expiry,
    /// When it begins.
    pub begins: Timestamp,
    /// Whether the host talks to that server only as long as it is good.
    pub checked: bool,
}

impl Serving {
    fn read(what: &'static str, certificate: &[u8], checked: bool) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let validity = parsed.validity();
        Some(Self {
            expiry: Expiry {
                what,
                from: None,
                ends: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
            },
            begins: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
            checked,
        })
    }

    /// Whether somebody should look after it. What renews certificates does so while a third of their life is left: below a quarter it has not.
    #[must_use]
    pub fn is_soon(&self, now: Timestamp) -> bool {
        let life = self.expiry.ends.duration_since(self.begins);
        self.expiry.is_soon(now) && self.expiry.left(now) < life / 4
    }

    /// Whether it tells what callers may meet: one that has ended is met by all whose connections are not older, where it is checked at all.
    pub(super) fn matters(&self, now: Timestamp, accepted: bool) -> bool {
        self.expiry.left(now) > SignedDuration::ZERO || (accepted && self.checked)
    }
}

impl Member {
    /// What its servers showed at the newest handshakes. Behind a tunnel there are none: there the agent talks to them.
    #[must_use]
    pub fn serving(&self) -> Vec<Serving> {
        let read = |(what, upstream): (&'static str, &Upstream)| {
            let shown = upstream.shown()?;
            let checked = what != KUBE_APISERVER || self.checks_kubernetes();
            Serving::read(what, &shown.certificate, checked)
        };
        self.servers().into_iter().filter_map(read).collect()
    }

    /// Looks once more at those that a warning would be about, and at those that were seen long ago.
    pub(super) async fn look_at_serving(&self, now: Timestamp) {
        let is_due = |(what, upstream): &(&'static str, &Upstream)| {
            upstream.shown().is_some_and(|shown| {
                let serving = Serving::read(what, &shown.certificate, true);
                serving.is_some_and(|it| is_due(it.is_soon(now), shown.at.elapsed()))
            })
        };
        let due = self.servers().into_iter().filter(is_due);
        // Where there is no answer, what was seen stays.
        let looks = due.map(|(_, upstream)| tokio::time::timeout(LOOK, upstream.look_anew()));
        join_all(looks).await;
    }

    fn servers(&self) -> Vec<(&'static str, &Upstream)> {
        let kubernetes = self.kubernetes.as_ref().ok();
        let endpoint = match self.route() {
            Ok(Route::Endpoint(upstream)) => Some((KS_APISERVER, upstream)),
            _ => None,
        };
        let kubernetes = kubernetes.map(|upstream| (KUBE_APISERVER, upstream));
        kubernetes.into_iter().chain(endpoint).collect()
    }

    fn checks_kubernetes(&self) -> bool {
        let stored = self.stored();
        stored.is_ok_and(|(kubeconfig, _)| kubeconfig.tls.verify == Verify::Full)
    }
}

fn is_due(soon: bool, age: Duration) -> bool {
    soon || age > LONG_AGO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_renewed_in_time_by_itself_is_not_soon() {
        let day = |day: i64| Timestamp::from_second(day * 86_400).unwrap();
        for (life, left, soon) in [
            (365, 31, false),
            (365, 29, true),
            // cert-manager renews at a third.
            (90, 29, false),
            (90, 23, false),
            (90, 22, true),
            (1, 1, false),
            (3650, 29, true),
            (365, -1, true),
        ] {
            let serving = Serving {
                expiry: Expiry {
                    what: KS_APISERVER,
                    from: None,
                    ends: day(life),
                },
                begins: day(0),
                checked: true,
            };
            assert_eq!(serving.is_soon(day(life - left)), soon, "{life} {left}");
        }
    }

    #[test]
    fn a_warning_is_never_about_what_was_seen_before() {
        let minute = Duration::from_secs(60);
        for (soon, age, due) in [
            (true, Duration::ZERO, true),
            (false, minute * 59, false),
            (false, minute * 61, true),
        ] {
            assert_eq!(is_due(soon, age), due, "{soon} {age:?}");
        }
    }
}
