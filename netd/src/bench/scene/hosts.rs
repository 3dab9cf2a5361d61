//! Two hosts with a cable between their uplinks: nothing else is on the way, so that what is measured is the hosts.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    bench::case::Frames,
    lab::{End, Lab, Namespace, world::UPLINK},
};

/// MTU of the links of containers whose packets get 50 bytes of headers more on the way; the uplinks have Ethernet's 1500.
pub(super) const OVERLAY_MTU: u32 = 1450;
/// The port of VXLAN.
pub(in super::super) const VXLAN_PORT: u16 = 4789;

/// The client's host and the server's.
pub(super) struct Hosts(pub(super) [Side; 2]);

/// A host.
pub(super) struct Side {
    /// 1 or 2: part of its containers' addresses.
    pub(super) number: u8,
    pub(super) name: String,
    pub(super) namespace: Namespace,
    /// Its uplink's.
    pub(super) address: Ipv4Addr,
}

impl Hosts {
    pub(super) fn new(lab: &Lab, name: &str, frames: Frames) -> Result<Self> {
        let side = |number| -> Result<Side> {
            let name = format!("{name}-{number}");
            let namespace = lab.namespace(&name)?;
            Ok(Side { number, name, namespace, address: Ipv4Addr::new(198, 18, 0, number) })
        };
        let sides = [side(1)?, side(2)?];
        let addresses = sides.each_ref().map(|side| format!("{}/24", side.address));
        let [a, b] = [0, 1].map(|index: usize| End {
            namespace: &sides[index].namespace,
            interface: UPLINK,
            address: Some(&addresses[index]),
        });
        lab.cable(a, b)?;
        let hosts = Self(sides);
        for (own, other) in hosts.pairs() {
            own.namespace.ip([format!("route add default via {}", other.address)])?;
            if frames == Frames::Mtu {
                own.cut()?;
            }
        }
        Ok(hosts)
    }

    /// Each with the other one.
    pub(super) fn pairs(&self) -> [(&Side, &Side); 2] {
        let [a, b] = &self.0;
        [(a, b), (b, a)]
    }
}

impl Side {
    /// Makes its uplink one that sends nothing above its MTU, and aggregates what it receives.
    fn cut(&self) -> Result<()> {
        // `gso off` alone lets datagrams that were handed over in one piece (UDP_SEGMENT) cross as one.
        let settings = "tso off gso off tx-udp-segmentation off gro on";
        let words = ["-K", UPLINK].into_iter().chain(settings.split(' '));
        self.namespace.output("ethtool", words).context("cannot set offloads (package ethtool)")?;
        Ok(())
    }
}

/// What two hosts have to say.
pub(super) fn of_both(client: impl std::fmt::Display, server: impl std::fmt::Display) -> String {
    format!("the client's host: {client}; the server's: {server}")
}

/// Which of a link's counters.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Direction {
    Sent,
    Received,
}

/// Packets and bytes that the kernel has counted on a link.
pub(in super::super) fn counted(
    namespace: &Namespace,
    link: &str,
    direction: Direction,
) -> Result<(u64, u64)> {
    let links = namespace.ip_json(&format!("-statistics link show {link}"))?;
    counters(&links, direction).with_context(|| format!("no counters of {link} in {links}"))
}

fn counters(links: &Value, direction: Direction) -> Option<(u64, u64)> {
    let key = match direction {
        Direction::Sent => "tx",
        Direction::Received => "rx",
    };
    let counters = &links[0]["stats64"][key];
    Some((counters["packets"].as_u64()?, counters["bytes"].as_u64()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counters_are_read() {
        let links = json!([{ "ifname": "eth0", "stats64": {
            "rx": { "bytes": 3000, "packets": 2, "errors": 0 },
            "tx": { "bytes": 70, "packets": 1, "errors": 0 },
        }}]);
        assert_eq!(counters(&links, Direction::Received), Some((2, 3000)));
        assert_eq!(counters(&links, Direction::Sent), Some((1, 70)));
        assert_eq!(counters(&json!([]), Direction::Sent), None);
    }
}
