//! Other nodes: which slices of the networks they have, and how packets get there.

mod etcd;
mod model;
mod remotes;

use std::{net::Ipv4Addr, time::Duration};

use ipnet::Ipv4Net;
use netd_common::wire::Vxlan;
use serde::{Deserialize, Serialize};

pub use self::etcd::{Directory, EtcdConfig, TlsFiles};
pub use self::model::{Announcement, Cluster, Registration, SharedNetwork, Slice, View};
pub use self::remotes::{
    Presence, Remote, Remotes, Said, Update, said_by_cluster, said_by_configuration, slices_of,
};
use crate::netlink::UplinkInfo;

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
    /// The other nodes; none where they are found in `etcd`.
    pub peers: Vec<Peer>,
    /// The shared store; none: this node keeps to itself what it knows.
    pub etcd: Option<EtcdConfig>,
}

impl ClusterConfig {
    /// How long a node without a lease may send nothing until its routes go.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.etcd.as_ref().map_or(Duration::MAX, |etcd| etcd.lease / 3)
    }

    /// Bytes that packets to other nodes may grow by.
    #[must_use]
    pub fn overhead(&self, uplink: Option<&UplinkInfo>) -> u32 {
        let is_near = |peer: &Peer| uplink.is_none_or(|uplink| uplink.address.contains(&peer.address));
        let overlay = match self.transport {
            Transport::Direct => false,
            // Who else will be there is not known; and a link's MTU does not change under a container.
            _ if self.etcd.is_some() => true,
            Transport::Vxlan => !self.peers.is_empty(),
            Transport::Auto => !self.peers.iter().all(is_near),
        };
        if overlay { Vxlan::OVERHEAD } else { 0 }
    }
}
