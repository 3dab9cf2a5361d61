//! What is said of the other nodes, by the configuration or by the shared store.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

use crate::cluster::{Cluster, Peer, Transport};

/// What is said of another node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Its address, how it wants packets to travel, and its uplink's MTU; none: it is not there.
    pub there: Option<(Ipv4Addr, Transport, Option<u32>)>,
    /// Its slices.
    pub slices: BTreeSet<Ipv4Net>,
}

/// What the configuration says of the other nodes.
#[must_use]
pub fn said_by_configuration(peers: &[Peer], transport: Transport) -> BTreeMap<String, Said> {
    let said = |peer: &Peer| Said {
        there: Some((peer.address, transport, None)),
        slices: peer.subnets.iter().copied().collect(),
    };
    peers.iter().map(|peer| (peer.name.clone(), said(peer))).collect()
}

/// What the shared store says of the nodes other than `own`.
#[must_use]
pub fn said_by_cluster(cluster: &Cluster, own: &str) -> BTreeMap<String, Said> {
    let mut said: BTreeMap<String, Said> = BTreeMap::new();
    for (name, node) in cluster.nodes.iter().filter(|(name, _)| *name != own) {
        let there = Some((node.address, node.transport, Some(node.mtu)));
        said.insert(name.clone(), Said { there, slices: BTreeSet::new() });
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
