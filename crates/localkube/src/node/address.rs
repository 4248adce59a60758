//! Pod IPs: addresses of this machine of their own, so that many Pods can listen on the same port.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

/// The addresses that Pods are given. All of them have to be this machine's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: u32,
    prefix: u8,
}

impl Network {
    /// Addresses that every Linux machine has; a real kube-apiserver refuses them as endpoints of a Service.
    pub const LOOPBACK: Self = Self {
        base: Ipv4Addr::new(127, 0, 0, 0).to_bits(),
        prefix: 8,
    };

    /// Reads `198.18.0.0/15`. The prefix is from 8 to 24, which leaves room.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let prefix = prefix
            .parse()
            .ok()
            .filter(|prefix| (8..=24).contains(prefix))?;
        let base = address.parse::<Ipv4Addr>().ok()?.to_bits() & (u32::MAX << (32 - prefix));
        Some(Self { base, prefix })
    }

    /// Never one of those that other programs of the machine may use: the first 65,536 of a /8, the first 256 of a smaller network.
    fn any(self) -> Ipv4Addr {
        let hosts = u32::MAX >> self.prefix;
        let reserved = match self.prefix {
            8 => 1 << 16,
            24 => 1,
            _ => 1 << 8,
        };
        let offset = reserved + rand::random::<u32>() % (hosts - reserved);
        Ipv4Addr::from_bits(self.base | offset)
    }
}

/// The addresses in use on this node. Clones share them.
#[derive(Clone)]
pub struct Addresses {
    network: Network,
    used: Arc<Mutex<HashSet<Ipv4Addr>>>,
}

/// An address that is given back when it is dropped.
pub struct Lease {
    address: Ipv4Addr,
    owner: Addresses,
}

impl Lease {
    /// The address itself.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.owner
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.address);
    }
}

/// How many addresses are tried before giving up.
const TRIES: usize = 64;

impl Addresses {
    /// None is in use yet.
    pub fn new(network: Network) -> Self {
        Self {
            network,
            used: Arc::default(),
        }
    }

    /// An address on which every one of `ports` is free now.
    ///
    /// # Errors
    /// What binding the last candidate said.
    pub fn lease(&self, ports: &[u16]) -> std::io::Result<Lease> {
        let mut last = None;
        for _ in 0..TRIES {
            let candidate = self.network.any();
            let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            if used.contains(&candidate) {
                continue;
            }
            match check(candidate, ports) {
                Ok(()) => {
                    used.insert(candidate);
                    return Ok(Lease {
                        address: candidate,
                        owner: self.clone(),
                    });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| std::io::ErrorKind::AddrNotAvailable.into()))
    }
}

fn check(address: Ipv4Addr, ports: &[u16]) -> std::io::Result<()> {
    for port in ports.iter().chain(&[0]) {
        TcpListener::bind((IpAddr::V4(address), *port))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_distinct_and_come_back() {
        let addresses = Addresses::new(Network::LOOPBACK);
        let leases: Vec<Lease> = (0..50).map(|_| addresses.lease(&[9090]).unwrap()).collect();
        let distinct: HashSet<_> = leases.iter().map(Lease::address).collect();
        assert_eq!(distinct.len(), 50);
        assert!(
            distinct
                .iter()
                .all(|ip| ip.is_loopback() && *ip != Ipv4Addr::LOCALHOST)
        );
        drop(leases);
        assert!(addresses.used.lock().unwrap().is_empty());
    }

    #[test]
    fn addresses_lie_in_their_network_and_not_at_its_beginning() {
        for (text, first, last) in [
            ("127.0.0.0/8", "127.1.0.0", "127.255.255.255"),
            ("198.18.0.0/15", "198.18.1.0", "198.19.255.255"),
            ("10.9.8.0/24", "10.9.8.0", "10.9.8.255"),
        ] {
            let network = Network::parse(text).unwrap();
            let within = first.parse::<Ipv4Addr>().unwrap()..=last.parse().unwrap();
            for _ in 0..2000 {
                let any = network.any();
                assert!(within.contains(&any), "{any} is not in {text}");
            }
        }
        assert_eq!(Network::parse("127.0.0.0/8"), Some(Network::LOOPBACK));
        for wrong in [
            "",
            "127.0.0.1",
            "a/8",
            "1.2.3.4/7",
            "1.2.3.4/25",
            "1.2.3.4/",
        ] {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }
}
