//! Who moves a member's trust, and which way. It lies in the Cluster object, as the trust itself does, so that both change in one write.
//!
//! Moves of the same direction may go on side by side: each of their steps may be done twice. Opposite ones exclude each other, and nobody moves a member
//! while the host's keys are taken from it. Of movers side by side the last one holds the claim; who does not hold it makes nothing undone.

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use kah_api::cluster::Trust;
use kube::{
    api::PostParams,
    core::{DynamicObject, ObjectMeta},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{TrustError, failed};
use crate::{Host, host::clusters, retry::TRIES};

/// The annotation that says that somebody is at it.
pub(super) const CLAIM: &str = "hub.kubeaihub.io/trust-move";
/// The annotation that says when the last token of a trust that was given up has ended.
pub(super) const ENDS: &str = "hub.kubeaihub.io/trust-ends";
/// The annotation that says which trust the Cluster is to get as soon as that can be.
pub const WANTED: &str = "hub.kubeaihub.io/trust-wanted";
/// Who claims a member to take the host's keys from it.
pub(super) const WITHDRAWS: &str = "this host";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    to: Trust,
    by: String,
    /// A mover that was killed holds nobody up for longer.
    until: Timestamp,
    /// Tells movers apart that go the same way.
    #[serde(default)]
    nonce: String,
}

/// What a Cluster object says about trust.
pub(super) struct Terms<'a>(&'a mut DynamicObject);

impl Terms<'_> {
    pub(super) fn trust(&self) -> Trust {
        let trust = self.0.data.pointer("/spec/trust");
        trust
            .and_then(|trust| serde_json::from_value(trust.clone()).ok())
            .unwrap_or_default()
    }

    pub(super) fn set_trust(&mut self, trust: Trust) {
        if let Some(spec) = self
            .0
            .data
            .get_mut("spec")
            .and_then(|spec| spec.as_object_mut())
        {
            spec.insert("trust".into(), trust.as_str().into());
        }
    }

    pub(super) fn identity(&self) -> &str {
        let uid = self.0.data.pointer("/status/uid");
        uid.and_then(|uid| uid.as_str()).unwrap_or_default()
    }

    pub(super) fn set_identity(&mut self, uid: &str) {
        let data = &mut self.0.data;
        match data
            .get_mut("status")
            .and_then(|status| status.as_object_mut())
        {
            Some(status) => {
                status.insert("uid".into(), uid.into());
            }
            None => {
                if let Some(data) = data.as_object_mut() {
                    data.insert("status".into(), json!({"uid": uid}));
                }
            }
        }
    }

    fn claim(&self) -> Option<Claim> {
        let text = self.0.metadata.annotations.as_ref()?.get(CLAIM)?;
        serde_json::from_str(text).ok()
    }

    /// Whether a move to `trust` is under way and was not ended by anybody.
    pub(super) fn is_moving(&self, to: Trust) -> bool {
        self.claim().is_some_and(|claim| claim.to == to)
    }

    /// Whether the claim is this mover's.
    pub(super) fn is_held_by(&self, nonce: &str) -> bool {
        self.claim().is_some_and(|claim| claim.nonce == nonce)
    }

    /// Whether somebody else is at it.
    pub(super) fn is_claimed_beside(&self, nonce: &str, now: Timestamp) -> bool {
        self.refuse(now, |claim| claim.nonce != nonce).is_err()
    }

    /// Fails while a move of the other direction is under way.
    pub(super) fn refuse_opposite(&self, to: Trust, now: Timestamp) -> Result<(), TrustError> {
        self.refuse(now, |claim| claim.to != to)
    }

    fn refuse(&self, now: Timestamp, hinders: impl Fn(&Claim) -> bool) -> Result<(), TrustError> {
        match self.claim() {
            Some(claim) if now < claim.until && hinders(&claim) => Err(TrustError::Busy {
                by: claim.by,
                to: claim.to,
            }),
            _ => Ok(()),
        }
    }

    /// Claims the member for a move; fails while one of the other direction is under way, or somebody else takes the host's keys from the member.
    pub(super) fn begin(
        &mut self,
        to: Trust,
        by: &str,
        nonce: &str,
        now: Timestamp,
        within: SignedDuration,
    ) -> Result<(), TrustError> {
        self.refuse(now, |claim| {
            claim.nonce != nonce && (claim.to != to || claim.by == WITHDRAWS)
        })?;
        let claim = Claim {
            to,
            by: by.to_owned(),
            until: now.saturating_add(within).unwrap_or(now),
            nonce: nonce.to_owned(),
        };
        self.annotate(
            CLAIM,
            Some(serde_json::to_string(&claim).unwrap_or_default()),
        );
        Ok(())
    }

    pub(super) fn end(&mut self) {
        self.annotate(CLAIM, None);
    }

    /// When the last token of a trust that was given up has ended.
    pub(super) fn ends(&self) -> Option<Timestamp> {
        self.0
            .metadata
            .annotations
            .as_ref()?
            .get(ENDS)?
            .parse()
            .ok()
    }

    pub(super) fn set_ends(&mut self, ends: Option<Timestamp>) {
        self.annotate(ENDS, ends.map(|ends| ends.to_string()));
    }

    /// Whether people have not decided yet.
    pub(super) fn is_marked(&self) -> bool {
        super::is_marked(self.0)
    }

    /// Nothing is to be done about trust any more: it is as it should be, or people have decided.
    pub(super) fn settle(&mut self) {
        self.annotate(WANTED, None);
    }

    fn annotate(&mut self, name: &str, value: Option<String>) {
        let ObjectMeta { annotations, .. } = &mut self.0.metadata;
        match value {
            Some(value) => {
                annotations
                    .get_or_insert_default()
                    .insert(name.to_owned(), value);
            }
            None => {
                if let Some(annotations) = annotations {
                    annotations.remove(name);
                }
            }
        }
    }
}

/// Reads the Cluster, lets `change` change it, and writes it against the version that was read: of two at once one sees what the other did.
/// Written only where something changed.
pub(super) fn change<'a, T: Send + 'a>(
    host: &'a Host,
    cluster: &'a str,
    mut change: impl FnMut(&mut Terms<'_>) -> Result<T, TrustError> + Send + 'a,
) -> BoxFuture<'a, Result<T, TrustError>> {
    Box::pin(async move {
        let clusters = clusters(host.client.clone());
        let mut tries = 0;
        loop {
            let found = clusters
                .get_opt(cluster)
                .await
                .map_err(failed("read the Cluster"))?;
            let before = found.ok_or_else(|| TrustError::Unknown(cluster.to_owned()))?;
            let mut object = before.clone();
            let value = change(&mut Terms(&mut object))?;
            if object == before {
                return Ok(value);
            }
            match clusters
                .replace(cluster, &PostParams::default(), &object)
                .await
            {
                Ok(_) => return Ok(value),
                Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES => tries += 1,
                Err(error) => return Err(failed("write the Cluster")(error)),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "cluster.kubesphere.io/v1alpha1", "kind": "Cluster",
            "metadata": {"name": "m"}, "spec": {"connection": {}},
        }))
        .unwrap()
    }

    #[test]
    fn opposite_moves_exclude_each_other_for_a_while() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let second = SignedDuration::from_secs;
        let mut object = object();
        let mut terms = Terms(&mut object);
        assert_eq!(terms.trust(), Trust::SharedSecret);
        let (there, back) = (Trust::Federated, Trust::SharedSecret);
        terms.begin(there, "a", "1", now, second(30)).unwrap();
        terms.begin(there, "b", "2", now, second(30)).unwrap();
        assert!(terms.is_held_by("2") && !terms.is_held_by("1"));
        let busy = terms.begin(back, "c", "3", now, second(30));
        assert!(matches!(busy, Err(TrustError::Busy { by, .. }) if by == "b"));
        terms.refuse_opposite(there, now).unwrap();
        assert!(terms.refuse_opposite(back, now).is_err());
        let later = now + second(30);
        terms.refuse_opposite(back, later).unwrap();
        terms.begin(back, "c", "3", later, second(30)).unwrap();
        assert!(terms.is_moving(back) && !terms.is_moving(there));
        // What is taken away is let be by whoever goes the same way, too.
        terms.end();
        terms
            .begin(back, WITHDRAWS, "4", later, second(30))
            .unwrap();
        assert!(terms.begin(back, "c", "3", later, second(30)).is_err());
        terms
            .begin(back, WITHDRAWS, "4", later, second(30))
            .unwrap();
        terms.end();
        assert!(!terms.is_moving(back));
        terms.set_trust(Trust::Federated);
        terms.set_identity("u");
        terms.set_ends(Some(now));
        assert_eq!(
            (terms.trust(), terms.identity(), terms.ends()),
            (Trust::Federated, "u", Some(now))
        );
        // As earlier versions wrote it.
        let claim = json!({"to": "federated", "by": "a", "until": later.to_string()});
        terms.annotate(CLAIM, Some(claim.to_string()));
        assert!(terms.is_moving(there) && !terms.is_held_by("1"));
    }
}
