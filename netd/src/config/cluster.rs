//! `[cluster]`: the other nodes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{NodeConfig, address, address6, etcd, file, ipam, names, peers};
use crate::{
    bpf::MAX_NODES,
    cluster::{ClusterConfig, Peer, Transport},
    names::Shown,
    network::{Definition, overlap, parse_subnet},
    pair,
};

/// The networks of the file, by name.
pub(super) type Networks = BTreeMap<String, Definition>;

pub(super) fn cluster(
    mut cluster: file::Cluster,
    own: &NodeConfig,
    networks: &Networks,
) -> Result<ClusterConfig> {
    let etcd = match cluster.store.as_deref() {
        None | Some("local") => {
            etcd::refuse(&cluster)?;
            None
        }
        Some("etcd") => {
            for (key, is_there) in
                [("[[cluster.peers]]", !cluster.peers.is_empty()), ("node.subnets", !own.subnets.is_empty())]
            {
                if is_there {
                    bail!("{key} is for cluster.store = \"local\": etcd says what other nodes there are");
                }
            }
            Some(etcd::read(&mut cluster)?)
        }
        Some(store) => bail!("cluster.store: {store:?} is not a store: local or etcd"),
    };
    let transport = match cluster.transport.as_deref() {
        None | Some("auto") => Transport::Auto,
        Some("direct") => Transport::Direct,
        Some("vxlan") => Transport::Vxlan,
        Some(transport) => bail!("cluster.transport: {transport:?} is not one of auto, direct, vxlan"),
    };
    if cluster.peers.len() > MAX_NODES as usize {
        bail!("cluster.peers: {} are more than the {MAX_NODES} that there is room for", cluster.peers.len());
    }
    let mut peers: Vec<Peer> = Vec::new();
    for written in cluster.peers {
        names::check(&written.name).context("cluster.peers.name")?;
        let key = |key: &str| peers::key(&written.name, key);
        let peer = Peer {
            address: address(&key("address"), &written.address)?,
            address6: written.address6.as_deref().map(|text| address6(&key("address6"), text)).transpose()?,
            name: written.name.clone(),
            subnets: read_slices(&written.subnets, networks).with_context(|| key("subnets"))?,
        };
        peers::check(&peer, own, networks)?;
        for other in &peers {
            peers::check_apart(&peer, other)?;
        }
        peers.push(peer);
    }
    Ok(ClusterConfig { transport, peers, etcd })
}

/// Reads `node.subnets`.
pub(super) fn slices(written: Option<Vec<String>>, networks: &Networks) -> Result<Vec<Ipv4Net>> {
    let slices = read_slices(&written.unwrap_or_default(), networks).context("node.subnets")?;
    if let Some(slice) = slices.iter().find(|slice| slice.prefix_len() > ipam::MAX_PREFIX) {
        bail!("node.subnets: {slice} is too small: at most /{}", ipam::MAX_PREFIX);
    }
    Ok(slices)
}

/// Reads a node's slices. Those of IPv6 follow from those of IPv4: they need not be written, but if they are, they have to
/// be these.
fn read_slices(written: &[String], networks: &Networks) -> Result<Vec<Ipv4Net>> {
    let (mut slices, mut slices6) = (Vec::new(), Vec::new());
    for text in written {
        match slice(text)? {
            IpNet::V4(slice) => {
                check_slice(slice, networks)?;
                if let Some(other) = slices.iter().find(|other| overlap(**other, slice)) {
                    bail!("{slice} overlaps {other}, which is before it");
                }
                slices.push(slice);
            }
            IpNet::V6(slice) => slices6.push(slice),
        }
    }
    for slice in slices6 {
        check_slice6(slice, &slices, networks)?;
    }
    Ok(slices)
}

/// A slice is a part of a network: what else it would be, nobody routes.
fn check_slice(slice: Ipv4Net, networks: &Networks) -> Result<()> {
    let mut subnets = networks.values().map(|network| network.subnet);
    if let Some(subnet) = subnets.clone().find(|subnet| slice.contains(subnet) && slice != *subnet) {
        bail!("{slice} is no slice of a network: it contains {subnet} as a whole");
    }
    if !subnets.any(|subnet| subnet.contains(&slice)) {
        bail!("{slice} lies in no network of this file");
    }
    Ok(())
}

fn check_slice6(slice: Ipv6Net, slices: &[Ipv4Net], networks: &Networks) -> Result<()> {
    let of = |network: &&Definition| network.subnet6.is_some_and(|subnet6| subnet6.contains(&slice));
    let Some(network) = networks.values().find(of) else {
        bail!("{slice} is in no network's IPv6 subnet");
    };
    let Some(subnet6) = network.subnet6 else { return Ok(()) };
    let right: Vec<Ipv6Net> = slices
        .iter()
        .filter(|slice| network.subnet.contains(*slice))
        .map(|slice| pair::slice6(network.subnet, subnet6, *slice))
        .collect();
    match right[..] {
        _ if right.contains(&slice) => Ok(()),
        [] => bail!("{slice} goes with no slice of {}, from which it follows", network.subnet),
        [first, ..] => bail!("{slice} is not {first}, which goes with the slice of {}", network.subnet),
    }
}

fn slice(text: &str) -> Result<IpNet> {
    let slice = parse_subnet(text)
        .ok_or_else(|| anyhow!("\"{}\" is not a subnet, such as \"10.88.1.0/24\"", Shown(text)))?;
    if slice != slice.trunc() {
        bail!("{slice} has host bits set: did you mean {}?", slice.trunc());
    }
    Ok(slice)
}
