//! Defaults of the kinds that make Pods, and the status each of them starts with.

use serde_json::{Value, json};

use super::fields::{
    default, default_text, ensure, has, items, items_mut, remove, set, text, within,
};
use super::pod_defaults::{claim_spec, template};

pub(super) fn deployment(object: &mut Value) {
    default(object, "status", json!({}));
    ensure(object, "spec", |spec| {
        default(spec, "replicas", 1);
        ensure(spec, "strategy", |strategy| {
            default_text(strategy, "type", "RollingUpdate");
            if text(strategy, "type") == "RollingUpdate" {
                ensure(strategy, "rollingUpdate", |rolling| {
                    default(rolling, "maxUnavailable", "25%");
                    default(rolling, "maxSurge", "25%");
                });
            }
        });
        default(spec, "revisionHistoryLimit", 10);
        default(spec, "progressDeadlineSeconds", 600);
        ensure(spec, "template", template);
    });
}

pub(super) fn deployment_created(object: &mut Value) {
    set(object, "status", json!({}));
}

pub(super) fn replica_set(object: &mut Value) {
    ensure(object, "status", |status| default(status, "replicas", 0));
    ensure(object, "spec", |spec| {
        default(spec, "replicas", 1);
        ensure(spec, "template", template);
    });
}

pub(super) fn replicas_created(object: &mut Value) {
    set(object, "status", json!({"replicas": 0}));
}

pub(super) fn replication_controller(object: &mut Value) {
    replica_set(object);
    let labels = object
        .pointer("/spec/template/metadata/labels")
        .filter(|labels| labels.as_object().is_some_and(|map| !map.is_empty()))
        .cloned();
    let Some(labels) = labels else { return };
    within(object, "spec", |spec| {
        if spec
            .get("selector")
            .and_then(Value::as_object)
            .is_none_or(serde_json::Map::is_empty)
        {
            set(spec, "selector", labels.clone());
        }
    });
    within(object, "metadata", |metadata| {
        default(metadata, "labels", labels);
    });
}

pub(super) fn stateful_set(object: &mut Value) {
    ensure(object, "status", |status| {
        default(status, "replicas", 0);
        default(status, "availableReplicas", 0);
    });
    ensure(object, "spec", |spec| {
        default_text(spec, "podManagementPolicy", "OrderedReady");
        ensure(spec, "updateStrategy", |strategy| {
            default_text(strategy, "type", "RollingUpdate");
            if text(strategy, "type") == "RollingUpdate" {
                ensure(strategy, "rollingUpdate", |rolling| {
                    default(rolling, "partition", 0);
                });
            }
        });
        ensure(spec, "persistentVolumeClaimRetentionPolicy", |policy| {
            default_text(policy, "whenDeleted", "Retain");
            default_text(policy, "whenScaled", "Retain");
        });
        default(spec, "replicas", 1);
        default(spec, "revisionHistoryLimit", 10);
        ensure(spec, "template", template);
        for claim in items_mut(spec, "volumeClaimTemplates") {
            default(claim, "kind", "PersistentVolumeClaim");
            default(claim, "apiVersion", "v1");
            ensure(claim, "spec", claim_spec);
            ensure(claim, "status", |status| {
                default_text(status, "phase", "Pending");
            });
        }
    });
}

pub(super) fn stateful_set_created(object: &mut Value) {
    set(
        object,
        "status",
        json!({"replicas": 0, "availableReplicas": 0}),
    );
}

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub(super) fn daemon_set(object: &mut Value) {
    ensure(object, "status", daemon_set_status);
    ensure(object, "spec", |spec| {
        ensure(spec, "updateStrategy", |strategy| {
            default_text(strategy, "type", "RollingUpdate");
            if text(strategy, "type") == "RollingUpdate" {
                ensure(strategy, "rollingUpdate", |rolling| {
                    default(rolling, "maxUnavailable", 1);
                    default(rolling, "maxSurge", 0);
                });
            }
        });
        default(spec, "revisionHistoryLimit", 10);
        ensure(spec, "template", template);
    });
}

fn daemon_set_status(status: &mut Value) {
    for field in [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
    ] {
        default(status, field, 0);
    }
}

pub(super) fn daemon_set_created(object: &mut Value) {
    let mut status = json!({});
    daemon_set_status(&mut status);
    set(object, "status", status);
    template_generation(object, 1);
}

/// The annotation counts changes of the Pod template.
pub(super) fn daemon_set_updated(object: &mut Value, old: &Value) {
    let before = old
        .pointer("/metadata/annotations")
        .and_then(|annotations| annotations.get(TEMPLATE_GENERATION))
        .and_then(Value::as_str)
        .and_then(|text| text.parse::<i64>().ok())
        .unwrap_or(0);
    let changed = object.pointer("/spec/template") != old.pointer("/spec/template");
    template_generation(object, before + i64::from(changed));
}

fn template_generation(object: &mut Value, generation: i64) {
    ensure(object, "metadata", |metadata| {
        ensure(metadata, "annotations", |annotations| {
            set(annotations, TEMPLATE_GENERATION, generation.to_string());
        });
    });
}

pub(super) fn job(object: &mut Value) {
    default(object, "status", json!({}));
    ensure(object, "spec", |spec| {
        if !has(spec, "completions") && !has(spec, "parallelism") {
            set(spec, "completions", 1);
        }
        default(spec, "parallelism", 1);
        default(spec, "backoffLimit", 6);
        default_text(spec, "completionMode", "NonIndexed");
        default(spec, "suspend", false);
        default(spec, "manualSelector", false);
        let replacement = if has(spec, "podFailurePolicy") {
            "Failed"
        } else {
            "TerminatingOrFailed"
        };
        default_text(spec, "podReplacementPolicy", replacement);
        // A Job inherits its Pods' labels when it has none.
        ensure(spec, "template", template);
    });
    let labels = object
        .pointer("/spec/template/metadata/labels")
        .filter(|labels| labels.as_object().is_some_and(|map| !map.is_empty()))
        .cloned();
    if let Some(labels) = labels {
        within(object, "metadata", |metadata| {
            default(metadata, "labels", labels);
        });
    }
}

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";

/// The selector of a Job is made from its uid, unless the client says it brings its own.
pub(super) fn job_created(object: &mut Value) {
    set(object, "status", json!({}));
    if object.pointer("/spec/manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    let uid = text(metadata, "uid").to_owned();
    let name = text(metadata, "name").to_owned();
    if uid.is_empty() {
        return;
    }
    let own = [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ];
    let label = |metadata: &mut Value| {
        ensure(metadata, "labels", |labels| {
            for (key, value) in own {
                default(labels, key, value.as_str());
            }
        });
    };
    ensure(object, "metadata", label);
    ensure(object, "spec", |spec| {
        ensure(spec, "template", |template| {
            ensure(template, "metadata", label);
        });
        ensure(spec, "selector", |selector| {
            ensure(selector, "matchLabels", |labels| {
                default(labels, UID_LABEL, uid.as_str());
            });
        });
    });
}

pub(super) fn cron_job(object: &mut Value) {
    default(object, "status", json!({}));
    ensure(object, "spec", |spec| {
        default_text(spec, "concurrencyPolicy", "Allow");
        default(spec, "suspend", false);
        ensure(spec, "jobTemplate", |job| {
            default(job, "metadata", json!({}));
            ensure(job, "spec", |spec| ensure(spec, "template", template));
        });
        default(spec, "successfulJobsHistoryLimit", 3);
        default(spec, "failedJobsHistoryLimit", 1);
    });
}

pub(super) fn pod_template(object: &mut Value) {
    ensure(object, "template", template);
}

pub(super) fn autoscaler(object: &mut Value) {
    ensure(object, "spec", |spec| {
        default(spec, "minReplicas", 1);
        if items(spec, "metrics").is_empty() {
            set(
                spec,
                "metrics",
                json!([{"type": "Resource", "resource": {
                    "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80},
                }}]),
            );
        }
        within(spec, "behavior", |behavior| {
            ensure(behavior, "scaleUp", |rules| {
                default(rules, "stabilizationWindowSeconds", 0);
                scaling_rules(
                    rules,
                    json!([
                        {"type": "Pods", "value": 4, "periodSeconds": 15},
                        {"type": "Percent", "value": 100, "periodSeconds": 15},
                    ]),
                );
            });
            ensure(behavior, "scaleDown", |rules| {
                scaling_rules(
                    rules,
                    json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]),
                );
            });
        });
    });
    ensure(object, "status", autoscaler_status);
    super::defaults::autoscaler_quantities(object);
}

fn autoscaler_status(status: &mut Value) {
    default(status, "desiredReplicas", 0);
    if status.get("currentMetrics").is_none() {
        set(status, "currentMetrics", Value::Null);
    }
}

fn scaling_rules(rules: &mut Value, policies: Value) {
    default_text(rules, "selectPolicy", "Max");
    if items(rules, "policies").is_empty() {
        set(rules, "policies", policies);
    }
}

pub(super) fn autoscaler_created(object: &mut Value) {
    let mut status = json!({});
    autoscaler_status(&mut status);
    set(object, "status", status);
}

pub(super) fn disruption_budget(object: &mut Value) {
    ensure(object, "spec", |_| {});
    ensure(object, "status", disruption_status);
}

fn disruption_status(status: &mut Value) {
    for field in [
        "disruptionsAllowed",
        "currentHealthy",
        "desiredHealthy",
        "expectedPods",
    ] {
        default(status, field, 0);
    }
}

pub(super) fn disruption_budget_created(object: &mut Value) {
    let mut status = json!({});
    disruption_status(&mut status);
    remove(object, "status");
    set(object, "status", status);
}
