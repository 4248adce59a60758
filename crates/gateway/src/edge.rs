//! Headers and query words that say who somebody is, or how a request came here: refused, dropped, or put back in place (differences.md S2).
//!
//! What is proven here: nothing about the sender. A request counts as one that came through the kube-apiserver's service proxy when it carries what
//! that proxy adds; whoever reaches the listener directly can write the same. That is harmless with the shared secret, because the only thing that
//! such a request gains is that its token is read from another header, and its query from a third: the token is verified in any case, and in federated
//! trust it is one that the host has signed for this member. Who asks is never taken from the way that a request came.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, Uri, header, uri::PathAndQuery};
use kah_api::status::Status;

const AUTHORIZATION: HeaderName = HeaderName::from_static("x-kubesphere-authorization");
const RAW_QUERY: HeaderName = HeaderName::from_static("x-kubesphere-rawquery");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What a server is in its fleet, as far as hops are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Callers come directly.
    Host,
    /// A host may send callers through this cluster's kube-apiserver.
    Member,
}

/// Applies the rules to a request's headers, and returns its target as everything behind this layer sees it.
///
/// # Errors
/// 403 where the caller asks to be somebody else; 400 where a header holds no query.
pub(crate) fn enter(
    place: Place,
    headers: &mut HeaderMap,
    uri: &Uri,
) -> Result<PathAndQuery, Box<Status>> {
    if let Some(name) = headers
        .keys()
        .find(|name| name.as_str().starts_with("impersonate-"))
    {
        let message = format!("forbidden: the header {name:?} is not accepted from clients");
        return Err(Box::new(Status::refused(message)));
    }
    let hop = place == Place::Member && came_through_service_proxy(headers);
    let authorization = headers.remove(AUTHORIZATION);
    let raw_query = headers.remove(RAW_QUERY);
    if hop
        && let Some(value) = authorization
        && !value.is_empty()
        && headers
            .get(header::AUTHORIZATION)
            .is_none_or(|value| value.is_empty())
    {
        headers.insert(header::AUTHORIZATION, value);
    }
    let identities: Vec<HeaderName> = headers
        .keys()
        .filter(|name| speaks_of_identity(name))
        .cloned()
        .collect();
    for name in identities {
        headers.remove(name);
    }
    // Where a client says that it is somebody else's proxy, the chain begins anew with the address it really has.
    if !hop {
        headers.remove(FORWARDED_FOR);
    }
    let path = uri.path();
    let mut query = Cow::Borrowed(uri.query().unwrap_or_default());
    if hop
        && query.is_empty()
        && let Some(value) = raw_query
    {
        let text = value
            .to_str()
            .map_err(|_| Box::new(Status::bad_request("X-KubeSphere-Rawquery is no query")))?;
        query = Cow::Owned(text.to_owned());
    }
    let query = dry_run(&query, hop);
    let target = if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{query}")
    };
    target
        .parse()
        .map_err(|_| Box::new(Status::bad_request("the request's target is not valid")))
}

/// A kube-apiserver strips `Authorization`, appends to `X-Forwarded-For` and, except on upgrades, writes the path that it was asked for.
fn came_through_service_proxy(headers: &HeaderMap) -> bool {
    if !headers.contains_key(FORWARDED_FOR) {
        return false;
    }
    match headers.get(FORWARDED_URI).map(|value| value.to_str()) {
        Some(Ok(path)) => {
            let service = path
                .strip_prefix("/api/v1/namespaces/kubesphere-system/services/")
                .and_then(|rest| rest.split_once("/proxy"))
                .map(|(service, _)| service);
            service.is_some_and(|service| {
                let name = service.replace("%3A", ":").replace("%3a", ":");
                name.split(':').any(|part| part == "ks-apiserver")
            })
        }
        Some(Err(_)) => false,
        None => kah_net::is_upgrade(headers),
    }
}

/// Names by which some proxies say who a caller is. Nothing here reads them; they are dropped so that nothing ever will.
fn speaks_of_identity(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("x-remote-")
        || matches!(
            name,
            "x-forwarded-user"
                | "x-forwarded-email"
                | "x-forwarded-groups"
                | "x-forwarded-preferred-username"
                | "x-webauth-user"
                | "x-auth-request-user"
                | "forwarded"
                | "x-http-method-override"
        )
}

/// `dryrun` is how a host spells `dryRun` on its way; from anybody else the word means nothing and goes.
fn dry_run(query: &str, hop: bool) -> Cow<'_, str> {
    let is_ours = |pair: &str| pair.split('=').next() == Some("dryrun");
    if !query.split('&').any(is_ours) {
        return Cow::Borrowed(query);
    }
    let kept: Vec<String> = query
        .split('&')
        .filter(|pair| hop || !is_ours(pair))
        .map(|pair| match pair.strip_prefix("dryrun") {
            Some(rest) if is_ours(pair) => format!("dryRun{rest}"),
            _ => pair.to_owned(),
        })
        .collect();
    Cow::Owned(kept.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIA: &str =
        "/api/v1/namespaces/kubesphere-system/services/:ks-apiserver:/proxy/kapis/version";

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn entered(place: Place, pairs: &[(&str, &str)], uri: &str) -> (HeaderMap, String) {
        let mut headers = headers(pairs);
        let target = enter(place, &mut headers, &uri.parse().unwrap()).unwrap();
        (headers, target.to_string())
    }

    #[test]
    fn h1_h2_h3_impersonation_is_refused() {
        for name in [
            "Impersonate-User",
            "IMPERSONATE-GROUP",
            "Impersonate-Uid",
            "impersonate-extra-x",
            "Impersonate-New",
        ] {
            for value in ["admin", ""] {
                let error = enter(
                    Place::Host,
                    &mut headers(&[(name, value)]),
                    &"/".parse().unwrap(),
                )
                .unwrap_err();
                assert_eq!(error.code, 403, "{name}");
            }
        }
    }

    #[test]
    fn h14_hop_words_from_a_client_are_dropped() {
        let own = [
            ("x-kubesphere-authorization", "Bearer a"),
            ("x-kubesphere-rawquery", "watch=1"),
            ("x-remote-user", "admin"),
            ("forwarded", "for=x"),
        ];
        for place in [Place::Host, Place::Member] {
            let (headers, target) = entered(place, &own, "/api/v1/pods?dryrun=All&limit=1");
            assert!(headers.is_empty(), "{headers:?}");
            assert_eq!(target, "/api/v1/pods?limit=1");
        }
        let mut via = own.to_vec();
        via.extend([("x-forwarded-for", "10.0.0.1"), ("x-forwarded-uri", VIA)]);
        let (headers, target) = entered(Place::Host, &via, "/api/v1/pods");
        assert!(
            !headers.contains_key("authorization") && target == "/api/v1/pods",
            "{headers:?} {target}"
        );
    }

    #[test]
    fn j11_a_chain_of_addresses_begins_at_the_edge() {
        let sent = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "::1")];
        for place in [Place::Host, Place::Member] {
            let (headers, _) = entered(place, &sent, "/api/v1/pods");
            assert!(!headers.contains_key("x-forwarded-for"), "{place:?}");
        }
        // What the kube-apiserver in front of a member wrote stays.
        let via = [("x-forwarded-for", "10.0.0.1"), ("x-forwarded-uri", VIA)];
        let (headers, _) = entered(Place::Member, &via, "/api/v1/pods");
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1");
        let (headers, _) = entered(Place::Host, &via, "/api/v1/pods");
        assert!(!headers.contains_key("x-forwarded-for"));
    }

    #[test]
    fn a_member_reads_them_on_the_route_from_the_host() {
        let via = [
            ("x-kubesphere-authorization", "Bearer a"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-uri", VIA),
        ];
        let (headers, target) = entered(
            Place::Member,
            &via,
            "/api/v1/pods?dryrun=All&fieldManager=dryrun",
        );
        assert_eq!(headers["authorization"], "Bearer a");
        assert!(!headers.contains_key("x-kubesphere-authorization"));
        assert_eq!(target, "/api/v1/pods?dryRun=All&fieldManager=dryrun");

        let upgrade = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("x-kubesphere-authorization", "Bearer a"),
            ("x-kubesphere-rawquery", "command=ls&dryrun=All"),
            ("x-forwarded-for", "10.0.0.1"),
        ];
        let (headers, target) =
            entered(Place::Member, &upgrade, "/api/v1/namespaces/a/pods/b/exec");
        assert_eq!(headers["authorization"], "Bearer a");
        assert_eq!(
            target,
            "/api/v1/namespaces/a/pods/b/exec?command=ls&dryRun=All"
        );

        let other = [
            ("x-kubesphere-authorization", "Bearer a"),
            ("x-forwarded-for", "10.0.0.1"),
            (
                "x-forwarded-uri",
                "/api/v1/namespaces/evil/services/ks-apiserver/proxy/",
            ),
        ];
        assert!(
            !entered(Place::Member, &other, "/")
                .0
                .contains_key("authorization")
        );
    }

    #[test]
    fn a_present_authorization_wins() {
        let via = [
            ("authorization", "Bearer own"),
            ("x-kubesphere-authorization", "Bearer a"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-uri", VIA),
        ];
        assert_eq!(
            entered(Place::Member, &via, "/").0["authorization"],
            "Bearer own"
        );
    }
}
