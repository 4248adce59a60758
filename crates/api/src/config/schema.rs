//! Which keys there are, to report those that nothing reads.

use super::{
    Finding,
    tree::{Content, Node},
};

/// Keys by the path that leads to them; `[]` stands for the items of a list. What is not listed as a parent
/// is free below.
const KNOWN: [(&str, &[&str]); 12] = [
    (
        "",
        &[
            "authentication",
            "authorization",
            "multicluster",
            "cache",
            "kubernetes",
            "terminal",
            "auditing",
            "monitoring",
            "gpu",
            "hub",
            "devops",
            "sonarQube",
            "openpitrix",
            "servicemesh",
            "network",
            "s3",
            "ldap",
            "logging",
            "events",
            "alerting",
            "notification",
            "kubeedge",
            "edgeruntime",
            "gateway",
            "metering",
            "mysql",
        ],
    ),
    (
        "authentication",
        &[
            "jwtSecret",
            "maximumClockSkew",
            "multipleLogin",
            "authenticateRateLimiterMaxTries",
            "authenticateRateLimiterDuration",
            "loginHistoryRetentionPeriod",
            "loginHistoryMaximumEntries",
            "kubectlImage",
            "oauthOptions",
        ],
    ),
    (
        "authentication.oauthoptions",
        &[
            "issuer",
            "accessTokenMaxAge",
            "accessTokenInactivityTimeout",
            "signKey",
            "signKeyData",
            "identityProviders",
            "clients",
        ],
    ),
    (
        "authentication.oauthoptions.clients[]",
        &[
            "name",
            "secret",
            "respondWithChallenges",
            "redirectURIs",
            "grantMethod",
            "scopeRestrictions",
            "accessTokenMaxAge",
            "accessTokenInactivityTimeout",
        ],
    ),
    (
        "authentication.oauthoptions.identityproviders[]",
        &[
            "name",
            "type",
            "mappingMethod",
            "disableLoginConfirmation",
            "provider",
        ],
    ),
    ("authorization", &["mode"]),
    (
        "multicluster",
        &[
            "enable",
            "clusterRole",
            "hostClusterName",
            "clusterName",
            "proxyPublishService",
            "proxyPublishAddress",
            "agentImage",
            "clusterControllerResyncPeriod",
        ],
    ),
    ("cache", &["type", "options"]),
    ("hub", &["allowedAddresses", "agentImage"]),
    ("kubernetes", &["kubeconfig", "master", "qps", "burst"]),
    ("terminal", &["image", "timeout", "uploadFileLimit"]),
    (
        "auditing",
        &[
            "enable",
            "webhookUrl",
            "eventSendersNum",
            "eventBatchSize",
            "eventBatchInterval",
            "host",
            "basicAuth",
            "username",
            "password",
            "indexPrefix",
            "version",
        ],
    ),
];

pub(super) fn unknown_keys(tree: &Node) -> Vec<Finding> {
    let mut findings = Vec::new();
    walk(tree, "", "", &mut findings);
    findings
}

fn walk(node: &Node, parent: &str, shown: &str, findings: &mut Vec<Finding>) {
    match &node.content {
        Content::Map { entries, .. } => {
            let Some((_, known)) = KNOWN.iter().find(|(path, _)| *path == parent) else {
                return;
            };
            for (key, value) in entries {
                let name = key.text().unwrap_or_default();
                let join = |above: &str, name: &str| {
                    if above.is_empty() {
                        name.to_owned()
                    } else {
                        format!("{above}.{name}")
                    }
                };
                let path = join(shown, name);
                if name == "<<" || known.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                    walk(value, &join(parent, &name.to_lowercase()), &path, findings);
                } else {
                    findings.push(Finding {
                        path,
                        line: key.line,
                        suggestion: nearest(name, known),
                    });
                }
            }
        }
        Content::List(items) => {
            for (index, item) in items.iter().enumerate() {
                walk(
                    item,
                    &format!("{parent}[]"),
                    &format!("{shown}[{index}]"),
                    findings,
                );
            }
        }
        Content::Scalar { .. } | Content::Alias(_) => {}
    }
}

fn nearest(name: &str, known: &[&str]) -> Option<String> {
    let name = name.to_lowercase();
    known
        .iter()
        .map(|known| (distance(&name, &known.to_lowercase()), *known))
        .min()
        .filter(|(distance, known)| *distance <= (known.len() / 3).min(3))
        .map(|(_, known)| known.to_owned())
}

/// Edits that turn one word into the other.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.chars().take(128).enumerate() {
        let mut diagonal = index;
        let mut last = index + 1;
        let mut next = vec![last];
        for (above, to) in row.iter().skip(1).zip(&right) {
            last = (diagonal + usize::from(from != *to))
                .min(above + 1)
                .min(last + 1);
            diagonal = *above;
            next.push(last);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
