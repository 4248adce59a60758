//! What every federated member has been told, and what it accepts.

use std::time::Duration;

use futures::{FutureExt, StreamExt, future::BoxFuture};
use kah_api::cluster::Trust;
use kah_iam::Trusted;

use super::{
    publish,
    rotation::{MemberKeys, Told},
};
use crate::{Host, Member, with_causes};

/// Members that are asked at the same time: of 300 that are all silent every one has had its turn within half a minute.
const AT_ONCE: usize = 64;
/// For one member; both questions have limits of their own within it.
const WITHIN: Duration = Duration::from_secs(5);

/// What is known of one federated member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Its identity, where it is known.
    pub audience: String,
    /// What it has been told, and what it accepts.
    pub keys: MemberKeys,
}

/// Asks all federated members, each within about 5 s, by both ways. One that is known to be away is not asked.
pub async fn survey(host: &Host) -> Vec<Survey> {
    let asked: Vec<_> = host
        .registry
        .members()
        .into_iter()
        .filter(|member| !member.is_host() && member.trust() == Trust::Federated)
        .map(|member| {
            let audience = member.identity().unwrap_or_default();
            let wanted = host.registry.signer().trusted(audience);
            let asked = async move {
                let away = |why: &str| apart(&member, why);
                if let Some(why) = member.away() {
                    return away(why);
                }
                match tokio::time::timeout(WITHIN, one(&member, wanted)).await {
                    Ok(found) => found,
                    Err(_) => away("no answer in time"),
                }
            };
            asked.boxed()
        })
        .collect();
    let mut surveys = all(asked).await;
    surveys.sort_by(|a, b| a.keys.cluster.cmp(&b.keys.cluster));
    surveys
}

/// What many answer, in the order in which they do: whoever is silent keeps one place busy and no other.
async fn all<T>(asked: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    futures::stream::iter(asked)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

/// A member that is not there.
fn apart(member: &Member, why: &str) -> Survey {
    Survey {
        audience: member.identity().unwrap_or_default().to_owned(),
        keys: MemberKeys {
            cluster: member.name().to_owned(),
            told: Told::Away(why.to_owned()),
            accepts: None,
        },
    }
}

async fn one(member: &Member, wanted: Option<Trusted>) -> Survey {
    let (told, offer) = tokio::join!(told(member, wanted.as_ref()), member.offer());
    let offer = offer.ok();
    let told = match (told, &offer, &wanted) {
        // Its kube-apiserver cannot say it; its ks-apiserver does.
        (Told::Away(why), Some(offer), Some(wanted)) => {
            let told = [("issuer".to_owned(), offer.issuer.clone())].into();
            publish::foreign(Some(&told), wanted.issuer()).map_or(Told::Away(why), Told::Foreign)
        }
        (told, _, _) => told,
    };
    Survey {
        audience: member.identity().unwrap_or_default().to_owned(),
        keys: MemberKeys {
            cluster: member.name().to_owned(),
            told,
            accepts: offer.map(|offer| {
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
    let map = match publish::read(&client).await {
        Ok(map) => map.unwrap_or_default(),
        Err(error) => return Told::Away(with_causes(&error)),
    };
    // A member that is federated is to keep nothing of another host: whoever tells it anew takes that away.
    let settled = wanted.is_none_or(|wanted| publish::kept(&map, wanted.issuer()).is_none());
    let data = map.data.unwrap_or_default();
    if let Some(wanted) = wanted
        && let Some(of) = publish::foreign(Some(&data), wanted.issuer())
    {
        return Told::Foreign(of);
    }
    let read = Trusted::read(&data, audience);
    match (wanted, read) {
        (Some(wanted), Ok(read)) if settled && read == *wanted && wanted.to_data() == data => {
            Told::All
        }
        (_, Ok(read)) => Told::Other(read.ids()),
        (_, Err(_)) => Told::Other(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many members, of which every so many-th is silent until its time is over; gives how long it takes to ask them all.
    async fn takes(members: usize, silent: usize) -> Duration {
        let asked = (0..members)
            .map(|number| {
                let asked = async move {
                    let pause = if number % silent == 0 {
                        WITHIN
                    } else {
                        WITHIN / 500
                    };
                    tokio::time::sleep(pause).await;
                    number
                };
                asked.boxed()
            })
            .collect();
        let since = tokio::time::Instant::now();
        let mut answered = all(asked).await;
        let took = since.elapsed();
        answered.sort_unstable();
        assert!(answered.into_iter().eq(0..members));
        took
    }

    #[tokio::test(start_paused = true)]
    async fn silent_members_hold_up_nobody_else() {
        let fifth = takes(300, 5).await;
        assert!(fifth < WITHIN * 2, "{fifth:?}");
        let all = takes(300, 1).await;
        assert!(all <= Duration::from_secs(25), "{all:?}");
    }
}
