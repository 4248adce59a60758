//! Pod IPs: loopback addresses of their own, so that many Pods can listen on the same port.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

/// The addresses in use on this node. Clones share them.
#[derive(Clone, Default)]
pub struct Addresses {
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
    /// An address of 127.0.0.0/8 on which every one of `ports` is free now. It is never 127.0.0.1 nor
    /// in the first /16, where other programs of the machine listen.
    ///
    /// # Errors
    /// What binding the last candidate said.
    pub fn lease(&self, ports: &[u16]) -> std::io::Result<Lease> {
        let mut last = None;
        for _ in 0..TRIES {
            let [b, c, d] = rand::random::<[u8; 3]>();
            let candidate = Ipv4Addr::new(127, b.clamp(1, 254), c, d.clamp(1, 254));
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
        let addresses = Addresses::default();
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
}
