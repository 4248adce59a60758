//! Where a member's redirect leads, in the client's terms.

use kah_net::Address;

use crate::target::SERVICE_PROXY;

/// How a client names the cluster in its path; a `Location` names it in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// `/kapis/clusters/NAME/…`, and so for `api`, `apis` and `kapi`.
    Segment,
    /// `/clusters/NAME/…`
    Prefix,
}

/// A redirect that leads away from the member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leaves;

/// Rewrites a `Location` that came as the answer to a request for `target` (in the member's terms) at `address`.
pub(crate) fn rewrite(
    location: &str,
    target: &str,
    address: &Address,
    form: Form,
    cluster: &str,
) -> Result<String, Leaves> {
    let local = local(location, address)?;
    let (reference, tail) = match local.find(['?', '#']) {
        Some(at) => local.split_at(at),
        None => (local, ""),
    };
    let path = if reference.is_empty() {
        target.to_owned()
    } else if reference.starts_with('/') {
        reference
            .strip_prefix(SERVICE_PROXY)
            .unwrap_or(reference)
            .to_owned()
    } else {
        let folder = target.rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{folder}/{reference}")
    };
    let path = resolve(if path.is_empty() { "/" } else { &path })?;
    let cut = path.strip_prefix('/').ok_or(Leaves)?;
    let (first, rest) = cut.split_once('/').unwrap_or((cut, ""));
    Ok(match form {
        Form::Prefix => format!("/clusters/{cluster}{path}{tail}"),
        Form::Segment if matches!(first, "api" | "apis" | "kapis" | "kapi") => {
            format!("/{first}/clusters/{cluster}/{rest}{tail}")
        }
        // The old form cannot say it, the new one can.
        Form::Segment if matches!(first, "version" | "openapi" | "healthz") => {
            format!("/clusters/{cluster}{path}{tail}")
        }
        Form::Segment => return Err(Leaves),
    })
}

/// The part of a reference behind the member's own address.
fn local<'a>(location: &'a str, address: &Address) -> Result<&'a str, Leaves> {
    // Browsers read a backslash as a slash, and skip control characters.
    if location.contains(['\\', '\t', '\n', '\r']) || location.chars().any(char::is_control) {
        return Err(Leaves);
    }
    let location = location.trim();
    let rest = if let Some(rest) = location.strip_prefix("//") {
        rest
    } else if let Some((scheme, rest)) = location
        .split_once("://")
        .filter(|(scheme, _)| is_scheme(scheme))
    {
        let expected = if address.tls { "https" } else { "http" };
        if !scheme.eq_ignore_ascii_case(expected) {
            return Err(Leaves);
        }
        rest
    } else if location
        .split_once(':')
        .is_some_and(|(scheme, _)| is_scheme(scheme))
    {
        return Err(Leaves); // javascript:, data:, …
    } else {
        return Ok(location);
    };
    let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let with_port = format!("{}:{}", address.host, address.port);
    if authority.eq_ignore_ascii_case(&address.authority())
        || authority.eq_ignore_ascii_case(&with_port)
    {
        Ok(if path.is_empty() { "/" } else { path })
    } else {
        Err(Leaves)
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// Resolves dot segments (RFC 3986 §5.2.4); what still climbs in encoded form is refused.
fn resolve(path: &str) -> Result<String, Leaves> {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop().ok_or(Leaves)?;
                }
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    let path = format!("/{}", kept.join("/"));
    if crate::target::is_plain(&path) && !path.starts_with("//") {
        Ok(path)
    } else {
        Err(Leaves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r15_location_keeps_the_cluster() {
        let address = Address::parse("https://10.0.0.1:6443").expect("address");
        let target = "/kapis/a/v1/things/x";
        for (form, location, expected) in [
            (
                Form::Segment,
                "/kapis/a/v1/things/y?z=1#f",
                Some("/kapis/clusters/m/a/v1/things/y?z=1#f"),
            ),
            (Form::Prefix, "/kapis/a", Some("/clusters/m/kapis/a")),
            (Form::Prefix, "/login", Some("/clusters/m/login")),
            (Form::Segment, "/login", None),
            (Form::Segment, "/version", Some("/clusters/m/version")),
            (Form::Segment, "y", Some("/kapis/clusters/m/a/v1/things/y")),
            (Form::Segment, "../y/", Some("/kapis/clusters/m/a/v1/y/")),
            (
                Form::Segment,
                "?q",
                Some("/kapis/clusters/m/a/v1/things/x?q"),
            ),
            (Form::Segment, "../../../../../y", None),
            (
                Form::Segment,
                "https://10.0.0.1:6443/api/v1",
                Some("/api/clusters/m/v1"),
            ),
            (
                Form::Segment,
                "/api/v1/namespaces/kubesphere-system/services/:ks-apiserver:/proxy/kapis/b/",
                Some("/kapis/clusters/m/b/"),
            ),
            (Form::Prefix, "//evil.example/x", None),
            (Form::Prefix, "https://evil.example/x", None),
            (Form::Prefix, "http://10.0.0.1:6443/x", None),
            (Form::Prefix, "https://10.0.0.1:6443@evil.example/", None),
            (Form::Prefix, "/\\evil.example", None),
            (Form::Prefix, "javascript:alert(1)", None),
            (Form::Prefix, "/%2e%2e/%2e%2e/x", None),
            (Form::Prefix, "", Some("/clusters/m/kapis/a/v1/things/x")),
        ] {
            assert_eq!(
                rewrite(location, target, &address, form, "m")
                    .ok()
                    .as_deref(),
                expected,
                "{form:?} {location}"
            );
        }
    }
}
