//! Callers as the room `iam` knows them: tokens, passwords, roles.

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use http::HeaderValue;
use kah_api::{config::Configuration, path::Target};
use kah_iam::{
    Authentication, AuthenticationError, Authorizer, Decision, GlobalRoles, Identity, Offer,
    TokenPair, authenticate::GrantError as Refused,
};

use crate::callers::{Caller, Callers, GrantError, Profile, Rejection, Tokens};

/// Answers the gateway's questions from users, roles and the token cache of this process.
pub struct Sessions {
    authentication: Authentication,
    authorizer: ArcSwap<Authorizer>,
    roles: Arc<GlobalRoles>,
}

impl Sessions {
    /// Over these, with the authorisation mode of the configuration.
    #[must_use]
    pub fn new(
        configuration: &Configuration,
        authentication: Authentication,
        roles: Arc<GlobalRoles>,
    ) -> Self {
        let authorizer = Authorizer::new(&configuration.authorization_mode, Arc::clone(&roles));
        Self {
            authentication,
            authorizer: ArcSwap::from_pointee(authorizer),
            roles,
        }
    }

    /// Takes over another configuration: tokens are judged by it from now on, and those that were given stay.
    pub fn reload(&self, configuration: &Configuration) {
        self.authentication.reload(configuration);
        let authorizer =
            Authorizer::new(&configuration.authorization_mode, Arc::clone(&self.roles));
        self.authorizer.store(Arc::new(authorizer));
    }
}

fn caller(identity: Identity) -> Caller {
    Caller {
        anonymous: identity.is_anonymous(),
        name: identity.name,
        groups: identity.groups,
        vouched: identity.vouched,
    }
}

fn rejection(error: &AuthenticationError) -> Rejection {
    Rejection {
        bearer: error.is_logged(),
        undecided: error.is_undecided(),
        text: error.to_string(),
    }
}

fn tokens(pair: TokenPair) -> Tokens {
    Tokens {
        access: pair.access,
        refresh: pair.refresh,
        expires_in: pair
            .expires_in
            .and_then(|seconds| u64::try_from(seconds).ok()),
    }
}

fn refused(error: Refused) -> GrantError {
    match error {
        Refused::Invalid(text) => GrantError::Invalid(text),
        Refused::Limited(text) => GrantError::Limited(text),
        Refused::Fault(text) => GrantError::Fault(text),
    }
}

impl Callers for Sessions {
    fn authenticate<'a>(
        &'a self,
        authorization: Option<&'a HeaderValue>,
    ) -> BoxFuture<'a, Result<Caller, Rejection>> {
        Box::pin(async move {
            // A value that is no text is no credential, but it is not the absence of one either.
            let text = authorization.map(|value| value.to_str().unwrap_or("?"));
            match self.authentication.authenticate(text).await {
                Ok(identity) => Ok(caller(identity)),
                Err(error) => Err(rejection(&error)),
            }
        })
    }

    fn vouched_for(&self, user: &str) -> Result<Caller, Rejection> {
        let identity = self.authentication.vouched_for(user);
        identity.map(caller).map_err(|error| rejection(&error))
    }

    fn authorize(&self, caller: &Caller, target: &Target) -> Result<(), String> {
        let identity = Identity {
            name: caller.name.clone(),
            groups: caller.groups.clone(),
            ..Identity::default()
        };
        match self.authorizer.load().authorize(&identity, target) {
            Decision::Allow => Ok(()),
            Decision::Refuse(reason) => Err(reason),
        }
    }

    fn password<'a>(
        &'a self,
        user: &'a str,
        password: &'a str,
        _client: Option<IpAddr>,
        _agent: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Tokens, GrantError>> {
        Box::pin(async move {
            let granted = self.authentication.password_grant(user, password).await;
            granted.map(|(pair, _name)| tokens(pair)).map_err(refused)
        })
    }

    fn refresh<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Tokens, GrantError>> {
        Box::pin(async move {
            self.authentication
                .refresh_grant(token)
                .await
                .map(tokens)
                .map_err(refused)
        })
    }

    fn profile(&self, user: &str) -> Option<Profile> {
        let user = self.authentication.user(user)?;
        Some(Profile {
            email: user.spec.email.clone(),
            locale: user.spec.lang.clone(),
        })
    }

    fn offer(&self) -> Option<Offer> {
        self.authentication.offer()
    }

    fn revoke<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            self.authentication
                .revoke_user(user)
                .await
                .map_err(|error| error.to_string())
        })
    }
}
