//! Why a member refuses, or cannot be reached: the stable codes of lost-access.md.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The header by which the host names the cause beside an unchanged refusal (differences.md A2).
pub const MEMBER_REFUSAL_HEADER: &str = "X-KubeAIHub-Member-Refusal";

/// The cause of a refused restore: another one is at work.
pub const RESTORE_UNDER_WAY: &str = "RestoreUnderWay";
/// The cause of a refused join: somebody else joins the same cluster.
pub const JOIN_UNDER_WAY: &str = "JoinUnderWay";
/// The cause of a refused restore: what is to be done is no longer what was agreed to.
pub const PLAN_CHANGED: &str = "PlanChanged";
/// The cause of a refused restore: another authority signs what the member shows. Its message is the fingerprint of that one and nothing else.
pub const AUTHORITY_CHANGED: &str = "AuthorityChanged";

/// A cause of lost access. The names are an interface: they stand in conditions, events, metrics and
/// headers, and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)] // each code explains itself by `consequence`
pub enum AccessCode {
    TokenNotInCache,
    SignatureInvalid,
    ClockSkew,
    UserMissing,
    UserDisabled,
    MemberNotReady,
    MemberUnreachable,
    TLSUntrusted,
    TLSExpired,
    CredentialRejected,
    CredentialExpiring,
    NameNotResolved,
    RouteForbidden,
    ConfigUnreadable,
    VersionUnsupported,
    WrongRole,
    TrustUndecided,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// Works today; will stop working if nothing is done.
    Warning,
    /// Somebody, or everybody, has lost access.
    Error,
}

impl Severity {
    /// The word for people and for JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "Warning",
            Self::Error => "Error",
        }
    }
}

/// What to do about a cause: a sentence and commands to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// One sentence.
    pub text: &'static str,
    /// Commands in order, to be run with the kubeconfig of the cluster that they name in a comment.
    pub commands: &'static [&'static str],
}

/// Stands in a [`Remedy`] for the Cluster's name.
const PLACEHOLDER: &str = "CLUSTER";

impl Remedy {
    /// The sentence, for the Cluster of this name.
    #[must_use]
    pub fn text_for(&self, cluster: &str) -> String {
        self.text.replace(PLACEHOLDER, cluster)
    }

    /// The commands, for the Cluster of this name.
    #[must_use]
    pub fn commands_for(&self, cluster: &str) -> Vec<String> {
        let commands = self.commands.iter();
        commands
            .map(|command| command.replace(PLACEHOLDER, cluster))
            .collect()
    }
}

/// A text that is none of the codes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read an access code: {0:?} is not one")]
pub struct UnknownAccessCode(pub String);

const RESTART: &str = "kubectl -n kubesphere-system rollout restart deploy ks-apiserver";
const EDIT: &str = "kubectl -n kubesphere-system edit cm kubesphere-config -o yaml";
const SECRET: &str = "kubectl -n kubesphere-system get cm kubesphere-config -o yaml | grep -v \"apiVersion\" | grep jwtSecret";
const BRING: &str = "kah restore-access CLUSTER --kubeconfig FILE";
const AGE: &str = "kubectl -n kubesphere-system get cm kubesphere-config -o yaml | grep -v \"apiVersion\" | grep accessTokenMaxAge";

impl AccessCode {
    /// All codes, in the order of lost-access.md; those that came later follow.
    pub const ALL: [Self; 17] = [
        Self::TokenNotInCache,
        Self::SignatureInvalid,
        Self::ClockSkew,
        Self::UserMissing,
        Self::UserDisabled,
        Self::MemberNotReady,
        Self::MemberUnreachable,
        Self::TLSUntrusted,
        Self::TLSExpired,
        Self::CredentialRejected,
        Self::CredentialExpiring,
        Self::NameNotResolved,
        Self::RouteForbidden,
        Self::ConfigUnreadable,
        Self::VersionUnsupported,
        Self::WrongRole,
        Self::TrustUndecided,
    ];

    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenNotInCache => "TokenNotInCache",
            Self::SignatureInvalid => "SignatureInvalid",
            Self::ClockSkew => "ClockSkew",
            Self::UserMissing => "UserMissing",
            Self::UserDisabled => "UserDisabled",
            Self::MemberNotReady => "MemberNotReady",
            Self::MemberUnreachable => "MemberUnreachable",
            Self::TLSUntrusted => "TLSUntrusted",
            Self::TLSExpired => "TLSExpired",
            Self::CredentialRejected => "CredentialRejected",
            Self::CredentialExpiring => "CredentialExpiring",
            Self::NameNotResolved => "NameNotResolved",
            Self::RouteForbidden => "RouteForbidden",
            Self::ConfigUnreadable => "ConfigUnreadable",
            Self::VersionUnsupported => "VersionUnsupported",
            Self::WrongRole => "WrongRole",
            Self::TrustUndecided => "TrustUndecided",
        }
    }

    /// Only a credential that still works is less than an error.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::CredentialExpiring => Severity::Warning,
            _ => Severity::Error,
        }
    }

    /// What it means for people, in one sentence.
    #[must_use]
    pub fn consequence(self) -> &'static str {
        match self {
            Self::TokenNotInCache => {
                "The member looks tokens up in its own cache, so it refuses everyone who comes through the host."
            }
            Self::SignatureInvalid => {
                "The member checks tokens with another jwtSecret than the host signs with, so it refuses everyone who comes through the host."
            }
            Self::ClockSkew => {
                "The clocks of host and member differ by more than is allowed, so fresh tokens look expired or not yet issued."
            }
            Self::UserMissing => {
                "This user does not exist on the member, so the member refuses that user."
            }
            Self::UserDisabled => {
                "This user is disabled on the member, so the member refuses that user."
            }
            Self::MemberNotReady => {
                "The member's ks-apiserver is not ready, so nobody reaches the member through the host."
            }
            Self::MemberUnreachable => {
                "The host cannot connect to the member, so nobody reaches it through the host."
            }
            Self::TLSUntrusted => {
                "The member's certificate is not signed by the authority that the host knows for it, so the host does not talk to it."
            }
            Self::TLSExpired => {
                "A certificate of the member has expired, so the host does not talk to it."
            }
            Self::CredentialRejected => {
                "The member's kube-apiserver rejects the credential that the host stores for it, so nobody reaches the member through the host."
            }
            Self::CredentialExpiring => {
                "The credential that the host stores for the member expires soon; after that nobody reaches the member through the host."
            }
            Self::NameNotResolved => {
                "The member's address does not resolve, so nobody reaches it through the host."
            }
            Self::RouteForbidden => {
                "The credential that the host stores for the member may not use the service proxy to its ks-apiserver."
            }
            Self::ConfigUnreadable => {
                "The configuration of the member cannot be read, so its trust in the host cannot be checked."
            }
            Self::VersionUnsupported => "The member runs a version that the host does not support.",
            Self::WrongRole => "The member's configuration does not say that it is a member.",
            Self::TrustUndecided => {
                "How the member shall know callers is not decided, so nobody's token is sent to it, and nobody reaches it through the host."
            }
        }
    }

    /// What to do.
    #[must_use]
    pub fn remedy(self) -> Remedy {
        let (text, commands): (_, &'static [&'static str]) = match self {
            Self::TokenNotInCache => (
                "On the member, set authentication.oauthOptions.accessTokenMaxAge to 0 and restart ks-apiserver.",
                &[AGE, EDIT, RESTART],
            ),
            Self::SignatureInvalid => (
                "Compare authentication.jwtSecret on host and member, copy the host's value to the member and restart its ks-apiserver.",
                &[SECRET, EDIT, RESTART],
            ),
            Self::ClockSkew => (
                "Synchronise the clocks of the host's and the member's machines.",
                &["date -u"],
            ),
            Self::UserMissing => (
                "Synchronise the user to the member, or create it there.",
                &["kubectl get users.iam.kubesphere.io"],
            ),
            Self::UserDisabled => (
                "Enable the user on the host, and see that its state reaches the member.",
                &["kubectl get users.iam.kubesphere.io"],
            ),
            Self::MemberNotReady => (
                "On the member, look at the ks-apiserver Deployment and its Pods.",
                &[
                    "kubectl -n kubesphere-system get deploy,pods -l app=ks-apiserver",
                    "kubectl -n kubesphere-system logs deploy/ks-apiserver",
                ],
            ),
            Self::MemberUnreachable => (
                "Check that the member runs, and that the host reaches the address of its Cluster object; where it joins by an agent, that its Deployment kah-agent runs and reaches the host.",
                &[
                    "kubectl get clusters.cluster.kubesphere.io -o yaml",
                    "kubectl -n kubesphere-system logs deploy/kah-agent",
                ],
            ),
            Self::TLSUntrusted => (
                "Its certificate authority has changed: accept the new one by its fingerprint with `kah restore-access CLUSTER --accept-ca FINGERPRINT`, or give a current kubeconfig of the member with --kubeconfig FILE.",
                &["kah restore-access CLUSTER --accept-ca FINGERPRINT"],
            ),
            Self::TLSExpired => (
                "Renew the member's certificates; if its authority is another one then, give a current kubeconfig with `kah restore-access CLUSTER --kubeconfig FILE`.",
                &["kubeadm certs check-expiration", BRING],
            ),
            Self::CredentialRejected => (
                "Give a current kubeconfig of the member with `kah restore-access CLUSTER --kubeconfig FILE`.",
                &[BRING],
            ),
            Self::CredentialExpiring => (
                "Have the member issue another one with `kah restore-access CLUSTER`, or give a kubeconfig with a renewed credential with --kubeconfig FILE, before it expires.",
                &["kah restore-access CLUSTER"],
            ),
            Self::NameNotResolved => (
                "Correct the address in the Cluster object, or the name service that the host uses.",
                &["kubectl get clusters.cluster.kubesphere.io -o yaml"],
            ),
            Self::RouteForbidden => (
                "Give the stored credential the right to services/proxy in the namespace kubesphere-system of the member.",
                &["kubectl auth can-i get services/proxy -n kubesphere-system"],
            ),
            Self::ConfigUnreadable => (
                "On the member, see that the ConfigMap kubesphere-config has a key kubesphere.yaml that holds YAML.",
                &["kubectl -n kubesphere-system get cm kubesphere-config -o yaml"],
            ),
            Self::VersionUnsupported => (
                "Upgrade the member, or the host.",
                &["kah cluster show CLUSTER"],
            ),
            Self::WrongRole => (
                "On the member, set multicluster.clusterRole to member and restart ks-apiserver.",
                &[EDIT, RESTART],
            ),
            Self::TrustUndecided => (
                "A member that offers federated trust gets it by itself; send another one users' own tokens with `kah cluster trust CLUSTER shared-secret`, or let it leave.",
                &["kah cluster trust CLUSTER shared-secret"],
            ),
        };
        Remedy { text, commands }
    }

    /// The cause behind a member's reason for a 401: the text after `Unauthorized: `, or the same text as a
    /// log line shows it. `None` for texts that say nothing about the trust between host and member.
    #[must_use]
    pub fn from_reason(reason: &str) -> Option<Self> {
        let reason = reason.trim();
        if reason == "token not found in cache" {
            Some(Self::TokenNotInCache)
        } else if reason == "signature is invalid" || Self::is_about_keys(reason) {
            Some(Self::SignatureInvalid)
        } else if reason.starts_with("jwt: token is expired by ")
            || reason.starts_with("jwt: token used before issued")
            || reason == "jwt: token is not valid yet"
        {
            Some(Self::ClockSkew)
        } else if reason.starts_with("user.iam.kubesphere.io \"")
            && reason.ends_with("\" not found")
        {
            Some(Self::UserMissing)
        } else if reason == "account is not active" {
            Some(Self::UserDisabled)
        } else {
            None
        }
    }

    /// Whether a member's words say that it does not know the keys by which the host signs for it alone, or takes itself for another member.
    #[must_use]
    pub fn is_about_keys(words: &str) -> bool {
        [
            "token is signed with a key that is not trusted here",
            "signing method EdDSA is invalid",
            "jwt: token has a wrong iss",
            "jwt: token has a wrong aud",
        ]
        .iter()
        .any(|known| words.ends_with(known))
    }

    /// Whether words are those of a [`Stranger`](crate::cluster::Stranger): what answers is another cluster than the one that joined.
    #[must_use]
    pub fn is_about_identity(words: &str) -> bool {
        words.contains(crate::cluster::STRANGER)
    }

    /// The cause behind the message of a member's 401 Status, for example
    /// `Unauthorized: token not found in cache`. A bare `Unauthorized` comes from a kube-apiserver and means
    /// that it rejected the stored credential.
    #[must_use]
    pub fn from_unauthorized_message(message: &str) -> Option<Self> {
        let message = message.trim();
        if message == "Unauthorized" {
            return Some(Self::CredentialRejected);
        }
        Self::from_reason(message.strip_prefix("Unauthorized: ")?)
    }

    /// The cause that a line of a ks-apiserver's log shows, in either generation of lines
    /// (authentication.md §9). Only the places that log bearer rejections count, not any line that happens to
    /// hold the words.
    #[must_use]
    pub fn from_log_line(line: &str) -> Option<Self> {
        const PREFIXES: [&str; 2] = [
            "Unable to authenticate the request due to error: ",
            "jwt: failed to parse token: ",
        ];
        let (head, text) = line.split_once("] ")?;
        let place = head.rsplit(' ').next()?;
        let (file, number) = place.split_once(':')?;
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        if ![
            "token.go",
            "jwt_token.go",
            "authentication.go",
            "jwt.go",
            "issuer.go",
        ]
        .contains(&file)
        {
            return None;
        }
        let text = PREFIXES
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix))
            .unwrap_or(text);
        Self::from_reason(text)
    }
}

impl fmt::Display for AccessCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl FromStr for AccessCode {
    type Err = UnknownAccessCode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|code| code.as_str() == text)
            .ok_or_else(|| UnknownAccessCode(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for code in AccessCode::ALL {
            assert_eq!(code.as_str().parse(), Ok(code));
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{code}\""));
        }
        assert!("tokennotincache".parse::<AccessCode>().is_err());
    }

    #[test]
    fn a_remedy_names_the_cluster_and_what_cures() {
        for (code, command) in [
            (
                AccessCode::TLSUntrusted,
                "kah restore-access m --accept-ca FINGERPRINT",
            ),
            (
                AccessCode::CredentialRejected,
                "kah restore-access m --kubeconfig FILE",
            ),
            (AccessCode::CredentialExpiring, "kah restore-access m"),
            (
                AccessCode::TrustUndecided,
                "kah cluster trust m shared-secret",
            ),
        ] {
            let remedy = code.remedy();
            assert_eq!(remedy.commands_for("m"), [command], "{code}");
            let text = remedy.text_for("m");
            assert!(text.contains(&format!("`{command}`")), "{code}: {text}");
        }
        for code in AccessCode::ALL {
            let remedy = code.remedy();
            let all = remedy.text_for("m") + &remedy.commands_for("m").join(" ");
            assert!(!all.contains("NAME") && !all.contains(PLACEHOLDER), "{all}");
        }
    }

    #[test]
    fn messages_of_members_are_recognised() {
        let cases = [
            (
                "Unauthorized: token not found in cache",
                Some(AccessCode::TokenNotInCache),
            ),
            (
                "Unauthorized: signature is invalid",
                Some(AccessCode::SignatureInvalid),
            ),
            (
                "Unauthorized: jwt: token is expired by 1m30.562730594s",
                Some(AccessCode::ClockSkew),
            ),
            (
                "Unauthorized: jwt: token used before issued, iat:2026-11-23 21:35:04 +0000 UTC, now:x",
                Some(AccessCode::ClockSkew),
            ),
            (
                "Unauthorized: user.iam.kubesphere.io \"bob\" not found",
                Some(AccessCode::UserMissing),
            ),
            (
                "Unauthorized: account is not active",
                Some(AccessCode::UserDisabled),
            ),
            ("Unauthorized", Some(AccessCode::CredentialRejected)),
            ("Unauthorized: incorrect password", None),
            ("token not found in cache", None),
        ];
        for (message, code) in cases {
            assert_eq!(
                AccessCode::from_unauthorized_message(message),
                code,
                "{message}"
            );
        }
    }

    #[test]
    fn log_lines_of_both_generations_are_recognised() {
        let cases = [
            (
                "E0305 03:46:42.105625       1 token.go:65] token not found in cache",
                Some(AccessCode::TokenNotInCache),
            ),
            (
                "E0305 03:46:42.105725       1 jwt_token.go:45] token not found in cache",
                Some(AccessCode::TokenNotInCache),
            ),
            (
                "E0305 03:46:42.105759       1 authentication.go:60] Unable to authenticate the request due to error: token not found in cache",
                Some(AccessCode::TokenNotInCache),
            ),
            (
                "W1123 21:33:34.562400       1 jwt.go:53] token not found in cache",
                Some(AccessCode::TokenNotInCache),
            ),
            (
                "W1123 21:33:34.562400       1 issuer.go:182] jwt: failed to parse token: signature is invalid",
                Some(AccessCode::SignatureInvalid),
            ),
            (
                "W1123 21:33:34.562400       1 jwt.go:53] jwt: token is expired by 1m",
                Some(AccessCode::ClockSkew),
            ),
            (
                "W1123 21:33:34.562400       1 apiserver.go:667] token not found in cache",
                None,
            ),
            ("token not found in cache", None),
            ("", None),
        ];
        for (line, code) in cases {
            assert_eq!(AccessCode::from_log_line(line), code, "{line}");
        }
    }
}
