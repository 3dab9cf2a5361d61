//! Networks: a subnet that endpoints share, and the rules for it.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    bpf::Mac,
    ipam::{self, MAX_PREFIX},
    mac,
};

/// Larger networks than this are typing errors.
const MIN_PREFIX: u8 = 8;
/// MTUs that are accepted: from what every IPv4 host must take (RFC 791) to the largest packet.
const MTU: std::ops::RangeInclusive<i64> = 576..=65535;

/// The kind of link that a network's endpoints get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LinkChoice {
    /// The best that this kernel has.
    #[default]
    Auto,
    /// A veth pair.
    Veth,
}

/// A network as someone defines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// Its subnet, without host bits.
    pub subnet: Ipv4Net,
    /// Whether packets to the world take the node's address.
    pub masquerade: bool,
    /// The kind of its links.
    pub link: LinkChoice,
    /// MTU of its links, in bytes; none: the uplink's.
    pub mtu: Option<u32>,
    /// Prefix length of the parts of it that nodes of a cluster take; none: [`slice_length`].
    pub slice: Option<u8>,
}

impl Definition {
    /// Whether a subnet has addresses in common with this one.
    #[must_use]
    pub fn overlaps(&self, subnet: Ipv4Net) -> bool {
        overlap(self.subnet, subnet)
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
    /// Whether packets to the world take the node's address.
    pub masquerade: bool,
    /// The kind of its links.
    pub link: LinkChoice,
    /// MTU of its links, in bytes; none: the uplink's.
    pub mtu: Option<u32>,
    /// Where it is from.
    pub origin: Origin,
    /// In a cluster: the part of it that this node has got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<Ipv4Net>,
}

impl Network {
    /// Gives a definition its number.
    #[must_use]
    pub fn new(definition: Definition, number: u32, origin: Origin) -> Self {
        let Definition { name, subnet, masquerade, link, mtu, slice: _ } = definition;
        Self { name, number, subnet, masquerade, link, mtu, origin, slice: None }
    }

    /// The host's own address in it, and its endpoints' gateway.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        ipam::gateway(self.subnet)
    }

    /// The MAC of the host's side of all its links.
    #[must_use]
    pub fn host_mac(&self) -> Mac {
        mac::of_address(self.gateway())
    }
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

/// Why something cannot be the subnet of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SubnetError {
    /// An address instead of a subnet.
    #[error("{subnet} has host bits set: did you mean {}?", subnet.trunc())]
    HostBits {
        /// What was given.
        subnet: Ipv4Net,
    },
    /// Longer than [`MAX_PREFIX`].
    #[error("{0} has no room for a gateway and an endpoint: at most /{MAX_PREFIX}")]
    TooSmall(Ipv4Net),
    /// Shorter than `/8`.
    #[error("{0} is too large: at least /{MIN_PREFIX}")]
    TooLarge(Ipv4Net),
    /// In a range that is for something else.
    #[error("{subnet} is of the {what} range {range}")]
    Reserved {
        /// The subnet.
        subnet: Ipv4Net,
        /// What the range is for.
        what: &'static str,
        /// The range.
        range: Ipv4Net,
    },
}

/// Checks that a subnet can be a network's.
///
/// # Errors
/// Says why not.
pub fn check_subnet(subnet: Ipv4Net) -> Result<Ipv4Net, SubnetError> {
    if subnet != subnet.trunc() {
        return Err(SubnetError::HostBits { subnet });
    }
    if subnet.prefix_len() < MIN_PREFIX {
        return Err(SubnetError::TooLarge(subnet));
    }
    if subnet.prefix_len() > MAX_PREFIX {
        return Err(SubnetError::TooSmall(subnet));
    }
    // RFC 6890. The ranges for documentation and benchmarks are fine: tests use them.
    for (what, first, prefix) in [
        ("\"this network\"", Ipv4Addr::UNSPECIFIED, 8),
        ("loopback", Ipv4Addr::new(127, 0, 0, 0), 8),
        ("link-local", Ipv4Addr::new(169, 254, 0, 0), 16),
        ("multicast", Ipv4Addr::new(224, 0, 0, 0), 4),
        ("reserved", Ipv4Addr::new(240, 0, 0, 0), 4),
    ] {
        let range = Ipv4Net::new_assert(first, prefix);
        if overlap(range, subnet) {
            return Err(SubnetError::Reserved { subnet, what, range });
        }
    }
    Ok(subnet)
}

/// Reads an MTU as people write it: 0 means that of the uplink.
///
/// # Errors
/// It is not one.
pub fn check_mtu(mtu: i64) -> Result<Option<u32>> {
    if mtu == 0 {
        return Ok(None);
    }
    match u32::try_from(mtu) {
        Ok(bytes) if MTU.contains(&mtu) => Ok(Some(bytes)),
        _ => bail!("{mtu} is not between {} and {} (0: the uplink's)", MTU.start(), MTU.end()),
    }
}

/// Checks that nodes' slices of a subnet can have a prefix length.
///
/// # Errors
/// Says which can be.
pub fn check_slice(subnet: Ipv4Net, length: i64) -> Result<u8> {
    let lengths = subnet.prefix_len()..=MAX_PREFIX;
    match u8::try_from(length) {
        Ok(length) if lengths.contains(&length) => Ok(length),
        _ => bail!("{length} is not a prefix length from {} to {MAX_PREFIX}", subnet.prefix_len()),
    }
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
            masquerade: true,
            link: LinkChoice::Auto,
            mtu: None,
            slice: None,
        };
        let network = Network::new(definition, 7, Origin::Command);
        assert_eq!(network.gateway(), Ipv4Addr::new(10, 88, 0, 1));
        assert_eq!(network.host_mac().to_string(), "02:6e:0a:58:00:01");
    }
}
