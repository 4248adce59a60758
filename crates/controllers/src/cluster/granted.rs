//! The annotation of a User that names the clusters on which the user has a role: what the user may see of the fleet.

use std::collections::BTreeSet;

use kah_api::iam::User;
use kah_cluster::Host;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

/// A list of names with commas between.
const ANNOTATION: &str = "iam.kubesphere.io/granted-clusters";
/// Tries of a write that somebody else came before.
const TRIES: usize = 8;

/// Adds this cluster to the annotation of those users, and takes it from all others.
///
/// # Errors
/// The host's kube-apiserver refused it for a user; the others are done.
pub async fn tell(
    host: &Host,
    cluster: &str,
    granted: &BTreeSet<String>,
) -> Result<(), kube::Error> {
    let known = host.prover.users();
    let users: Api<User> = Api::all(host.client.clone());
    let mut refused = None;
    for name in known.names() {
        let has = known
            .get(&name)
            .is_some_and(|user| names(&user).any(|it| it == cluster));
        let should = granted.contains(&name);
        if has != should {
            match change(&users, &name, cluster, should).await {
                Err(error @ kube::Error::Api(_)) => {
                    refused.get_or_insert(error);
                }
                done => done?,
            }
        }
    }
    refused.map_or(Ok(()), Err)
}

fn names(user: &User) -> impl Iterator<Item = &str> {
    let annotations = user.metadata.annotations.as_ref();
    let text = annotations.and_then(|it| it.get(ANNOTATION));
    text.map_or("", String::as_str)
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

async fn change(
    users: &Api<User>,
    name: &str,
    cluster: &str,
    should: bool,
) -> Result<(), kube::Error> {
    let mut tries = 0;
    loop {
        let Some(user) = users.get_opt(name).await? else {
            return Ok(());
        };
        let mut list: Vec<&str> = names(&user).filter(|it| *it != cluster).collect();
        if should {
            list.push(cluster);
        }
        if list.iter().copied().eq(names(&user)) {
            return Ok(());
        }
        // Only against the version that was read: others add their clusters at the same time.
        let patch = json!({"metadata": {
            "resourceVersion": user.metadata.resource_version,
            "annotations": {ANNOTATION: if list.is_empty() { None } else { Some(list.join(",")) }},
        }});
        match users
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}
