//! Which addresses the host lets itself be sent to by somebody's word (security-tests.md S1, S5).
//!
//! A kubeconfig names any address. Those of this machine, of its link and of the cloud's metadata are no clusters, and answer whoever runs here with
//! what callers must not see. The configuration may allow them: `hub.allowedAddresses`.
//!
//! Before a join what the name means then is checked, for an answer in words. Whoever holds the name may let it mean something else later, and not
//! every Cluster comes by a join: so each connection to a member asks again ([`Allow`]).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use kah_api::network::Network;
use kah_net::{Address, Allow, BoxError};

/// For the name's resolution.
const RESOLVE: Duration = Duration::from_secs(5);
/// Addresses of one name that are looked at; a name with more is refused.
const MOST: usize = 32;

/// Why an address is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// It is one of those that are no clusters.
    #[error(
        "the address {ip} of {host} is {what}, which this hub does not ask unless hub.allowedAddresses in kubesphere.yaml allows it"
    )]
    Refused {
        /// The host of the URL.
        host: String,
        /// What it means.
        ip: IpAddr,
        /// What kind of address that is.
        what: &'static str,
    },
    /// A number in another form than four decimal parts.
    #[error("{0:?} is an address in an unusual form: write it as four decimal numbers, or as IPv6")]
    Unusual(String),
    /// The name means nothing now.
    #[error("the name {0} has no address")]
    NotResolved(String),
}

/// The addresses that may be asked. Clones share what is allowed.
#[derive(Debug, Clone, Default)]
pub struct AddressGuard {
    allowed: Arc<ArcSwap<Vec<Network>>>,
}

impl AddressGuard {
    /// Refuses what is no cluster, but for these ranges.
    #[must_use]
    pub fn new(allowed: &[Network]) -> Self {
        Self {
            allowed: Arc::new(ArcSwap::from_pointee(allowed.to_vec())),
        }
    }

    /// From now on these ranges are allowed, for connections that are opened from now on.
    pub fn reload(&self, allowed: &[Network]) {
        self.allowed.store(Arc::new(allowed.to_vec()));
    }

    /// Resolves the address, and gives what it means now if all of that may be asked.
    ///
    /// # Errors
    /// [`GuardError`].
    pub async fn check(&self, address: &Address) -> Result<Vec<IpAddr>, GuardError> {
        let host = address.host.as_str();
        if let Ok(ip) = host.parse::<IpAddr>() {
            self.judge(host, ip)?;
            return Ok(vec![ip]);
        }
        if is_number(host) {
            return Err(GuardError::Unusual(host.to_owned()));
        }
        let not_resolved = || GuardError::NotResolved(host.to_owned());
        let looked_up = tokio::net::lookup_host((host, address.port));
        let found: Vec<IpAddr> = tokio::time::timeout(RESOLVE, looked_up)
            .await
            .map_err(|_| not_resolved())?
            .map_err(|_| not_resolved())?
            .map(|found| found.ip())
            .collect();
        if found.is_empty() || found.len() > MOST {
            return Err(not_resolved());
        }
        for ip in &found {
            self.judge(host, *ip)?;
        }
        Ok(found)
    }

    fn judge(&self, host: &str, ip: IpAddr) -> Result<(), GuardError> {
        if self.allowed.load().iter().any(|range| range.contains(ip)) {
            return Ok(());
        }
        match kind(ip) {
            None => Ok(()),
            Some(what) => Err(GuardError::Refused {
                host: host.to_owned(),
                ip,
                what,
            }),
        }
    }
}

impl Allow for AddressGuard {
    fn check(&self, host: &str, ip: IpAddr) -> Result<(), BoxError> {
        Ok(self.judge(host, ip)?)
    }
}

/// What makes an address none of a cluster.
fn kind(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => kind_of_v4(ip),
        IpAddr::V6(ip) => kind_of_v6(ip),
    }
}

fn kind_of_v4(ip: Ipv4Addr) -> Option<&'static str> {
    /// Outside of the link-local range: of the clouds of Alibaba and Oracle, and of Azure.
    const METADATA: [Ipv4Addr; 3] = [
        Ipv4Addr::new(100, 100, 100, 200),
        Ipv4Addr::new(192, 0, 0, 192),
        Ipv4Addr::new(168, 63, 129, 16),
    ];
    if ip.is_loopback() {
        Some("of this machine")
    } else if ip.octets().first() == Some(&0) {
        Some("unspecified")
    } else if ip == Ipv4Addr::new(169, 254, 169, 254) || METADATA.contains(&ip) {
        Some("that of a cloud's metadata")
    } else if ip.is_link_local() {
        Some("link-local")
    } else if ip.is_multicast() || ip.is_broadcast() {
        Some("of a group")
    } else {
        None
    }
}

fn kind_of_v6(ip: Ipv6Addr) -> Option<&'static str> {
    const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    if ip.is_loopback() {
        Some("of this machine")
    } else if ip.is_unspecified() {
        Some("unspecified")
    } else if ip == METADATA {
        Some("that of a cloud's metadata")
    } else if ip.is_unicast_link_local() {
        Some("link-local")
    } else if ip.is_multicast() {
        Some("of a group")
    } else {
        embedded(ip).and_then(kind_of_v4)
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped, compatible, translated (RFC 6052), or of 6to4.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let last = |[.., a, b]: [u16; 8]| {
        let bits = (u32::from(a) << 16) | u32::from(b);
        Ipv4Addr::from_bits(bits)
    };
    match ip.segments() {
        segments @ ([0, 0, 0, 0, 0, 0 | 0xffff, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..]
        | [0x64, 0xff9b, 0, 0, 0, 0, ..]) => Some(last(segments)),
        [0x2002, a, b, ..] => Some(last([0, 0, 0, 0, 0, 0, a, b])),
        _ => None,
    }
}

/// Whether resolvers would read a host as a number: its last part is decimal, octal or hexadecimal.
fn is_number(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last
        .strip_prefix("0x")
        .or_else(|| last.strip_prefix("0X"))
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hexadecimal || (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(host: &str) -> Address {
        Address {
            tls: true,
            host: host.to_owned(),
            port: 6443,
        }
    }

    #[tokio::test]
    async fn s1_what_is_no_cluster_is_not_asked() {
        let guard = AddressGuard::default();
        for host in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "169.254.169.254",
            "169.254.1.1",
            "fe80::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "0",
            "2130706433",
            "0x7f000001",
            "0X7F.1",
            "017700000001",
            "127.1",
            "127.0.0.1.",
            "0177.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "::ffff:0:127.0.0.1",
            "fd00:ec2::254",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
            "localhost",
            "no.such.name.invalid",
        ] {
            assert!(guard.check(&address(host)).await.is_err(), "{host}");
        }
        for host in [
            "10.0.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "8.8.8.8",
            "2001:db8::1",
            "fd12::1",
        ] {
            assert!(guard.check(&address(host)).await.is_ok(), "{host}");
        }
    }

    #[tokio::test]
    async fn s1_the_configuration_allows_more() {
        let guard = AddressGuard::new(&["127.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()]);
        for host in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "localhost"] {
            assert!(guard.check(&address(host)).await.is_ok(), "{host}");
        }
        for host in ["169.254.169.254", "0.0.0.0", "2130706433"] {
            assert!(guard.check(&address(host)).await.is_err(), "{host}");
        }
        let refused = AddressGuard::default()
            .check(&address("169.254.169.254"))
            .await;
        let words = refused.unwrap_err().to_string();
        assert!(words.contains("hub.allowedAddresses"), "{words}");
    }
}
