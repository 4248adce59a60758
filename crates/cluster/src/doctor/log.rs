//! The line of a ks-apiserver's own log that shows why it refused.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kah_api::seed;
use kube::{
    Api,
    api::{ListParams, LogParams},
};

use crate::{AccessCode, Member};

/// For the log of one Pod.
const ANSWER: Duration = Duration::from_millis(1200);
/// The end of the log that is looked at.
const LINES: i64 = 200;
const BYTES: i64 = 64 * 1024;

/// The Pods of ks-apiserver.
pub(super) async fn pods(client: kube::Client) -> Result<Vec<Pod>, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client, seed::NAMESPACE);
    let which = ListParams::default()
        .labels(&format!("app={}", seed::SERVER))
        .limit(20);
    Ok(pods.list(&which).await?.items)
}

/// What keeps these Pods from running, in words; `None` where nothing is known of it.
pub(super) fn trouble(pods: &[Pod]) -> Option<String> {
    let statuses = pods.iter().flat_map(|pod| {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let statuses = pod.status.iter().flat_map(|status| {
            let containers = status.container_statuses.iter().flatten();
            let init = status.init_container_statuses.iter().flatten();
            init.chain(containers)
        });
        statuses.map(move |status| (name.clone(), status))
    });
    let mut words: Vec<String> = statuses
        .filter_map(|(pod, status)| {
            let waiting = status
                .state
                .as_ref()
                .and_then(|state| state.waiting.as_ref());
            let reason = waiting.and_then(|waiting| waiting.reason.clone());
            let ended = [&status.last_state, &status.state]
                .into_iter()
                .flatten()
                .find_map(|state| state.terminated.as_ref());
            let mut told = vec![format!("Pod {pod}")];
            // These two only say that a start is under way.
            told.extend(
                reason
                    .filter(|it| !["ContainerCreating", "PodInitializing"].contains(&it.as_str())),
            );
            if status.restart_count > 0 {
                told.push(format!("restarted {} times", status.restart_count));
            }
            told.extend(ended.map(|ended| format!("last exit code {}", ended.exit_code)));
            (told.len() > 1).then(|| told.join(", "))
        })
        .collect();
    words.sort();
    words.into_iter().next()
}

/// The last line that shows this cause.
pub(super) async fn line(member: &Member, pods: &[Pod], code: AccessCode) -> Option<String> {
    let client = member.kubernetes().ok()?;
    let pod = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter_map(|pod| pod.metadata.name.as_deref())
        .next()?;
    let api: Api<Pod> = Api::namespaced(client, seed::NAMESPACE);
    let end = LogParams {
        tail_lines: Some(LINES),
        limit_bytes: Some(BYTES),
        ..LogParams::default()
    };
    let text = tokio::time::timeout(ANSWER, api.logs(pod, &end))
        .await
        .ok()?
        .ok()?;
    text.lines()
        .rfind(|line| AccessCode::from_log_line(line) == Some(code))
        .map(|line| line.chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_keeps_a_pod_from_running_is_told() {
        let pod = |status: serde_json::Value| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"name": "p"}, "status": {"containerStatuses": [status]}}),
            )
            .unwrap()
        };
        let base =
            json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0});
        assert_eq!(trouble(&[]), None);
        assert_eq!(trouble(&[pod(base.clone())]), None);
        let mut crash = base.clone();
        crash["restartCount"] = 3.into();
        crash["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        crash["lastState"] = json!({"terminated": {"exitCode": 1}});
        assert_eq!(
            trouble(&[pod(crash)]).unwrap(),
            "Pod p, CrashLoopBackOff, restarted 3 times, last exit code 1"
        );
        let mut starts = base;
        starts["state"] = json!({"waiting": {"reason": "ContainerCreating"}});
        assert_eq!(trouble(&[pod(starts)]), None);
    }
}
