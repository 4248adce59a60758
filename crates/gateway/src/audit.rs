//! One record for every request, refusals and broken-off ones included (differences.md S18).

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

/// What a request was and what became of it. No header, query or body is part of it: those may hold secrets.
#[derive(Debug, Clone)]
pub struct Record {
    /// The request's id.
    pub id: String,
    /// When its head was there.
    pub received: Timestamp,
    /// From then to the head of the answer.
    pub took: Duration,
    /// The address it came from; what headers say about that is not believed here.
    pub source: Option<IpAddr>,
    /// Empty where it was refused before that was known.
    pub user: String,
    /// HTTP method.
    pub method: String,
    /// Path without query, as it was sent.
    pub path: String,
    /// The verb as authorisation sees it; empty where the path could not be read.
    pub verb: String,
    /// The cluster in the path, else empty.
    pub cluster: String,
    /// API group, resource, namespace and name, as far as the path says them.
    pub object: Object,
    /// The answer's code; 0 where the caller went away before there was one.
    pub code: u16,
}

/// What a request is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub struct Object {
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

/// Keeps records. Called on the request's own path: it must not wait.
pub trait Audit: Send + Sync + 'static {
    /// Takes a record.
    fn record(&self, record: Record);
}

impl Record {
    /// Whether somebody asked for a change of the fleet: a join, a leave, a restore, a trust, a rotation, a write of a Cluster object by whatever
    /// client. What nobody in particular asks for is noise that anybody could make.
    fn changes_the_fleet(&self) -> bool {
        let of_the_fleet = self.path.starts_with("/kapis/hub.kubeaihub.io/")
            || self.object.group == "cluster.kubesphere.io";
        of_the_fleet
            && !matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS")
            && !["", "system:anonymous"].contains(&self.user.as_str())
    }
}

/// Writes records to the log: what changes the fleet always, the rest at the level of detail.
#[derive(Debug, Clone, Copy, Default)]
pub struct AuditLog;

impl Audit for AuditLog {
    fn record(&self, record: Record) {
        macro_rules! write {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    id = record.id,
                    user = record.user,
                    verb = record.verb,
                    cluster = record.cluster,
                    path = record.path,
                    code = record.code,
                    "audit"
                )
            };
        }
        if record.changes_the_fleet() {
            write!(tracing::Level::INFO);
        } else {
            write!(tracing::Level::DEBUG);
        }
    }
}

/// A record that is handed over exactly once, at the latest when the request is given up.
pub(crate) struct Recording {
    audit: Arc<dyn Audit>,
    since: Instant,
    pub(crate) record: Record,
}

impl Recording {
    pub(crate) fn new(audit: Arc<dyn Audit>, record: Record) -> Self {
        Self {
            audit,
            since: Instant::now(),
            record,
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.record.took = self.since.elapsed();
        self.audit.record(self.record.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_change_of_the_fleet_is_always_written() {
        let restore = "/kapis/hub.kubeaihub.io/v1/clusters/m/restore-access";
        let clusters = "/apis/cluster.kubesphere.io/v1alpha1/clusters/m";
        for (method, path, user, always) in [
            ("POST", restore, "ann", true),
            ("PATCH", clusters, "ann", true),
            ("DELETE", clusters, "ann", true),
            ("GET", clusters, "ann", false),
            ("PATCH", clusters, "system:anonymous", false),
            (
                "DELETE",
                "/kapis/hub.kubeaihub.io/v1/clusters/m",
                "ann",
                true,
            ),
            (
                "GET",
                "/kapis/hub.kubeaihub.io/v1/clusters/m/doctor",
                "ann",
                false,
            ),
            ("POST", restore, "system:anonymous", false),
            ("POST", restore, "", false),
            ("POST", "/clusters/m/api/v1/namespaces", "ann", false),
        ] {
            let record = Record {
                id: String::new(),
                received: Timestamp::UNIX_EPOCH,
                took: Duration::ZERO,
                source: None,
                user: user.into(),
                method: method.into(),
                path: path.into(),
                verb: String::new(),
                cluster: String::new(),
                object: Object {
                    group: path.split('/').nth(2).unwrap_or_default().into(),
                    ..Object::default()
                },
                code: 200,
            };
            assert_eq!(record.changes_the_fleet(), always, "{method} {path} {user}");
        }
    }
}
