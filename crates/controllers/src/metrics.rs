//! What the reconcilers count, with the codes that conditions and Events carry.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    cluster: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Access {
    cluster: String,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Restore {
    cluster: String,
    outcome: &'static str,
}

/// The metrics of one process. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    ready: Family<Of, Gauge<i64, AtomicI64>>,
    access: Family<Access, Gauge<i64, AtomicI64>>,
    /// The clusters that are told of, each with its code now, so that there is one. Of another cluster nothing is told: what was under way when it
    /// left comes too late.
    told: Mutex<HashMap<String, Option<String>>>,
    probes: Family<Of, Histogram, fn() -> Histogram>,
    expiry: Family<Of, Gauge<i64, AtomicI64>>,
    restores: Family<Restore, Counter<u64, AtomicU64>>,
    pending: Family<Of, Gauge<i64, AtomicI64>>,
    stuck: Family<Of, Gauge<i64, AtomicI64>>,
}

fn seconds() -> Histogram {
    Histogram::new([0.005, 0.02, 0.1, 0.5, 1.0, 2.5])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("kubeaihub");
        let ready = Family::default();
        registry.register(
            "member_ready",
            "Whether requests are sent to the member",
            ready.clone(),
        );
        let access = Family::default();
        registry.register(
            "member_access",
            "1 for the code that condition HostAccess tells: Accepted, or why not",
            access.clone(),
        );
        let probes = Family::new_with_constructor(seconds as fn() -> Histogram);
        registry.register(
            "member_probe_seconds",
            "How long the member took to answer the host's question",
            probes.clone(),
        );
        let expiry = Family::default();
        registry.register(
            "member_certificate_expiry_seconds",
            "Time until the first of what the way to the member depends on ends: the stored credential or the agent's certificate, and what its servers show",
            expiry.clone(),
        );
        let restores = Family::default();
        registry.register(
            "member_restores",
            "Restores of access that the controller ended, by outcome",
            restores.clone(),
        );
        let pending = Family::default();
        registry.register(
            "propagation_pending",
            "Objects of the host that wait to be carried to the member, or that it refuses",
            pending.clone(),
        );
        let stuck = Family::default();
        registry.register(
            "propagation_stuck",
            "Whether nothing can be carried to the member",
            stuck.clone(),
        );
        Self(Arc::new(Inner {
            registry,
            ready,
            access,
            told: Mutex::default(),
            probes,
            expiry,
            restores,
            pending,
            stuck,
        }))
    }
}

impl Metrics {
    /// All of them in OpenMetrics text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.0.registry);
        text
    }

    /// From now on the cluster is told of.
    pub(crate) fn begin(&self, cluster: &str) {
        self.told().entry(cluster.to_owned()).or_default();
    }

    pub(crate) fn ready(&self, cluster: &str, ready: bool) {
        if self.told().contains_key(cluster) {
            self.0.ready.get_or_create(&of(cluster)).set(ready.into());
        }
    }

    pub(crate) fn access(&self, cluster: &str, code: &str) {
        let mut told = self.told();
        let Some(now) = told.get_mut(cluster) else {
            return;
        };
        let before = now.replace(code.to_owned());
        if let Some(before) = before.filter(|before| before != code) {
            self.0.access.remove(&access(cluster, &before));
        }
        self.0.access.get_or_create(&access(cluster, code)).set(1);
    }

    pub(crate) fn probed(&self, cluster: &str, took: Duration) {
        if self.told().contains_key(cluster) {
            let probes = self.0.probes.get_or_create(&of(cluster));
            probes.observe(took.as_secs_f64());
        }
    }

    pub(crate) fn expires(&self, cluster: &str, left: Option<i64>) {
        let told = self.told();
        match left.filter(|_| told.contains_key(cluster)) {
            Some(left) => {
                self.0.expiry.get_or_create(&of(cluster)).set(left);
            }
            None => {
                self.0.expiry.remove(&of(cluster));
            }
        }
    }

    pub(crate) fn restored(&self, cluster: &str, outcome: &'static str) {
        let restore = Restore {
            cluster: cluster.to_owned(),
            outcome,
        };
        self.0.restores.get_or_create(&restore).inc();
    }

    pub(crate) fn propagation(&self, cluster: &str, waiting: usize, stuck: bool) {
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        self.0.pending.get_or_create(&of(cluster)).set(waiting);
        self.0.stuck.get_or_create(&of(cluster)).set(stuck.into());
    }

    pub(crate) fn propagates_no_more(&self, cluster: &str) {
        self.0.pending.remove(&of(cluster));
        self.0.stuck.remove(&of(cluster));
    }

    /// A cluster that has left is told of no more; what was counted stays counted.
    pub(crate) fn forget(&self, cluster: &str) {
        let mut told = self.told();
        self.0.ready.remove(&of(cluster));
        self.0.probes.remove(&of(cluster));
        self.0.expiry.remove(&of(cluster));
        if let Some(Some(code)) = told.remove(cluster) {
            self.0.access.remove(&access(cluster, &code));
        }
    }

    /// As long as another process does the work, nothing is told.
    pub(crate) fn forget_all(&self) {
        let clusters: Vec<String> = self.told().keys().cloned().collect();
        for cluster in clusters {
            self.forget(&cluster);
        }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, HashMap<String, Option<String>>> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of(cluster: &str) -> Of {
    Of {
        cluster: cluster.to_owned(),
    }
}

fn access(cluster: &str, code: &str) -> Access {
    Access {
        cluster: cluster.to_owned(),
        code: code.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_code_a_cluster_and_none_of_those_that_left() {
        let metrics = Metrics::default();
        metrics.begin("m");
        metrics.ready("m", true);
        metrics.access("m", "Accepted");
        metrics.access("m", "TokenNotInCache");
        metrics.probed("m", Duration::from_millis(3));
        metrics.expires("m", Some(60));
        metrics.restored("m", "Restored");
        let text = metrics.text();
        for line in [
            "kubeaihub_member_ready{cluster=\"m\"} 1",
            "kubeaihub_member_access{cluster=\"m\",code=\"TokenNotInCache\"} 1",
            "kubeaihub_member_probe_seconds_count{cluster=\"m\"} 1",
            "kubeaihub_member_certificate_expiry_seconds{cluster=\"m\"} 60",
            "kubeaihub_member_restores_total{cluster=\"m\",outcome=\"Restored\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
        assert!(!text.contains("Accepted\""), "{text}");
        metrics.forget("m");
        // What was under way comes too late.
        metrics.ready("m", true);
        metrics.access("m", "Accepted");
        metrics.probed("m", Duration::from_millis(3));
        metrics.expires("m", Some(1));
        let text = metrics.text();
        let told: Vec<&str> = text.lines().filter(|line| line.contains("\"m\"")).collect();
        assert_eq!(told.len(), 1, "{text}");
    }
}
