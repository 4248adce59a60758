//! The one parser of request paths: which cluster, which object, which verb, and what to send on.
//!
//! Every filter and route works from the [`Target`] that [`parse`] gives, never from the path itself, so that
//! what was authorised is what is sent (security-tests.md P1, P2). The rules are those of gateway.md §2 with
//! these decisions of our own:
//!
//! * The path is split first and each segment is decoded once. The segments that decide (everything up to
//!   the end of a name and subresource) must be plain: no empty segment, no `.` or `..`, no `/`, `\`, `%`,
//!   `;` or control character after decoding, no broken or overlong UTF-8. Anything else is refused as a
//!   [`PathError`], which the gateway answers with 400. So `%2e%2e`, `%2F`, `%252f`, `//`, `/./`, `;x`,
//!   `\` and NUL are 400 in the place of a cluster, namespace or name. `:` is fine in any spelling.
//! * Those segments are written anew in one spelling, so `%61pi` travels as `api`, and `%3A` as `:`.
//! * What follows `…/{resource}/{name}/proxy` (or the old `proxy` verb) belongs to somebody else's
//!   application and travels byte for byte, `//` and `%2F` included; but no `.` or `..`, plain, encoded or
//!   behind an encoded slash, and no control characters: those could climb out of the target.
//! * A cluster prefix is cut and what remains is parsed as if it had come alone. Hence
//!   `/api/clusters/{c}/v1` and `/api/clusters/{c}` are discovery (differences.md R1), and a second cluster
//!   prefix is refused.
//! * One trailing slash is kept when sent on and means nothing to the parser, as in the original.

mod query;
mod segment;

use http::Method;

pub use query::{Query, restore_dry_run};

/// Longest path, in bytes, that is looked at.
pub const MAXIMUM_PATH: usize = 16 * 1024;

/// The first word of an API path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prefix {
    /// `/api`: the Kubernetes core group.
    Api,
    /// `/apis`: Kubernetes groups.
    Apis,
    /// `/kapis`: our own groups.
    Kapis,
    /// `/kapi`: our own, without a group.
    Kapi,
}

impl Prefix {
    fn of(segment: &str) -> Option<Self> {
        match segment {
            "api" => Some(Self::Api),
            "apis" => Some(Self::Apis),
            "kapis" => Some(Self::Kapis),
            "kapi" => Some(Self::Kapi),
            _ => None,
        }
    }

    fn has_group(self) -> bool {
        matches!(self, Self::Apis | Self::Kapis)
    }
}

/// How far a request reaches, which decides which bindings count (authorization.md §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scope {
    /// Not a resource request.
    #[default]
    None,
    /// Users, workspaces, clusters and the like.
    Global,
    /// One workspace.
    Workspace,
    /// One DevOps project.
    DevOps,
    /// One namespace.
    Namespace,
    /// The cluster.
    Cluster,
}

impl Scope {
    /// The word of the specification's tables; empty for [`Scope::None`].
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Global => "Global",
            Self::Workspace => "Workspace",
            Self::DevOps => "DevOps",
            Self::Namespace => "Namespace",
            Self::Cluster => "Cluster",
        }
    }
}

/// Where in the path the cluster was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ClusterForm {
    /// No cluster is named.
    #[default]
    None,
    /// `/{prefix}/clusters/{c}/…`, the form of 3.4.
    Infix,
    /// `/clusters/{c}/…` (differences.md A1): the form that a kubeconfig's `server:` can hold, so `/version`
    /// and `/openapi` below it are those of Kubernetes.
    Prefix,
}

/// What a request is about. Empty strings mean "absent".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// The cluster that the path names.
    pub cluster: Option<String>,
    /// Where it names it.
    pub cluster_form: ClusterForm,
    /// The API prefix, set for discovery paths too.
    pub prefix: Option<Prefix>,
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Workspace, from the path or from a watch's label selector.
    pub workspace: String,
    /// Namespace.
    pub namespace: String,
    /// DevOps project.
    pub devops: String,
    /// Resource, plural.
    pub resource: String,
    /// Name of one object, from the path or from a field selector that pins it.
    pub name: String,
    /// Subresource.
    pub subresource: String,
    /// Resource, name, subresource and all deeper segments, decoded.
    pub parts: Vec<String>,
    /// `get`, `list`, … for a resource; the HTTP method in upper case otherwise; empty where a method has none.
    pub verb: String,
    /// Which bindings count.
    pub scope: Scope,
    /// Whether it names a resource.
    pub is_resource: bool,
    /// Whether the local kube-apiserver answers it.
    pub is_kubernetes: bool,
    /// The whole path in its one spelling, cluster prefix included, without query. For texts, the audit log
    /// and the list of paths that need no role.
    pub path: String,
    /// Path and query to send on: as [`Target::path`] without the cluster prefix, query as it came.
    pub forward: String,
    /// Whether the query asks for a dry run.
    pub dry_run: bool,
}

impl Target {
    /// [`Target::forward`] without its query.
    #[must_use]
    pub fn forward_path(&self) -> &str {
        self.forward
            .split_once('?')
            .map_or(self.forward.as_str(), |(path, _)| path)
    }

    /// The raw query, empty if there is none.
    #[must_use]
    pub fn query(&self) -> &str {
        self.forward.split_once('?').map_or("", |(_, query)| query)
    }
}

/// Why a path is refused: always the client's fault, always 400, never worth another try.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Not of the form `/…`.
    #[error("parse request path: it does not begin with a slash")]
    NotAbsolute,
    /// Longer than [`MAXIMUM_PATH`].
    #[error("parse request path: it is longer than {MAXIMUM_PATH} bytes")]
    TooLong,
    /// `%` without two hexadecimal digits.
    #[error("parse request path: a percent sign is not followed by two hexadecimal digits")]
    BadEscape,
    /// A character that may not stand there, plain or encoded.
    #[error("parse request path: it holds a character that may not stand there")]
    BadCharacter,
    /// `.` or `..`.
    #[error("parse request path: it holds a dot segment")]
    DotSegment,
    /// `//`.
    #[error("parse request path: it holds an empty segment")]
    EmptySegment,
    /// A second cluster prefix behind the first.
    #[error("parse request path: it names a cluster within a cluster")]
    NestedCluster,
    /// The verb `watch` or `proxy` in the path with nothing behind it.
    #[error("unable to determine kind and namespace from url: {0}")]
    NoKind(String),
}

/// Parses the path and query of a request line.
///
/// # Errors
/// [`PathError`] for what no target could be named by without doubt; the gateway answers 400.
pub fn parse(method: &Method, path_and_query: &str) -> Result<Target, PathError> {
    let (raw, query) = match path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path_and_query, None),
    };
    let segments = segment::split(raw)?;
    let (cluster, form, rest) = cut_cluster(&segments)?;

    let mut target = Target {
        cluster,
        cluster_form: form,
        ..Target::default()
    };
    classify(&mut target, method, &rest, path_and_query)?;
    let query_text = query.unwrap_or("");
    let query_view = Query::new(query_text);
    refine(&mut target, &query_view);
    target.dry_run = query_view.first("dryRun").is_some();

    let tail = segment::opaque_from(&target, &rest);
    segment::check(&segments[..segments.len() - (rest.len() - tail)])?;
    segment::check_tail(&rest[tail..])?;
    let trailing = raw.len() > 1 && raw.ends_with('/');
    target.path = segment::join(&segments, segments.len() - (rest.len() - tail), trailing);
    target.forward = segment::join(&rest, tail, trailing);
    if let Some(query) = query {
        target.forward.push('?');
        target.forward.push_str(query);
    }
    Ok(target)
}

type Segment<'a> = segment::Segment<'a>;

/// Words that may follow `/clusters/{c}/`; with another word the path is a local one that nothing serves.
const BELOW_CLUSTER: [&str; 9] = [
    "api", "apis", "kapis", "kapi", "version", "openapi", "healthz", "livez", "readyz",
];

fn cut_cluster<'a>(
    segments: &[Segment<'a>],
) -> Result<(Option<String>, ClusterForm, Vec<Segment<'a>>), PathError> {
    let word = |index: usize| segments.get(index).map(Segment::text);
    let (cluster, form, rest): (_, _, Vec<Segment<'a>>) = match (word(0), word(1), word(2)) {
        (Some("clusters"), Some(cluster), Some(below)) if BELOW_CLUSTER.contains(&below) => (
            cluster,
            ClusterForm::Prefix,
            segments.iter().skip(2).cloned().collect(),
        ),
        (Some("clusters"), Some(_), Some("clusters")) => return Err(PathError::NestedCluster),
        (Some(prefix), Some("clusters"), Some(cluster)) if Prefix::of(prefix).is_some() => {
            let rest = segments
                .iter()
                .take(1)
                .chain(segments.iter().skip(3))
                .cloned()
                .collect();
            (cluster, ClusterForm::Infix, rest)
        }
        _ => return Ok((None, ClusterForm::None, segments.to_vec())),
    };
    if cluster.is_empty() {
        return Err(PathError::EmptySegment);
    }
    let prefixed = rest
        .first()
        .is_some_and(|first| Prefix::of(first.text()).is_some());
    if prefixed
        && rest
            .get(1)
            .is_some_and(|second| second.text() == "clusters")
    {
        return Err(PathError::NestedCluster);
    }
    Ok((Some(cluster.to_owned()), form, rest))
}

/// Rules 1 to 10 of gateway.md §2, on the path without its cluster.
fn classify(
    target: &mut Target,
    method: &Method,
    segments: &[Segment<'_>],
    url: &str,
) -> Result<(), PathError> {
    target.verb = method.as_str().to_ascii_uppercase();
    let mut rest = segments;
    let Some((first, after)) = rest.split_first() else {
        return Ok(());
    };
    target.prefix = Prefix::of(first.text());
    let Some(prefix) = target.prefix else {
        // Rule 14: a short path that merely begins with the letters of a Kubernetes prefix also counts in the
        // original; only the exact words are ones that a kube-apiserver serves, so only they count here.
        return Ok(());
    };
    target.is_kubernetes = matches!(prefix, Prefix::Api | Prefix::Apis);
    if segments.len() < 3 {
        return Ok(());
    }
    rest = after;
    if prefix.has_group() {
        if rest.len() < 3 {
            return Ok(());
        }
        target.group = take(&mut rest);
    }
    target.is_resource = true;
    target.version = take(&mut rest);
    match rest.first().map(Segment::text) {
        Some(word @ ("proxy" | "watch")) => {
            target.verb = word.to_owned();
            take(&mut rest);
            if rest.is_empty() {
                return Err(PathError::NoKind(url.to_owned()));
            }
        }
        _ => verb(method).clone_into(&mut target.verb),
    }
    if let [word, workspace, following @ ..] = rest
        && word.text() == "workspaces"
    {
        workspace.text().clone_into(&mut target.workspace);
        if !following.is_empty() {
            rest = following;
        }
    }
    if let [word, name, following @ ..] = rest {
        match word.text() {
            "namespaces" => {
                name.text().clone_into(&mut target.namespace);
                if following
                    .first()
                    .is_some_and(|next| !matches!(next.text(), "status" | "finalize"))
                {
                    rest = following;
                }
            }
            "devops" => {
                name.text().clone_into(&mut target.devops);
                if !following.is_empty() {
                    rest = following;
                }
            }
            _ => {}
        }
    }
    target.parts = rest
        .iter()
        .map(|segment| segment.text().to_owned())
        .collect();
    let part = |index: usize| target.parts.get(index).cloned().unwrap_or_default();
    target.resource = part(0);
    target.name = part(1);
    if target.verb != "proxy" {
        target.subresource = part(2);
    }
    target.scope = if is_global(&target.group, &target.resource) {
        Scope::Global
    } else if !target.namespace.is_empty() {
        Scope::Namespace
    } else if !target.devops.is_empty() {
        Scope::DevOps
    } else if !target.workspace.is_empty() {
        Scope::Workspace
    } else {
        Scope::Cluster
    };
    Ok(())
}

/// Rules 11 to 13: what the query says about verb, name and workspace.
fn refine(target: &mut Target, query: &Query<'_>) {
    if !target.is_resource {
        return;
    }
    if target.name.is_empty() && target.verb == "get" {
        let options = query.list_options();
        target.verb = if options.watch { "watch" } else { "list" }.to_owned();
        if let Some(name) = options.name {
            target.name = name;
        }
    }
    if target.verb == "watch"
        && let Some(selector) = query.first("labelSelector")
        && let Some(workspace) = selector.strip_prefix("kubesphere.io/workspace=")
    {
        workspace.clone_into(&mut target.workspace);
        target.scope = Scope::Workspace;
    }
    if target.name.is_empty() && target.verb == "delete" {
        "deletecollection".clone_into(&mut target.verb);
    }
}

fn take(rest: &mut &[Segment<'_>]) -> String {
    match rest.split_first() {
        Some((first, after)) => {
            *rest = after;
            first.text().to_owned()
        }
        None => String::new(),
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// The resources that belong to the whole platform. Those of notification count whether or not it is
/// configured: nothing here may make them weaker.
fn is_global(group: &str, resource: &str) -> bool {
    match group {
        "iam.kubesphere.io" => matches!(resource, "users" | "globalroles" | "globalrolebindings"),
        "tenant.kubesphere.io" => matches!(resource, "workspaces" | "clusters"),
        "cluster.kubesphere.io" | "resources.kubesphere.io" => resource == "clusters",
        "notification.kubesphere.io" => matches!(
            resource,
            "configs" | "receivers" | "notificationmanagers" | "routers" | "silences"
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
