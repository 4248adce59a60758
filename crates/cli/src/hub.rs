//! Requests to the host's address.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::{Exit, Failure};
use crate::login::{self, Issued, Login};

/// Bytes of an answer that a command reads at most.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// The client that every installation knows.
const CLIENT: [(&str, &str); 2] = [("client_id", "kubesphere"), ("client_secret", "kubesphere")];
/// Named by the host on what a member refused, or on a member that cannot be reached.
pub const REFUSAL: &str = "x-kubeaihub-member-refusal";

/// The host, with or without a login.
pub struct Hub {
    address: String,
    client: kube::Client,
    /// For what takes longer than a question.
    patient: kube::Client,
}

/// What came back, whatever its status.
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The code in `X-KubeAIHub-Member-Refusal`.
    pub refusal: Option<String>,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The words of a refusal: the `message` of a Status, of an OAuth error, or the body itself.
    pub fn message(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let value: Option<Value> = serde_json::from_str(&text).ok();
        let field = |name: &str| Some(value.as_ref()?.get(name)?.as_str()?.to_owned());
        field("message")
            .or_else(|| field("error_description"))
            .or_else(|| field("error"))
            .unwrap_or_else(|| text.trim().chars().take(300).collect())
    }

    /// The message of the cause with this reason, where a refusal names it.
    pub fn cause(&self, reason: &str) -> Option<String> {
        let value: Value = serde_json::from_slice(&self.body).ok()?;
        let causes = value.pointer("/details/causes")?.as_array()?;
        let found = causes.iter().find(|cause| cause["reason"] == reason)?;
        Some(found.get("message")?.as_str()?.to_owned())
    }

    /// The JSON of a success; of a refusal `what` and its words, with what to do next.
    pub fn understood(&self, what: &str, next: &Next<'_>) -> Result<Value, Failure> {
        let value: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        if self.status.is_success() {
            return Ok(value);
        }
        let said = format!("{what}: {}", self.message());
        let cause = value.pointer("/details/causes/0/message");
        Err(match (self.status, cause.and_then(Value::as_str)) {
            (StatusCode::UNAUTHORIZED, _) => {
                Failure::new(said, "Log in again with `kah login ADDRESS --user NAME`.")
                    .exit(Exit::Login)
            }
            (StatusCode::NOT_FOUND, _) => {
                Failure::new(said, "See what there is with `kah cluster list`.")
            }
            (StatusCode::FORBIDDEN, _) => {
                Failure::new(said, "Ask an administrator of the host to run this.")
            }
            (_, Some(remedy)) if !remedy.is_empty() => {
                Failure::new(said, remedy.replace("CLUSTER", next.cluster))
            }
            (StatusCode::CONFLICT, _) => Failure::new(said, next.conflict),
            _ => Failure::new(said, next.otherwise),
        })
    }
}

/// What to do next where only the command knows.
pub struct Next<'a> {
    /// Stands for the word CLUSTER in the host's own remedy.
    pub cluster: &'a str,
    /// Where somebody else is at it, and the host says nothing more.
    pub conflict: &'a str,
    /// Where the host says nothing.
    pub otherwise: &'a str,
}

/// An address as a person writes it, made whole: a scheme, no trailing slash.
pub fn normal_address(address: &str) -> Result<String, Failure> {
    let with_scheme = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let next = "Give an address like http://127.0.0.1:30880.";
    let uri: http::Uri = with_scheme.parse().map_err(|error| {
        Failure::new(format!("{address} is no address"), next).because(Box::new(error) as Box<_>)
    })?;
    let scheme = uri.scheme_str().unwrap_or("");
    if !matches!(scheme, "http" | "https") || uri.host().is_none_or(str::is_empty) {
        return Err(Failure::new(
            format!("{address} is no address of http or https."),
            next,
        ));
    }
    Ok(with_scheme.trim_end_matches('/').to_owned())
}

impl Hub {
    /// A client for `address`, showing `token` if one is given.
    pub fn new(address: &str, token: Option<SecretString>) -> Result<Self, Failure> {
        let next = "Give an address like http://127.0.0.1:30880.";
        let uri: http::Uri = address.parse().map_err(|error: http::uri::InvalidUri| {
            Failure::new(format!("{address} is no address"), next).because(error)
        })?;
        let mut config = kube::Config::new(uri);
        config.auth_info.token = token;
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(Duration::from_secs(30));
        // A refusal is the answer that is wanted here, not something to try again.
        config.default_retry = false;
        let prepare = |config: kube::Config| {
            kube::Client::try_from(config).map_err(|error| {
                Failure::new(format!("prepare requests to {address}"), next).because(error)
            })
        };
        let client = prepare(config.clone())?;
        config.read_timeout = Some(Duration::from_secs(180));
        Ok(Hub {
            address: address.to_owned(),
            client,
            patient: prepare(config)?,
        })
    }

    /// The host of the stored login, its token renewed first if it is about to end.
    pub async fn of_login() -> Result<(Self, Login), Failure> {
        let path = login::path(|name| std::env::var(name).ok())?;
        let mut stored = login::load(&path)?;
        let now = jiff::Timestamp::now().as_second();
        if stored.is_stale(now)
            && let Some(refresh) = stored.refresh_token.as_deref()
        {
            let hub = Hub::new(&stored.address, None)?;
            let issued = hub
                .token(login::refresh_grant(refresh))
                .await
                .map_err(|error| {
                    // A host that is away says nothing about the login.
                    if error.code() != Exit::Login as u8 {
                        return error;
                    }
                    Failure::new(
                        format!("The login of {} has ended.", stored.user),
                        format!(
                            "Log in again with `kah login {} --user {}`.",
                            stored.address, stored.user
                        ),
                    )
                    .because(error)
                    .exit(Exit::Login)
                })?;
            stored = issued.into_login(&stored.address, &stored.user, now);
            login::store(&path, &stored)?;
        }
        Ok((Hub::new(&stored.address, Some(stored.token()))?, stored))
    }

    /// Asks the token endpoint.
    pub async fn token(&self, mut form: Vec<(&'static str, String)>) -> Result<Issued, Failure> {
        form.extend(CLIENT.map(|(name, value)| (name, value.to_owned())));
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .finish();
        let request = Request::post("/oauth/token")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::from(body.into_bytes()));
        let answer = self.send(request).await?;
        if answer.status != StatusCode::OK {
            let (next, refused) = match answer.status {
                StatusCode::TOO_MANY_REQUESTS => ("Wait ten minutes, then try again.", true),
                StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED => {
                    ("Check the user name and the password.", true)
                }
                status if status.is_server_error() => ("Try again in a moment.", false),
                _ => ("Check that the address is that of a Kube AI Hub.", true),
            };
            let (address, message) = (&self.address, answer.message());
            return Err(if refused {
                let what = format!("{address} refused the login: {message}");
                Failure::new(what, next).exit(Exit::Login)
            } else {
                Failure::new(
                    format!("{address} could not issue a token: {message}"),
                    next,
                )
            });
        }
        serde_json::from_slice(&answer.body).map_err(|error| {
            Failure::new(
                format!("{} gave no token", self.address),
                "Check that the address is that of a Kube AI Hub.",
            )
            .because(error)
        })
    }

    /// A GET, its answer as it is.
    pub async fn get(&self, path: &str) -> Result<Answer, Failure> {
        let request = Request::get(path)
            .header("accept", "application/json")
            .body(Body::empty());
        self.send(request).await
    }

    /// A POST of JSON that may take minutes, its answer as it is.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer, Failure> {
        let request = Request::post(path)
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .body(Body::from(body.to_string().into_bytes()));
        self.send_by(&self.patient, request).await
    }

    /// A PUT of JSON that may take minutes, its answer as it is.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Answer, Failure> {
        let request = Request::put(path)
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .body(Body::from(body.to_string().into_bytes()));
        self.send_by(&self.patient, request).await
    }

    /// A DELETE that may take minutes, its answer as it is.
    pub async fn delete(&self, path: &str) -> Result<Answer, Failure> {
        let request = Request::delete(path)
            .header("accept", "application/json")
            .body(Body::empty());
        self.send_by(&self.patient, request).await
    }

    /// A GET that must succeed.
    pub async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let answer = self.get(path).await?;
        let address = &self.address;
        if answer.status == StatusCode::UNAUTHORIZED && answer.refusal.is_none() {
            return Err(Failure::new(
                format!("{address} does not accept the login: {}", answer.message()),
                format!("Log in again with `kah login {address} --user NAME`."),
            )
            .exit(Exit::Login));
        }
        if !answer.status.is_success() {
            let next = if answer.status == StatusCode::NOT_FOUND {
                "See what there is with `kah cluster list`."
            } else {
                "Ask an administrator of the host, or look with `kah doctor`."
            };
            return Err(Failure::new(
                format!(
                    "{address}{path} answered {}: {}",
                    answer.status,
                    answer.message()
                ),
                next,
            ));
        }
        serde_json::from_slice(&answer.body).map_err(|error| {
            Failure::new(
                format!("understand the answer of {address}{path}"),
                "Check that the address is that of a Kube AI Hub.",
            )
            .because(error)
        })
    }

    async fn send(&self, request: http::Result<Request<Body>>) -> Result<Answer, Failure> {
        self.send_by(&self.client, request).await
    }

    async fn send_by(
        &self,
        client: &kube::Client,
        request: http::Result<Request<Body>>,
    ) -> Result<Answer, Failure> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Failure::new(
                format!("{} does not answer", self.address),
                "Check the address, and that the hub runs (`kah up` starts one on this machine).",
            )
            .because(error)
        };
        let request = request.map_err(|error| failed(error.into()))?;
        let (head, body) = client
            .send(request)
            .await
            .map_err(|error| failed(error.into()))?
            .into_parts();
        let body = Limited::new(body, MAX_ANSWER)
            .collect()
            .await
            .map_err(failed)?
            .to_bytes();
        let refusal = head.headers.get(REFUSAL);
        Ok(Answer {
            status: head.status,
            refusal: refusal.and_then(|value| Some(value.to_str().ok()?.to_owned())),
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_made_whole() {
        let table = [
            ("127.0.0.1:30880", Some("http://127.0.0.1:30880")),
            ("https://hub.example.org/", Some("https://hub.example.org")),
            ("ftp://hub", None),
            ("http://", None),
            ("a b", None),
        ];
        for (given, expected) in table {
            assert_eq!(normal_address(given).ok().as_deref(), expected, "{given}");
        }
    }

    #[test]
    fn messages_of_all_shapes() {
        let table = [
            (
                r#"{"kind":"Status","message":"Unauthorized: x"}"#,
                "Unauthorized: x",
            ),
            (
                r#"{"error":"invalid_grant","error_description":"incorrect password"}"#,
                "incorrect password",
            ),
            (
                r#"{"error":"unsupported_grant_type"}"#,
                "unsupported_grant_type",
            ),
            ("plain\n", "plain"),
        ];
        for (body, expected) in table {
            let answer = Answer {
                status: StatusCode::UNAUTHORIZED,
                refusal: None,
                body: Bytes::from_static(body.as_bytes()),
            };
            assert_eq!(answer.message(), expected);
        }
    }
}
