//! What to do about a cluster that cannot join: there is no Cluster object yet that anything could be stored in or repaired by.

use super::JoinError;
use crate::{
    AccessCode,
    doctor::{Finding, OLDEST},
    trust::TrustError,
};

impl JoinError {
    /// The cause, where it is one of those by which access is lost.
    #[must_use]
    pub fn code(&self) -> Option<AccessCode> {
        match self {
            Self::Unfit(finding) => Some(finding.code),
            Self::Trust(error) => error.code(),
            _ => None,
        }
    }

    /// What to do, where that is known. `cluster` is the name that it was to have.
    #[must_use]
    pub fn remedy(&self, cluster: &str) -> Option<String> {
        match self {
            Self::Unfit(finding) => Some(remedy(finding)),
            Self::Trust(error) => of_trust(error, cluster),
            Self::UnderWay { seconds } => Some(format!(
                "Try again in {seconds} s; what was cut off is finished then."
            )),
            Self::BrokenOff => {
                Some("Join it again: that finishes what was begun, or takes it back.".to_owned())
            }
            _ => None,
        }
    }
}

/// The remedies of [`TrustError`] are those of a member, for which there is a Cluster.
fn of_trust(error: &TrustError, name: &str) -> Option<String> {
    let text = match error {
        TrustError::NotOffered { .. } => {
            "Join it with --trust shared-secret, if it may see users' own tokens."
        }
        TrustError::Unasked { code: None, .. } => {
            "Try again; if it stays, look at its ks-apiserver, or decide with --trust."
        }
        TrustError::Other { .. } => {
            "In the cluster, see that the Service ks-apiserver in kubesphere-system leads to its own ks-apiserver."
        }
        TrustError::Foreign(_) => {
            "Do that, or join it with --force, which takes the place of the other host's words and puts them back where the join fails."
        }
        // It was told the host's keys just now: no secret that both know has a part in it.
        TrustError::NotAccepted {
            code: None | Some(AccessCode::SignatureInvalid),
            ..
        } => {
            "See in the log of the cluster's ks-apiserver why it did not take the host's keys, and that its multicluster.clusterRole is member; then join it again."
        }
        error => return Some(by_hand(name, error.code()?)),
    };
    Some(text.to_owned())
}

/// What to do about a finding, before the cluster has joined.
pub(super) fn remedy(finding: &Finding) -> String {
    let name = &finding.cluster;
    // It is not about the kubeconfig.
    if finding.code == AccessCode::CredentialExpiring && !finding.repairable {
        return finding.remedy.clone();
    }
    let by_hand = by_hand(name, finding.code);
    if finding.repairable {
        return format!(
            "Join it with --force and run `kah restore-access {name}`, or by hand: {by_hand}"
        );
    }
    by_hand
}

fn by_hand(name: &str, code: AccessCode) -> String {
    let (major, minor) = OLDEST;
    match code {
        AccessCode::TokenNotInCache => {
            "In the cluster, set authentication.oauthOptions.accessTokenMaxAge to 0 and restart ks-apiserver."
        }
        AccessCode::SignatureInvalid => {
            "Copy authentication.jwtSecret of the host to the cluster and restart its ks-apiserver, or join it with --trust federated if it offers that."
        }
        AccessCode::ClockSkew => "Synchronise the clocks of the host's and the cluster's machines.",
        AccessCode::UserMissing => "Create this user in the cluster.",
        AccessCode::UserDisabled => "Enable this user in the cluster.",
        AccessCode::MemberNotReady => {
            "See that its ks-apiserver runs, with `kubectl -n kubesphere-system get deploy,pods -l app=ks-apiserver` in the cluster."
        }
        AccessCode::MemberUnreachable => {
            return format!(
                "See that the cluster runs, and that the host reaches the address in the kubeconfig; a cluster that it cannot reach joins with `kah cluster join {name} --agent`."
            );
        }
        AccessCode::TLSUntrusted => {
            "Give a kubeconfig with the cluster's present certificate authority, and with an address that its certificate is for."
        }
        AccessCode::TLSExpired => {
            "Renew the cluster's certificates, and give a kubeconfig that has the authority behind them."
        }
        AccessCode::CredentialRejected => {
            "Give a kubeconfig that works: the cluster rejects the credential in this one."
        }
        AccessCode::CredentialExpiring => "Give a kubeconfig whose credential lasts longer.",
        AccessCode::NameNotResolved => {
            "Give a kubeconfig with an address that the host can resolve."
        }
        AccessCode::RouteForbidden => {
            "Give a kubeconfig of somebody who may use services/proxy in the namespace kubesphere-system."
        }
        AccessCode::ConfigUnreadable => {
            "In the cluster, see that the ConfigMap kubesphere-config has a key kubesphere.yaml that holds YAML, and that the kubeconfig may read it."
        }
        AccessCode::VersionUnsupported => {
            return format!(
                "Upgrade it to Kubernetes {major}.{minor} or newer, with a ks-apiserver of KubeSphere 3 or of Kube AI Hub."
            );
        }
        AccessCode::WrongRole => {
            "In the cluster, set multicluster.clusterRole to member and restart ks-apiserver."
        }
        AccessCode::TrustUndecided => {
            "Say how it is to know callers, with --trust federated or --trust shared-secret."
        }
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{SERVING_CERTIFICATE, finding};

    #[test]
    fn nobody_who_joins_a_cluster_is_sent_to_an_object_that_is_not_there() {
        for code in AccessCode::ALL {
            let finding = finding("m", code, "its words");
            let repairable = finding.repairable;
            let remedy = JoinError::Unfit(Box::new(finding)).remedy("m").unwrap();
            for word in ["Cluster object", "kah cluster show", "stored", "CLUSTER"] {
                assert!(!remedy.contains(word), "{code}: {remedy}");
            }
            // Only `--force` makes it a Cluster that can be restored.
            assert_eq!(remedy.contains("--force"), repairable, "{code}: {remedy}");
            assert_eq!(
                remedy.contains("kah restore-access"),
                repairable,
                "{code}: {remedy}"
            );
        }
        for (code, words) in [
            (
                AccessCode::CredentialRejected,
                "Give a kubeconfig that works",
            ),
            (AccessCode::VersionUnsupported, "Kubernetes 1.20 or newer"),
            (
                AccessCode::MemberUnreachable,
                "`kah cluster join m --agent`",
            ),
        ] {
            let remedy = remedy(&finding("m", code, ""));
            assert!(remedy.contains(words), "{code}: {remedy}");
        }
        let shown = format!("{SERVING_CERTIFICATE} its kube-apiserver ends soon");
        let remedy = remedy(&finding("m", AccessCode::CredentialExpiring, &shown));
        assert!(!remedy.contains("kubeconfig"), "{remedy}");
        assert_eq!(JoinError::Silent.remedy("m"), None);
    }

    #[test]
    fn what_trust_is_in_the_way_of_a_join_is_mended_before_there_is_a_cluster() {
        let evidence = || "its words".to_owned();
        let codes = AccessCode::ALL.into_iter().map(Some).chain([None]);
        let mut errors: Vec<TrustError> = codes
            .flat_map(|code| {
                let (cluster, words) = ("m".to_owned(), evidence());
                [
                    TrustError::NotAccepted {
                        code,
                        evidence: evidence(),
                    },
                    TrustError::Unasked {
                        cluster,
                        code,
                        evidence: words,
                    },
                ]
            })
            .collect();
        errors.extend([
            TrustError::NotOffered {
                cluster: "m".into(),
                evidence: evidence(),
            },
            TrustError::Other {
                cluster: "m".into(),
                found: "a".into(),
                known: "b".into(),
            },
            TrustError::Foreign("kubeaihub:another".into()),
        ]);
        for error in errors {
            let error = JoinError::Trust(Box::new(error));
            let remedy = error.remedy("m").unwrap();
            let said = format!("{} {remedy}", error.words());
            for word in [
                "restore-access",
                "kah doctor",
                "kah cluster trust",
                "kah cluster show",
                "Cluster object",
                "stored",
                "CLUSTER",
                "moved",
                "status.uid",
            ] {
                assert!(!said.contains(word), "{error:?}: {said}");
            }
        }
        let of = |error| JoinError::Trust(Box::new(error)).remedy("m");
        let refused = |code| {
            of(TrustError::NotAccepted {
                code: Some(code),
                evidence: evidence(),
            })
        };
        for (remedy, words) in [
            (of(TrustError::Foreign("x".into())), "--force"),
            (refused(AccessCode::SignatureInvalid), "keys"),
            (refused(AccessCode::TLSUntrusted), "Give a kubeconfig"),
            (refused(AccessCode::UserMissing), "Create this user"),
        ] {
            let remedy = remedy.unwrap();
            assert!(remedy.contains(words), "{remedy}");
        }
    }
}
