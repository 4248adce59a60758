//! Service-account tokens: signed JWTs (RFC 7519) bound to a ServiceAccount and, if asked, to a Pod.

use std::time::Duration;

use aws_lc_rs::digest;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::authority::AuthorityError;
use crate::identity::User;
use crate::status::{ApiError, FieldError};

/// Issuer of every token, and the audience of the API itself.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Life of a token for which no life was asked.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(60 * 60);
const SHORTEST_LIFE: i64 = 10 * 60;
const LONGEST_LIFE: i64 = 1 << 32;
/// A token longer than this is not looked at.
const LONGEST_TOKEN: usize = 16 * 1024;

/// The key pair of one cluster's tokens (ES256, RFC 7518 §3.4).
pub struct TokenKey {
    private_pem: String,
    public_pem: String,
    key_id: String,
    signing: EncodingKey,
    verifying: DecodingKey,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey")
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl TokenKey {
    pub(crate) fn generate() -> Result<Self, AuthorityError> {
        Self::new(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
    }

    pub(crate) fn from_pem(pem: &str) -> Result<Self, AuthorityError> {
        Self::new(&KeyPair::from_pem(pem)?)
    }

    fn new(pair: &KeyPair) -> Result<Self, AuthorityError> {
        let (private_pem, public_pem) = (pair.serialize_pem(), pair.public_key_pem());
        let signing =
            EncodingKey::from_ec_pem(private_pem.as_bytes()).map_err(AuthorityError::TokenKey)?;
        let verifying =
            DecodingKey::from_ec_pem(public_pem.as_bytes()).map_err(AuthorityError::TokenKey)?;
        let fingerprint = digest::digest(&digest::SHA256, &pair.subject_public_key_info());
        Ok(TokenKey {
            private_pem,
            public_pem,
            key_id: BASE64_URL_SAFE_NO_PAD.encode(fingerprint),
            signing,
            verifying,
        })
    }

    pub(crate) fn private_pem(&self) -> &str {
        &self.private_pem
    }

    /// The public half, PEM.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }
}

/// What the authenticator needs to know of stored objects.
pub trait Accounts: Send + Sync + 'static {
    /// `metadata.uid` of a stored object that is not gone; `resource` is `serviceaccounts`, `pods`,
    /// `secrets` or `nodes` (whose namespace is empty).
    fn uid(&self, resource: &str, namespace: &str, name: &str) -> Option<String>;
}

/// A named object with the uid it had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    iss: String,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: KubernetesClaims,
    nbf: i64,
    sub: String,
}

#[derive(Serialize, Deserialize)]
struct KubernetesClaims {
    namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Reference>,
    serviceaccount: Reference,
}

/// What a new token shall say.
pub struct TokenSpec<'a> {
    /// Namespace of the ServiceAccount.
    pub namespace: &'a str,
    /// The ServiceAccount.
    pub account: Reference,
    /// The Pod that the token ends with.
    pub pod: Option<Reference>,
    /// The Secret that the token ends with.
    pub secret: Option<Reference>,
    /// For whom; empty means the API itself.
    pub audiences: &'a [String],
    /// How long the token is good.
    pub life: Duration,
}

impl TokenKey {
    /// A new token. It is secret.
    pub fn issue(&self, spec: TokenSpec<'_>, now: Timestamp) -> Result<String, ApiError> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id.clone());
        header.typ = None;
        let seconds = i64::try_from(spec.life.as_secs()).unwrap_or(i64::MAX);
        let audiences = if spec.audiences.is_empty() {
            vec![ISSUER.to_owned()]
        } else {
            spec.audiences.to_vec()
        };
        let claims = Claims {
            aud: audiences,
            exp: now.as_second().saturating_add(seconds),
            iat: now.as_second(),
            iss: ISSUER.to_owned(),
            jti: uuid::Uuid::new_v4().to_string(),
            nbf: now.as_second(),
            sub: format!(
                "system:serviceaccount:{}:{}",
                spec.namespace, spec.account.name
            ),
            kubernetes: KubernetesClaims {
                namespace: spec.namespace.to_owned(),
                node: None,
                pod: spec.pod,
                secret: spec.secret,
                serviceaccount: spec.account,
            },
        };
        jsonwebtoken::encode(&header, &claims, &self.signing)
            .map_err(|_| ApiError::internal("failed to generate token"))
    }

    /// The user of a token and those of `audiences` it is for. `None`: not a token of this cluster, or
    /// no longer good; which of these is not told to the bearer.
    pub fn verify(
        &self,
        token: &str,
        audiences: &[String],
        accounts: &dyn Accounts,
        now: Timestamp,
    ) -> Option<(User, Vec<String>)> {
        if token.len() > LONGEST_TOKEN {
            return None;
        }
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        // Times are compared with the time given here, audiences with those asked for.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["exp", "iss", "sub", "aud"]);
        let claims: Claims = jsonwebtoken::decode(token, &self.verifying, &validation)
            .ok()?
            .claims;
        let now = now.as_second();
        if claims.exp <= now || claims.nbf > now {
            return None;
        }
        let shared: Vec<String> = audiences
            .iter()
            .filter(|audience| claims.aud.contains(audience))
            .cloned()
            .collect();
        if shared.is_empty() {
            return None;
        }
        let bound = &claims.kubernetes;
        let namespace = bound.namespace.as_str();
        let account = &bound.serviceaccount;
        if claims.sub != format!("system:serviceaccount:{namespace}:{}", account.name) {
            return None;
        }
        let lives = |resource: &str, namespace: &str, reference: &Reference| {
            accounts
                .uid(resource, namespace, &reference.name)
                .is_some_and(|uid| uid == reference.uid)
        };
        if !lives("serviceaccounts", namespace, account)
            || !bound.pod.iter().all(|pod| lives("pods", namespace, pod))
            || !bound
                .secret
                .iter()
                .all(|secret| lives("secrets", namespace, secret))
        {
            return None;
        }
        let mut extra = vec![(
            "authentication.kubernetes.io/credential-id".to_owned(),
            vec![format!("JTI={}", claims.jti)],
        )];
        if let Some(pod) = &bound.pod {
            extra.push((
                "authentication.kubernetes.io/pod-name".to_owned(),
                vec![pod.name.clone()],
            ));
            extra.push((
                "authentication.kubernetes.io/pod-uid".to_owned(),
                vec![pod.uid.clone()],
            ));
        }
        let user = User {
            name: claims.sub,
            uid: account.uid.clone(),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
            ],
            extra,
        };
        Some((user, shared))
    }
}

/// Answers a TokenRequest (`create` on `serviceaccounts/token`) for the stored `account`.
pub fn answer_token_request(
    key: &TokenKey,
    account: &Value,
    request: &Value,
    accounts: &dyn Accounts,
    now: Timestamp,
) -> Result<Value, ApiError> {
    let text = |value: &Value, path: &str| {
        value
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let namespace = text(account, "/metadata/namespace");
    let reference = Reference {
        name: text(account, "/metadata/name"),
        uid: text(account, "/metadata/uid"),
    };
    let audiences: Vec<String> = request
        .pointer("/spec/audiences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let default_life = i64::try_from(DEFAULT_LIFE.as_secs()).unwrap_or(i64::MAX);
    let life = request
        .pointer("/spec/expirationSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(default_life);
    let fault = |detail: &str| {
        let fault = FieldError {
            field: "spec.expirationSeconds".to_owned(),
            reason: "FieldValueInvalid",
            detail: format!("Invalid value: {life}: {detail}"),
        };
        ApiError::invalid("authentication.k8s.io", "TokenRequest", "", &[fault])
    };
    if life < SHORTEST_LIFE {
        return Err(fault("may not specify a duration less than 10 minutes"));
    }
    if life > LONGEST_LIFE {
        return Err(fault("may not specify a duration larger than 2^32 seconds"));
    }

    let (mut pod, mut secret) = (None, None);
    if let Some(bound) = request
        .pointer("/spec/boundObjectRef")
        .filter(|bound| !bound.is_null())
    {
        let (kind, name, uid) = (
            text(bound, "/kind"),
            text(bound, "/name"),
            text(bound, "/uid"),
        );
        let (resource, slot) = match kind.as_str() {
            "Pod" => ("pods", &mut pod),
            "Secret" => ("secrets", &mut secret),
            _ => {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token to object of type {}",
                    bound_type(&text(bound, "/apiVersion"), &kind)
                )));
            }
        };
        let stored = accounts
            .uid(resource, &namespace, &name)
            .ok_or_else(|| ApiError::not_found("", resource, &name))?;
        if !uid.is_empty() && uid != stored {
            return Err(ApiError::conflict(
                "",
                resource,
                &name,
                &format!(
                    "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
                ),
            ));
        }
        *slot = Some(Reference { name, uid: stored });
    }
    let seconds = u64::try_from(life).unwrap_or_default();
    let spec = TokenSpec {
        namespace: &namespace,
        account: reference.clone(),
        pod,
        secret,
        audiences: &audiences,
        life: Duration::from_secs(seconds),
    };
    let token = key.issue(spec, now)?;
    let end = Timestamp::from_second(now.as_second().saturating_add(life)).unwrap_or(now);
    let audiences = if audiences.is_empty() {
        json!([ISSUER])
    } else {
        json!(audiences)
    };
    Ok(json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": reference.name, "namespace": namespace,
            "creationTimestamp": Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()},
        "spec": {
            "audiences": audiences,
            "expirationSeconds": life,
            "boundObjectRef": request.pointer("/spec/boundObjectRef").cloned().unwrap_or(Value::Null),
        },
        "status": {"token": token, "expirationTimestamp": end.to_string()},
    }))
}

fn bound_type(api_version: &str, kind: &str) -> String {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    format!("{group}/{version}, Kind={kind}")
}
