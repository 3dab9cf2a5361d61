//! Hosts that know each other.

use std::{fmt::Write as _, net::Ipv4Addr};

use ipnet::Ipv4Net;

use super::Host;
use crate::cluster::Peer;

/// Two networks: that part of a configuration.
pub const NETWORKS: &str = "[networks.default]\nsubnets = [\"10.88.0.0/16\", \"fd88::/48\"]\n\n[networks.other]\nsubnets = [\"10.89.0.0/16\", \"fd89::/48\"]\n";

/// The slices that the node of that number has of the networks of [`NETWORKS`]: a /24 of each.
#[must_use]
pub fn slices(number: u8) -> Vec<Ipv4Net> {
    let networks = [Ipv4Addr::new(10, 88, number, 0), Ipv4Addr::new(10, 89, number, 0)];
    networks.into_iter().map(|first| Ipv4Net::new_assert(first, 24)).collect()
}

/// A host as a node that has these slices of the networks.
#[must_use]
pub fn node(host: &Host, slices: Vec<Ipv4Net>) -> Peer {
    Peer {
        name: host.name().to_owned(),
        address: host.address.into(),
        address6: host.address6,
        subnets: slices,
    }
}

/// The configuration of one of several nodes; the others become its peers. Networks are those of [`NETWORKS`].
#[must_use]
pub fn configuration(own: &Peer, all: &[Peer], transport: &str) -> String {
    let mut text = format!(
        "[node]\nname = {:?}\nsubnets = {}\n\n{NETWORKS}\n[cluster]\ntransport = {transport:?}\n",
        own.name,
        list(own)
    );
    for peer in all.iter().filter(|peer| peer.name != own.name) {
        let _ = write!(
            text,
            "\n[[cluster.peers]]\nname = {:?}\naddress = \"{}\"\nsubnets = {}\n",
            peer.name,
            peer.address,
            list(peer)
        );
        if let Some(address6) = peer.address6 {
            let _ = writeln!(text, "address6 = \"{address6}\"");
        }
    }
    text
}

/// The configuration of a node of a cluster with etcd, whose lease is as short as it can be. Networks are those of
/// [`NETWORKS`].
#[must_use]
pub fn etcd_configuration(name: &str, endpoints: &[String], transport: &str) -> String {
    format!(
        "[node]\nname = {name:?}\n\n{NETWORKS}\n[cluster]\nstore = \"etcd\"\nendpoints = {endpoints:?}\n\
         transport = {transport:?}\nlease = 5\n"
    )
}

fn list(node: &Peer) -> String {
    let texts: Vec<String> = node.subnets.iter().map(ToString::to_string).collect();
    format!("{texts:?}")
}
