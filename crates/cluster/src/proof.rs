//! The credential by which the host itself asks whether a member lets people in: a token for one of its platform administrators, as their own
//! logins give them one, but short-lived. What is proven with it is what people experience.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use jiff::{SignedDuration, Timestamp};
use kah_api::{config::Configuration, iam::UserState, time::GoDuration};
use kah_iam::{Clock, GlobalRoles, Identity, TokenType, Tokens, Users};

use crate::CallerCredential;

/// How long a token of the host's own lives. Long enough that clocks which are a little apart do not look like lost access.
const LIFE: GoDuration = GoDuration::from_secs(300);
/// How long it is used.
const USED: SignedDuration = SignedDuration::from_secs(60);
/// Who is asked for, where that user is active and may do everything.
const PREFERRED: &str = "admin";

/// Why the host has nothing to prove access with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// It signs no tokens.
    #[error("prove access to a member: this process signs no tokens")]
    NoKey,
    /// Nobody could be proven for.
    #[error("prove access to a member: the host has no active user with the role platform-admin")]
    Nobody,
}

/// Makes the host's own credential. Clones share it.
#[derive(Clone)]
pub struct Prover(Arc<Inner>);

struct Inner {
    tokens: ArcSwapOption<Tokens>,
    users: Arc<Users>,
    roles: Arc<GlobalRoles>,
    clock: Arc<dyn Clock>,
    last: Mutex<Option<(String, Timestamp, CallerCredential)>>,
}

impl std::fmt::Debug for Prover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prover").finish_non_exhaustive()
    }
}

impl Prover {
    /// Signs as this configuration says, for one of these users.
    #[must_use]
    pub fn new(
        configuration: &Configuration,
        users: Arc<Users>,
        roles: Arc<GlobalRoles>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let prover = Self::without_key(users, roles, clock);
        prover.reload(configuration);
        prover
    }

    /// Signs nothing until [`Prover::reload`].
    #[must_use]
    pub fn without_key(users: Arc<Users>, roles: Arc<GlobalRoles>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            tokens: ArcSwapOption::empty(),
            users,
            roles,
            clock,
            last: Mutex::default(),
        }))
    }

    /// Signs as this configuration says from now on.
    pub fn reload(&self, configuration: &Configuration) {
        let authentication = &configuration.authentication;
        let tokens = Tokens::new(
            &authentication.jwt_secret,
            &authentication.oauth_options.issuer,
            false,
            authentication.maximum_clock_skew,
            Arc::clone(&self.0.clock),
        );
        self.0.tokens.store(Some(Arc::new(tokens)));
        *self.last() = None;
    }

    /// The users of the host.
    #[must_use]
    pub fn users(&self) -> &Arc<Users> {
        &self.0.users
    }

    /// A credential that a member has to accept if it accepts people who come through the host.
    ///
    /// # Errors
    /// [`ProofError`]
    pub fn proof(&self) -> Result<CallerCredential, ProofError> {
        if self.0.tokens.load().is_none() {
            return Err(ProofError::NoKey);
        }
        let name = self.somebody().ok_or(ProofError::Nobody)?;
        let now = self.0.clock.now();
        let mut last = self.last();
        if let Some((whose, since, proof)) = last.as_ref() {
            let age = now.duration_since(*since);
            if *whose == name && age >= SignedDuration::ZERO && age < USED {
                return Ok(proof.clone());
            }
        }
        let proof = self.proof_of(&name)?;
        *last = Some((name, now, proof.clone()));
        Ok(proof)
    }

    /// The same for a user who has just shown who they are in another way than by a token.
    ///
    /// # Errors
    /// [`ProofError::NoKey`]
    pub fn proof_of(&self, name: &str) -> Result<CallerCredential, ProofError> {
        let tokens = self.0.tokens.load_full().ok_or(ProofError::NoKey)?;
        let token = tokens.issue(name, TokenType::Access, &BTreeMap::new(), LIFE);
        let mut authorization =
            HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| ProofError::NoKey)?;
        authorization.set_sensitive(true);
        Ok(CallerCredential::User {
            name: name.to_owned(),
            authorization,
        })
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<(String, Timestamp, CallerCredential)>> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn somebody(&self) -> Option<String> {
        let is_fit = |name: &str| {
            let user = self.0.users.get(name)?;
            let identity = Identity {
                name: name.to_owned(),
                groups: user.spec.groups.clone(),
                ..Identity::default()
            };
            (user.state() == UserState::Active && self.0.roles.is_platform_admin(&identity))
                .then(|| name.to_owned())
        };
        is_fit(PREFERRED).or_else(|| self.0.users.names().iter().find_map(|name| is_fit(name)))
    }
}

#[cfg(test)]
mod tests {
    use kah_api::iam::{GlobalRoleBinding, PLATFORM_ADMIN, User, UserSpec, UserStatus};
    use kah_iam::SystemClock;

    use super::*;

    fn user(name: &str, state: &str) -> User {
        let mut user = User::new(name, UserSpec::default());
        user.status = Some(UserStatus {
            state: state.into(),
            ..UserStatus::default()
        });
        user
    }

    fn prover(users: Vec<User>, administrators: &[&str]) -> Prover {
        let (all, roles) = (Arc::new(Users::default()), Arc::new(GlobalRoles::default()));
        all.replace(users);
        roles.replace(
            administrators
                .iter()
                .map(|name| GlobalRoleBinding::for_user(name, name, PLATFORM_ADMIN))
                .collect(),
        );
        Prover::without_key(all, roles, Arc::new(SystemClock::default()))
    }

    fn configuration(secret: &str) -> Configuration {
        let text = format!("authentication:\n  jwtSecret: \"{secret}\"\n");
        Configuration::read(&text, &BTreeMap::new()).unwrap()
    }

    fn name(prover: &Prover) -> Result<String, ProofError> {
        match prover.proof()? {
            CallerCredential::User { name, .. } => Ok(name),
            CallerCredential::Anonymous => panic!("anonymous"),
        }
    }

    #[test]
    fn an_active_administrator_is_proven_for_and_admin_if_possible() {
        let active = |name| user(name, "Active");
        for (users, administrators, expected) in [
            (
                vec![active("abel"), active("admin")],
                vec!["abel", "admin"],
                Ok("admin"),
            ),
            (
                vec![active("abel"), active("admin")],
                vec!["abel"],
                Ok("abel"),
            ),
            (
                vec![active("zoe"), user("admin", "Disabled")],
                vec!["zoe", "admin"],
                Ok("zoe"),
            ),
            (
                vec![active("zoe"), user("admin", "")],
                vec!["admin"],
                Err(ProofError::Nobody),
            ),
            (vec![], vec!["admin"], Err(ProofError::Nobody)),
        ] {
            let prover = prover(users, &administrators);
            assert_eq!(name(&prover), Err(ProofError::NoKey));
            prover.reload(&configuration("secret"));
            assert_eq!(name(&prover), expected.map(str::to_owned));
        }
    }

    #[test]
    fn the_token_opens_what_the_secret_opens_and_ends_soon() {
        let prover = prover(vec![user("admin", "Active")], &["admin"]);
        let token = |secret: &str| {
            prover.reload(&configuration(secret));
            let CallerCredential::User { authorization, .. } = prover.proof().unwrap() else {
                panic!("anonymous")
            };
            assert!(authorization.is_sensitive());
            authorization.to_str().unwrap()["Bearer ".len()..].to_owned()
        };
        let verifies = |secret: &str, token: &str| {
            let configuration = configuration(secret);
            Tokens::new(
                &configuration.authentication.jwt_secret,
                "",
                false,
                GoDuration::from_secs(10),
                Arc::new(SystemClock::default()),
            )
            .verify(token, &[TokenType::Access])
        };
        let first = token("one");
        let claims = verifies("one", &first).unwrap();
        assert_eq!(claims.username, "admin");
        assert_eq!(claims.exp.unwrap() - claims.iat.unwrap(), 300);
        // A secret that changed while it runs.
        let second = token("two");
        assert!(verifies("one", &second).is_err() && verifies("two", &second).is_ok());
        assert!(!format!("{:?}", prover.proof()).contains(&second));
    }
}
