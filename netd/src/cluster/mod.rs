//! Other nodes: which slices of the networks they have, and how packets get there.

mod etcd;
mod model;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use netd_common::wire::Vxlan;
use serde::{Deserialize, Serialize};

pub use self::{
    etcd::{EtcdConfig, TlsFiles},
    model::{Announcement, Cluster, Registration, SharedNetwork, Slice, View},
};
use crate::{bpf, netlink::UplinkInfo, state::State};

/// How packets for another node travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// [`Transport::Direct`] to nodes on the uplink's subnet, [`Transport::Vxlan`] to all others.
    #[default]
    Auto,
    /// As they are, by the node's address on the uplink's subnet.
    Direct,
    /// In VXLAN (RFC 7348).
    Vxlan,
}

impl Transport {
    /// Whether packets to a node are encapsulated.
    fn encapsulates(self, node: Ipv4Addr, uplink: Ipv4Net) -> bool {
        match self {
            Self::Direct => false,
            Self::Vxlan => true,
            Self::Auto => !uplink.contains(&node),
        }
    }
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its address on its uplink.
    pub address: Ipv4Addr,
    /// Its slices of the networks.
    pub subnets: Vec<Ipv4Net>,
}

/// `[cluster]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterConfig {
    /// How packets travel.
    pub transport: Transport,
    /// The other nodes, in the order in which they are written, which is that of their counters.
    pub peers: Vec<Peer>,
    /// Where the other nodes are found; none: `peers` are all of them.
    pub etcd: Option<EtcdConfig>,
}

impl ClusterConfig {
    /// Bytes that packets to other nodes grow by on their way.
    #[must_use]
    pub fn overhead(&self, uplink: Option<&UplinkInfo>) -> u32 {
        let overlay = uplink.is_some_and(|uplink| {
            self.peers.iter().any(|peer| self.transport.encapsulates(peer.address, uplink.address))
        });
        if overlay { Vxlan::OVERHEAD } else { 0 }
    }

    /// How packets to a node travel, by this uplink.
    #[must_use]
    pub fn transport_to(&self, peer: &Peer, uplink: &UplinkInfo) -> Transport {
        match self.transport.encapsulates(peer.address, uplink.address) {
            true => Transport::Vxlan,
            false => Transport::Direct,
        }
    }

    /// The routes to the other nodes, and to their slices of the networks that there are.
    pub fn routes<'a>(
        &'a self,
        state: &'a State,
        uplink: &'a UplinkInfo,
    ) -> impl Iterator<Item = (Ipv4Net, bpf::Route)> + 'a {
        (0u32..).zip(&self.peers).flat_map(move |(slot, peer)| {
            let vxlan = self.transport.encapsulates(peer.address, uplink.address);
            let slices = peer.subnets.iter().filter_map(move |slice| {
                let (_, network) = state.subnets().find(|(subnet, _)| subnet.contains(slice))?;
                Some((*slice, bpf::Route::Node { network, address: peer.address, slot, vxlan }))
            });
            slices.chain([(peer.address.into(), bpf::Route::Peer(peer.address))])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_near() {
        let uplink: Ipv4Net = "192.0.2.1/24".parse().unwrap();
        let (near, far) = (Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(198, 51, 100, 2));
        for (transport, node, expected) in [
            (Transport::Auto, near, false),
            (Transport::Auto, far, true),
            (Transport::Direct, near, false),
            (Transport::Vxlan, near, true),
            (Transport::Vxlan, far, true),
        ] {
            assert_eq!(transport.encapsulates(node, uplink), expected, "{transport:?} {node}");
        }
    }
}
