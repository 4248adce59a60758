//! What `apps`, `batch`, `autoscaling` and `policy` must obey.

use serde_json::{Value, json};

use super::check::{Faults, IMMUTABLE, is_empty, selects, sorted};
use super::cron;
use super::fields::{has, items, remove, text};
use super::pod_rules::template;
use crate::status::FieldError;

fn spec(object: &Value) -> &Value {
    object.get("spec").unwrap_or(&Value::Null)
}

/// Selector and template of a workload, in the order in which Kubernetes complains.
fn selector_and_template(
    faults: &mut Faults,
    spec: &Value,
    empty: &str,
    required: bool,
    pods_of: &str,
) {
    let selector = spec.get("selector").unwrap_or(&Value::Null);
    let pod_template = spec.get("template").unwrap_or(&Value::Null);
    let labels = pod_template
        .pointer("/metadata/labels")
        .unwrap_or(&Value::Null);
    let mut usable = true;
    if selector.is_null() {
        if required {
            faults.required("spec.selector");
        }
    } else {
        usable = faults.selector("spec.selector", selector);
        if is_empty(selector.get("matchLabels")) && is_empty(selector.get("matchExpressions")) {
            faults.invalid("spec.selector", &json!({}), empty);
            usable = false;
        } else if !usable {
            faults.invalid("spec.selector", selector, "invalid label selector");
        }
    }
    if usable && (selector.is_null() || !selects(selector, labels)) {
        faults.invalid(
            "spec.template.metadata.labels",
            &sorted(labels),
            "`selector` does not match template `labels`",
        );
    }
    template(faults, "spec.template", pod_template);
    let pod_spec = spec_of(pod_template);
    if let policy @ ("OnFailure" | "Never") = text(pod_spec, "restartPolicy") {
        faults.unsupported("spec.template.spec.restartPolicy", policy, &["Always"]);
    }
    if has(pod_spec, "activeDeadlineSeconds") {
        faults.forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            &format!("activeDeadlineSeconds in {pods_of} is not Supported"),
        );
    }
}

fn spec_of(template: &Value) -> &Value {
    template.get("spec").unwrap_or(&Value::Null)
}

fn same_selector(faults: &mut Faults, new: &Value, old: Option<&Value>) {
    if let Some(old) = old {
        faults.immutable(spec(new), spec(old), "spec", "selector");
    }
}

pub(super) fn deployment(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let spec = spec(new);
    faults.not_negative(spec, "spec", &["replicas"]);
    selector_and_template(
        &mut faults,
        spec,
        "empty selector is invalid for deployment",
        true,
        "ReplicaSet",
    );
    let strategy = spec.get("strategy").unwrap_or(&Value::Null);
    match text(strategy, "type") {
        "Recreate" => {
            if has(strategy, "rollingUpdate") {
                faults.forbidden(
                    "spec.strategy.rollingUpdate",
                    "may not be specified when strategy `type` is 'Recreate'",
                );
            }
        }
        "RollingUpdate" => {
            let rolling = strategy.get("rollingUpdate").unwrap_or(&Value::Null);
            rolling_update(&mut faults, "spec.strategy.rollingUpdate", rolling);
        }
        other => faults.unsupported_value(
            "spec.strategy",
            &json!({"Type": other, "RollingUpdate": null}),
            &["Recreate", "RollingUpdate"],
        ),
    }
    faults.not_negative(spec, "spec", &["minReadySeconds", "revisionHistoryLimit"]);
    let ready = spec
        .get("minReadySeconds")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    if let Some(deadline) = spec.get("progressDeadlineSeconds")
        && let Some(seconds) = deadline.as_i64()
    {
        if seconds < 0 {
            faults.invalid(
                "spec.progressDeadlineSeconds",
                deadline,
                super::check::NOT_NEGATIVE,
            );
        }
        if seconds <= ready {
            faults.invalid(
                "spec.progressDeadlineSeconds",
                deadline,
                "must be greater than minReadySeconds",
            );
        }
    }
    same_selector(&mut faults, new, old);
    faults.into_errors()
}

fn rolling_update(faults: &mut Faults, path: &str, rolling: &Value) {
    let mut zero = true;
    for field in ["maxSurge", "maxUnavailable"] {
        let value = rolling.get(field).unwrap_or(&Value::Null);
        let at = format!("{path}.{field}");
        match value {
            Value::String(percent) => {
                let number = percent.strip_suffix('%').filter(|digits| {
                    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
                });
                let Some(number) = number else {
                    faults.invalid(at, value, "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')");
                    zero = false;
                    continue;
                };
                let number: u64 = number.parse().unwrap_or(u64::MAX);
                zero &= number == 0;
                if field == "maxUnavailable" && number > 100 {
                    faults.invalid(at, value, "must not be greater than 100%");
                }
            }
            number => {
                let count = number.as_i64().unwrap_or(0);
                zero &= count == 0;
                if count < 0 {
                    faults.invalid(at, value, super::check::NOT_NEGATIVE);
                }
            }
        }
    }
    if zero {
        faults.invalid(
            format!("{path}.maxUnavailable"),
            rolling.get("maxUnavailable").unwrap_or(&Value::Null),
            "may not be 0 when `maxSurge` is 0",
        );
    }
}

pub(super) fn replica_set(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    faults.not_negative(spec(new), "spec", &["replicas", "minReadySeconds"]);
    selector_and_template(
        &mut faults,
        spec(new),
        "empty selector is invalid for deployment",
        true,
        "ReplicaSet",
    );
    same_selector(&mut faults, new, old);
    faults.into_errors()
}

pub(super) fn replication_controller(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let spec = spec(new);
    faults.not_negative(spec, "spec", &["minReadySeconds"]);
    if is_empty(spec.get("selector")) {
        faults.required("spec.selector");
    }
    faults.not_negative(spec, "spec", &["replicas"]);
    match spec.get("template").filter(|template| !template.is_null()) {
        None => faults.required("spec.template"),
        Some(pod_template) => {
            let labels = pod_template
                .pointer("/metadata/labels")
                .unwrap_or(&Value::Null);
            let selector = json!({"matchLabels": spec.get("selector")});
            if !selects(&selector, labels) {
                faults.invalid(
                    "spec.template.metadata.labels",
                    &sorted(labels),
                    "`selector` does not match template `labels`",
                );
            }
            template(&mut faults, "spec.template", pod_template);
        }
    }
    faults.into_errors()
}

pub(super) fn stateful_set(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let new_spec = spec(new);
    if !matches!(
        text(new_spec, "podManagementPolicy"),
        "OrderedReady" | "Parallel"
    ) {
        faults.invalid_text(
            "spec.podManagementPolicy",
            text(new_spec, "podManagementPolicy"),
            "must be 'OrderedReady' or 'Parallel'",
        );
    }
    let strategy = new_spec.get("updateStrategy").unwrap_or(&Value::Null);
    if !matches!(text(strategy, "type"), "RollingUpdate" | "OnDelete") {
        faults.invalid(
            "spec.updateStrategy",
            &json!({"Type": text(strategy, "type"), "RollingUpdate": null}),
            "must be 'RollingUpdate' or 'OnDelete'",
        );
    }
    faults.not_negative(new_spec, "spec", &["replicas", "minReadySeconds"]);
    selector_and_template(
        &mut faults,
        new_spec,
        "empty selector is invalid for statefulset",
        true,
        "StatefulSet",
    );
    if let Some(old) = old {
        let fixed = |object: &Value| {
            let mut spec = spec(object).clone();
            for field in [
                "replicas",
                "ordinals",
                "template",
                "updateStrategy",
                "revisionHistoryLimit",
                "persistentVolumeClaimRetentionPolicy",
                "minReadySeconds",
            ] {
                remove(&mut spec, field);
            }
            spec
        };
        if fixed(new) != fixed(old) {
            faults.forbidden("spec", "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
        }
    }
    faults.into_errors()
}

pub(super) fn daemon_set(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let spec = spec(new);
    selector_and_template(
        &mut faults,
        spec,
        "empty selector is invalid for daemonset",
        false,
        "DaemonSet",
    );
    faults.not_negative(spec, "spec", &["minReadySeconds"]);
    let strategy = spec.get("updateStrategy").unwrap_or(&Value::Null);
    if !matches!(text(strategy, "type"), "RollingUpdate" | "OnDelete") {
        faults.unsupported_value(
            "spec.updateStrategy",
            &json!({"Type": text(strategy, "type"), "RollingUpdate": null}),
            &["RollingUpdate", "OnDelete"],
        );
    }
    faults.not_negative(spec, "spec", &["revisionHistoryLimit"]);
    same_selector(&mut faults, new, old);
    faults.into_errors()
}

const JOB_COUNTS: &[&str] = &[
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
];

pub(super) fn job(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let new_spec = spec(new);
    job_spec(&mut faults, "spec", new_spec);
    let selector = new_spec.get("selector").unwrap_or(&Value::Null);
    let labels = new_spec
        .pointer("/template/metadata/labels")
        .unwrap_or(&Value::Null);
    let generated = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .is_some_and(|labels| labels.len() == 1)
        && is_empty(selector.get("matchExpressions"));
    let manual = new_spec.get("manualSelector") == Some(&Value::Bool(true));
    if !manual && !selector.is_null() && !generated {
        faults.invalid(
            "spec.selector",
            &sorted(selector),
            "`selector` not auto-generated",
        );
    }
    if !selector.is_null() && !selects(selector, labels) {
        faults.invalid(
            "spec.template.metadata.labels",
            &sorted(labels),
            "`selector` does not match template `labels`",
        );
    }
    if let Some(old) = old {
        let old_spec = spec(old);
        faults.immutable(new_spec, old_spec, "spec", "completions");
        faults.immutable(new_spec, old_spec, "spec", "selector");
        let suspended = old_spec.get("suspend") == Some(&Value::Bool(true));
        if !suspended && new_spec.get("template") != old_spec.get("template") {
            let value = new_spec.get("template").unwrap_or(&Value::Null);
            faults.invalid("spec.template", value, IMMUTABLE);
        }
        faults.immutable(new_spec, old_spec, "spec", "completionMode");
    }
    faults.into_errors()
}

fn job_spec(faults: &mut Faults, path: &str, spec: &Value) {
    faults.not_negative(spec, path, JOB_COUNTS);
    if has(spec, "completionMode") {
        match text(spec, "completionMode") {
            "NonIndexed" => {}
            "Indexed" => {
                if !has(spec, "completions") {
                    faults.required_because(
                        format!("{path}.completions"),
                        "when completion mode is Indexed",
                    );
                }
            }
            other => faults.unsupported(
                format!("{path}.completionMode"),
                other,
                &["NonIndexed", "Indexed"],
            ),
        }
    }
    let pod_template = spec.get("template").unwrap_or(&Value::Null);
    template(faults, &format!("{path}.template"), pod_template);
    match text(spec_of(pod_template), "restartPolicy") {
        "OnFailure" | "Never" => {}
        "" | "Always" => faults.required_because(
            format!("{path}.template.spec.restartPolicy"),
            "valid values: \"OnFailure\", \"Never\"",
        ),
        other => faults.unsupported(
            format!("{path}.template.spec.restartPolicy"),
            other,
            &["OnFailure", "Never"],
        ),
    }
}

pub(super) fn cron_job(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let spec = spec(new);
    match text(spec, "schedule") {
        "" => faults.required("spec.schedule"),
        schedule => {
            if let Err(why) = cron::check(schedule) {
                faults.invalid_text("spec.schedule", schedule, &why);
            }
        }
    }
    faults.not_negative(spec, "spec", &["startingDeadlineSeconds"]);
    let zone = text(spec, "timeZone");
    if !zone.is_empty() && jiff::tz::TimeZone::get(zone).is_err() {
        faults.invalid_text("spec.timeZone", zone, &format!("unknown time zone {zone}"));
    }
    faults.one_of(
        spec,
        "spec",
        "concurrencyPolicy",
        &["Allow", "Forbid", "Replace"],
    );
    job_spec(
        &mut faults,
        "spec.jobTemplate.spec",
        spec.pointer("/jobTemplate/spec").unwrap_or(&Value::Null),
    );
    faults.not_negative(
        spec,
        "spec",
        &["successfulJobsHistoryLimit", "failedJobsHistoryLimit"],
    );
    faults.into_errors()
}

pub(super) fn autoscaler(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let spec = spec(new);
    let number = |key: &str| spec.get(key).and_then(Value::as_i64);
    let least = number("minReplicas");
    if least.is_some_and(|least| least < 1) {
        let value = spec.get("minReplicas").unwrap_or(&Value::Null);
        faults.invalid(
            "spec.minReplicas",
            value,
            "must be greater than or equal to 1",
        );
    }
    let most = number("maxReplicas").unwrap_or(0);
    if most < 1 {
        faults.required_because("spec.maxReplicas", "must be set and greater than 0");
    } else if least.is_some_and(|least| most < least) {
        faults.invalid(
            "spec.maxReplicas",
            &most.into(),
            "must be greater than or equal to `minReplicas`",
        );
    }
    let target = spec.get("scaleTargetRef").unwrap_or(&Value::Null);
    for field in ["kind", "name"] {
        if text(target, field).is_empty() {
            faults.required(format!("spec.scaleTargetRef.{field}"));
        }
    }
    if text(target, "apiVersion").is_empty() {
        faults.invalid_text(
            "spec.scaleTargetRef.apiVersion",
            "",
            "apiVersion must specify API group",
        );
    }
    faults.into_errors()
}

pub(super) fn disruption_budget(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let spec = spec(new);
    if has(spec, "minAvailable") && has(spec, "maxUnavailable") {
        faults.invalid(
            "spec",
            &json!({
                "MinAvailable": spec.get("minAvailable"), "Selector": spec.get("selector"),
                "MaxUnavailable": spec.get("maxUnavailable"), "UnhealthyPodEvictionPolicy": null,
            }),
            "minAvailable and maxUnavailable cannot be both set",
        );
    }
    faults.not_negative(spec, "spec", &["minAvailable", "maxUnavailable"]);
    if let Some(selector) = spec.get("selector").filter(|selector| !selector.is_null()) {
        faults.selector("spec.selector", selector);
    }
    faults.into_errors()
}

pub(super) fn controller_revision(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    faults.not_negative(new, "", &["revision"]);
    if items(new, "data").is_empty() && !has(new, "data") {
        faults.required_because("data", "data is mandatory");
    }
    if let Some(old) = old {
        faults.immutable(new, old, "", "data");
    }
    faults.into_errors()
}
