//! What is asked of a cluster that answers, and written about it beside its status.

use kah_api::cluster::is_uid;
use kah_cluster::{Member, holder, join::JoinError, with_causes};

use super::{
    facts::{self, Found},
    granted,
    worker::Work,
};

struct Identified {
    /// Who else has the identity.
    double: Option<String>,
    /// Whether it is not the cluster that joined.
    stranger: bool,
}

/// Whether what a member tells is an identity that it may have.
async fn identified(
    work: &Work,
    member: Option<&Member>,
    found: &Found,
) -> Result<Identified, JoinError> {
    // Who may not be asked tells nothing new.
    let (Some(member), Some(uid)) = (member, found.facts.uid.as_deref()) else {
        return Ok(Identified {
            double: None,
            stranger: false,
        });
    };
    let another = !is_uid(uid) || member.identity().is_some_and(|known| known != uid);
    let double = if another {
        None
    } else {
        holder(&work.host, &work.name, uid).await?
    };
    Ok(Identified {
        stranger: another || double.is_some(),
        double,
    })
}

/// Asks what there is to know, and writes what follows from it.
pub(super) async fn find(work: &Work, is_host: bool, accepted: bool) -> Option<Found> {
    let member = work.host.registry.get(&work.name);
    let client = match &member {
        _ if is_host => work.host.client.clone(),
        Some(member) => match member.kubernetes() {
            Ok(client) => client,
            Err(_) => return None,
        },
        None => return None,
    };
    let mut found = match facts::gather(&client, member.as_deref()).await {
        Ok(found) => found,
        Err(error) => {
            tracing::info!(
                cluster = work.name,
                "ask the cluster: {}",
                with_causes(&error)
            );
            return None;
        }
    };
    match identified(work, member.as_deref().filter(|_| !is_host), &found).await {
        Ok(Identified { double, stranger }) => {
            found.double = double;
            if stranger {
                // Its words are about another cluster, and so would ours be.
                tracing::warn!(
                    cluster = work.name,
                    uid = found.facts.uid.as_deref(),
                    "what answers is not the cluster that joined"
                );
                return Some(found);
            }
        }
        Err(error) => {
            tracing::info!(
                cluster = work.name,
                "look who the cluster is: {}",
                with_causes(&error)
            );
            return None;
        }
    }
    // While access is lost its configuration belongs to those who restore it.
    if accepted && let Err(error) = facts::tell_name(&client, &work.name).await {
        tracing::warn!(
            cluster = work.name,
            "tell the cluster its name: {}",
            with_causes(&error)
        );
    }
    if let Some(granted) = &found.granted
        && let Err(error) = granted::tell(&work.host, &work.name, granted).await
    {
        tracing::warn!(cluster = work.name, %error, "tell users their clusters");
    }
    Some(found)
}
