//! What a direct join writes, in words.

use kah_api::cluster::Trust;

/// What is written, here and there, where the cluster gets this trust.
#[must_use]
pub(super) fn actions(trust: Trust) -> Vec<String> {
    let mut actions = vec![
        "here: a Cluster with this kubeconfig, by which the host propagates and restores"
            .to_owned(),
    ];
    let hashes = match trust {
        Trust::Federated => {
            let keys = "there: the host's public keys, in ConfigMap hub-trust of kubesphere-system";
            actions.push(keys.to_owned());
            "without passwords"
        }
        Trust::SharedSecret => "with the hashes of their passwords",
    };
    actions.push(format!(
        "there: copies of the host's users ({hashes}), roles, bindings, groups and workspaces; what has the same name there, user admin for one, is overwritten with the host's from then on"
    ));
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trust_tells_what_it_takes_there() {
        let told = |trust| actions(trust).join("\n");
        let (federated, shared) = (told(Trust::Federated), told(Trust::SharedSecret));
        assert!(federated.contains("hub-trust") && federated.contains("without passwords"));
        assert!(!shared.contains("hub-trust") && shared.contains("hashes of their passwords"));
    }
}
