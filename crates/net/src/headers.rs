//! Which headers travel.
//!
//! Toward an upstream an allow-list decides: a header that nobody thought of does not travel. The list is what kubectl, client-go and browsers
//! send for the sake of the answer; none of its names carries an identity, and nothing of a connection (RFC 9110 §7.6.1) is on it, so what a
//! client writes into `Connection` cannot take anything away either.
//! Toward the client a deny-list decides, because an upstream may add headers of its own that only the client understands.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Names that travel to an upstream, besides `content-*`, `if-*` and `sec-websocket-*`. Sorted.
const REQUEST: &[&str] = &[
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "audit-id",
    "cache-control",
    "last-event-id",
    "origin",
    "pragma",
    "range",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-request-id",
    "x-stream-protocol-version",
];

/// Names of an answer that act on the connection, on our origin or on our cookies. Sorted.
const RESPONSE_DENIED: &[&str] = &[
    "alt-svc",
    "clear-site-data",
    "connection",
    "keep-alive",
    "nel",
    "origin-agent-cluster",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-connection",
    "proxy-status",
    "public-key-pins",
    "public-key-pins-report-only",
    "refresh",
    "report-to",
    "reporting-endpoints",
    "service-worker-allowed",
    "set-cookie",
    "set-cookie2",
    "sourcemap",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
    "x-sourcemap",
];

/// Whether a client's header may reach an upstream. `Authorization` may not: whoever forwards says which identity travels.
#[must_use]
pub fn request_header_passes(name: &HeaderName) -> bool {
    let name = name.as_str();
    REQUEST.binary_search(&name).is_ok()
        || name.starts_with("content-")
        || name.starts_with("if-")
        || name.starts_with("sec-websocket-")
}

/// Whether a header of an upstream's answer may reach the client.
#[must_use]
pub fn response_header_passes(name: &HeaderName) -> bool {
    let name = name.as_str();
    RESPONSE_DENIED.binary_search(&name).is_err()
        && !name.starts_with("access-control-")
        && !name.starts_with("cross-origin-")
}

/// The headers to send: what passes of the client's, then `added`, which replaces whatever the client sent under the same name.
pub(crate) fn request_headers(client: &HeaderMap, added: HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(client.len().saturating_add(added.len()));
    for (name, value) in client {
        if name == header::SEC_WEBSOCKET_PROTOCOL {
            if let Some(value) = subprotocols(value) {
                headers.append(name.clone(), value);
            }
        } else if request_header_passes(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    replace(&mut headers, added);
    headers
}

/// Browsers, which cannot set headers on a websocket, may name a token among the subprotocols, and a kube-apiserver believes it.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// The subprotocols of one header line without those that are an identity; `None` where nothing else is there.
fn subprotocols(value: &HeaderValue) -> Option<HeaderValue> {
    let text = value.to_str().ok()?;
    let is_identity = |name: &&str| {
        name.get(..TOKEN_PROTOCOL.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(TOKEN_PROTOCOL))
    };
    let names = text.split(',').map(str::trim);
    let kept: Vec<&str> = names
        .filter(|name| !name.is_empty() && !is_identity(name))
        .collect();
    if kept.is_empty() {
        return None;
    }
    HeaderValue::try_from(kept.join(", ")).ok()
}

fn replace(headers: &mut HeaderMap, added: HeaderMap) {
    let mut current = None;
    for (name, value) in added {
        match name {
            Some(name) => {
                headers.insert(name.clone(), value);
                current = Some(name);
            }
            None => {
                if let Some(name) = &current {
                    headers.append(name.clone(), value);
                }
            }
        }
    }
}

/// Appends the client's address to the chain it came with, as one header. What the client wrote there stays in front and proves nothing.
pub(crate) fn forwarded_for(client: &HeaderMap, address: std::net::IpAddr) -> HeaderValue {
    const NAME: &str = "x-forwarded-for";
    const LONGEST: usize = 1024;
    let mut chain = String::new();
    for value in client.get_all(NAME) {
        // A value that is not plain text, or a chain without end, is not worth carrying on.
        let Ok(value) = value.to_str() else { continue };
        if chain.len() + value.len() > LONGEST {
            continue;
        }
        if !chain.is_empty() {
            chain.push_str(", ");
        }
        chain.push_str(value.trim());
    }
    if !chain.is_empty() {
        chain.push_str(", ");
    }
    chain.push_str(&address.to_canonical().to_string());
    HeaderValue::try_from(chain).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Removes from an answer what must not reach the client: names of [`RESPONSE_DENIED`], and those that its `Connection` lists.
pub(crate) fn clean_response(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = tokens(headers, header::CONNECTION)
        .filter_map(|token| HeaderName::try_from(token).ok())
        // The framing of the answer is not the upstream's to remove.
        .filter(|name| name != header::CONTENT_LENGTH && name != header::CONTENT_TYPE)
        .collect();
    for name in listed {
        headers.remove(name);
    }
    let denied: Vec<HeaderName> = headers
        .keys()
        .filter(|name| !response_header_passes(name))
        .cloned()
        .collect();
    for name in denied {
        headers.remove(name);
    }
}

fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// Whether a request asks to change the protocol of its connection (RFC 9110 §7.8).
#[must_use]
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    tokens(headers, header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
}

/// The protocols that a request offers to change to, without anything that is not a protocol's name: each is a token, with an optional version.
#[must_use]
pub fn upgrade_protocols(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = |token: &&str| {
        token.len() <= 64
            && token
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&b))
    };
    let names: Vec<&str> = tokens(headers, header::UPGRADE)
        .filter(protocol)
        .take(8)
        .collect();
    if names.is_empty() {
        return None;
    }
    HeaderValue::try_from(names.join(", ")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w4_a_token_among_subprotocols_does_not_travel() {
        for (sent, travels) in [
            ("v5.channel.k8s.io", Some("v5.channel.k8s.io")),
            (
                "v5.channel.k8s.io,v4.channel.k8s.io",
                Some("v5.channel.k8s.io, v4.channel.k8s.io"),
            ),
            ("base64url.bearer.authorization.k8s.io.c2VjcmV0", None),
            (
                "base64url.bearer.authorization.k8s.io.c2VjcmV0, v5.channel.k8s.io",
                Some("v5.channel.k8s.io"),
            ),
            (
                "v5.channel.k8s.io ,\tBase64URL.Bearer.Authorization.K8s.io.c2VjcmV0",
                Some("v5.channel.k8s.io"),
            ),
            ("base64url.bearer.authorization.k8s.io.", None),
            ("", None),
        ] {
            let mut client = HeaderMap::new();
            client.insert(header::SEC_WEBSOCKET_PROTOCOL, sent.parse().unwrap());
            let headers = request_headers(&client, HeaderMap::new());
            let found = headers.get(header::SEC_WEBSOCKET_PROTOCOL);
            assert_eq!(
                found.map(|value| value.to_str().unwrap()),
                travels,
                "{sent}"
            );
        }
        // On lines of their own, and as bytes that are no text.
        let mut client = HeaderMap::new();
        for line in [
            &b"v4.channel.k8s.io"[..],
            b"base64url.bearer.authorization.k8s.io.x",
            b"base64url.bearer.authorization.k8s.io.\xff",
        ] {
            let line = HeaderValue::from_bytes(line).unwrap();
            client.append(header::SEC_WEBSOCKET_PROTOCOL, line);
        }
        let headers = request_headers(&client, HeaderMap::new());
        let all: Vec<_> = headers
            .get_all(header::SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .collect();
        assert_eq!(all, ["v4.channel.k8s.io"]);
    }

    #[test]
    fn lists_are_sorted() {
        assert!(REQUEST.is_sorted() && RESPONSE_DENIED.is_sorted());
    }
}
