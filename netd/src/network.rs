//! Networks: a subnet that endpoints share, and the rules for it.

mod check;
mod lan;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

pub use self::{
    check::{
        MTU6, SubnetError, check_mtu, check_mtu6, check_slice, check_subnet, check_subnet6, check_subnets,
        parse_subnet,
    },
    lan::{Lan, Written},
};
use crate::{
    bpf::Mac,
    ipam::{self, MAX_PREFIX},
    link::LinkChoice,
    mac, pair,
};

/// A network as someone defines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// Its subnet, without host bits.
    pub subnet: Ipv4Net,
    /// Its IPv6 subnet, with an address for each of `subnet`'s; none: IPv4 only.
    pub subnet6: Option<Ipv6Net>,
    /// Whether packets to the world take the node's address.
    pub masquerade: bool,
    /// The kind of its links.
    pub link: LinkChoice,
    /// MTU of its links, in bytes; none: the uplink's.
    pub mtu: Option<u32>,
    /// Whether its links take packets above 64 KiB (BIG TCP).
    pub big_tcp: bool,
    /// Prefix length of the parts of it that nodes of a cluster take; none: [`slice_length`].
    pub slice: Option<u8>,
    /// What it needs as a LAN of the host's; none: it is none.
    pub lan: Option<Lan>,
}

impl Definition {
    /// Its subnets, IPv4 first.
    #[must_use]
    pub fn subnets(&self) -> Vec<IpNet> {
        pair::both(self.subnet, self.subnet6)
    }
}

/// Where a network's definition is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The configuration file.
    Config,
    /// `netd network create`.
    Command,
    /// Another node of the cluster.
    Cluster,
}

/// A network, as it is kept in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// What the datapath knows it by. Never given to another network.
    pub number: u32,
    /// Its subnet.
    pub subnet: Ipv4Net,
    /// Its IPv6 subnet, with an address for each of `subnet`'s; none: IPv4 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet6: Option<Ipv6Net>,
    /// Whether packets to the world take the node's address.
    pub masquerade: bool,
    /// The kind of its links.
    pub link: LinkChoice,
    /// MTU of its links, in bytes; none: the uplink's.
    pub mtu: Option<u32>,
    /// Whether its links take packets above 64 KiB (BIG TCP).
    #[serde(default, skip_serializing_if = "crate::network::is_off")]
    pub big_tcp: bool,
    /// Where it is from.
    pub origin: Origin,
    /// In a cluster: the part of it that this node has got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<Ipv4Net>,
    /// What it needs as a LAN of the host's; none: it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lan: Option<Lan>,
}

impl Network {
    /// Gives a definition its number.
    #[must_use]
    pub fn new(definition: Definition, number: u32, origin: Origin) -> Self {
        let Definition { name, subnet, subnet6, masquerade, link, mtu, big_tcp, slice: _, lan } = definition;
        Self { name, number, subnet, subnet6, masquerade, link, mtu, big_tcp, origin, slice: None, lan }
    }

    /// The host's own address in it, and its endpoints' gateway. Of a LAN: its router; unspecified: it has none.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        match &self.lan {
            Some(lan) => lan.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED),
            None => ipam::gateway(self.subnet),
        }
    }

    /// The same of IPv6, if it has that.
    #[must_use]
    pub fn gateway6(&self) -> Option<Ipv6Addr> {
        self.address6(self.gateway())
    }

    /// The addresses that netd gives the host in it: none in a LAN.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        let gateway = self.lan.is_none().then(|| self.gateway().into());
        gateway.into_iter().chain(self.gateway6().map(IpAddr::from))
    }

    /// Its subnets, IPv4 first.
    #[must_use]
    pub fn subnets(&self) -> Vec<IpNet> {
        pair::both(self.subnet, self.subnet6)
    }

    /// The IPv6 address that goes with one of its IPv4 addresses.
    #[must_use]
    pub fn address6(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        self.subnet6.map(|subnet6| pair::address6(self.subnet, subnet6, address))
    }

    /// The MAC of the host's side of all its links.
    #[must_use]
    pub fn host_mac(&self) -> Mac {
        mac::of_address(self.gateway())
    }
}

/// Whether a switch is off: such are not written, so that records are as they were before there was the switch.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls it with")]
pub(crate) const fn is_off(switch: &bool) -> bool {
    !*switch
}

/// Prefix length of nodes' slices of a subnet for which nobody has chosen one: a /24, but at least 16 slices where the
/// subnet has room for them.
#[must_use]
pub fn slice_length(subnet: Ipv4Net) -> u8 {
    (subnet.prefix_len() + 4).clamp(24, MAX_PREFIX)
}

/// Whether two subnets have addresses in common.
#[must_use]
pub fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// The same of either family.
#[must_use]
pub fn any_overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// The subnets of two networks that have addresses in common.
#[must_use]
pub fn overlapping(a: &[IpNet], b: &[IpNet]) -> Option<(IpNet, IpNet)> {
    a.iter().flat_map(|a| b.iter().map(move |b| (*a, *b))).find(|(a, b)| any_overlap(*a, *b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps() {
        for (a, b, expected) in [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.1.0.0/16", "10.0.0.0/8", true),
            ("10.1.0.0/16", "10.1.0.0/16", true),
            ("10.1.0.0/16", "10.2.0.0/16", false),
            ("10.1.0.0/24", "10.1.1.0/24", false),
        ] {
            assert_eq!(overlap(a.parse().unwrap(), b.parse().unwrap()), expected, "{a} {b}");
        }
    }

    #[test]
    fn a_network_knows_its_gateway() {
        let definition = Definition {
            name: "a".to_owned(),
            subnet: "10.88.0.0/16".parse().unwrap(),
            subnet6: Some("fd88::/48".parse().unwrap()),
            masquerade: true,
            link: LinkChoice::Auto,
            mtu: None,
            big_tcp: false,
            slice: None,
            lan: None,
        };
        let network = Network::new(definition, 7, Origin::Command);
        assert_eq!(network.gateway(), Ipv4Addr::new(10, 88, 0, 1));
        assert_eq!(network.gateway6().unwrap().to_string(), "fd88::1");
        assert_eq!(network.host_mac().to_string(), "02:6e:0a:58:00:01");
        // As it was kept before there was IPv6.
        let old = serde_json::to_string(&Network { subnet6: None, ..network }).unwrap();
        assert!(!old.contains("subnet6") && !old.contains("big_tcp"), "{old}");
        let old: Network = serde_json::from_str(&old).unwrap();
        assert_eq!((old.gateway6(), old.gateways().count()), (None, 1));
    }
}
