//! What is found out about a member, stage by stage, each with a time limit of its own and all of them with one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Pod},
    },
    apimachinery::pkg::version::Info,
};
use kah_api::{config::Configuration, seed, time::GoDuration};
use kah_net::Kind;
use kube::Api;
use tokio::time::Instant;

use super::{Expiry, Serving, log};
use crate::probe::cut;
use crate::{AccessCode, Answer, CallerCredential, Host, Member, Route, SettingsError, fault_of};

/// For each question to a kube-apiserver.
const ANSWER: Duration = Duration::from_secs(3);
/// For the questions to the member's kube-apiserver together; the log comes on top.
const ALL: Duration = Duration::from_secs(6);

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replicas {
    /// Wanted.
    pub wanted: i32,
    /// Ready.
    pub ready: i32,
    /// What keeps a Pod from running, where that is known.
    pub trouble: Option<String>,
}

/// What the member's `kubesphere.yaml` says, as far as access depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settings {
    /// It can be read.
    Read(Read),
    /// It cannot; the words quote no value.
    Unreadable(String),
}

/// A configuration beside the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// `multicluster.clusterRole`
    pub role: String,
    /// `multicluster.enable`: it has members of its own.
    pub serves_members: bool,
    /// `authentication.oauthOptions.accessTokenMaxAge`
    pub age: GoDuration,
    /// `authentication.maximumClockSkew`
    pub skew: GoDuration,
    /// `authentication.jwtSecret`
    pub secret: Secret,
}

/// The member's secret beside the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// They are one.
    Same,
    /// They are not; the fingerprints say nothing outside this comparison.
    Other {
        /// Of the host's.
        host: String,
        /// Of the member's.
        member: String,
    },
    /// The host's could not be read.
    NotCompared,
}

/// Everything that was found out about one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The Cluster's name.
    pub cluster: String,
    /// Why what answers is not taken for the cluster that joined, where the Cluster says so.
    pub stranger: Option<String>,
    /// Whether the stored connection can be used at all.
    pub stored: Result<(), SettingsError>,
    /// Whether something is stored to ask the kube-apiserver with.
    pub kubeconfig: Result<(), SettingsError>,
    /// Whether callers come by the member's kube-apiserver.
    pub through_kubernetes: bool,
    /// The answer over the route that callers use.
    pub route: Answer,
    /// The member's time less the host's, where it was told; to the second.
    pub clock: Option<SignedDuration>,
    /// The version of the member's Kubernetes.
    pub kubernetes: Asked<(u32, u32)>,
    /// Its Deployment of ks-apiserver.
    pub replicas: Asked<Replicas>,
    /// Its configuration.
    pub settings: Asked<Settings>,
    /// The line of its log that shows the refusal.
    pub log: Option<String>,
    /// The version of its ks-apiserver.
    pub server: Option<String>,
    /// When the stored credential ends.
    pub credential: Option<Expiry>,
    /// When the certificate of its agent ends, where one is connected.
    pub agent: Option<Expiry>,
    /// What its servers show.
    pub serving: Vec<Serving>,
    /// When this was found out.
    pub now: Timestamp,
}

impl Evidence {
    /// Forgets the words of whatever answered; how it answered stays.
    pub(crate) fn mute(&mut self) {
        if let Answer::Refused { evidence, .. } = &mut self.route {
            // Words without a status are of the way, or of the host.
            if let Some(status) = status_in(evidence) {
                *evidence = status;
            }
        }
        self.kubernetes.mute();
        self.replicas.mute();
        self.settings.mute();
        if let Asked::Told(replicas) = &mut self.replicas {
            replicas.trouble = None;
        }
        match &mut self.settings {
            Asked::Told(Settings::Read(read))
                if !["member", "host", "none", ""].contains(&&*read.role) =>
            {
                "something else".clone_into(&mut read.role);
            }
            Asked::Told(Settings::Unreadable(words)) => {
                "its kubesphere.yaml is not one".clone_into(words);
            }
            _ => {}
        }
        self.log = None;
        self.server = None;
    }

    /// Takes no notice of that the cluster was shown no token; whether it was not.
    pub(crate) fn forgive_undecided(&mut self) -> bool {
        let undecided = matches!(
            self.route,
            Answer::Refused {
                code: Some(AccessCode::TrustUndecided),
                ..
            }
        );
        if undecided {
            self.route = Answer::Accepted;
        }
        undecided
    }
}

/// Finds out, within 8 s also where nothing answers.
pub async fn gather(host: &Host, member: &Arc<Member>, proof: &CallerCredential) -> Evidence {
    let asked_at = host.clock.now();
    let (heard, server, behind) = tokio::join!(
        member.listen(proof),
        member.server_version(),
        behind(host, member)
    );
    let refused = match &heard.answer {
        Answer::Refused { code, .. } => *code,
        Answer::Accepted => None,
    };
    let log = async {
        match refused {
            // It was not shown anything that it could have refused.
            Some(AccessCode::TrustUndecided) => None,
            Some(code) if !behind.pods.is_empty() => log::line(member, &behind.pods, code).await,
            _ => None,
        }
    };
    let (log, ()) = tokio::join!(log, member.look_at_serving(host.clock.now()));
    Evidence {
        cluster: member.name().to_owned(),
        stranger: member.stranger().map(str::to_owned),
        stored: member.route().map(drop).map_err(Clone::clone),
        kubeconfig: member.kubernetes().map(drop).map_err(Clone::clone),
        through_kubernetes: matches!(member.route(), Ok(Route::ServiceProxy(_))),
        route: heard.answer,
        clock: heard.date.map(|date| {
            let whole = Timestamp::from_second(asked_at.as_second()).unwrap_or(asked_at);
            date.duration_since(whole)
        }),
        kubernetes: behind.kubernetes,
        replicas: behind.replicas,
        settings: behind.settings,
        log,
        server,
        credential: member.credential(),
        agent: member.agent_certificate(),
        serving: member.serving(),
        now: host.clock.now(),
    }
}

/// What the kube-apiserver says.
struct Behind {
    kubernetes: Asked<(u32, u32)>,
    replicas: Asked<Replicas>,
    settings: Asked<Settings>,
    pods: Vec<Pod>,
}

/// First whether it speaks with us, then the rest.
async fn behind(host: &Host, member: &Member) -> Behind {
    let mut behind = Behind {
        kubernetes: Asked::NotAsked,
        replicas: Asked::NotAsked,
        settings: Asked::NotAsked,
        pods: Vec::new(),
    };
    let Ok(client) = member.kubernetes() else {
        return behind;
    };
    let end = Instant::now() + ALL;
    // Something that needs a login: `/version` is told to anybody.
    let maps = |client: kube::Client| Api::<ConfigMap>::namespaced(client, seed::NAMESPACE);
    let (theirs, ours) = (maps(client.clone()), maps(host.client.clone()));
    let (map, own) = tokio::join!(
        asked(end, theirs.get(seed::CONFIG)),
        asked(end, ours.get(seed::CONFIG))
    );
    behind.settings = match map {
        Asked::Rejected(words) => {
            behind.kubernetes = Asked::Rejected(words);
            return behind;
        }
        Asked::Fault(kind, words) => {
            behind.kubernetes = Asked::Fault(kind, words);
            return behind;
        }
        told => {
            let own = match own {
                Asked::Told(map) => configuration(&map).ok(),
                _ => None,
            };
            told.map(|map| compared(&map, own.as_ref()))
        }
    };
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), seed::NAMESPACE);
    let (version, deployment, pods) = tokio::join!(
        asked(end, client.apiserver_version()),
        asked(end, deployments.get(seed::SERVER)),
        asked(end, log::pods(client.clone()))
    );
    if let Asked::Told(pods) = pods {
        behind.pods = pods;
    }
    behind.kubernetes = version.map(|info| numbers(&info));
    behind.replicas = deployment.map(|deployment| Replicas {
        wanted: deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1),
        ready: deployment
            .status
            .and_then(|status| status.ready_replicas)
            .unwrap_or(0),
        trouble: log::trouble(&behind.pods),
    });
    behind
}

fn configuration(map: &ConfigMap) -> Result<Configuration, String> {
    let text = map
        .data
        .as_ref()
        .and_then(|data| data.get("kubesphere.yaml"))
        .ok_or("ConfigMap kubesphere-config has no key kubesphere.yaml")?;
    Configuration::read(text, &BTreeMap::new()).map_err(|error| error.to_string())
}

fn compared(map: &ConfigMap, host: Option<&Configuration>) -> Settings {
    let is = match configuration(map) {
        Ok(is) => is,
        Err(words) => return Settings::Unreadable(words),
    };
    let there = &is.authentication.jwt_secret;
    let secret = match host.map(|host| &host.authentication.jwt_secret) {
        None => Secret::NotCompared,
        Some(here) => {
            // A key of this comparison alone.
            let key = uuid::Uuid::new_v4();
            let (host, member) = (
                here.fingerprint(key.as_bytes()),
                there.fingerprint(key.as_bytes()),
            );
            if host == member {
                Secret::Same
            } else {
                Secret::Other { host, member }
            }
        }
    };
    Settings::Read(Read {
        role: is.multicluster.cluster_role,
        serves_members: is.multicluster.enable,
        age: is.authentication.oauth_options.access_token_max_age,
        skew: is.authentication.maximum_clock_skew,
        secret,
    })
}

/// Major and minor, of `1` and `36+`.
fn numbers(info: &Info) -> (u32, u32) {
    let number = |text: &str| {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(0)
    };
    (number(&info.major), number(&info.minor))
}

/// `401: words` without the words.
fn status_in(evidence: &str) -> Option<String> {
    let (status, _) = evidence.split_once(':')?;
    let is = status.len() == 3 && status.bytes().all(|byte| byte.is_ascii_digit());
    is.then(|| format!("it answered {status}"))
}

impl<T> Asked<T> {
    fn mute(&mut self) {
        if let Self::Forbidden(words) | Self::Rejected(words) | Self::Other(words) = self {
            *words = status_in(words)
                .unwrap_or_else(|| "it answered as no kube-apiserver does".to_owned());
        }
    }

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

async fn asked<T>(
    end: Instant,
    question: impl Future<Output = Result<T, kube::Error>>,
) -> Asked<T> {
    let limit = end.min(Instant::now() + ANSWER);
    match tokio::time::timeout_at(limit, question).await {
        Err(_) => Asked::Fault(
            Kind::Timeout,
            format!("no answer within {} s", ANSWER.as_secs()),
        ),
        Ok(Ok(told)) => Asked::Told(told),
        Ok(Err(kube::Error::Api(status))) => {
            let words = cut(&format!("{}: {}", status.code, status.message));
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
            let words = cut(&words);
            match fault_of(&error) {
                Some(kind) => Asked::Fault(kind, words),
                None => Asked::Other(words),
            }
        }
    }
}
