//! The connection that the host stores for a member: replaced by one that was tried and that leads to the same cluster, or not at all.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use kah_net::Kind;
use kube::{api::PostParams, core::DynamicObject};
use serde_json::Value;

use super::{Action, Connected, Request, RestoreError, authority, credential};
use crate::{
    AccessCode, Answer, Host, Kubeconfig, Member, Route, fault_of,
    host::clusters,
    identity::identity,
    join::{JoinError, refuse_known},
    kubernetes::client_of_caller,
    retry::TRIES,
};

/// For one question to a cluster that may not answer.
const ANSWER: Duration = Duration::from_secs(4);
const STORE: &str = "store the connection in the Cluster";
/// For the host to follow its own write.
const FOLLOWED: Duration = Duration::from_secs(5);

/// Replaces what is stored by what the request brings, or by a credential of our own where the stored one ends soon; only in thought for a dry run.
pub(super) async fn mend(
    host: &Host,
    member: &Arc<Member>,
    request: &Request,
) -> Result<Connected, RestoreError> {
    let mut connected = Connected {
        member: member.clone(),
        is_candidate: false,
        client: None,
        actions: Vec::new(),
        code: None,
        evidence: String::new(),
        failed: None,
    };
    if let Some(brought) = brought(member, request).await? {
        let replacement = Replacement::prepare(host, member, &brought.kubeconfig).await?;
        connected.actions = brought.actions;
        connected.code = Some(brought.code);
        connected.evidence = "the stored connection is replaced".into();
        if request.dry_run {
            connected.is_candidate = true;
            connected.member = replacement.candidate;
        } else {
            connected.member = replacement.store(host).await?;
        }
        return Ok(connected);
    }
    if request.renew
        && let Some(words) = rejected_beside(member, request).await
    {
        // The stored credential opens nothing any more, but the caller's own does.
        connected.code = Some(AccessCode::CredentialRejected);
        connected.evidence.clone_from(&words);
        let becomes = format!("a token of ServiceAccount {}", credential::account());
        connected
            .actions
            .push(Action::new("stored credential", words, becomes));
        let client = client_of_caller(member, &request.proof);
        let (stored, _) = member.stored().map_err(RestoreError::Settings)?;
        if !authority::is_own(&client, &stored).await? {
            let why = "another authority than the cluster's own is trusted there, to which no token is sent that the cluster issues";
            return Err(RestoreError::NotRenewable(why.into()));
        }
        if request.dry_run {
            connected.client = Some(client);
        } else {
            credential::renew_by(host, member, client).await?;
            connected.member = followed(host, request)?;
        }
        return Ok(connected);
    }
    let now = host.clock.now();
    if request.renew
        && let Some(expiry) = member.credential().filter(|expiry| expiry.is_soon(now))
        && expiry.left(now).is_positive()
    {
        connected.code = Some(AccessCode::CredentialExpiring);
        connected.evidence = expiry.words(now);
        let renewed = if request.dry_run {
            Ok(())
        } else {
            credential::renew_credential(host, member).await.map(drop)
        };
        let becomes = match renewed {
            Ok(()) => format!("a token of ServiceAccount {}", credential::account()),
            Err(error) => {
                let stays = format!("not replaced: {}", crate::with_causes(&error));
                connected.failed = Some(error);
                stays
            }
        };
        let what = "stored credential";
        connected
            .actions
            .push(Action::new(what, expiry.words(now), becomes));
        connected.member = followed(host, request)?;
    }
    Ok(connected)
}

/// The member as the registry has it now.
fn followed(host: &Host, request: &Request) -> Result<Arc<Member>, RestoreError> {
    let member = host.registry.get(&request.cluster);
    member.ok_or_else(|| RestoreError::Unknown(request.cluster.clone()))
}

/// Why the member's kube-apiserver rejects what is stored, where callers get through all the same, by the endpoint of ks-apiserver.
async fn rejected_beside(member: &Arc<Member>, request: &Request) -> Option<String> {
    let Ok(Route::Endpoint(_)) = member.route() else {
        return None;
    };
    let asked = tokio::time::timeout(ANSWER, identity(member.kubernetes().ok()?)).await;
    let words = match asked.ok()?.err()? {
        kube::Error::Api(status) if status.code == 401 => format!("401: {}", status.message),
        error if fault_of(&error) == Some(Kind::CertificateRefused) => crate::with_causes(&error),
        _ => return None,
    };
    (member.probe(&request.proof).await == Answer::Accepted).then_some(words)
}

/// A kubeconfig to take the place of the stored one, and what is different in it.
struct Brought {
    kubeconfig: Vec<u8>,
    actions: Vec<Action>,
    code: AccessCode,
}

async fn brought(member: &Member, request: &Request) -> Result<Option<Brought>, RestoreError> {
    let stored = member.stored();
    let known = match &stored {
        Ok((stored, _)) => authority::known(stored),
        Err(_) => "none".into(),
    };
    if let Some(kubeconfig) = &request.kubeconfig {
        let new = Kubeconfig::read(kubeconfig).map_err(RestoreError::Kubeconfig)?;
        // The address that is stored was looked at when it came; a new one is looked at before it is asked.
        if !matches!(&stored, Ok((_, address)) if *address == new.server) {
            request.guard.check(&new.server).await?;
        }
        let mut actions = vec![Action::new(
            "stored credential",
            stored
                .as_ref()
                .map_or_else(ToString::to_string, |(stored, _)| stored.words()),
            new.words(),
        )];
        let brought = authority::known(&new);
        if brought != known {
            actions.push(Action::new("stored authority", known, brought));
        }
        if let Ok((_, address)) = &stored
            && *address != new.server
        {
            let (from, to) = (address.to_string(), new.server.to_string());
            actions.push(Action::new("address of the kube-apiserver", from, to));
        }
        return Ok(Some(Brought {
            kubeconfig: kubeconfig.clone(),
            actions,
            code: AccessCode::CredentialRejected,
        }));
    }
    let Some(accepted) = &request.accept_ca else {
        return Ok(None);
    };
    let shown = authority::shown(member).await?;
    // Where nothing has changed there is nothing to accept, whatever was given: an alarm with two equal fingerprints would teach people to paste them.
    if shown.fingerprint == known {
        return Ok(None);
    }
    if !shown.is(accepted) {
        return Err(RestoreError::Authority {
            known,
            shown: shown.fingerprint,
        });
    }
    let stored = member.stored_yaml().map_err(RestoreError::Settings)?;
    let kubeconfig =
        Kubeconfig::changed(&stored, Some(&shown.pem), None).map_err(RestoreError::Settings)?;
    Ok(Some(Brought {
        kubeconfig,
        actions: vec![Action::new("stored authority", known, shown.fingerprint)],
        code: AccessCode::TLSUntrusted,
    }))
}

/// A connection that was tried.
pub(super) struct Replacement {
    object: DynamicObject,
    /// `spec.connection` as it was read.
    before: Value,
    uid: String,
    pub(super) candidate: Arc<Member>,
}

impl Replacement {
    /// Tries a kubeconfig: it has to open the cluster that this member is.
    pub(super) async fn prepare(
        host: &Host,
        member: &Member,
        kubeconfig: &[u8],
    ) -> Result<Self, RestoreError> {
        let name = member.name();
        let found = clusters(host.client.clone()).get_opt(name).await;
        let mut object = found
            .map_err(failed("read the Cluster"))?
            .ok_or_else(|| RestoreError::Unknown(name.to_owned()))?;
        let new = Kubeconfig::read(kubeconfig).map_err(RestoreError::Kubeconfig)?;
        let before = connection(&object);
        forget_identity(&mut object);
        let connection = &mut object.data["spec"]["connection"];
        connection["kubeconfig"] = STANDARD.encode(kubeconfig).into();
        if connection
            .get("kubernetesAPIEndpoint")
            .and_then(|it| it.as_str())
            .is_some_and(|endpoint| !endpoint.is_empty())
        {
            connection["kubernetesAPIEndpoint"] = new.server.to_string().into();
        }
        let candidate = host
            .registry
            .candidate(&object)
            .ok_or_else(|| RestoreError::Unknown(name.to_owned()))?;
        match Self::check(host, member, &candidate).await {
            Ok(uid) => Ok(Self {
                object,
                before,
                uid,
                candidate,
            }),
            Err(error) => {
                candidate.close();
                Err(error)
            }
        }
    }

    /// The identity behind the candidate, if it is the member's.
    async fn check(
        host: &Host,
        member: &Member,
        candidate: &Arc<Member>,
    ) -> Result<String, RestoreError> {
        let client = candidate
            .kubernetes()
            .map_err(|error| RestoreError::Kubeconfig(error.clone()))?;
        let found = match tokio::time::timeout(ANSWER, identity(client)).await {
            Ok(Ok(uid)) => uid,
            Ok(Err(error)) => {
                let code = match &error {
                    kube::Error::Api(status) if status.code == 401 => {
                        Some(AccessCode::CredentialRejected)
                    }
                    error => fault_of(error).and_then(crate::code_of_fault),
                };
                // What answers may be no cluster at all: its words are not told.
                let evidence = match &error {
                    kube::Error::Api(status) => format!("the answer is {}", status.code),
                    kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                        "the answer is none of a kube-apiserver".into()
                    }
                    error => crate::with_causes(error),
                };
                return Err(RestoreError::Closed { code, evidence });
            }
            Err(_) => {
                return Err(RestoreError::Closed {
                    code: Some(AccessCode::MemberUnreachable),
                    evidence: format!("no answer within {} s", ANSWER.as_secs()),
                });
            }
        };
        match member.identity() {
            Some(wanted) if wanted == found => {}
            Some(wanted) => {
                let wanted = wanted.to_owned();
                return Err(RestoreError::Another { found, wanted });
            }
            // Nobody has written down yet who it is: at least it is nobody else.
            None => {
                refuse_known(host, &found, Some(member.name()))
                    .await
                    .map_err(|error| match error {
                        JoinError::Api { doing, source } => RestoreError::Api { doing, source },
                        JoinError::Same(other) | JoinError::IsHost(other) => {
                            RestoreError::Other(other)
                        }
                        error => RestoreError::Closed {
                            code: None,
                            evidence: error.to_string(),
                        },
                    })?;
            }
        }
        Ok(found)
    }

    /// Writes it, against the version that was read, and waits until the host goes by it. Who wrote anything but the connection meanwhile is not in the way.
    pub(super) async fn store(self, host: &Host) -> Result<Arc<Member>, RestoreError> {
        let name = self.candidate.name().to_owned();
        let api = clusters(host.client.clone());
        let wanted = connection(&self.object);
        let (mut object, mut tries) = (self.object, 0);
        let written = loop {
            object.data["status"]["uid"] = self.uid.clone().into();
            let written = api.replace(&name, &PostParams::default(), &object).await;
            let conflict = match written.map_err(failed(STORE)) {
                Err(error) if error.is_conflict() && tries < TRIES => error,
                written => break written,
            };
            tries += 1;
            object = match api.get_opt(&name).await.map_err(failed(STORE)) {
                Ok(Some(now))
                    if now.metadata.uid == object.metadata.uid
                        && connection(&now) == self.before =>
                {
                    now
                }
                Ok(_) => break Err(conflict),
                Err(error) => break Err(error),
            };
            forget_identity(&mut object);
            object.data["spec"]["connection"] = wanted.clone();
        };
        self.candidate.close();
        written?;
        let followed = async {
            loop {
                match host.registry.get(&name) {
                    Some(member) if member.has_connection_of(&self.candidate) => return member,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(FOLLOWED, followed)
            .await
            .map_err(|_| RestoreError::Late)
    }
}

fn connection(object: &DynamicObject) -> Value {
    let connection = object.data.pointer("/spec/connection");
    connection.cloned().unwrap_or_default()
}

/// Whether what is brought is the cluster that joined is seen when it is tried; what answered before it was brought counts no more.
fn forget_identity(object: &mut DynamicObject) {
    let conditions = object.data.pointer_mut("/status/conditions");
    if let Some(conditions) = conditions.and_then(|it| it.as_array_mut()) {
        conditions.retain(|condition| condition["type"] != kah_api::cluster::IDENTITY);
    }
}

pub(super) fn failed(doing: &'static str) -> impl FnOnce(kube::Error) -> RestoreError {
    move |source| RestoreError::Api {
        doing,
        source: Box::new(source),
    }
}
