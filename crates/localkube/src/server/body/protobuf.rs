//! Request bodies as Protocol Buffers: what kubectl sends when it makes objects from its own types.
//!
//! Only the messages and fields of the table are known. A body with any other is refused as a whole, so
//! that nothing is ever dropped in silence; clients can send JSON instead.

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Map, Value, json};

/// How deep messages may nest.
const DEPTH: usize = 32;
const MAGIC: &[u8] = b"k8s\0";

/// One message a line: `Name: number field type`, comma-separated. Types: `s` string, `i` integer, `b` bool,
/// `y` bytes, `time`, `quantity`, `intstr`, or a message. `*` repeats, `%` is a map from strings, `?` keeps
/// zero values because they differ from absence, `^` puts the message's fields in the one around it.
const MESSAGES: &str = "
ObjectMeta: 1 name s,2 generateName s,3 namespace s,4 selfLink s,5 uid s,6 resourceVersion s,7 generation i,8 creationTimestamp time,9 deletionTimestamp time,10 deletionGracePeriodSeconds ?i,11 labels %s,12 annotations %s,13 ownerReferences *OwnerReference,14 finalizers *s
OwnerReference: 1 kind s,3 name s,4 uid s,5 apiVersion s,6 controller ?b,7 blockOwnerDeletion ?b
LabelSelector: 1 matchLabels %s,2 matchExpressions *LabelSelectorRequirement
LabelSelectorRequirement: 1 key s,2 operator s,3 values *s
ConfigMap: 1 metadata ObjectMeta,2 data %s,3 binaryData %y,4 immutable ?b
Secret: 1 metadata ObjectMeta,2 data %y,3 type s,4 stringData %s,5 immutable ?b
Namespace: 1 metadata ObjectMeta,2 spec NamespaceSpec,3 status NamespaceStatus
NamespaceSpec: 1 finalizers *s
NamespaceStatus: 1 phase s
LocalObjectReference: 1 name s
ObjectReference: 1 kind s,2 namespace s,3 name s,4 uid s,5 apiVersion s,6 resourceVersion s,7 fieldPath s
Binding: 1 metadata ObjectMeta,2 target ObjectReference
ServiceAccount: 1 metadata ObjectMeta,2 secrets *ObjectReference,3 imagePullSecrets *LocalObjectReference,4 automountServiceAccountToken ?b
Service: 1 metadata ObjectMeta,2 spec ServiceSpec,3 status ServiceStatus
ServiceSpec: 1 ports *ServicePort,2 selector %s,3 clusterIP s,4 type s,5 externalIPs *s,7 sessionAffinity s,8 loadBalancerIP s,9 loadBalancerSourceRanges *s,10 externalName s,11 externalTrafficPolicy s,12 healthCheckNodePort i,13 publishNotReadyAddresses b,17 ipFamilyPolicy s,18 clusterIPs *s,19 ipFamilies *s,20 allocateLoadBalancerNodePorts ?b,21 loadBalancerClass s,22 internalTrafficPolicy s,23 trafficDistribution s
ServicePort: 1 name s,2 protocol s,3 port i,4 targetPort intstr,5 nodePort i,6 appProtocol s
ServiceStatus: 1 loadBalancer LoadBalancerStatus
LoadBalancerStatus:
Deployment: 1 metadata ObjectMeta,2 spec DeploymentSpec,3 status DeploymentStatus
DeploymentSpec: 1 replicas ?i,2 selector LabelSelector,3 template PodTemplateSpec,4 strategy DeploymentStrategy,5 minReadySeconds i,6 revisionHistoryLimit ?i,7 paused b,9 progressDeadlineSeconds ?i
DeploymentStrategy: 1 type s,2 rollingUpdate RollingUpdate
RollingUpdate: 1 maxUnavailable intstr,2 maxSurge intstr
DeploymentStatus: 1 observedGeneration i,2 replicas i,3 updatedReplicas i,4 availableReplicas i,5 unavailableReplicas i,7 readyReplicas i
PodTemplateSpec: 1 metadata ObjectMeta,2 spec PodSpec
Pod: 1 metadata ObjectMeta,2 spec PodSpec,3 status PodStatus
PodStatus: 1 phase s
PodSpec: 2 containers *Container,3 restartPolicy s,4 terminationGracePeriodSeconds ?i,5 activeDeadlineSeconds ?i,6 dnsPolicy s,7 nodeSelector %s,8 serviceAccountName s,9 serviceAccount s,10 nodeName s,11 hostNetwork b,12 hostPID b,13 hostIPC b,15 imagePullSecrets *LocalObjectReference,16 hostname s,17 subdomain s,19 schedulerName s,20 initContainers *Container,21 automountServiceAccountToken ?b,24 priorityClassName s,25 priority ?i
Container: 1 name s,2 image s,3 command *s,4 args *s,5 workingDir s,6 ports *ContainerPort,7 env *EnvVar,8 resources ResourceRequirements,13 terminationMessagePath s,14 imagePullPolicy s,16 stdin b,17 stdinOnce b,18 tty b,20 terminationMessagePolicy s
ContainerPort: 1 name s,2 hostPort i,3 containerPort i,4 protocol s,5 hostIP s
EnvVar: 1 name s,2 value s
ResourceRequirements: 1 limits %quantity,2 requests %quantity
PolicyRule: 1 verbs *s,2 apiGroups *s,3 resources *s,4 resourceNames *s,5 nonResourceURLs *s
Role: 1 metadata ObjectMeta,2 rules *PolicyRule
ClusterRole: 1 metadata ObjectMeta,2 rules *PolicyRule,3 aggregationRule AggregationRule
AggregationRule: 1 clusterRoleSelectors *LabelSelector
RoleBinding: 1 metadata ObjectMeta,2 subjects *Subject,3 roleRef RoleRef
ClusterRoleBinding: 1 metadata ObjectMeta,2 subjects *Subject,3 roleRef RoleRef
Subject: 1 kind s,2 apiGroup s,3 name s,4 namespace s
RoleRef: 1 apiGroup s,2 kind s,3 name s
SelfSubjectAccessReview: 1 metadata ObjectMeta,2 spec SelfSubjectAccessReviewSpec,3 status SubjectAccessReviewStatus
SelfSubjectAccessReviewSpec: 1 resourceAttributes ResourceAttributes,2 nonResourceAttributes NonResourceAttributes
ResourceAttributes: 1 namespace s,2 verb s,3 group s,4 version s,5 resource s,6 subresource s,7 name s
NonResourceAttributes: 1 path s,2 verb s
SubjectAccessReviewStatus: 1 allowed b,2 reason s,3 evaluationError s,4 denied b
SelfSubjectRulesReview: 1 metadata ObjectMeta,2 spec SelfSubjectRulesReviewSpec,3 status SubjectRulesReviewStatus
SelfSubjectRulesReviewSpec: 1 namespace s
SubjectRulesReviewStatus: 3 incomplete b,4 evaluationError s
SelfSubjectReview: 1 metadata ObjectMeta,2 status SelfSubjectReviewStatus
SelfSubjectReviewStatus: 1 userInfo UserInfo
UserInfo: 1 username s,2 uid s,3 groups *s
TokenRequest: 1 metadata ObjectMeta,2 spec TokenRequestSpec,3 status TokenRequestStatus
TokenRequestSpec: 1 audiences *s,3 boundObjectRef BoundObjectReference,4 expirationSeconds ?i
BoundObjectReference: 1 kind s,2 apiVersion s,3 name s,4 uid s
TokenRequestStatus: 1 token s,2 expirationTimestamp time
Job: 1 metadata ObjectMeta,2 spec JobSpec,3 status JobStatus
JobSpec: 1 parallelism ?i,2 completions ?i,3 activeDeadlineSeconds ?i,4 selector LabelSelector,5 manualSelector ?b,6 template PodTemplateSpec,7 backoffLimit ?i,8 ttlSecondsAfterFinished ?i,9 completionMode s,10 suspend ?b
JobStatus: 4 active i,5 succeeded i,6 failed i,7 completedIndexes s
CronJob: 1 metadata ObjectMeta,2 spec CronJobSpec,3 status CronJobStatus
CronJobSpec: 1 schedule s,2 startingDeadlineSeconds ?i,3 concurrencyPolicy s,4 suspend ?b,5 jobTemplate JobTemplateSpec,6 successfulJobsHistoryLimit ?i,7 failedJobsHistoryLimit ?i,8 timeZone s
JobTemplateSpec: 1 metadata ObjectMeta,2 spec JobSpec
CronJobStatus:
Ingress: 1 metadata ObjectMeta,2 spec IngressSpec,3 status ServiceStatus
IngressSpec: 1 defaultBackend IngressBackend,2 tls *IngressTLS,3 rules *IngressRule,4 ingressClassName s
IngressBackend: 4 service IngressServiceBackend
IngressServiceBackend: 1 name s,2 port ServiceBackendPort
ServiceBackendPort: 1 name s,2 number i
IngressTLS: 1 hosts *s,2 secretName s
IngressRule: 1 host s,2 rule ^IngressRuleValue
IngressRuleValue: 1 http HTTPIngressRuleValue
HTTPIngressRuleValue: 1 paths *HTTPIngressPath
HTTPIngressPath: 1 path s,2 backend IngressBackend,3 pathType s
PodDisruptionBudget: 1 metadata ObjectMeta,2 spec PodDisruptionBudgetSpec,3 status PodDisruptionBudgetStatus
PodDisruptionBudgetSpec: 1 minAvailable intstr,2 selector LabelSelector,3 maxUnavailable intstr
PodDisruptionBudgetStatus: 1 observedGeneration i,3 disruptionsAllowed i,4 currentHealthy i,5 desiredHealthy i,6 expectedPods i
ResourceQuota: 1 metadata ObjectMeta,2 spec ResourceQuotaSpec,3 status ResourceQuotaStatus
ResourceQuotaSpec: 1 hard %quantity,2 scopes *s
ResourceQuotaStatus: 1 hard %quantity,2 used %quantity
PriorityClass: 1 metadata ObjectMeta,2 value ?i,3 globalDefault b,4 description s,5 preemptionPolicy s
Scale: 1 metadata ObjectMeta,2 spec ScaleSpec,3 status ScaleStatus
ScaleSpec: 1 replicas i
ScaleStatus: 1 replicas i,2 selector s
Eviction: 1 metadata ObjectMeta,2 deleteOptions DeleteOptions
DeleteOptions: 1 gracePeriodSeconds ?i,2 preconditions Preconditions,3 orphanDependents ?b,4 propagationPolicy s,5 dryRun *s
Preconditions: 1 uid s,2 resourceVersion s
";

/// Reads a body into the JSON it stands for. `None`: it is damaged, or says something the table does not know.
pub(super) fn decode(bytes: &[u8]) -> Option<Value> {
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for (number, field) in fields(bytes.strip_prefix(MAGIC)?) {
        match (number, field?) {
            (1, Field::Bytes(types)) => {
                for (number, field) in fields(types) {
                    match (number, field?) {
                        (1, Field::Bytes(text)) => api_version = string(text)?,
                        (2, Field::Bytes(text)) => kind = string(text)?,
                        _ => return None,
                    }
                }
            }
            (2, Field::Bytes(bytes)) => raw = bytes,
            // Content encoding and type, which are empty for what is plain protobuf.
            (3 | 4, Field::Bytes(_)) => {}
            _ => return None,
        }
    }
    let mut object = Map::new();
    object.insert("kind".to_owned(), kind.clone().into());
    object.insert("apiVersion".to_owned(), api_version.into());
    message(&kind, raw, &mut object, DEPTH)?;
    Some(Value::Object(object))
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message; a damaged one is `None`, and the last.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = (u64, Option<Field<'_>>)> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let mut next = || {
            let tag = varint(&mut bytes)?;
            let field = match tag & 7 {
                0 => Field::Number(varint(&mut bytes)?),
                2 => {
                    let length = usize::try_from(varint(&mut bytes)?).ok()?;
                    let (field, rest) = bytes.split_at_checked(length)?;
                    bytes = rest;
                    Field::Bytes(field)
                }
                _ => return None,
            };
            Some((tag >> 3, field))
        };
        match next() {
            Some((number, field)) => Some((number, Some(field))),
            None => {
                bytes = &[];
                Some((0, None))
            }
        }
    })
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn string(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

fn row(name: &str) -> Option<&'static str> {
    MESSAGES
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

fn message(name: &str, bytes: &[u8], into: &mut Map<String, Value>, depth: usize) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    let row = row(name)?;
    for (number, field) in fields(bytes) {
        let field = field?;
        let (json_name, kind) = row.split(',').find_map(|entry| {
            let mut words = entry.split_whitespace();
            let known: u64 = words.next()?.parse().ok()?;
            (known == number).then_some((words.next()?, words.next()?))
        })?;
        let name = json_name.to_owned();
        if let Some(kind) = kind.strip_prefix('*') {
            let value = scalar(kind, &field, depth)?;
            if let Value::Array(list) = into.entry(name).or_insert_with(|| json!([])) {
                list.push(value);
            }
        } else if let Some(kind) = kind.strip_prefix('%') {
            let Field::Bytes(entry) = field else {
                return None;
            };
            let (mut key, mut value) = (String::new(), None);
            for (number, field) in fields(entry) {
                match (number, field?) {
                    (1, Field::Bytes(text)) => key = string(text)?,
                    (2, field) => value = Some(scalar(kind, &field, depth)?),
                    _ => return None,
                }
            }
            let value = value.unwrap_or_else(|| "".into());
            if let Value::Object(map) = into.entry(name).or_insert_with(|| json!({})) {
                map.insert(key, value);
            }
        } else if let Some(kind) = kind.strip_prefix('^') {
            let Field::Bytes(bytes) = field else {
                return None;
            };
            message(kind, bytes, into, depth)?;
        } else if let Some(kind) = kind.strip_prefix('?') {
            into.insert(name, scalar(kind, &field, depth)?);
        } else {
            let value = scalar(kind, &field, depth)?;
            let zero = match &value {
                Value::Null | Value::Bool(false) => true,
                Value::String(text) => text.is_empty(),
                Value::Number(number) => kind == "i" && number.as_i64() == Some(0),
                Value::Object(map) => map.is_empty(),
                _ => false,
            };
            if !zero {
                into.insert(name, value);
            }
        }
    }
    Some(())
}

fn scalar(kind: &str, field: &Field<'_>, depth: usize) -> Option<Value> {
    Some(match (kind, field) {
        ("s", Field::Bytes(text)) => string(text)?.into(),
        // Negative numbers travel as their two's complement.
        ("i", Field::Number(number)) => number.cast_signed().into(),
        ("b", Field::Number(number)) => (*number != 0).into(),
        ("y", Field::Bytes(bytes)) => BASE64_STANDARD.encode(bytes).into(),
        ("time", Field::Bytes(bytes)) => {
            let mut seconds = None;
            for (number, field) in fields(bytes) {
                if let (1, Field::Number(number)) = (number, field?) {
                    seconds = Some(number.cast_signed());
                }
            }
            match seconds {
                None => Value::Null,
                Some(seconds) => jiff::Timestamp::from_second(seconds)
                    .ok()?
                    .to_string()
                    .into(),
            }
        }
        ("quantity", Field::Bytes(bytes)) => {
            let mut text = String::new();
            for (number, field) in fields(bytes) {
                match (number, field?) {
                    (1, Field::Bytes(bytes)) => text = string(bytes)?,
                    _ => return None,
                }
            }
            text.into()
        }
        ("intstr", Field::Bytes(bytes)) => {
            let (mut is_text, mut number, mut text) = (false, 0, String::new());
            for (index, field) in fields(bytes) {
                match (index, field?) {
                    (1, Field::Number(kind)) => is_text = kind == 1,
                    (2, Field::Number(value)) => number = value.cast_signed(),
                    (3, Field::Bytes(value)) => text = string(value)?,
                    _ => return None,
                }
            }
            if is_text { text.into() } else { number.into() }
        }
        (kind, Field::Bytes(bytes)) => {
            let mut map = Map::new();
            message(kind, bytes, &mut map, depth)?;
            Value::Object(map)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).expect("short");
        [&[number << 3 | 2, length], content].concat()
    }

    #[test]
    fn reads_a_config_map_and_refuses_what_it_does_not_know() {
        let entry = [bytes(1, b"a"), bytes(2, b"b")].concat();
        let metadata = [bytes(1, b"m"), bytes(8, b"")].concat();
        let map = [bytes(1, &metadata), bytes(2, &entry)].concat();
        let types = [bytes(1, b"v1"), bytes(2, b"ConfigMap")].concat();
        let body = |raw: &[u8]| [MAGIC, &bytes(1, &types), &bytes(2, raw)].concat();
        assert_eq!(
            decode(&body(&map)),
            Some(
                json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "m"}, "data": {"a": "b"}})
            )
        );
        assert_eq!(decode(&body(&[map.clone(), bytes(9, b"x")].concat())), None);
        assert_eq!(decode(&body(&map[..map.len() - 1])), None);
        assert_eq!(decode(b"{}"), None);
    }

    #[test]
    fn every_type_of_the_table_exists() {
        for line in MESSAGES.lines().filter(|line| !line.is_empty()) {
            let (name, row) = line.split_once(':').expect(line);
            for entry in row.split(',').filter(|entry| !entry.trim().is_empty()) {
                let words: Vec<&str> = entry.split_whitespace().collect();
                let [number, _, kind] = words.as_slice() else {
                    panic!("{name}: {entry}");
                };
                assert!(number.parse::<u64>().is_ok(), "{name}: {entry}");
                let kind = kind.trim_start_matches(['*', '%', '?', '^']);
                let plain = ["s", "i", "b", "y", "time", "quantity", "intstr"].contains(&kind);
                assert!(plain || super::row(kind).is_some(), "{name}: {entry}");
            }
        }
    }
}
