//! What is found out about a member, stage by stage, each with a time limit of its own.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::ConfigMap},
    apimachinery::pkg::version::Info,
};
use kah_api::{config::Configuration, seed};
use kah_net::Kind;
use kube::Api;

use crate::{AccessCode, Answer, CallerCredential, Host, Member, SettingsError, fault_of};

/// For each question to the member's kube-apiserver.
const ANSWER: Duration = Duration::from_secs(3);

/// How a question to the member's kube-apiserver ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked<T> {
    /// With an answer.
    Told(T),
    /// There is no such object.
    Absent,
    /// It knows us, and does not allow it.
    Forbidden(String),
    /// It does not accept our credential.
    Rejected(String),
    /// No answer came: the fault on the way, and its words.
    Fault(Kind, String),
    /// Something else, in its words.
    Other(String),
    /// It was not asked: an earlier stage failed, or nothing is stored to ask with.
    NotAsked,
}

/// The Deployment of ks-apiserver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replicas {
    /// Wanted.
    pub wanted: i32,
    /// Ready.
    pub ready: i32,
}

/// What the member's `kubesphere.yaml` says, as far as access depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settings {
    /// It can be read.
    Read {
        /// `multicluster.clusterRole`
        role: String,
    },
    /// It cannot; the words quote no value.
    Unreadable(String),
}

/// Everything that was found out about one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The Cluster's name.
    pub cluster: String,
    /// Whether the stored connection can be used at all.
    pub stored: Result<(), SettingsError>,
    /// The answer over the route that callers use.
    pub route: Answer,
    /// The version of the member's Kubernetes.
    pub kubernetes: Asked<(u32, u32)>,
    /// Its Deployment of ks-apiserver.
    pub replicas: Asked<Replicas>,
    /// Its configuration.
    pub settings: Asked<Settings>,
    /// When the client certificate of the stored kubeconfig ends.
    pub certificate_ends: Option<Timestamp>,
    /// When this was found out.
    pub now: Timestamp,
}

impl Evidence {
    /// Takes no notice of what matters between those who share a secret only.
    pub(crate) fn forgive_secret(&mut self) {
        let code = match &self.route {
            Answer::Refused { code, .. } => *code,
            Answer::Accepted => None,
        };
        if matches!(
            code,
            Some(AccessCode::TokenNotInCache | AccessCode::SignatureInvalid)
        ) {
            self.route = Answer::Accepted;
        }
    }
}

/// Finds out, within about 10 s also where nothing answers.
pub async fn gather(host: &Host, member: &Arc<Member>, proof: &CallerCredential) -> Evidence {
    let (route, (kubernetes, replicas, settings)) =
        tokio::join!(member.probe(proof), behind(member));
    Evidence {
        cluster: member.name().to_owned(),
        stored: member.route().map(drop).map_err(Clone::clone),
        route,
        kubernetes,
        replicas,
        settings,
        certificate_ends: member.certificate_ends(),
        now: host.clock.now(),
    }
}

/// What the kube-apiserver says: first whether it speaks with us, then the rest.
async fn behind(member: &Member) -> (Asked<(u32, u32)>, Asked<Replicas>, Asked<Settings>) {
    let Ok(client) = member.kubernetes() else {
        return (Asked::NotAsked, Asked::NotAsked, Asked::NotAsked);
    };
    // Something that needs a login: `/version` is told to anybody.
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), seed::NAMESPACE);
    let settings = match asked(maps.get(seed::CONFIG)).await {
        Asked::Rejected(words) => {
            return (Asked::Rejected(words), Asked::NotAsked, Asked::NotAsked);
        }
        Asked::Fault(kind, words) => {
            return (Asked::Fault(kind, words), Asked::NotAsked, Asked::NotAsked);
        }
        told => told.map(|map| read(&map)),
    };
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), seed::NAMESPACE);
    let (version, deployment) = tokio::join!(
        asked(client.apiserver_version()),
        asked(deployments.get(seed::SERVER))
    );
    (
        version.map(|info| numbers(&info)),
        deployment.map(|deployment| Replicas {
            wanted: deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1),
            ready: deployment
                .status
                .and_then(|status| status.ready_replicas)
                .unwrap_or(0),
        }),
        settings,
    )
}

fn read(map: &ConfigMap) -> Settings {
    let text = map
        .data
        .as_ref()
        .and_then(|data| data.get("kubesphere.yaml"));
    let Some(text) = text else {
        return Settings::Unreadable("it has no key kubesphere.yaml".into());
    };
    match Configuration::read(text, &std::collections::BTreeMap::new()) {
        Ok(configuration) => Settings::Read {
            role: configuration.multicluster.cluster_role,
        },
        Err(error) => Settings::Unreadable(error.to_string()),
    }
}

/// Major and minor, of `1` and `36+`.
fn numbers(info: &Info) -> (u32, u32) {
    let number = |text: &str| {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(0)
    };
    (number(&info.major), number(&info.minor))
}

impl<T> Asked<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Asked<U> {
        match self {
            Self::Told(told) => Asked::Told(change(told)),
            Self::Absent => Asked::Absent,
            Self::Forbidden(words) => Asked::Forbidden(words),
            Self::Rejected(words) => Asked::Rejected(words),
            Self::Fault(kind, words) => Asked::Fault(kind, words),
            Self::Other(words) => Asked::Other(words),
            Self::NotAsked => Asked::NotAsked,
        }
    }
}

async fn asked<T>(question: impl Future<Output = Result<T, kube::Error>>) -> Asked<T> {
    match tokio::time::timeout(ANSWER, question).await {
        Err(_) => Asked::Fault(
            Kind::Timeout,
            format!("no answer within {} s", ANSWER.as_secs()),
        ),
        Ok(Ok(told)) => Asked::Told(told),
        Ok(Err(kube::Error::Api(status))) => {
            let words = format!("{}: {}", status.code, status.message);
            match status.code {
                401 => Asked::Rejected(words),
                403 => Asked::Forbidden(words),
                404 => Asked::Absent,
                _ => Asked::Other(words),
            }
        }
        Ok(Err(error)) => {
            let mut words = error.to_string();
            let mut next = std::error::Error::source(&error);
            while let Some(cause) = next {
                words = cause.to_string();
                next = cause.source();
            }
            match fault_of(&error) {
                Some(kind) => Asked::Fault(kind, words),
                None => Asked::Other(words),
            }
        }
    }
}
