//! A caller's request on its way to a member.

use std::{error::Error, net::IpAddr, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header,
    uri::PathAndQuery,
};
use kah_api::cluster::Trust;
use kah_iam::federated::MintError;
use kah_net::{Address, Body, BoxError, Forward, Kind, ProxyError};
use tokio_util::sync::CancellationToken;

use crate::{
    AccessCode, Form, Member, Origin, Readiness, Route, SettingsError, code_of_answer,
    code_of_fault, code_of_unread,
    location::rewrite,
    peek::peek,
    target::{direct, is_plain, proxied},
};

/// Carries the [`AccessCode`] on every answer that is there because a member refused or could not be reached.
pub const REFUSAL_HEADER: HeaderName = HeaderName::from_static("x-kubeaihub-member-refusal");

/// The caller's identity, where a service proxy takes `Authorization` for itself.
const IDENTITY: HeaderName = HeaderName::from_static("x-kubesphere-authorization");
/// The query of an upgrade, which a kube-apiserver loses on a proxied request.
const RAW_QUERY: HeaderName = HeaderName::from_static("x-kubesphere-rawquery");

/// A kube-apiserver ends what is not meant to last after 60 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(65);

/// Who a request is sent for. There is no way to send one for nobody in particular: our own credential opens the way, it never acts.
#[derive(Clone)]
pub enum CallerCredential {
    /// Somebody whom the host knows.
    User {
        /// The name of the User.
        name: String,
        /// The value of `Authorization` by which the host knows them.
        authorization: HeaderValue,
    },
    /// The caller said nothing, and the path needs no role.
    Anonymous,
}

impl std::fmt::Debug for CallerCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User { name, .. } => write!(f, "User({name})"),
            Self::Anonymous => f.write_str("Anonymous"),
        }
    }
}

/// Where a request goes and for whom.
#[derive(Debug, Clone)]
pub struct Hop {
    /// Path and query in the member's terms: the cluster is cut away. Sent as it is, but for `dryRun` on a service proxy.
    pub target: PathAndQuery,
    /// How the client named the cluster.
    pub form: Form,
    /// Who asks.
    pub caller: CallerCredential,
    /// The client's address, for `X-Forwarded-For`.
    pub client: Option<IpAddr>,
    /// Whether the answer may be as long in coming as the caller waits: watches, followed logs, and other things without an end.
    pub long_running: bool,
    /// Ends what goes on when it is cancelled: the caller's credential or right has ended.
    pub ends: Option<Arc<CancellationToken>>,
}

/// The code of a relayed refusal, among the extensions of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberRefusal(pub AccessCode);

/// A request that got no answer from its member. The gateway renders it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// The member is known not to be ready.
    #[error("cluster {cluster} is not ready: {reason}")]
    NotReady {
        /// The Cluster's name.
        cluster: String,
        /// Why, where its condition says so.
        code: AccessCode,
        /// Reason and message of its condition.
        reason: String,
    },
    /// Its stored connection cannot be used.
    #[error("cluster {cluster} cannot be reached with its stored connection")]
    Settings {
        /// The Cluster's name.
        cluster: String,
        /// What is wrong with it.
        #[source]
        source: SettingsError,
    },
    /// No answer, or none that can be relayed.
    #[error("forward to cluster {cluster}")]
    Proxy {
        /// The Cluster's name.
        cluster: String,
        /// What went wrong.
        #[source]
        source: ProxyError,
    },
    /// The identity cannot be conveyed, so nothing was sent.
    #[error(
        "the caller's credential cannot be conveyed to cluster {cluster}: log in for a token, and send that"
    )]
    Identity {
        /// The Cluster's name.
        cluster: String,
    },
    /// The member knows callers by tokens of this host, and there is none to be had, so nothing was sent.
    #[error("no token can be minted for cluster {cluster}")]
    Unsigned {
        /// The Cluster's name.
        cluster: String,
        /// Why.
        #[source]
        source: MintError,
    },
    /// What answers is not the cluster that joined, so nothing was sent.
    #[error("cluster {cluster} is not asked: {reason}")]
    Stranger {
        /// The Cluster's name.
        cluster: String,
        /// What shows it, and what to do.
        reason: String,
    },
    /// It is not decided how the member knows callers, so nothing was sent.
    #[error(
        "cluster {cluster} is joining, and nobody's token is sent to it before trust is decided: it becomes federated as soon as it offers that; `kah cluster trust {cluster} shared-secret` decides otherwise"
    )]
    Undecided {
        /// The Cluster's name.
        cluster: String,
    },
    /// The path does not mean the same to everyone who reads it.
    #[error("the path cannot be forwarded to cluster {cluster}")]
    Path {
        /// The Cluster's name.
        cluster: String,
    },
    /// The member redirects to a place that is not its own.
    #[error("cluster {cluster} redirects away from itself")]
    Redirect {
        /// The Cluster's name.
        cluster: String,
    },
}

impl ForwardError {
    /// The cause's stable name, where the member or the way to it is at fault.
    #[must_use]
    pub fn code(&self) -> Option<AccessCode> {
        match self {
            Self::NotReady { code, .. } => Some(*code),
            Self::Settings { source, .. } => Some(source.code()),
            // What the host holds for the member cannot be used.
            Self::Unsigned { .. } => Some(AccessCode::ConfigUnreadable),
            // As where the other cluster itself refuses tokens because they are not meant for it.
            Self::Stranger { .. } => Some(AccessCode::SignatureInvalid),
            Self::Undecided { .. } => Some(AccessCode::TrustUndecided),
            Self::Proxy { source, .. } => code_of_fault(source.kind()),
            Self::Redirect { .. } => Some(AccessCode::VersionUnsupported),
            Self::Identity { .. } | Self::Path { .. } => None,
        }
    }

    /// The status that says it best (differences.md R9).
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotReady { .. }
            | Self::Settings { .. }
            | Self::Unsigned { .. }
            | Self::Stranger { .. }
            | Self::Undecided { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Proxy { source, .. } => match source.kind() {
                Kind::Request => StatusCode::BAD_REQUEST,
                Kind::Timeout | Kind::ConnectTimeout => StatusCode::GATEWAY_TIMEOUT,
                Kind::Settings | Kind::NotAllowed | Kind::Closed => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::BAD_GATEWAY,
            },
            Self::Identity { .. } => StatusCode::UNAUTHORIZED,
            Self::Path { .. } => StatusCode::BAD_REQUEST,
            Self::Redirect { .. } => StatusCode::BAD_GATEWAY,
        }
    }

    /// When to try again, where that may help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let again = match self {
            Self::NotReady { .. } | Self::Unsigned { .. } | Self::Undecided { .. } => true,
            Self::Proxy { source, .. } => source.kind().is_transient(),
            _ => false,
        };
        // Settings and certificates are repaired by people.
        match self.code()? {
            _ if again => Some(Duration::from_secs(5)),
            AccessCode::ConfigUnreadable
            | AccessCode::CredentialRejected
            | AccessCode::TLSUntrusted
            | AccessCode::TLSExpired => Some(Duration::from_secs(60)),
            _ => None,
        }
    }

    /// Everything that is known, from the outside in, for a message and as evidence.
    #[must_use]
    pub fn evidence(&self) -> String {
        with_causes(self)
    }
}

/// An error and its causes, from the outside in; a cause that the words before already end with is not told again.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let words = error.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = error.source();
    }
    text
}

impl Member {
    /// Sends a caller's request to this member, by its route, as this caller and nobody else.
    ///
    /// The answer streams. Its status and body are the member's, to the byte; where they say that the member refuses us or the caller's token, the
    /// answer carries [`REFUSAL_HEADER`] and the extension [`MemberRefusal`]. A redirect is not followed; its `Location` names the cluster again.
    ///
    /// # Errors
    /// [`ForwardError`] where there is no answer.
    pub async fn forward<B>(
        &self,
        request: Request<B>,
        hop: Hop,
    ) -> Result<Response<Body>, ForwardError>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        if self.undecided {
            let cluster = self.name.clone();
            return Err(ForwardError::Undecided { cluster });
        }
        if let Readiness::NotReady { reason, message } = &self.readiness
            && !self.proven.is_recent()
        {
            return Err(ForwardError::NotReady {
                cluster: self.name.clone(),
                code: reason.parse().unwrap_or(AccessCode::MemberNotReady),
                reason: if message.is_empty() { reason } else { message }.clone(),
            });
        }
        self.send(request, hop).await
    }

    /// As [`Member::forward`], also to a member that is said not to be ready: whether it is can only be found out by asking.
    pub(crate) async fn send<B>(
        &self,
        request: Request<B>,
        hop: Hop,
    ) -> Result<Response<Body>, ForwardError>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let cluster = || self.name.clone();
        let (route, address) = match &self.route {
            Ok((route, address)) => (route, address),
            Err(source) => {
                return Err(ForwardError::Settings {
                    cluster: cluster(),
                    source: source.clone(),
                });
            }
        };
        if !is_plain(hop.target.path()) {
            return Err(ForwardError::Path { cluster: cluster() });
        }
        let identity = match &hop.caller {
            CallerCredential::Anonymous => None,
            CallerCredential::User {
                name,
                authorization,
            } if is_credential(authorization) => Some(self.identity_of(name, authorization)?),
            CallerCredential::User { .. } => {
                return Err(ForwardError::Identity { cluster: cluster() });
            }
        };
        let upgrade = kah_net::is_upgrade(request.headers());
        let mut headers = HeaderMap::new();
        let (target, origin) = match route {
            Route::ServiceProxy(_) => {
                if let Some(identity) = identity {
                    headers.insert(IDENTITY, identity);
                }
                let (target, raw) = proxied(&hop.target);
                if let (true, Some(raw)) = (upgrade, raw) {
                    let raw = HeaderValue::try_from(raw)
                        .map_err(|_| ForwardError::Path { cluster: cluster() })?;
                    headers.insert(RAW_QUERY, raw);
                }
                (target, Origin::BehindKubeApiserver)
            }
            Route::Endpoint(_) | Route::Tunnel(_) => {
                if let Some(identity) = identity {
                    headers.insert(header::AUTHORIZATION, identity);
                }
                (direct(&hop.target), Origin::KsApiserver)
            }
        };
        let target = PathAndQuery::try_from(target)
            .map_err(|_| ForwardError::Path { cluster: cluster() })?;
        let forward = Forward {
            target,
            headers,
            client: hop.client,
            answer_within: Some((!hop.long_running).then_some(ANSWER_WITHIN)),
            ends: hop.ends.clone(),
        };
        let head = request.method() == Method::HEAD;
        let response = route
            .upstream()
            .send(request, forward)
            .await
            .map_err(|source| ForwardError::Proxy {
                cluster: cluster(),
                source,
            })?;
        self.relay(response, origin, address, &hop, head).await
    }

    /// What says to this member who asks: the caller's own token where both share a secret, one for this member alone where it trusts our keys.
    fn identity_of(
        &self,
        user: &str,
        authorization: &HeaderValue,
    ) -> Result<HeaderValue, ForwardError> {
        let cluster = || self.name.clone();
        let mut value = match self.trust {
            _ if self.undecided => return Err(ForwardError::Undecided { cluster: cluster() }),
            // A password opens more than this member, and for longer than any token.
            Trust::SharedSecret if !is_bearer(authorization) => {
                return Err(ForwardError::Identity { cluster: cluster() });
            }
            Trust::SharedSecret => authorization.clone(),
            Trust::Federated => {
                if let Some(reason) = &self.stranger {
                    return Err(ForwardError::Stranger {
                        cluster: self.name.clone(),
                        reason: reason.clone(),
                    });
                }
                let token = self.signer.mint(&self.identity, user).map_err(|source| {
                    ForwardError::Unsigned {
                        cluster: cluster(),
                        source,
                    }
                })?;
                HeaderValue::try_from(format!("Bearer {token}"))
                    .map_err(|_| ForwardError::Identity { cluster: cluster() })?
            }
        };
        value.set_sensitive(true);
        Ok(value)
    }

    async fn relay(
        &self,
        response: Response<Body>,
        origin: Origin,
        address: &Address,
        hop: &Hop,
        head: bool,
    ) -> Result<Response<Body>, ForwardError> {
        let (mut parts, body) = response.into_parts();
        // Only the host says these.
        let ours: Vec<HeaderName> = parts
            .headers
            .keys()
            .filter(|name| name.as_str().starts_with("x-kubeaihub-"))
            .cloned()
            .collect();
        for name in ours {
            parts.headers.remove(name);
        }
        crate::sandbox::disarm(&mut parts.headers);
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            let Some(value) = parts.headers.remove(&name) else {
                continue;
            };
            let rewritten = value
                .to_str()
                .ok()
                .and_then(|value| {
                    rewrite(value, hop.target.path(), address, hop.form, &self.name).ok()
                })
                .and_then(|value| HeaderValue::try_from(value).ok());
            match rewritten {
                Some(value) => {
                    parts.headers.insert(name, value);
                }
                None if name == header::LOCATION && parts.status.is_redirection() => {
                    return Err(ForwardError::Redirect {
                        cluster: self.name.clone(),
                    });
                }
                None => {}
            }
        }
        if !may_be_refusal(parts.status) {
            return Ok(Response::from_parts(parts, body));
        }
        let (code, body) = if head || parts.headers.contains_key(header::CONTENT_ENCODING) {
            let known = matches!(hop.caller, CallerCredential::User { .. });
            let code = known.then(|| code_of_unread(origin, parts.status, &parts.headers));
            (code.flatten(), body)
        } else {
            let (prefix, body) = peek(body).await;
            let code = code_of_answer(origin, parts.status, &parts.headers, &prefix);
            (code, body)
        };
        // A login that is refused, or tried too often, is nobody's lost access.
        let login =
            hop.target.path().starts_with("/oauth/") && matches!(parts.status.as_u16(), 401 | 429);
        if let Some(code) = code.filter(|_| !login) {
            if let Ok(value) = HeaderValue::try_from(code.to_string()) {
                parts.headers.insert(REFUSAL_HEADER, value);
            }
            parts.extensions.insert(MemberRefusal(code));
        }
        Ok(Response::from_parts(parts, body))
    }
}

fn is_bearer(value: &HeaderValue) -> bool {
    let value = value.to_str().unwrap_or_default();
    let scheme = value.trim_start().split(' ').next().unwrap_or_default();
    scheme.eq_ignore_ascii_case("bearer")
}

fn may_be_refusal(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        401 | 403 | 404 | 429 | 500 | 502 | 503 | 504
    )
}

/// A credential that says something: a scheme and what belongs to it. An empty one would leave ours as the only one.
fn is_credential(value: &HeaderValue) -> bool {
    value
        .to_str()
        .ok()
        .and_then(|value| value.trim().split_once(' '))
        .is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.trim().is_empty())
}
