//! `[cluster]`: the other nodes.

use anyhow::{Context, Result, anyhow, bail};
use ipnet::Ipv4Net;

use super::{address, etcd, file, ipam, names};
use crate::{
    bpf::MAX_NODES,
    cluster::{ClusterConfig, Peer, Transport},
    network::overlap,
};

pub(super) fn cluster(mut cluster: file::Cluster, own: &[Ipv4Net]) -> Result<ClusterConfig> {
    let etcd = match cluster.store.as_deref() {
        None | Some("local") => {
            etcd::refuse(&cluster)?;
            None
        }
        Some("etcd") => {
            for (key, is_there) in
                [("[[cluster.peers]]", !cluster.peers.is_empty()), ("node.subnets", !own.is_empty())]
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
        let key = |key: &str| format!("cluster.peers.{}.{key}", written.name);
        names::check(&written.name).context("cluster.peers.name")?;
        let subnets = written
            .subnets
            .iter()
            .map(|text| slice(text))
            .collect::<Result<Vec<_>>>()
            .with_context(|| key("subnets"))?;
        let peer = Peer {
            address: address(&key("address"), &written.address)?,
            name: written.name.clone(),
            subnets,
        };
        for slice in &peer.subnets {
            if let Some(own) = own.iter().find(|own| overlap(**own, *slice)) {
                bail!("{}: {slice} overlaps {own} of node.subnets", key("subnets"));
            }
        }
        for other in &peers {
            if other.name == peer.name {
                bail!("cluster.peers: there are two of name {}", peer.name);
            }
            if other.address == peer.address {
                bail!("{}: {} is that of {} too", key("address"), peer.address, other.name);
            }
            let pairs = other.subnets.iter().flat_map(|a| peer.subnets.iter().map(move |b| (a, b)));
            if let Some((theirs, mine)) = pairs.into_iter().find(|(a, b)| overlap(**a, **b)) {
                bail!("{}: {mine} overlaps {theirs} of {}", key("subnets"), other.name);
            }
        }
        peers.push(peer);
    }
    Ok(ClusterConfig { transport, peers, etcd })
}

/// Reads `node.subnets`.
pub(super) fn slices(written: Option<Vec<String>>) -> Result<Vec<Ipv4Net>> {
    let read = |text: &String| {
        let slice = slice(text)?;
        if slice.prefix_len() > ipam::MAX_PREFIX {
            bail!("{slice} is too small: at most /{}", ipam::MAX_PREFIX);
        }
        Ok(slice)
    };
    written.unwrap_or_default().iter().map(read).collect::<Result<_>>().context("node.subnets")
}

fn slice(text: &str) -> Result<Ipv4Net> {
    let slice: Ipv4Net =
        text.parse().map_err(|_| anyhow!("{text:?} is not a subnet, such as \"10.88.1.0/24\""))?;
    if slice != slice.trunc() {
        bail!("{slice} has host bits set: did you mean {}?", slice.trunc());
    }
    Ok(slice)
}
