//! `[[cluster.peers]]`: what cannot be another node.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Result, bail};
use ipnet::IpNet;

use super::{NodeConfig, cluster::Networks};
use crate::{cluster::Peer, network::overlap};

/// The name of a peer's key.
pub(super) fn key(peer: &str, key: &str) -> String {
    format!("cluster.peers.{peer}.{key}")
}

/// A peer's addresses, with the keys that they are at.
fn addresses(peer: &Peer) -> impl Iterator<Item = (&'static str, IpAddr)> {
    let address6 = peer.address6.map(|address| ("address6", address.into()));
    [("address", peer.address)].into_iter().chain(address6)
}

/// Checks a peer beside this node and the networks.
pub(super) fn check(peer: &Peer, own: &NodeConfig, networks: &Networks) -> Result<()> {
    let key = |of: &str| key(&peer.name, of);
    if peer.name == own.name {
        bail!(
            "{}: `{}` is this node's own name: set node.name here, or another name there",
            key("name"),
            peer.name
        );
    }
    let own_addresses =
        [("node.address", own.address.map(IpAddr::from)), ("node.address6", own.address6.map(IpAddr::from))];
    for (of, address) in addresses(peer) {
        if let Some((whose, _)) = own_addresses.iter().find(|(_, own)| *own == Some(address)) {
            bail!("{}: {address} is this node's own ({whose})", key(of));
        }
        for network in networks.values() {
            if let Some(subnet) = network.subnets().iter().find(|subnet: &&IpNet| subnet.contains(&address)) {
                bail!(
                    "{}: {address} lies within {subnet} of network `{}`: a node's address is that of its uplink",
                    key(of),
                    network.name
                );
            }
        }
    }
    for slice in &peer.subnets {
        if let Some(own) = own.subnets.iter().find(|own| overlap(**own, *slice)) {
            bail!("{}: {slice} overlaps {own} of node.subnets", key("subnets"));
        }
    }
    Ok(())
}

/// Checks that two peers have nothing in common.
pub(super) fn check_apart(peer: &Peer, other: &Peer) -> Result<()> {
    let key = |of: &str| key(&peer.name, of);
    if other.name == peer.name {
        bail!("cluster.peers: there are two of name {}", peer.name);
    }
    for (of, address) in addresses(peer) {
        if addresses(other).any(|(_, its)| its == address) {
            bail!("{}: {address} is that of {} too", key(of), other.name);
        }
    }
    let mut pairs = other.subnets.iter().flat_map(|a| peer.subnets.iter().map(move |b| (a, b)));
    if let Some((theirs, mine)) = pairs.find(|(a, b)| overlap(**a, **b)) {
        bail!("{}: {mine} overlaps {theirs} of {}", key("subnets"), other.name);
    }
    Ok(())
}

/// Checks the peers beside the addresses that this host has, once these are known.
///
/// # Errors
/// One has an address of this host's: what is for its containers would be sent to this host itself.
pub fn check_beside(peers: &[Peer], own: &BTreeSet<IpAddr>) -> Result<()> {
    for peer in peers {
        if let Some((of, address)) = addresses(peer).find(|(_, address)| own.contains(address)) {
            bail!("{}: {address} is this host's own", key(&peer.name, of));
        }
    }
    Ok(())
}
