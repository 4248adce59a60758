//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::output::Format;

/// Kube AI Hub: many Kubernetes clusters behind one address and one login.
#[derive(Parser)]
#[command(
    name = "kah",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a check found something, 4 login needed or refused."
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Start a host and members on this machine
    Up(Up),
    /// Run ks-apiserver, host or member as its configuration says
    Apiserver(crate::apiserver::Arguments),
    /// Run the reconcilers of a host: health of members, their status, automatic restore
    ControllerManager(crate::controller_manager::Arguments),
    /// Run a member's end of the tunnels: dial the host and lead its requests to this cluster
    Agent(crate::agent::Arguments),
    /// Log in to a host and keep the login
    Login {
        /// The host's address, e.g. http://127.0.0.1:30880
        address: String,
        /// Who logs in
        #[arg(long)]
        user: String,
        /// Read the password from standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// End the login and forget it
    Logout,
    /// Show who is logged in, and where
    Whoami(Output),
    /// Print a kubeconfig with a context for each cluster, all through the host
    Kubeconfig {
        /// Only this cluster
        #[arg(long)]
        cluster: Option<String>,
        /// Write it to a file that only its owner can read
        #[arg(short = 'o', long = "output", value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Look at the clusters of the host, and let them join or leave
    #[command(subcommand)]
    Cluster(Cluster),
    /// Find out why the host cannot reach, or is not accepted by, its members
    Doctor {
        /// Only these clusters
        #[arg(value_parser = cluster_name)]
        clusters: Vec<String>,
        /// Look again and again, and print what changes, until Ctrl-C; with -o json one document a line
        #[arg(long, short = 'w')]
        watch: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Make a member accept the host's tokens again: plan, confirm, back up, change, prove
    RestoreAccess {
        /// The member
        #[arg(value_parser = cluster_name)]
        cluster: String,
        /// A kubeconfig of the member that takes the place of the stored one
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
        /// SHA-256 fingerprint of the member's new certificate authority, which is trusted from now on
        #[arg(long, value_name = "FINGERPRINT", conflicts_with = "kubeconfig")]
        accept_ca: Option<String>,
        /// Show what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Do not ask before changing
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Look at the keys by which the host signs for its members, and change them
    #[command(subcommand)]
    Trust(Trust),
    /// Look at configuration files
    #[command(subcommand)]
    Config(Config),
}

/// A name goes into the path of a request: what no Cluster can be called is refused before anything is asked.
fn cluster_name(text: &str) -> Result<String, String> {
    let inner = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    let ends = [text.bytes().next(), text.bytes().next_back()];
    let good = (1..=253).contains(&text.len())
        && text.as_bytes().iter().all(inner)
        && ends.iter().flatten().all(u8::is_ascii_alphanumeric);
    if good {
        return Ok(text.to_owned());
    }
    Err("a cluster's name has lowercase letters, digits, '-' and '.', and begins and ends with a letter or digit".into())
}

/// `kah trust …`
#[derive(Subcommand)]
pub enum Trust {
    /// The host's keys, and what each member was told and accepts
    Show(Output),
    /// Make a new key; members learn it before it signs, and no request fails
    Rotate {
        /// Let it sign although some members do not accept it, and name them; also where a rotation that waits for them is under way
        #[arg(long)]
        force: bool,
    },
}

/// By what a member knows callers who come through the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TrustWord {
    /// A token for this member alone, signed by the host
    Federated,
    /// The caller's own token: host and member share a jwtSecret
    SharedSecret,
}

impl TrustWord {
    /// The same as objects say it.
    pub fn trust(self) -> kah_api::cluster::Trust {
        match self {
            Self::Federated => kah_api::cluster::Trust::Federated,
            Self::SharedSecret => kah_api::cluster::Trust::SharedSecret,
        }
    }
}

/// `kah cluster …`
#[derive(Subcommand)]
pub enum Cluster {
    /// All clusters, how they are, and whether the login opens them
    List {
        /// Look again and again, and print what changes, until Ctrl-C; with -o json one document a line
        #[arg(long, short = 'w')]
        watch: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Join a cluster: by its kubeconfig, after checking it, or by an agent in it that dials out to the host
    Join(Join),
    /// Move a member to another trust, while requests go on
    Trust {
        /// Its name
        #[arg(value_parser = cluster_name)]
        name: String,
        /// By what it is to know callers
        #[arg(value_enum)]
        trust: TrustWord,
        /// Do not ask before the member gets the host's secret
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Take a cluster out of the fleet; the cluster itself stays as it is
    Leave {
        /// Its name
        #[arg(value_parser = cluster_name)]
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        output: Output,
    },
    /// One cluster
    Show {
        /// Its name
        #[arg(value_parser = cluster_name)]
        name: String,
        #[command(flatten)]
        output: Output,
    },
}

/// `kah cluster join`
#[derive(Args)]
#[command(group = clap::ArgGroup::new("way").required(true).args(["kubeconfig", "agent"]))]
pub struct Join {
    /// The name that it gets
    pub name: String,
    /// A kubeconfig of the cluster, with an administrator's certificate or token in it
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The cluster dials out to the host: print the `kubectl apply` line for it
    #[arg(long, conflicts_with_all = ["kubeconfig", "dry_run"])]
    pub agent: bool,
    /// With --agent: the host's address as the cluster sees it [default: that of the login]
    #[arg(long, value_name = "URL", requires = "agent")]
    pub hub_address: Option<String>,
    /// With --agent: accept a host without TLS; the join token travels in clear
    #[arg(long, requires = "agent")]
    pub insecure_hub: bool,
    /// With --agent: the HTTP proxy through which the cluster reaches the host, http://[USER:PASSWORD@]HOST[:PORT]
    #[arg(long, value_name = "URL", requires = "agent")]
    pub proxy: Option<String>,
    /// With --proxy: where it is not used, with commas between
    #[arg(long, value_name = "LIST", requires = "proxy")]
    pub no_proxy: Option<String>,
    /// With --agent: the image that it runs, REGISTRY/PATH:TAG [default: hub.agentImage of the host, else this release's]
    #[arg(long, value_name = "IMAGE", requires = "agent")]
    pub image: Option<String>,
    /// Only check
    #[arg(long)]
    pub dry_run: bool,
    /// Join although it refuses the host's tokens, to be repaired by `kah restore-access`, or trusts another host; with --agent: invite a cluster anew that had joined
    #[arg(long)]
    pub force: bool,
    /// By what it is to know callers [default: federated, if it offers that]
    #[arg(long, value_enum, conflicts_with = "agent")]
    pub trust: Option<TrustWord>,
    /// Form of the output; with --agent, yaml prints the manifest
    #[command(flatten)]
    pub output: Output,
}

/// `kah config …`
#[derive(Subcommand)]
pub enum Config {
    /// Check a kubesphere.yaml; unknown keys are reported with a suggestion
    Check {
        /// The file, or - for standard input
        file: PathBuf,
        #[command(flatten)]
        output: Output,
    },
}

/// How data is printed.
#[derive(Args)]
pub struct Output {
    /// Form of the output
    #[arg(short = 'o', long = "output", value_enum, default_value_t)]
    pub output: Format,
}

/// `kah up`
#[derive(Args, Clone)]
pub struct Up {
    /// How many members
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=20))]
    pub members: u16,
    /// Port of the host's address; 0 chooses a free one
    #[arg(long, default_value_t = 30880)]
    pub port: u16,
    /// Where everything is kept
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Take a member's trust away before it is used: MEMBER=token-cache or MEMBER=jwt-secret
    #[arg(long = "break", value_name = "MEMBER=FAULT")]
    pub faults: Vec<crate::up::Fault>,
    /// By what members that are new know callers who come through the host
    #[arg(long, value_enum, default_value = "federated")]
    pub trust: TrustWord,
    /// Form of what is printed when all is ready
    #[arg(short = 'o', long = "output", value_enum, default_value_t)]
    pub output: UpFormat,
}

/// How `kah up` reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum UpFormat {
    /// For people.
    #[default]
    Text,
    /// One line of JSON.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn joining_offers_both_ways_and_takes_one() {
        Arguments::command().debug_assert();
        let file = ["--kubeconfig", "f"].as_slice();
        for (more, said) in [
            (&[][..], Some("<--kubeconfig <FILE>|--agent>")),
            (&["--dry-run"], Some("<--kubeconfig <FILE>|--agent>")),
            (file, None),
            (&["--agent"], None),
            (
                &["--agent", "--kubeconfig", "f"],
                Some("cannot be used with"),
            ),
            (&["--agent", "--dry-run"], Some("cannot be used with")),
        ] {
            let typed = [&["kah", "cluster", "join", "m"], more].concat();
            let refused = Arguments::try_parse_from(&typed).err();
            let words = refused.as_ref().map(ToString::to_string);
            match said {
                None => assert_eq!(words, None, "{typed:?}"),
                Some(said) => {
                    assert!(words.as_ref().unwrap().contains(said), "{words:?}");
                    assert_eq!(refused.unwrap().exit_code(), 2);
                }
            }
        }
    }

    #[test]
    fn what_no_cluster_can_be_called_is_refused() {
        let parts = |command: &str, name: &str| {
            let words = command.split(' ').map(str::to_owned);
            words.chain([name.to_owned()]).collect::<Vec<_>>()
        };
        for command in [
            "kah cluster leave",
            "kah cluster show",
            "kah cluster trust --yes",
            "kah restore-access",
            "kah doctor",
        ] {
            for name in ["prod 2", "prod?x", "a/b", "..", "", "Prod", "%2e"] {
                let refused = Arguments::try_parse_from(parts(command, name)).err();
                let words = refused.map(|it| (it.exit_code(), it.to_string()));
                let (code, words) = words.unwrap();
                assert!(
                    code == 2 && words.contains("a cluster's name has"),
                    "{command} {name}: {words}"
                );
            }
        }
        assert!(Arguments::try_parse_from(parts("kah doctor", "prod-2.eu")).is_ok());
    }
}
