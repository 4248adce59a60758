//! Scripted callers: `Bearer NAME` is NAME, anything else is refused with the text that it brings.

use std::{net::IpAddr, sync::Mutex};

use futures::future::BoxFuture;
use http::HeaderValue;
use kah_api::path::Target;
use kah_gateway::{Caller, Callers, GrantError, Profile, Rejection, Tokens, is_open};

/// The password of `admin`.
pub const BASIC: &str = "Basic YWRtaW46UEA4OHcwcmQ=";

#[derive(Default)]
pub struct Script {
    pub revoked: Mutex<Vec<String>>,
    /// Whose credential has ended.
    pub ended: Mutex<Vec<String>>,
    /// Whose role was taken away.
    pub powerless: Mutex<Vec<String>>,
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, T> {
    Box::pin(async move { value })
}

impl Callers for Script {
    fn authenticate<'a>(
        &'a self,
        authorization: Option<&'a HeaderValue>,
    ) -> BoxFuture<'a, Result<Caller, Rejection>> {
        let reject = |text: &str, bearer| {
            Err(Rejection {
                text: text.to_owned(),
                bearer,
                undecided: false,
            })
        };
        let Some(value) = authorization else {
            return ready(Ok(Caller {
                name: "system:anonymous".into(),
                groups: vec!["system:unauthenticated".into()],
                anonymous: true,
                vouched: false,
            }));
        };
        let value = value.to_str().unwrap_or_default();
        if value == BASIC {
            return ready(Ok(Caller {
                name: "admin".into(),
                groups: vec!["system:authenticated".into()],
                anonymous: false,
                vouched: false,
            }));
        }
        ready(match value.strip_prefix("Bearer ") {
            Some("panic") => panic!("asked to"),
            Some(name) if self.ended.lock().unwrap().iter().any(|ended| ended == name) => {
                reject("token is expired", true)
            }
            Some(name @ ("admin" | "weak")) => Ok(Caller {
                name: name.into(),
                groups: vec!["system:authenticated".into()],
                anonymous: false,
                vouched: false,
            }),
            Some("forged") => reject("signature is invalid", true),
            Some("") | None => reject("%!s(<nil>)", false),
            Some(_) => reject("token not found in cache", true),
        })
    }

    fn vouched_for(&self, user: &str) -> Result<Caller, Rejection> {
        panic!("no host has vouched for {user}");
    }

    fn authorize(&self, caller: &Caller, target: &Target) -> Result<(), String> {
        let powerless = self.powerless.lock().unwrap().contains(&caller.name);
        if (caller.name == "admin" && !powerless) || is_open(&target.path) {
            Ok(())
        } else {
            Err(String::new())
        }
    }

    fn password<'a>(
        &'a self,
        user: &'a str,
        password: &'a str,
        _: Option<IpAddr>,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Tokens, GrantError>> {
        ready(match (user, password) {
            ("limited", _) => Err(GrantError::Limited("auth rate limit exceeded".into())),
            ("admin", "P@88w0rd") => Ok(Tokens {
                access: "a".into(),
                refresh: "r".into(),
                expires_in: Some(7200),
            }),
            ("endless", _) => Ok(Tokens {
                access: "a".into(),
                refresh: "r".into(),
                expires_in: None,
            }),
            _ => Err(GrantError::Invalid("incorrect password".into())),
        })
    }

    fn refresh<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Tokens, GrantError>> {
        ready(match token {
            "r" => Ok(Tokens {
                access: "a2".into(),
                refresh: "r2".into(),
                expires_in: Some(7200),
            }),
            _ => Err(GrantError::Invalid(
                "token contains an invalid number of segments".into(),
            )),
        })
    }

    fn profile(&self, user: &str) -> Option<Profile> {
        (user == "admin").then(|| Profile {
            email: "admin@kubesphere.io".into(),
            locale: String::new(),
        })
    }

    fn revoke<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<(), String>> {
        self.revoked.lock().unwrap().push(user.to_owned());
        ready(Ok(()))
    }
}
