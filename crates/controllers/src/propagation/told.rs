//! What people are told of the propagation to one member: two gauges, an Event where something is in the way for long, and one when it is
//! over.

use kah_cluster::Host;
use kube::api::{DynamicObject, ObjectMeta};
use tokio::time::Instant;

use super::{
    Pace,
    overdue::{Cause, Overdue},
};
use crate::{
    Metrics,
    cluster::{News, tell_event},
};

/// The reason of such Events.
const FAILED: &str = "PropagationFailed";
/// And of the one that ends them.
const RECOVERED: &str = "PropagationRecovered";

/// Tells; and takes the gauges away when it is dropped.
pub(super) struct Told {
    metrics: Metrics,
    name: String,
    overdue: Overdue,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.metrics.propagates_no_more(&self.name);
    }
}

impl Told {
    pub(super) fn new(metrics: &Metrics, name: &str) -> Self {
        Self {
            metrics: metrics.clone(),
            name: name.to_owned(),
            overdue: Overdue::default(),
        }
    }

    /// So many objects wait; `present` is all that is in the way now, each with its words.
    pub(super) async fn tell(
        &mut self,
        host: &Host,
        pace: &Pace,
        uid: &str,
        waiting: usize,
        present: &[(Cause, String)],
    ) {
        let causes: Vec<Cause> = present.iter().map(|(cause, _)| *cause).collect();
        let stuck = causes.iter().any(|it| matches!(it, Cause::Member(_)));
        self.metrics.propagation(&self.name, waiting, stuck);
        let due = self.overdue.take_in(&causes, Instant::now(), pace.overdue);
        let failed = present
            .iter()
            .filter(|(cause, _)| due.causes.contains(cause))
            .map(|(_, words)| {
                let lasted = pace.overdue.as_secs();
                let message = format!("Not as on the host for more than {lasted} s: {words}");
                (true, FAILED, message)
            });
        let recovered = due.over.then(|| {
            let message = "What the host propagates is on this member again.".to_owned();
            (false, RECOVERED, message)
        });
        for (warning, reason, message) in failed.chain(recovered) {
            let about = DynamicObject {
                types: None,
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    uid: Some(uid.to_owned()),
                    ..ObjectMeta::default()
                },
                data: serde_json::Value::Null,
            };
            let reason = reason.to_owned();
            let news = News {
                warning,
                reason,
                message,
            };
            tell_event(&host.client, &about, news, host.clock.now()).await;
        }
    }
}
