//! Routes of the main table.

use std::net::IpAddr;

use anyhow::{Result, bail};
use ipnet::IpNet;

use super::Netlink;

/// A unicast route of the main table. Without a gateway it has link scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; `0.0.0.0/0` or `::/0` is the default route.
    pub destination: IpNet,
    /// The next hop; none: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The link.
    pub ifindex: u32,
    /// The source address that the host's own packets prefer.
    pub source: Option<IpAddr>,
    /// The gateway counts as on the link even if no address says so.
    pub onlink: bool,
}

impl Netlink {
    /// Adds a route or replaces the one of the same destination.
    pub async fn add_route(&self, route: &Route) -> Result<()> {
        bail!("not yet: {route:?}")
    }
    /// Removes a route; false: it was gone.
    pub async fn del_route(&self, route: &Route) -> Result<bool> {
        bail!("not yet: {route:?}")
    }
    /// The unicast routes of the main table, IPv4 and IPv6.
    pub async fn routes(&self) -> Result<Vec<Route>> {
        bail!("not yet")
    }
}
