//! The authority behind a member's certificate, where it is not the one that the host knows: told by fingerprints, never believed.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use http::{Request, uri::PathAndQuery};
use k8s_openapi::api::core::v1::ConfigMap;
use kah_api::seed;
use kah_net::{Forward, Kind, Limits, TlsSettings, Upstream, UpstreamSettings, Verify};
use serde_json::Value;
use x509_parser::pem::Pem;

use super::RestoreError;
use crate::{Kubeconfig, Member, fault_of, peek::peek};

/// For one question to somebody whom we do not trust.
const ANSWER: Duration = Duration::from_secs(3);
/// The ConfigMap in each namespace by which a cluster tells its own authority to its Pods.
const OWN: &str = "kube-root-ca.crt";
/// Where a cluster tells its own authority: to everybody if kubeadm made it, and to those who may read any namespace.
const TOLD: [(&str, &str); 2] = [
    (
        "/api/v1/namespaces/kube-public/configmaps/cluster-info",
        "kubeconfig",
    ),
    (
        "/api/v1/namespaces/kube-system/configmaps/kube-root-ca.crt",
        "ca.crt",
    ),
];

/// An authority.
pub(super) struct Authority {
    /// Its certificate, PEM.
    pub(super) pem: String,
    /// SHA-256 of the certificate, as openssl writes it.
    pub(super) fingerprint: String,
}

impl Authority {
    fn new(der: &[u8]) -> Self {
        let hash = digest(&SHA256, der);
        let pairs: Vec<String> = hash
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect();
        Self {
            pem: pem(der),
            fingerprint: pairs.join(":"),
        }
    }

    /// Whether somebody has given this fingerprint, in whatever form.
    pub(super) fn is(&self, given: &str) -> bool {
        let given = given.rsplit('=').next().unwrap_or(given);
        let given = given
            .trim()
            .strip_prefix("SHA256:")
            .or_else(|| given.trim().strip_prefix("sha256:"))
            .unwrap_or(given.trim());
        let plain = |text: &str| text.replace(':', "").to_lowercase();
        plain(given) == plain(&self.fingerprint)
    }
}

fn pem(der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, next) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = next;
    }
    pem + "-----END CERTIFICATE-----\n"
}

/// The authority that a kubeconfig names, by its fingerprint.
pub(super) fn known(kubeconfig: &Kubeconfig) -> String {
    match &kubeconfig.tls.roots {
        kah_net::Roots::Platform => "those of the system".into(),
        kah_net::Roots::Pem(pem) => certificates(pem)
            .first()
            .map_or_else(|| "none".into(), |der| Authority::new(der).fingerprint),
    }
}

/// What signs the certificate that the member's kube-apiserver shows now.
pub(super) async fn shown(member: &Member) -> Result<Authority, RestoreError> {
    let unknown = |evidence: String| RestoreError::AuthorityUnknown { evidence };
    let (kubeconfig, address) = member.stored().map_err(RestoreError::Settings)?;
    let name = kubeconfig.tls.server_name.as_deref();
    let chain = kah_net::shown_certificates(&address, name, Limits::default(), member.allow());
    let chain = tokio::time::timeout(ANSWER, chain)
        .await
        .map_err(|_| unknown("it did not answer in time".into()))?
        .map_err(|error| unknown(error.root_cause()))?;
    // Of those that it shows the last, if it signed itself, and otherwise one that the cluster tells and that bears the name of the signer.
    let last = chain
        .last()
        .ok_or_else(|| unknown("it shows no certificate".into()))?;
    let (subject, issuer) =
        names(last).ok_or_else(|| unknown("its certificate cannot be read".into()))?;
    if subject == issuer {
        return Ok(Authority::new(last));
    }
    let settings = UpstreamSettings {
        // A client certificate gives nothing away to whoever sees it; a token would, so none is sent.
        tls: TlsSettings {
            verify: Verify::Nothing,
            ..kubeconfig.tls.clone()
        },
        allow: member.allow(),
        ..UpstreamSettings::new(address)
    };
    let upstream = Upstream::new(settings).map_err(|error| unknown(error.root_cause()))?;
    let mut found = None;
    for (path, key) in TOLD {
        let told = tokio::time::timeout(ANSWER, told(&upstream, path, key)).await;
        let told = told.ok().flatten().unwrap_or_default();
        found = told
            .into_iter()
            .find(|der| names(der).is_some_and(|(subject, _)| subject == issuer));
        if found.is_some() {
            break;
        }
    }
    upstream.close();
    found
        .map(|der| Authority::new(&der))
        .ok_or_else(|| unknown("the cluster does not tell it to those who do not know it".into()))
}

/// Whether what is stored leads to nobody but the cluster behind this client: it trusts that cluster's own authority alone. Only then may a token that
/// the cluster issues be sent there.
///
/// # Errors
/// [`RestoreError::Api`]
pub(super) async fn is_own(
    client: &kube::Client,
    kubeconfig: &Kubeconfig,
) -> Result<bool, RestoreError> {
    let (kah_net::Roots::Pem(pem), Verify::Full) = (&kubeconfig.tls.roots, &kubeconfig.tls.verify)
    else {
        return Ok(false);
    };
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(client.clone(), seed::NAMESPACE);
    let map = maps
        .get_opt(OWN)
        .await
        .map_err(super::connection::failed("read the member's own authority"))?;
    let own = map.and_then(|map| map.data).unwrap_or_default();
    let own = own
        .get("ca.crt")
        .map(|pem| certificates(pem.as_bytes()))
        .unwrap_or_default();
    let trusted = certificates(pem);
    Ok(!trusted.is_empty() && trusted.iter().all(|der| own.contains(der)))
}

/// Subject and issuer, as they are written.
fn names(der: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Some((
        certificate.subject().as_raw().to_vec(),
        certificate.issuer().as_raw().to_vec(),
    ))
}

/// The certificates in one key of a ConfigMap, read from whoever answers.
async fn told(upstream: &Upstream, path: &'static str, key: &str) -> Option<Vec<Vec<u8>>> {
    let target = PathAndQuery::from_static(path);
    let request = Request::new(kah_net::empty());
    let answer = upstream.send(request, Forward::new(target)).await.ok()?;
    if !answer.status().is_success() {
        return None;
    }
    let (body, _) = peek(answer.into_body()).await;
    let map: Value = serde_json::from_slice(&body).ok()?;
    let text = map.get("data")?.get(key)?.as_str()?;
    if key != "kubeconfig" {
        return Some(certificates(text.as_bytes()));
    }
    // It names no user, and a kubeconfig is only read for one context.
    let file: Value = serde_saphyr::from_str(text).ok()?;
    let data = file.pointer("/clusters/0/cluster/certificate-authority-data")?;
    use base64::{Engine, engine::general_purpose::STANDARD};
    Some(certificates(&STANDARD.decode(data.as_str()?).ok()?))
}

fn certificates(pem: &[u8]) -> Vec<Vec<u8>> {
    Pem::iter_from_buffer(pem)
        .filter_map(Result::ok)
        .map(|pem| pem.contents)
        .collect()
}

/// A fault at the member's kube-apiserver, with what a person needs to decide about it.
pub(super) async fn explained(member: &Arc<Member>, error: RestoreError) -> RestoreError {
    let untrusted = match &error {
        RestoreError::Api { source, .. } => fault_of(source) == Some(Kind::TlsUntrusted),
        _ => false,
    };
    if !untrusted {
        return error;
    }
    match (shown(member).await, member.stored()) {
        (Ok(authority), Ok((kubeconfig, _))) => RestoreError::Authority {
            known: known(&kubeconfig),
            shown: authority.fingerprint,
        },
        (Err(error), _) => error,
        (Ok(_), Err(error)) => RestoreError::Settings(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_known_in_each_form() {
        let authority = Authority::new(b"certificate");
        let colons = authority.fingerprint.clone();
        let plain = colons.replace(':', "").to_lowercase();
        for given in [
            colons.clone(),
            plain.clone(),
            format!("SHA256:{plain}"),
            format!(" sha256 Fingerprint={colons}\n"),
        ] {
            assert!(authority.is(&given), "{given}");
        }
        for given in ["", "SHA256:", &plain[1..], "aa"] {
            assert!(!authority.is(given), "{given}");
        }
        assert!(authority.pem.lines().all(|line| line.len() <= 64));
        assert_eq!(
            certificates(authority.pem.as_bytes()),
            [b"certificate".to_vec()]
        );
    }
}
