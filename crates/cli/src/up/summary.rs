//! What `kah up` prints when it is ready.

use serde_json::json;

use super::fleet::Fleet;
use crate::arguments::UpFormat;
use crate::failure::Failure;

/// The user that exists from the start.
pub const USER: &str = "admin";

/// Where everything is.
pub fn print(fleet: &Fleet, format: UpFormat) -> Result<String, Failure> {
    let address = fleet.address();
    let clusters = fleet.clusters();
    let file = fleet.password_file();
    if format == UpFormat::Json {
        let clusters: Vec<_> = clusters
            .iter()
            .map(|cluster| {
                json!({
                    "name": cluster.name,
                    "kubeconfig": cluster.kubeconfig,
                    "address": cluster.address,
                    "inFleetAs": cluster.in_fleet_as,
                })
            })
            .collect();
        let line = json!({
            "address": address,
            "user": USER,
            "passwordFile": file,
            "certificateAuthority": fleet.authority_file(),
            "clusters": clusters,
        });
        return Ok(format!("{line}\n"));
    }
    let mut text = format!(
        "Kube AI Hub    {address}\nUser           {USER}\nPassword       {}    (in {})\n\n",
        fleet.password(),
        file.display()
    );
    for (place, cluster) in clusters.iter().enumerate() {
        let title = if place == 0 { "Kubeconfigs" } else { "" };
        text.push_str(&format!("{title:<15}{}\n", cluster.kubeconfig.display()));
    }
    let host = clusters
        .first()
        .map(|cluster| cluster.kubeconfig.display().to_string());
    text.push_str(&format!(
        "\nTry next:\n  \
         kubectl --kubeconfig {} get nodes,pods -A\n  \
         kah login {address} --user {USER} --password-stdin < {}\n  \
         kah cluster list\n\n\
         Ctrl-C stops everything; the next `kah up` finds it again.\n",
        host.unwrap_or_default(),
        file.display()
    ));
    Ok(text)
}
