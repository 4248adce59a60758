//! Which members of `kah up` are in the host's fleet, and which have left it.

use std::collections::BTreeMap;

use kah_api::cluster::Cluster;
use serde::{Deserialize, Serialize};

/// How a member stands to the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// No start has joined it to the end.
    New,
    /// The Cluster of its own name is it.
    Joined,
    /// It is in the fleet under the name of this Cluster.
    As(String),
    /// An earlier start joined it, and its Cluster is gone.
    Left,
    /// It is not in the fleet, and another cluster is, under its name.
    NameTaken,
}

impl Standing {
    /// How the member called `name` with the identity `uid` stands, by the Clusters that there are. `before` says whether an earlier start joined it.
    pub fn of(name: &str, uid: &str, before: bool, clusters: &[Cluster]) -> Self {
        let identity = |cluster: &Cluster| {
            let uid = cluster.status.as_ref().map(|status| status.uid.clone());
            uid.filter(|uid| !uid.is_empty())
        };
        let named = |cluster: &&Cluster| cluster.metadata.name.as_deref() == Some(name);
        let own = clusters.iter().find(named);
        let own_identity = own.and_then(identity);
        if own_identity.as_deref() == Some(uid) {
            return Self::Joined;
        }
        let other = clusters
            .iter()
            .find(|cluster| identity(cluster).as_deref() == Some(uid));
        match (other.and_then(|it| it.metadata.name.clone()), own) {
            (Some(other), _) => Self::As(other),
            // It was never reached yet: of a start that was cut short, or made by hand for this member.
            (None, Some(_)) if own_identity.is_none() => Self::Joined,
            (None, Some(_)) => Self::NameTaken,
            (None, None) if before => Self::Left,
            (None, None) => Self::New,
        }
    }

    /// The name of its Cluster, if it has one.
    pub fn cluster<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        match self {
            Self::New | Self::Joined => Some(name),
            Self::As(other) => Some(other),
            Self::Left | Self::NameTaken => None,
        }
    }
}

/// Which members were joined to the end, by name and identity, and to which host. One that is in here and has no Cluster has left; one that is not was
/// never joined, however much of it there is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    host: String,
    members: BTreeMap<String, String>,
}

impl Record {
    /// What is known of the members of the host with this identity.
    pub fn of_host(self, host: &str) -> Self {
        if self.host == host {
            return self;
        }
        Record {
            host: host.to_owned(),
            members: BTreeMap::new(),
        }
    }

    /// Whether the member was joined to the end.
    pub fn has(&self, name: &str, uid: &str) -> bool {
        self.members.get(name).is_some_and(|known| known == uid)
    }

    /// The identity of a member that was joined.
    pub fn identity(&self, name: &str) -> Option<&str> {
        self.members.get(name).map(String::as_str)
    }

    /// The member is joined.
    pub fn add(&mut self, name: &str, uid: &str) {
        self.members.insert(name.to_owned(), uid.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use kah_api::cluster::{ClusterSpec, ClusterStatus};

    use super::*;

    fn cluster(name: &str, uid: &str) -> Cluster {
        let mut cluster = Cluster::new(name, ClusterSpec::default());
        cluster.status = Some(ClusterStatus {
            uid: uid.to_owned(),
            ..ClusterStatus::default()
        });
        cluster
    }

    #[test]
    fn members_that_left_are_told_from_new_ones() {
        let as_shop = || Standing::As("shop".to_owned());
        for (before, clusters, expected) in [
            (false, vec![], Standing::New),
            // The start that made it was killed before it could join it.
            (false, vec![("host", "h")], Standing::New),
            // … or before it could note that it had.
            (false, vec![("member-1", "u")], Standing::Joined),
            (true, vec![("member-1", "u")], Standing::Joined),
            (true, vec![("member-1", "")], Standing::Joined),
            (true, vec![("host", "h")], Standing::Left),
            (true, vec![("shop", "u")], as_shop()),
            (false, vec![("shop", "u")], as_shop()),
            (true, vec![("member-1", "x"), ("shop", "u")], as_shop()),
            (true, vec![("member-1", "x")], Standing::NameTaken),
            (
                true,
                vec![("shop", "u"), ("member-1", "u")],
                Standing::Joined,
            ),
        ] {
            let objects: Vec<Cluster> = clusters
                .iter()
                .map(|(name, uid)| cluster(name, uid))
                .collect();
            let found = Standing::of("member-1", "u", before, &objects);
            assert_eq!(found, expected, "{before} {clusters:?}");
        }
    }

    #[test]
    fn a_record_is_of_one_host_and_of_the_very_member() {
        let mut record = Record::default().of_host("h");
        record.add("member-1", "u");
        assert!(record.clone().of_host("h").has("member-1", "u"));
        // Its folder was emptied: it is another cluster under the same name.
        assert!(!record.has("member-1", "v"));
        assert!(!record.of_host("other").has("member-1", "u"));
    }
}
