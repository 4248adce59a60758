//! What the query says about a target, decoded as Go's `url.ParseQuery` does: a pair with a semicolon or a
//! broken escape does not exist.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// A raw query, decoded on demand.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    raw: &'a str,
}

/// The list options that decide a verb and a name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ListOptions {
    pub(super) watch: bool,
    pub(super) name: Option<String>,
}

impl<'a> Query<'a> {
    /// Takes the query without its question mark.
    #[must_use]
    pub fn new(raw: &'a str) -> Self {
        Self { raw }
    }

    /// All pairs in order.
    pub fn pairs(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> + use<'a> {
        self.raw
            .split('&')
            .filter(|pair| !pair.is_empty() && !pair.contains(';'))
            .filter_map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                Some((decode(key)?, decode(value)?))
            })
    }

    /// The first value of a key.
    #[must_use]
    pub fn first(&self, key: &str) -> Option<Cow<'a, str>> {
        self.pairs()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    }

    /// Rule 11 of gateway.md §2. The first of several values counts, as in Kubernetes.
    pub(super) fn list_options(&self) -> ListOptions {
        if self.raw.is_empty() {
            return ListOptions::default();
        }
        let watch = self
            .first("watch")
            .is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"));
        let number = |key: &str| {
            self.first(key)
                .is_none_or(|value| value.parse::<i64>().is_ok())
        };
        let labels = self
            .first("labelSelector")
            .is_none_or(|value| is_label_selector(&value));
        let fields = self.first("fieldSelector").unwrap_or_default();
        let name = match (
            number("limit") && number("timeoutSeconds") && labels,
            pinned_name(&fields),
        ) {
            (true, Some(name)) => Some(name),
            _ => None,
        };
        ListOptions { watch, name }
    }
}

fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    let bytes = text.as_bytes();
    for (index, byte) in bytes.iter().enumerate() {
        if *byte == b'%'
            && !bytes
                .get(index + 1..index + 3)?
                .iter()
                .all(u8::is_ascii_hexdigit)
        {
            return None;
        }
    }
    let spaced = text.replace('+', " ");
    Some(Cow::Owned(
        percent_decode_str(&spaced).decode_utf8_lossy().into_owned(),
    ))
}

/// The value that a field selector pins `metadata.name` to, if all of the selector can be read and the value
/// can be a segment of a path.
fn pinned_name(selector: &str) -> Option<String> {
    let mut name = None;
    for term in split_terms(selector) {
        if term.is_empty() {
            continue;
        }
        let at = term.find(['=', '!'])?;
        let (field, rest) = term.split_at(at);
        if let Some(value) = rest.strip_prefix("!=") {
            unescape(value)?;
        } else {
            let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
            let value = unescape(value)?;
            if field == "metadata.name" && name.is_none() {
                name = Some(value);
            }
        }
    }
    name.filter(|name| !matches!(name.as_str(), "" | "." | "..") && !name.contains(['/', '%']))
}

/// Splits at commas that no backslash precedes.
fn split_terms(selector: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (index, character) in selector.char_indices() {
        match character {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            ',' if !escaped => {
                terms.extend(selector.get(start..index));
                start = index + 1;
            }
            _ => {}
        }
        escaped = false;
    }
    terms.extend(selector.get(start..));
    terms
}

/// Resolves `\\`, `\,` and `\=`; anything else behind a backslash, and a bare `=` or `,`, is an error.
fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next()? {
                escaped @ ('\\' | ',' | '=') => out.push(escaped),
                _ => return None,
            },
            ',' | '=' => return None,
            other => out.push(other),
        }
    }
    Some(out)
}

/// Whether a text can be a label selector: the letters of one, and brackets in pairs. What passes here and is
/// wrong all the same is refused by who serves the list; it decides nothing but whether a name counts.
fn is_label_selector(text: &str) -> bool {
    let mut open = false;
    for character in text.chars() {
        match character {
            '(' if !open => open = true,
            ')' if open => open = false,
            '(' | ')' => return false,
            'a'..='z'
            | 'A'..='Z'
            | '0'..='9'
            | '-'
            | '_'
            | '.'
            | '/'
            | '='
            | '!'
            | ','
            | ' '
            | '<'
            | '>' => {}
            _ => return false,
        }
    }
    !open
}

/// Renames the first literal `dryrun` of a raw query to `dryRun` if a `dryrun` parameter exists: what a member does
/// with a request that came through its kube-apiserver's service proxy (multicluster.md §7.3).
#[must_use]
pub fn restore_dry_run(query: &str) -> Cow<'_, str> {
    if Query::new(query).first("dryrun").is_some() {
        Cow::Owned(query.replacen("dryrun", "dryRun", 1))
    } else {
        Cow::Borrowed(query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p9_dry_run_survives_the_service_proxy() {
        assert_eq!(
            restore_dry_run("dryrun=All&fieldValidation=Strict"),
            "dryRun=All&fieldValidation=Strict"
        );
        assert_eq!(restore_dry_run("a=dryrun"), "a=dryrun");
    }

    #[test]
    fn field_selectors_pin_a_name_only_when_they_can_be_read() {
        let cases = [
            ("fieldSelector=metadata.name=p1", Some("p1")),
            ("fieldSelector=metadata.name%3D%3Dp1", Some("p1")),
            ("fieldSelector=spec.nodeName=n,metadata.name=p1", Some("p1")),
            ("fieldSelector=metadata.name!=p1", None),
            ("fieldSelector=metadata.name=..", None),
            ("fieldSelector=metadata.name=a/b", None),
            ("fieldSelector=metadata.name=a%2525b", None),
            ("fieldSelector=metadata.name", None),
            ("fieldSelector=metadata.name=p1&limit=abc", None),
            ("fieldSelector=metadata.name=p1&labelSelector=a+in+(b", None),
            ("fieldSelector=metadata.name=a\\,b", Some("a,b")),
        ];
        for (query, name) in cases {
            assert_eq!(
                Query::new(query).list_options().name.as_deref(),
                name,
                "{query}"
            );
        }
    }

    #[test]
    fn p5_watch_is_read_as_kubernetes_reads_it() {
        let cases = [
            ("watch=1", true),
            ("watch=0&watch=1", false),
            ("watch=1&watch=0", true),
            ("watch=", true),
            ("watch", true),
            ("watch=FALSE", false),
            ("watch=False&limit=x", false),
            ("watch=no", true),
            ("Watch=1", false),
            ("watch=1;x", false),
            ("%77atch=1", true),
        ];
        for (query, watch) in cases {
            assert_eq!(Query::new(query).list_options().watch, watch, "{query}");
        }
    }
}
