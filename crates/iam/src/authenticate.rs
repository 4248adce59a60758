//! Who is asking: the chain anonymous, Basic, Bearer of authentication.md §1 to §3, and the grants of oauth.md §3.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use base64::{Engine, prelude::BASE64_STANDARD};
use kah_api::{
    config::Configuration,
    iam::{User, UserState},
    time::GoDuration,
};

use crate::{
    cache::{CacheError, TokenCache},
    clock::Clock,
    federated::{HostTrust, Offer, is_federated},
    password::{Busy, Passwords},
    token::{Claims, TokenError, TokenType, Tokens},
    users::{RESERVED, Users},
};

/// Group of everyone who proved a name.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Name of a caller without credential.
pub const ANONYMOUS: &str = "system:anonymous";

/// Life of what a server with `accessTokenMaxAge: 0` issues itself: no token of ours is without an end
/// (differences.md S9).
const LIFETIME_WITHOUT_MAX_AGE: GoDuration = GoDuration::from_secs(2 * 60 * 60);

/// A caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User name.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Further facts.
    pub extra: BTreeMap<String, Vec<String>>,
    /// Whether a host vouched for this caller, by a token that is good for a moment: what was begun with it ends when the host says so.
    pub vouched: bool,
}

impl Identity {
    /// The caller without credential.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.into(),
            groups: vec!["system:unauthenticated".into()],
            extra: BTreeMap::new(),
            vouched: false,
        }
    }

    /// Whether it is that one.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }

    fn of(user: &User) -> Self {
        let name = user.metadata.name.clone().unwrap_or_default();
        let mut groups = user.spec.groups.clone();
        groups.retain(|group| !group.starts_with(RESERVED));
        groups.push(AUTHENTICATED.to_owned());
        Self {
            name,
            groups,
            extra: BTreeMap::new(),
            vouched: false,
        }
    }
}

/// Why a credential was refused. `Display` is what follows `Unauthorized: ` on the wire, and in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the texts say it
pub enum AuthenticationError {
    /// No part of the chain recognises the header.
    #[error("%!s(<nil>)")]
    Unrecognised,
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("token not found in cache")]
    NotInCache,
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("user.iam.kubesphere.io {0:?} not found")]
    UserMissing(String),
    /// The user of a token.
    #[error("account is not active")]
    Disabled,
    /// The user of a password.
    #[error("account is not active")]
    NotActive,
    #[error("auth rate limit exceeded")]
    RateLimited,
    #[error("incorrect password")]
    IncorrectPassword,
    #[error(transparent)]
    Busy(#[from] Busy),
}

impl AuthenticationError {
    /// Whether nothing was decided about the credential: the answer may be another one a moment later.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        matches!(self, Self::Cache(_) | Self::Busy(_))
    }

    /// Whether it was a bearer token, whose rejections people look for in the log (lost-access.md, fact 3).
    #[must_use]
    pub fn is_logged(&self) -> bool {
        matches!(
            self,
            Self::Token(_)
                | Self::NotInCache
                | Self::Cache(_)
                | Self::UserMissing(_)
                | Self::Disabled
        )
    }
}

/// Why no tokens were given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// The grant is not good: `invalid_grant` with this text.
    #[error("{0}")]
    Invalid(String),
    /// Too many tries.
    #[error("{0}")]
    Limited(String),
    /// Not the caller's fault.
    #[error("{0}")]
    Fault(String),
}

impl From<AuthenticationError> for GrantError {
    fn from(error: AuthenticationError) -> Self {
        match error {
            AuthenticationError::RateLimited => Self::Limited(error.to_string()),
            AuthenticationError::Cache(_) | AuthenticationError::Busy(_) => {
                Self::Fault(error.to_string())
            }
            _ => Self::Invalid(error.to_string()),
        }
    }
}

/// What a grant gives.
#[derive(Clone)]
pub struct TokenPair {
    /// Opens requests.
    pub access: String,
    /// Gives new ones.
    pub refresh: String,
    /// Seconds; absent when the access token has no end, which none of ours is.
    pub expires_in: Option<i64>,
}

struct Settings {
    tokens: Tokens,
    age: GoDuration,
    inactivity: GoDuration,
    multiple_login: bool,
    /// Whether a host may vouch for callers here; on a host it never may.
    may_trust: bool,
    skew: GoDuration,
}

/// Recognises callers and gives tokens.
pub struct Authentication {
    settings: ArcSwap<Settings>,
    cache: Arc<dyn TokenCache>,
    users: Arc<Users>,
    passwords: Passwords,
    clock: Arc<dyn Clock>,
    trust: Option<Arc<HostTrust>>,
}

impl Authentication {
    /// With a configuration that was validated.
    #[must_use]
    pub fn new(
        configuration: &Configuration,
        cache: Arc<dyn TokenCache>,
        users: Arc<Users>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let settings = ArcSwap::from_pointee(settings(configuration, &clock));
        Self {
            settings,
            cache,
            users,
            passwords: Passwords::new(2, 64),
            clock,
            trust: None,
        }
    }

    /// Accepts tokens that a host minted for this cluster too, as long as the configuration does not make this server a host.
    #[must_use]
    pub fn trusting(mut self, trust: Arc<HostTrust>) -> Self {
        self.trust = Some(trust);
        self
    }

    /// What is said about the trust in a host; `None` where a host can never vouch for callers.
    #[must_use]
    pub fn offer(&self) -> Option<Offer> {
        let trust = self.trust.as_ref();
        trust
            .filter(|_| self.settings.load().may_trust)
            .map(|trust| trust.offer())
    }

    /// Takes over another configuration; sessions stay.
    pub fn reload(&self, configuration: &Configuration) {
        self.settings
            .store(Arc::new(settings(configuration, &self.clock)));
    }

    /// Who sends this `Authorization` header.
    ///
    /// # Errors
    /// [`AuthenticationError`].
    pub async fn authenticate(
        &self,
        header: Option<&str>,
    ) -> Result<Identity, AuthenticationError> {
        let header = header.unwrap_or_default().trim();
        if header.is_empty() {
            return Ok(Identity::anonymous());
        }
        if let Some((login, password)) = basic(header) {
            return Ok(Identity::of(&*self.password(&login, &password).await?));
        }
        let mut words = header.split(' ');
        match (words.next(), words.next()) {
            (Some(scheme), Some(token))
                if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() =>
            {
                self.bearer(token).await
            }
            _ => Err(AuthenticationError::Unrecognised),
        }
    }

    async fn bearer(&self, token: &str) -> Result<Identity, AuthenticationError> {
        if let Some(user) = self.vouched(token)? {
            return self.vouched_for(&user);
        }
        let kinds = [TokenType::Access, TokenType::Static];
        let claims = self.verified(token, &kinds).await?;
        Ok(Identity::of(&*self.user_of(&claims.username)?))
    }

    /// Who a caller is by now for whom a host has vouched: the user must still exist and not be disabled. The token was for the request that began it,
    /// so neither its end nor that of its key counts; the host sees to the caller's own credential.
    ///
    /// # Errors
    /// [`AuthenticationError`].
    pub fn vouched_for(&self, user: &str) -> Result<Identity, AuthenticationError> {
        Ok(Identity {
            vouched: true,
            ..Identity::of(&*self.user_of(user)?)
        })
    }

    /// The user that a trusted host names. No cache is asked: such a token is for this cluster alone and ends by itself.
    fn vouched(&self, token: &str) -> Result<Option<String>, TokenError> {
        let settings = self.settings.load();
        let trust = self.trust.as_ref().filter(|_| settings.may_trust);
        match trust.and_then(|trust| trust.get()) {
            Some(trusted) if is_federated(token) => {
                trusted.verify(token, settings.skew, &*self.clock).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// What the token says, if it is of one of these types and has not been revoked.
    async fn verified(
        &self,
        token: &str,
        types: &[TokenType],
    ) -> Result<Claims, AuthenticationError> {
        let settings = self.settings.load_full();
        let claims = settings.tokens.verify(token, types)?;
        let asked = !settings.age.is_zero() && claims.token_type != TokenType::Static.as_str();
        if asked && !self.cache.contains(&claims.username, token).await? {
            return Err(AuthenticationError::NotInCache);
        }
        Ok(claims)
    }

    /// The user that a token was made for must exist and not be disabled. Any other state goes on.
    fn user_of(&self, name: &str) -> Result<Arc<User>, AuthenticationError> {
        let Some(user) = self.users.get(name) else {
            return Err(AuthenticationError::UserMissing(name.to_owned()));
        };
        if user.state() == UserState::Disabled {
            return Err(AuthenticationError::Disabled);
        }
        Ok(user)
    }

    async fn password(
        &self,
        login: &str,
        password: &str,
    ) -> Result<Arc<User>, AuthenticationError> {
        if login.is_empty() || password.is_empty() {
            return Err(AuthenticationError::IncorrectPassword);
        }
        let found = self.users.find(login);
        match found.as_ref().map(|user| user.state()) {
            Some(UserState::AuthLimitExceeded) => return Err(AuthenticationError::RateLimited),
            Some(UserState::Disabled | UserState::Pending) => {
                return Err(AuthenticationError::NotActive);
            }
            Some(UserState::Active) | None => {}
        }
        let hash = found
            .as_ref()
            .map(|user| user.spec.encrypted_password.as_str())
            .filter(|hash| !hash.is_empty());
        let same = self.passwords.matches(password, hash).await?;
        found
            .filter(|_| same)
            .ok_or(AuthenticationError::IncorrectPassword)
    }

    /// The password grant; `login` is a name or an e-mail address. Also gives the user's name.
    ///
    /// # Errors
    /// [`GrantError`].
    pub async fn password_grant(
        &self,
        login: &str,
        password: &str,
    ) -> Result<(TokenPair, String), GrantError> {
        let user = self.password(login, password).await?;
        let name = user.metadata.name.clone().unwrap_or_default();
        let mut extra = BTreeMap::new();
        if let Some(value) = user.uninitialized() {
            extra.insert("uninitialized".to_owned(), vec![value.to_owned()]);
        }
        Ok((self.issue(&name, &extra).await?, name))
    }

    /// The refresh grant. The old token stays good with `multipleLogin`, else all earlier ones are revoked.
    ///
    /// # Errors
    /// [`GrantError`].
    pub async fn refresh_grant(&self, token: &str) -> Result<TokenPair, GrantError> {
        let claims = self.verified(token, &[TokenType::Refresh]).await?;
        self.user_of(&claims.username)?;
        self.issue(&claims.username, &claims.extra).await
    }

    async fn issue(
        &self,
        user: &str,
        extra: &BTreeMap<String, Vec<String>>,
    ) -> Result<TokenPair, GrantError> {
        let settings = self.settings.load_full();
        let fault = |error: CacheError| GrantError::Fault(error.to_string());
        if !settings.multiple_login {
            self.cache.revoke_user(user).await.map_err(fault)?;
        }
        let cached = !settings.age.is_zero();
        let life = if cached {
            settings.age
        } else {
            LIFETIME_WITHOUT_MAX_AGE
        };
        let refresh_life = GoDuration(life.0.saturating_add(settings.inactivity.0));
        let make = |kind, life| settings.tokens.issue(user, kind, extra, life);
        let access = make(TokenType::Access, life);
        let refresh = make(TokenType::Refresh, refresh_life);
        if cached {
            for (token, life) in [(&access, life), (&refresh, refresh_life)] {
                self.cache.insert(user, token, life).await.map_err(fault)?;
            }
        }
        Ok(TokenPair {
            access,
            refresh,
            expires_in: Some(life.as_secs()),
        })
    }

    /// Ends all sessions of a user.
    ///
    /// # Errors
    /// [`CacheError`].
    pub async fn revoke_user(&self, user: &str) -> Result<(), CacheError> {
        self.cache.revoke_user(user).await
    }

    /// The User object of a name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<Arc<User>> {
        self.users.get(name)
    }
}

fn settings(configuration: &Configuration, clock: &Arc<dyn Clock>) -> Settings {
    let authentication = &configuration.authentication;
    let oauth = &authentication.oauth_options;
    Settings {
        tokens: Tokens::new(
            &authentication.jwt_secret,
            &oauth.issuer,
            !may_stand_behind_a_host(configuration),
            authentication.maximum_clock_skew,
            Arc::clone(clock),
        ),
        age: oauth.access_token_max_age,
        inactivity: oauth.access_token_inactivity_timeout,
        multiple_login: authentication.multiple_login,
        may_trust: may_stand_behind_a_host(configuration),
        skew: authentication.maximum_clock_skew,
    }
}

/// A member shares its host's secret without knowing its issuer. A server whose role nobody wrote down may be one.
fn may_stand_behind_a_host(configuration: &Configuration) -> bool {
    let multicluster = &configuration.multicluster;
    !multicluster.enable && matches!(multicluster.cluster_role.as_str(), "member" | "")
}

fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
    let (login, password) = text.split_once(':')?;
    Some((login.to_owned(), password.to_owned()))
}
