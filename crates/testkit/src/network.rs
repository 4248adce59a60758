//! A network of a test's own, in which Pods have addresses that a real kube-apiserver takes as endpoints of a Service.
//!
//! A test runs itself once more in a network namespace whose loopback device answers for a whole network (198.18.0.0/15, set aside for
//! tests by RFC 2544). That takes the rights of root and the commands `unshare` and `ip`.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use kah_localkube::node::Network;

/// Set inside: the network of Pods.
const VARIABLE: &str = "KAH_POD_NETWORK";
const PODS: &str = "198.18.0.0/15";

/// A real kube-apiserver does not start without a default route, and takes its own address from there. What is sent anywhere else fails at
/// once, or a question to a nameserver out there would wait for its time to end.
const PREPARE: &str = "ip link set lo up \
  && ip addr add 198.18.0.1/32 dev lo \
  && ip route add local 198.18.0.0/15 dev lo \
  && ip link add outside type veth peer name nowhere \
  && ip link set outside up && ip link set nowhere up \
  && ip addr add 198.19.255.254/32 dev outside \
  && ip route add default dev outside \
  && for net in 1.0.0.0/8 2.0.0.0/7 4.0.0.0/6 8.0.0.0/5 16.0.0.0/4 32.0.0.0/3 64.0.0.0/2 128.0.0.0/1; do \
       ip route add unreachable $net || exit 1; done \
  && exec \"$@\"";

/// Where a test runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the network of its own: it does its work.
    Inside,
    /// Outside, and it has succeeded inside.
    Done,
    /// There is no network of its own to be had here, for this reason.
    Unavailable(String),
}

/// Where Pods' addresses come from in this process.
pub fn pods() -> Network {
    std::env::var(VARIABLE)
        .ok()
        .and_then(|text| Network::parse(&text))
        .unwrap_or(Network::LOOPBACK)
}

/// Runs the test of this name, as the test program lists it, once more in a network of its own.
///
/// # Errors
/// It failed inside; what it printed was passed on.
pub fn own(test: &str) -> Result<Place> {
    if std::env::var_os(VARIABLE).is_some() {
        return Ok(Place::Inside);
    }
    let prepared = Command::new("unshare")
        .args(["--net", "sh", "-c", PREPARE, "sh", "true"])
        .stdin(Stdio::null())
        .output();
    match prepared {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Ok(Place::Unavailable(told));
        }
        Err(error) => {
            return Ok(Place::Unavailable(format!("unshare: {error}")));
        }
    }
    let program = std::env::current_exe().context("find the test program")?;
    let status = Command::new("unshare")
        .args(["--net", "sh", "-c", PREPARE, "sh"])
        .arg(program)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, PODS)
        .stdin(Stdio::null())
        .status()
        .context("run the test in a network of its own")?;
    ensure!(
        status.success(),
        "{test} failed in a network of its own ({status})"
    );
    Ok(Place::Done)
}
