//! What is written into the request line toward a member.

use http::uri::PathAndQuery;
use percent_encoding::percent_decode_str;

/// Where the member's kube-apiserver offers its ks-apiserver; the port has no name.
pub(crate) const SERVICE_PROXY: &str =
    "/api/v1/namespaces/kubesphere-system/services/:ks-apiserver:/proxy";

/// Whether a path names the same place for everyone who reads it on its way.
///
/// Behind [`SERVICE_PROXY`] our own credential stands, so that a path which climbs would use it. The path was parsed before it came here; this
/// asks again, whatever the parser allows, and looks through two layers of encoding.
pub(crate) fn is_plain(path: &str) -> bool {
    if !path.starts_with('/') {
        return false;
    }
    let mut layer = path.to_owned();
    for _ in 0..3 {
        let climbs = layer.split(['/', '\\']).any(|segment| {
            let name = segment.split(';').next().unwrap_or(segment);
            name == "." || name == ".."
        });
        if climbs || layer.contains('\\') || layer.chars().any(char::is_control) {
            return false;
        }
        let Ok(decoded) = percent_decode_str(&layer).decode_utf8() else {
            return false;
        };
        if decoded == layer {
            return true;
        }
        layer = decoded.into_owned();
    }
    true
}

/// The target as it travels to a ks-apiserver directly: without `dryrun`, which only hosts say to members.
pub(crate) fn direct(target: &PathAndQuery) -> String {
    let kept: Vec<String> = target
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty() && name(pair) != "dryrun")
        .map(str::to_owned)
        .collect();
    join(target.path(), &kept)
}

fn name(pair: &str) -> std::borrow::Cow<'_, str> {
    percent_decode_str(pair.split('=').next().unwrap_or_default()).decode_utf8_lossy()
}

/// The query for [`SERVICE_PROXY`]: a kube-apiserver refuses `dryRun` on a proxied request, so it travels as `dryrun`.
///
/// It goes first, because a member of release 3.4 turns the first place where those letters stand back, be it a name or a value: a dry run that
/// reaches it as anything else would be carried out.
pub(crate) fn proxied(target: &PathAndQuery) -> (String, Option<String>) {
    let (dry, rest) = split(target.query().unwrap_or_default());
    let mut query = dry
        .iter()
        .map(|value| format!("dryrun{value}"))
        .collect::<Vec<_>>();
    query.extend(rest.into_iter().map(str::to_owned));
    let raw = (!query.is_empty()).then(|| query.join("&"));
    (
        join(&format!("{SERVICE_PROXY}{}", target.path()), &query),
        raw,
    )
}

/// The values of `dryRun` (with their `=`), and everything else but `dryrun`.
fn split(query: &str) -> (Vec<&str>, Vec<&str>) {
    let (mut dry, mut rest) = (Vec::new(), Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let value = pair.find('=').map_or("", |at| pair.split_at(at).1);
        match name(pair).as_ref() {
            "dryRun" => dry.push(value),
            "dryrun" => {}
            _ => rest.push(pair),
        }
    }
    (dry, rest)
}

fn join(path: &str, query: &[String]) -> String {
    if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", query.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p1_paths_that_climb_are_not_plain() {
        for path in [
            "/api/../x",
            "/api/%2e%2e/x",
            "/api/%2E./x",
            "/api/%252e%252e/x",
            "/api/..%2fx",
            "/api/..;x/y",
            "/api/.",
            "/a/./b",
            "/a\\..\\b",
            "/a%5cb",
            "/a%00b",
            "/a/%c0%ae%c0%ae/b",
            "x",
            "",
            "/api/%2525252e",
        ] {
            let expected = path == "/api/%2525252e";
            assert_eq!(is_plain(path), expected, "{path}");
        }
        for path in [
            "/api/v1/nodes",
            "/kapis//x",
            "/api/v1/namespaces/a/configmaps/b..c",
            "/a/...",
            "/",
            "/api/v1/x%2Fy",
            "/a/b%20c",
        ] {
            assert!(is_plain(path), "{path}");
        }
    }

    #[test]
    fn p9_dry_run_travels_first_and_comes_back() {
        let target = |text: &str| text.parse::<PathAndQuery>().expect("target");
        let (proxied, raw) = proxied(&target(
            "/api/v1/pods?fieldManager=dryrun&dryRun=All&fieldValidation=Strict",
        ));
        assert_eq!(
            proxied,
            format!(
                "{SERVICE_PROXY}/api/v1/pods?dryrun=All&fieldManager=dryrun&fieldValidation=Strict"
            )
        );
        assert_eq!(
            raw.as_deref(),
            Some("dryrun=All&fieldManager=dryrun&fieldValidation=Strict")
        );
        assert_eq!(
            direct(&target("/x?a=b&dry%52un=All&dryrun=All")),
            "/x?a=b&dry%52un=All"
        );
        assert_eq!(direct(&target("/x?")), "/x");
    }
}
