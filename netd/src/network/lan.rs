//! Networks that are a LAN of the host's: their containers are on its layer 2, beside the host.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::parse_subnet;
use crate::{ipam::MAX_PREFIX, link::LinkChoice, names::Shown};

/// What a network needs that is a LAN of the host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lan {
    /// The host's interface on that LAN.
    pub parent: String,
    /// What addresses are given out of; none: each endpoint needs one that is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Ipv4Net>,
    /// The LAN's router, which containers get a default route by; none: they get none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
}

/// What somebody writes of a network, as far as it says whether that is a LAN, and which.
#[derive(Clone, Copy, Debug)]
pub struct Written<'a> {
    /// The kind of its links.
    pub link: LinkChoice,
    /// Its subnet.
    pub subnet: Ipv4Net,
    /// Its IPv6 subnet.
    pub subnet6: Option<Ipv6Net>,
    /// Whether its links are to take packets above 64 KiB.
    pub big_tcp: bool,
    /// Prefix length of nodes' slices.
    pub slice: Option<u8>,
    /// See [`Lan`].
    pub parent: Option<&'a str>,
    /// See [`Lan`].
    pub range: Option<&'a str>,
    /// See [`Lan`].
    pub gateway: Option<&'a str>,
}

impl Lan {
    /// Reads what somebody has written; none: the network is no LAN.
    ///
    /// # Errors
    /// It does not go together: which key, why, and the mend.
    pub fn read(written: &Written<'_>) -> Result<Option<Self>> {
        let Written { link, subnet, subnet6, big_tcp, slice, parent, range, gateway } = *written;
        if !link.is_lan() {
            let keys = [("parent", parent), ("range", range), ("gateway", gateway)];
            let key = keys.into_iter().find(|(_, written)| written.is_some());
            return key.map_or(Ok(None), |(key, _)| bail!("{key} is for networks whose link is macvlan"));
        }
        let Some(parent) = parent else {
            bail!("parent: a macvlan network needs the host's interface on that LAN, such as \"eth0\"");
        };
        if let Some(subnet6) = subnet6 {
            bail!("subnets: a macvlan network has IPv4 only: leave {subnet6} out");
        }
        ensure!(!big_tcp, "big-tcp: a macvlan network has its parent's limits: leave it out");
        ensure!(slice.is_none(), "slice: a macvlan network is this node's alone: leave it out");
        let range = range.map(|text| read_range(text, subnet)).transpose().context("range")?;
        let gateway = gateway.map(|text| read_gateway(text, subnet)).transpose().context("gateway")?;
        Ok(Some(Self { parent: parent.to_owned(), range, gateway }))
    }
}

fn read_range(text: &str, subnet: Ipv4Net) -> Result<Ipv4Net> {
    let Some(ipnet::IpNet::V4(range)) = parse_subnet(text) else {
        bail!("\"{}\" is not a part of a subnet, such as \"192.0.2.128/26\"", Shown(text));
    };
    ensure!(range == range.trunc(), "{range} has host bits set: did you mean {}?", range.trunc());
    ensure!(subnet.contains(&range), "{range} is not in {subnet}");
    ensure!(range.prefix_len() <= MAX_PREFIX, "{range} has no room: at most /{MAX_PREFIX}");
    Ok(range)
}

fn read_gateway(text: &str, subnet: Ipv4Net) -> Result<Ipv4Addr> {
    let gateway: Ipv4Addr = text
        .parse()
        .map_err(|_| anyhow::anyhow!("\"{}\" is not an address, such as \"192.0.2.1\"", Shown(text)))?;
    let inside = subnet.contains(&gateway) && gateway != subnet.network() && gateway != subnet.broadcast();
    ensure!(inside, "{gateway} is not an address of {subnet}");
    Ok(gateway)
}
