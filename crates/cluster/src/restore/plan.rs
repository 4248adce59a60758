//! What has to change on a member so that it accepts what the host signs. Nothing is sent from here.

use std::collections::BTreeMap;

use kah_api::config::{Configuration, edit};
use serde::{Deserialize, Serialize};

use crate::AccessCode;

use super::RestoreError;

/// The key that says that a cluster is a member.
pub(super) const ROLE_KEY: &str = "multicluster.clusterRole";
const ROLE: &[&str] = &["multicluster", "clusterRole"];
const SECRET: &[&str] = &["authentication", "jwtSecret"];
const AGE: &[&str] = &["authentication", "oauthOptions", "accessTokenMaxAge"];

/// One key of the member's `kubesphere.yaml`, before and after. Secrets are told by fingerprints that only this plan can compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The keys that lead to it, with dots.
    pub key: String,
    /// As it is.
    pub from: String,
    /// As it will be.
    pub to: String,
    /// The code of the refusal that the present value causes.
    pub code: AccessCode,
}

/// The changes, and the text that they make.
#[derive(Clone, PartialEq, Eq)]
pub struct Plan {
    /// What changes; empty where the configuration is as it should be.
    pub changes: Vec<Change>,
    /// The whole new text. It holds secrets.
    pub(crate) text: String,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("changes", &self.changes)
            .finish_non_exhaustive()
    }
}

/// Compares the configurations of host and member. `key` is made anew for each plan: it keys the fingerprints. Where `only` names keys, no other
/// changes.
///
/// # Errors
/// [`RestoreError::Configuration`] where one cannot be read, [`RestoreError::ActsAsHost`] where the member serves members of its own.
pub fn plan(
    host: &str,
    member: &str,
    key: &[u8],
    only: Option<&[String]>,
) -> Result<Plan, RestoreError> {
    let wanted = |path: &[&str]| {
        let path = path.join(".");
        only.is_none_or(|only| only.contains(&path))
    };
    let unreadable = |of: &'static str| {
        move |error: kah_api::config::ConfigError| RestoreError::Configuration {
            of,
            source: Box::new(error),
        }
    };
    let none = BTreeMap::new();
    let host = Configuration::read(host, &none).map_err(unreadable("the host"))?;
    let is = Configuration::read(member, &none).map_err(unreadable("the member"))?;
    if is.multicluster.enable && is.multicluster.cluster_role == "host" {
        return Err(RestoreError::ActsAsHost);
    }
    let mut plan = Plan {
        changes: Vec::new(),
        text: member.to_owned(),
    };
    if is.multicluster.cluster_role != "member" && wanted(ROLE) {
        let from = match is.multicluster.cluster_role.as_str() {
            "" => "not set".to_owned(),
            role => role.to_owned(),
        };
        plan.set(ROLE, "member", from, "member".into(), AccessCode::WrongRole)?;
    }
    let (right, found) = (
        &host.authentication.jwt_secret,
        &is.authentication.jwt_secret,
    );
    if right.is_empty() && wanted(SECRET) {
        return Err(RestoreError::NoSecret);
    }
    if right.expose() != found.expose() && wanted(SECRET) {
        let value = std::str::from_utf8(right.expose()).map_err(|_| RestoreError::NoSecret)?;
        let shown = |secret: &kah_api::config::JwtSecret| {
            if secret.is_empty() {
                "not set".to_owned()
            } else {
                format!("secret with fingerprint {}", secret.fingerprint(key))
            }
        };
        plan.set(
            SECRET,
            value,
            shown(found),
            shown(right),
            AccessCode::SignatureInvalid,
        )?;
    }
    let age = is.authentication.oauth_options.access_token_max_age;
    if !age.is_zero() && wanted(AGE) {
        plan.set(
            AGE,
            "0",
            age.to_string(),
            "0".into(),
            AccessCode::TokenNotInCache,
        )?;
    }
    Ok(plan)
}

impl Plan {
    fn set(
        &mut self,
        path: &[&str],
        value: &str,
        from: String,
        to: String,
        code: AccessCode,
    ) -> Result<(), RestoreError> {
        self.text =
            edit::set(&self.text, path, value).map_err(|error| RestoreError::Configuration {
                of: "the member",
                source: Box::new(error),
            })?;
        self.changes.push(Change {
            key: path.join("."),
            from,
            to,
            code,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "authentication:\n  jwtSecret: \"of the host\"\nmulticluster:\n  enable: true\n  clusterRole: host\n";

    fn member(secret: &str, age: &str, role: &str) -> String {
        format!(
            "# kept\nauthentication:\n  jwtSecret: \"{secret}\" # kept too\n  oauthOptions:\n    accessTokenMaxAge: {age}\nother: {{a: 1}}\nmulticluster:\n  enable: false\n  clusterRole: {role}\n"
        )
    }

    #[test]
    fn only_the_keys_at_fault_change() {
        let good = member("of the host", "0", "member");
        for (text, codes) in [
            (good.clone(), vec![]),
            (
                member("of the host", "2h", "member"),
                vec![AccessCode::TokenNotInCache],
            ),
            (
                member("another", "0", "member"),
                vec![AccessCode::SignatureInvalid],
            ),
            (
                member("of the host", "0", "none"),
                vec![AccessCode::WrongRole],
            ),
            (
                member("another", "2h", "none"),
                vec![
                    AccessCode::WrongRole,
                    AccessCode::SignatureInvalid,
                    AccessCode::TokenNotInCache,
                ],
            ),
        ] {
            let plan = plan(HOST, &text, b"key", None).unwrap();
            let found: Vec<AccessCode> = plan.changes.iter().map(|change| change.code).collect();
            assert_eq!(found, codes, "{text}");
            assert_eq!(plan.text, good);
        }
    }

    #[test]
    fn other_keys_than_those_asked_for_stay() {
        let broken = member("another", "2h", "none");
        let plan = plan(HOST, &broken, b"key", Some(&[ROLE_KEY.to_owned()])).unwrap();
        assert_eq!(plan.changes.len(), 1);
        assert_eq!(plan.text, member("another", "2h", "member"));
    }

    #[test]
    fn d1_a_plan_shows_no_secret() {
        let plan = plan(HOST, &member("another", "0", "member"), b"key", None).unwrap();
        let shown = format!("{plan:?} {}", serde_json::to_string(&plan.changes).unwrap());
        assert!(!shown.contains("of the host") && !shown.contains("another"));
        assert!(shown.contains("fingerprint"));
    }

    #[test]
    fn what_cannot_be_planned_is_said() {
        let host =
            "multicluster: {enable: true, clusterRole: host}\nauthentication: {jwtSecret: x}\n";
        assert!(matches!(
            plan(HOST, host, b"key", None),
            Err(RestoreError::ActsAsHost)
        ));
        assert!(matches!(
            plan(HOST, "a: [", b"key", None),
            Err(RestoreError::Configuration {
                of: "the member",
                ..
            })
        ));
        assert!(matches!(
            plan("{}", &member("a", "0", "member"), b"key", None),
            Err(RestoreError::NoSecret)
        ));
    }
}
