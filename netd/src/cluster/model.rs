//! The cluster as the shared store has it, and what this node wants of it.
//!
//! All of it was checked when it was read: whoever can write to the store can write anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::Transport;
use crate::{link::LinkChoice, network::Definition, pair};

/// What all nodes agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The networks, by name. Their subnets do not overlap, and no two have one number.
    pub networks: BTreeMap<String, SharedNetwork>,
    /// The nodes that are there, by name: those whose lease is valid.
    pub nodes: BTreeMap<String, Registration>,
    /// The parts of the networks that nodes have, also nodes that are not there. Each is of its network's slice length,
    /// within its subnet.
    pub slices: BTreeMap<Ipv4Net, Slice>,
}

/// A network, the same on all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedNetwork {
    /// What the datapaths know it by, and what its VNI is made of. Never given to another network.
    pub number: u32,
    /// Its subnet.
    pub subnet: Ipv4Net,
    /// Its IPv6 subnet, with an address for each of `subnet`'s; none: IPv4 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet6: Option<Ipv6Net>,
    /// Prefix length of the nodes' slices of it.
    pub slice: u8,
    /// Whether packets to the world take the node's address.
    pub masquerade: bool,
    /// The kind of its links.
    pub link: LinkChoice,
    /// MTU of its links, in bytes; none: the uplink's.
    pub mtu: Option<u32>,
    /// Whether its links take packets above 64 KiB (BIG TCP).
    #[serde(default, skip_serializing_if = "crate::network::is_off")]
    pub big_tcp: bool,
}

impl SharedNetwork {
    /// Its subnets, IPv4 first.
    #[must_use]
    pub fn subnets(&self) -> Vec<IpNet> {
        pair::both(self.subnet, self.subnet6)
    }

    /// Whether it is what a definition asks for.
    #[must_use]
    pub fn is(&self, definition: &Definition) -> bool {
        (self.subnet, self.subnet6) == (definition.subnet, definition.subnet6)
            && definition.slice.is_none_or(|length| length == self.slice)
            && (self.masquerade, self.link, self.mtu, self.big_tcp)
                == (definition.masquerade, definition.link, definition.mtu, definition.big_tcp)
    }
}

/// What a node says of itself for as long as its lease is valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Its address on its uplink.
    pub address: Ipv4Addr,
    /// Its IPv6 address likewise, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// How it wants packets to travel.
    pub transport: Transport,
    /// Its uplink's MTU, in bytes.
    pub mtu: u32,
    /// Networks that cannot go: it has endpoints in them, or its configuration file defines them.
    pub uses: BTreeSet<String>,
}

/// Who has a part of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The network's name.
    pub network: String,
    /// The node's name.
    pub node: String,
}

/// What this node wants of the shared store; the store is brought to it whenever it is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcement {
    /// What it says of itself; none: it has no uplink, and no other node can reach it.
    pub registration: Option<Registration>,
    /// The networks of its configuration file, with the numbers that they have on it already.
    pub networks: Vec<(Definition, Option<u32>)>,
    /// The slices that it had, by network: the first that it tries to get.
    pub slices: BTreeMap<String, Ipv4Net>,
}

/// How the shared store is seen from this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The cluster as it was when it was last read; none: it was never read.
    pub cluster: Option<Cluster>,
    /// All that was announced last is there, or is refused for good: see `refused`.
    pub settled: bool,
    /// Why the store cannot be reached or written to; none: it is reached.
    pub unreachable: Option<String>,
    /// What this node cannot have, in words: a network that the cluster has with another subnet, a slice where none is
    /// left, its own name where another node has it.
    pub refused: Vec<String>,
    /// What in the store makes no sense, in words: the first few. It does not count.
    pub ignored: Vec<String>,
    /// Another node has this one's name.
    pub taken: bool,
    /// It may be this one itself that has it, before the machine was restarted: that ends with a lease.
    pub may_return: bool,
}
