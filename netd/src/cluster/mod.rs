//! Other nodes: which slices of the networks they have, and how packets get there.

mod etcd;
mod model;
mod remotes;
mod too_big;

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use ipnet::Ipv4Net;
use netd_common::wire::Vxlan;
use serde::{Deserialize, Serialize};

pub use self::etcd::{Directory, EtcdConfig, Identity, TlsFiles};
pub use self::model::{Announcement, Cluster, Registration, SharedNetwork, Slice, View};
pub use self::remotes::{
    Presence, Remote, Remotes, Said, There, Update, said_by_cluster, said_by_configuration, slices_of,
};
pub use self::too_big::TooBig;
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
    /// Its address on its uplink, of the family that packets in VXLAN travel by.
    pub address: IpAddr,
    /// Its IPv6 address besides, by which IPv6 travels as it is.
    pub address6: Option<Ipv6Addr>,
    /// Its slices of the networks; those of IPv6 follow from these.
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
    /// Whether there are other nodes, or may be, known or not.
    #[must_use]
    pub fn is_one(&self) -> bool {
        self.etcd.is_some() || !self.peers.is_empty()
    }

    /// How long a node without a lease may send nothing until its routes go.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.etcd.as_ref().map_or(Duration::MAX, |etcd| etcd.lease / 3)
    }

    /// Bytes that packets to other nodes may grow by.
    #[must_use]
    pub fn overhead(&self, uplink: Option<&UplinkInfo>) -> u32 {
        let is_far = |peer: &&Peer| uplink.is_some_and(|uplink| !uplink.is_near(peer.address));
        let largest = |peers: &mut dyn Iterator<Item = &Peer>| {
            peers.map(|peer| overhead(peer.address)).max().unwrap_or_default()
        };
        match self.transport {
            Transport::Direct => 0,
            // Who else will be there is not known; and a link's MTU does not change under a container.
            _ if self.etcd.is_some() => Vxlan::OVERHEAD,
            Transport::Vxlan => largest(&mut self.peers.iter()),
            Transport::Auto => largest(&mut self.peers.iter().filter(is_far)),
        }
    }
}

/// Bytes that VXLAN to an address adds: an IPv6 header is longer.
#[must_use]
pub fn overhead(to: IpAddr) -> u32 {
    Vxlan::OVERHEAD + if to.is_ipv6() { 40 - 20 } else { 0 }
}
