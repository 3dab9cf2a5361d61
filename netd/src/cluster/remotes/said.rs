//! What is said of the other nodes, by the configuration or by the shared store.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use ipnet::Ipv4Net;

use crate::cluster::{Cluster, Peer, Transport};

/// What is said of another node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Where it is; none: it is not there.
    pub there: Option<There>,
    /// Its slices.
    pub slices: BTreeSet<Ipv4Net>,
}

/// Where a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct There {
    /// Its address, of the family that packets in VXLAN travel by.
    pub address: IpAddr,
    /// Its IPv6 address besides.
    pub address6: Option<Ipv6Addr>,
    /// How it wants packets to travel.
    pub transport: Transport,
    /// Its uplink's MTU, bytes.
    pub mtu: Option<u32>,
}

/// What the configuration says of the other nodes.
#[must_use]
pub fn said_by_configuration(peers: &[Peer], transport: Transport) -> BTreeMap<String, Said> {
    let said = |peer: &Peer| Said {
        there: Some(There { address: peer.address, address6: peer.address6, transport, mtu: None }),
        slices: peer.subnets.iter().copied().collect(),
    };
    peers.iter().map(|peer| (peer.name.clone(), said(peer))).collect()
}

/// What the shared store says of the nodes other than `own`.
#[must_use]
pub fn said_by_cluster(cluster: &Cluster, own: &str) -> BTreeMap<String, Said> {
    let mut said: BTreeMap<String, Said> = BTreeMap::new();
    for (name, node) in cluster.nodes.iter().filter(|(name, _)| *name != own) {
        let there = There {
            address: node.address.into(),
            address6: node.address6,
            transport: node.transport,
            mtu: Some(node.mtu),
        };
        said.insert(name.clone(), Said { there: Some(there), slices: BTreeSet::new() });
    }
    for (prefix, slice) in cluster.slices.iter().filter(|(_, slice)| slice.node != own) {
        said.entry(slice.node.clone()).or_default().slices.insert(*prefix);
    }
    said
}

/// A node's own slices.
#[must_use]
pub fn slices_of(cluster: &Cluster, own: &str) -> BTreeSet<Ipv4Net> {
    cluster.slices.iter().filter(|(_, slice)| slice.node == own).map(|(prefix, _)| *prefix).collect()
}
