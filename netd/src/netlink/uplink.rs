//! The interface that leads to the world.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};
use ipnet::Ipv4Net;

use super::Netlink;

/// The uplink as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkInfo {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Its address, and the subnet that is on the link.
    pub address: Ipv4Net,
}

/// The interface of the default route (lowest metric) and its first global address; or the one of that name or address.
/// None if there is no default route.
pub async fn find_uplink(
    nl: &Netlink,
    name: Option<&str>,
    address: Option<Ipv4Addr>,
) -> Result<Option<UplinkInfo>> {
    let _ = nl;
    bail!("not yet: {name:?} {address:?}")
}
