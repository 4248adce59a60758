//! What every federated member has been told, and what it accepts.

use std::sync::Arc;

use kah_api::cluster::Trust;
use kah_iam::Trusted;

use super::{
    publish,
    rotation::{MemberKeys, Told},
};
use crate::{Host, Member, with_causes};

/// Members that are asked at the same time.
const AT_ONCE: usize = 16;

/// What is known of one federated member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Its identity, where it is known.
    pub audience: String,
    /// What it has been told, and what it accepts.
    pub keys: MemberKeys,
}

/// Asks all federated members, each within about 5 s, by both ways.
pub async fn survey(host: &Host) -> Vec<Survey> {
    let members: Vec<Arc<Member>> = host
        .registry
        .members()
        .into_iter()
        .filter(|member| !member.is_host() && member.trust() == Trust::Federated)
        .collect();
    let mut surveys = Vec::with_capacity(members.len());
    for some in members.chunks(AT_ONCE) {
        let asked = some.iter().map(|member| {
            let audience = member.identity().unwrap_or_default();
            one(member.clone(), host.registry.signer().trusted(audience))
        });
        surveys.extend(futures::future::join_all(asked).await);
    }
    surveys
}

async fn one(member: Arc<Member>, wanted: Option<Trusted>) -> Survey {
    let (told, offer) = tokio::join!(told(&member, wanted.as_ref()), member.offer());
    Survey {
        audience: member.identity().unwrap_or_default().to_owned(),
        keys: MemberKeys {
            cluster: member.name().to_owned(),
            told,
            accepts: offer.ok().map(|offer| {
                // Keys of another host are none of ours.
                let ours = wanted.is_some_and(|wanted| wanted.issuer() == offer.issuer);
                if ours { offer.keys } else { Vec::new() }
            }),
        },
    }
}

pub(super) async fn told(member: &Member, wanted: Option<&Trusted>) -> Told {
    let Some(audience) = member.identity() else {
        return Told::Away("status.uid of its Cluster is empty".into());
    };
    let client = match member.kubernetes() {
        Ok(client) => client,
        Err(error) => return Told::Away(error.to_string()),
    };
    let data = match publish::read(&client).await {
        Ok(map) => map.and_then(|map| map.data).unwrap_or_default(),
        Err(error) => return Told::Away(with_causes(&error)),
    };
    let read = Trusted::read(&data, audience);
    match (wanted, read) {
        (Some(wanted), Ok(read)) if read == *wanted && wanted.to_data() == data => Told::All,
        (Some(wanted), Ok(read)) if read.issuer() != wanted.issuer() => {
            Told::Foreign(read.issuer().to_owned())
        }
        (_, Ok(read)) => Told::Other(read.ids()),
        (_, Err(_)) => Told::Other(Vec::new()),
    }
}
