//! Endpoints: a container's interface in a network.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::PathBuf,
};

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    bpf::{self, Mac, PublishedPort},
    link::{LinkKind, Tap},
    mac,
    netlink::{Netns, NetnsId, is_gone, is_same},
    network::Network,
    publish::Publish,
};

/// An endpoint, as it is kept in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its name.
    pub name: String,
    /// The name of its network.
    pub network: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its IPv6 address, which goes with the other; none: its network, its namespace or its host had no IPv6 when it was
    /// made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// The gateway that its container was told.
    pub gateway: Ipv4Addr,
    /// Its container's namespace; a tap's: the host's, [`NetnsRef::OWN`].
    pub netns: NetnsRef,
    /// The kind of its link.
    pub link: LinkKind,
    /// What is particular to a tap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<Tap>,
    /// Name of the container's side, e.g. `eth0`; a tap's: its own.
    pub interface: String,
    /// Name of the host's side.
    pub host_interface: String,
    /// Index of its counters.
    pub slot: u32,
    /// Its published ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publish>,
}

impl Endpoint {
    /// MAC of the container's side; zero: it has none.
    #[must_use]
    pub fn mac(&self) -> Mac {
        if self.link.has_macs() { mac::of_address(self.address) } else { Mac::ZERO }
    }

    /// MAC of the host's side; zero: it has none.
    #[must_use]
    pub fn host_mac(&self, network: &Network) -> Mac {
        if self.link.has_macs() { network.host_mac() } else { Mac::ZERO }
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [self.address.into()].into_iter().chain(self.address6.map(IpAddr::from))
    }

    /// Its addresses with its network's prefix lengths, IPv4 first, each with its gateway.
    pub fn addresses_in(&self, network: &Network) -> impl Iterator<Item = (IpNet, IpAddr)> {
        // The prefix length of a valid network is one.
        let net = Ipv4Net::new_assert(self.address, network.subnet.prefix_len());
        let v6 = self
            .v6(network)
            .map(|v6| (Ipv6Net::new_assert(v6.address, v6.subnet.prefix_len()).into(), v6.gateway.into()));
        [(net.into(), self.gateway.into())].into_iter().chain(v6)
    }

    /// Its part in the network's IPv6, if it has one.
    fn v6(&self, network: &Network) -> Option<bpf::EndpointV6> {
        let (address, subnet, gateway) = (self.address6?, network.subnet6?, network.gateway6()?);
        Some(bpf::EndpointV6 { address, subnet, gateway })
    }

    /// Some of its published ports, as the datapath wants them.
    #[must_use]
    pub fn ports(&self, publish: &[Publish]) -> Vec<PublishedPort> {
        let address = |host_ip| match host_ip {
            IpAddr::V4(_) => Some(self.address.into()),
            IpAddr::V6(_) => self.address6.map(IpAddr::from),
        };
        let entries = |publish: &Publish| Some(publish.entries(address(publish.host_ip)?, self.slot));
        publish.iter().filter_map(entries).flatten().collect()
    }

    /// What the datapath needs to know, once the link has an index.
    #[must_use]
    pub fn entry(&self, network: &Network, ifindex: u32) -> bpf::Endpoint {
        bpf::Endpoint {
            slot: self.slot,
            network: network.number,
            ifindex,
            address: self.address,
            subnet: network.subnet,
            gateway: self.gateway,
            v6: self.v6(network),
            mac: self.mac(),
            host_mac: self.host_mac(network),
            masquerade: network.masquerade,
            published: !self.publish.is_empty(),
            wiring: self.link.wiring(),
        }
    }
}

/// What the names of the host's sides begin with.
pub const PREFIX: &str = "nd";

/// The name of an endpoint's host side: a hash of the endpoint's name, the same after every restart. Where two endpoints'
/// names collide (or something else has the name), the next `attempt` gives another one.
#[must_use]
pub fn host_interface(endpoint: &str, attempt: u32) -> String {
    let mut hash = Sha256::new();
    hash.update(endpoint);
    if attempt > 0 {
        hash.update([0]);
        hash.update(attempt.to_be_bytes());
    }
    let digest = hash.finalize();
    // 40 bits: among ten thousand endpoints, the chance of any collision is 1 in 20,000. 12 of 15 characters.
    let digits: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}{digits}")
}

/// The alias of an endpoint's host side. It says who owns the link: `identity` is that of the state directory.
#[must_use]
pub fn alias(identity: &str, endpoint: &str) -> String {
    format!("{}{endpoint}", alias_prefix(identity))
}

/// What the aliases of all links of a state directory begin with.
#[must_use]
pub fn alias_prefix(identity: &str) -> String {
    format!("netd:{identity}:")
}

/// A container's namespace, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsRef {
    /// Where it is.
    pub path: PathBuf,
    /// Which one is there.
    pub id: NetnsId,
    /// The kernel's cookie of it: unlike an inode number, it is not used again before the next boot.
    pub cookie: u64,
}

impl NetnsRef {
    /// The path of the daemon's own namespace.
    pub const OWN: &'static str = "/proc/self/ns/net";

    /// Remembers a namespace.
    ///
    /// # Errors
    /// It cannot be entered.
    pub fn of(netns: &Netns) -> Result<Self> {
        Ok(Self { path: netns.path().to_owned(), id: netns.id()?, cookie: cookie(netns)? })
    }

    /// Opens it, if the path is that very namespace still; none: there is nothing, or something else.
    ///
    /// # Errors
    /// What is there cannot be looked at: it may be that namespace.
    pub fn open(&self) -> Result<Option<Netns>> {
        if !is_same(&self.path, self.id)? {
            return Ok(None);
        }
        let path = self.path.to_str().context("the path of a namespace is no UTF-8")?;
        let netns = match Netns::open(path) {
            Err(error) if is_gone(&error) => return Ok(None),
            opened => opened?,
        };
        // It may have become another one meanwhile, or one that has got the number of the first.
        let same = netns.id()? == self.id && cookie(&netns)? == self.cookie;
        Ok(same.then_some(netns))
    }
}

/// The cookie of a namespace: `SO_NETNS_COOKIE` of any socket in it (Linux 5.14).
fn cookie(netns: &Netns) -> Result<u64> {
    let what = || format!("cannot tell which namespace {} is", netns.path().display());
    netns.run(socket_cookie)?.with_context(what)
}

/// The cookie of the calling thread's namespace.
///
/// # Errors
/// The kernel gives no socket.
pub fn socket_cookie() -> io::Result<u64> {
    // SAFETY: a system call without pointers; the descriptor is checked, and new, so nothing else owns it.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option's value is 64 bits (net/core/sock.c), and `cookie` and `length` live until the call returns.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_interfaces() {
        let name = host_interface("web", 0);
        assert_eq!(name, host_interface("web", 0), "stable");
        assert_ne!(name, host_interface("web", 1));
        assert_ne!(name, host_interface("web2", 0));
        assert!(name.starts_with(PREFIX) && name.len() < libc::IFNAMSIZ, "{name}");
    }

    #[test]
    fn namespaces_are_told_apart() {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP namespaces_are_told_apart: entering a namespace needs root");
            return;
        }
        let own = Netns::open("/proc/self/ns/net").unwrap();
        let remembered = NetnsRef::of(&own).unwrap();
        assert!(remembered.open().unwrap().is_some());
        // As if the number had been given to another namespace.
        let other = NetnsRef { cookie: remembered.cookie + 1, ..remembered.clone() };
        assert!(other.open().unwrap().is_none());
        for path in ["/run/netns/nd-dm-none", "/proc/0/ns/net", "/dev/null/x", "/dev/null"] {
            let gone = NetnsRef { path: path.into(), ..remembered.clone() };
            assert!(gone.open().unwrap().is_none(), "{path}");
        }
        // What cannot be looked at is not gone.
        let unclear = NetnsRef { path: format!("/run/{}", "x".repeat(300)).into(), ..remembered };
        assert!(unclear.open().is_err());
    }
}
