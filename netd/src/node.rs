//! The node: what its own network looks like, beside what netd makes.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
};

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net};
use tracing::warn;

use crate::{
    cluster::ClusterConfig,
    config::NodeConfig,
    endpoint,
    ipam::gateway,
    netlink::{Link, Netlink, UplinkInfo, find_uplink},
    network::overlap,
};

/// The index of `lo` in every namespace.
pub const LOOPBACK: u32 = 1;

/// What the datapath needs to know of the host's own network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostView {
    /// The uplink, if there is one.
    pub uplink: Option<UplinkInfo>,
    /// Why there is no uplink although the configuration asks for it.
    pub problem: Option<String>,
    /// The host's IPv4 addresses, without those of the loopback range.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// Bytes that packets to other nodes grow by.
    pub overhead: u32,
}

impl HostView {
    /// Looks at the host. An uplink that is not as it is configured is no error here: it may come back.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn observe(nl: &Netlink, node: &NodeConfig, cluster: &ClusterConfig) -> Result<Self> {
        let (uplink, problem) = match find_uplink(nl, node.uplink.as_deref(), node.address).await {
            Ok(uplink) => (uplink, None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        let addresses =
            nl.addresses().await?.into_iter().filter_map(|address| match address.address.addr() {
                IpAddr::V4(address) if !address.is_loopback() => Some(address),
                _ => None,
            });
        let overhead = cluster.overhead(uplink.as_ref());
        Ok(Self { uplink, problem, addresses: addresses.collect(), overhead })
    }

    /// The MTU that links get if their network says nothing: the uplink's, or Ethernet's, less what an overlay needs.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.uplink.as_ref().map_or(1500, |uplink| uplink.mtu).saturating_sub(self.overhead)
    }
}

/// Routes to single addresses, with the index of their link.
pub type HostRoutes = HashSet<(Ipv4Addr, u32)>;

/// The host's routes to single addresses, which those to endpoints are.
///
/// # Errors
/// The kernel does not answer.
pub async fn host_routes(nl: &Netlink) -> Result<HostRoutes> {
    let routes = nl.routes().await?.into_iter().filter_map(|route| match route.destination {
        IpNet::V4(net) if net.prefix_len() == 32 => Some((net.addr(), route.ifindex)),
        _ => None,
    });
    Ok(routes.collect())
}

/// Prefixes that the host already reaches by links that are not netd's.
#[derive(Clone, Debug, Default)]
pub struct Occupied(Vec<Holder>);

#[derive(Clone, Debug)]
struct Holder {
    prefix: Ipv4Net,
    loopback: bool,
    what: String,
}

impl Occupied {
    /// Looks at the host's addresses and routes.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn observe(nl: &Netlink, identity: &str) -> Result<Self> {
        let links = nl.links().await?;
        let own: HashSet<u32> =
            links.iter().filter(|link| is_own(link, identity)).map(|link| link.ifindex).collect();
        let names: HashMap<u32, String> = links.into_iter().map(|link| (link.ifindex, link.name)).collect();
        let name = |ifindex| names.get(&ifindex).map_or("?", String::as_str);

        let mut holders = Vec::new();
        for address in nl.addresses().await? {
            if let IpNet::V4(net) = address.address {
                let loopback = address.ifindex == LOOPBACK;
                let what = format!("the address {net} on {}", name(address.ifindex));
                holders.push(Holder { prefix: net.trunc(), loopback, what });
            }
        }
        for route in nl.routes().await? {
            if let IpNet::V4(prefix) = route.destination
                && prefix.prefix_len() > 0
                && !own.contains(&route.ifindex)
            {
                let what = format!("the route to {prefix} by {}", name(route.ifindex));
                holders.push(Holder { prefix, loopback: false, what });
            }
        }
        Ok(Self(holders))
    }

    /// What is in the way of a network with that subnet, in words.
    #[must_use]
    pub fn holder(&self, subnet: Ipv4Net) -> Option<&str> {
        // The gateway's address on lo is what netd itself puts there.
        let own = Ipv4Net::new_assert(gateway(subnet), 32);
        self.0
            .iter()
            .find(|holder| overlap(holder.prefix, subnet) && !(holder.loopback && holder.prefix == own))
            .map(|holder| holder.what.as_str())
    }
}

/// Whether a link is one that netd made for this state directory.
#[must_use]
pub fn is_own(link: &Link, identity: &str) -> bool {
    link.name.starts_with(endpoint::PREFIX)
        && link.alias.as_deref().is_some_and(|alias| alias.starts_with(&endpoint::alias_prefix(identity)))
}

/// Says in the log how the uplink is, when that has changed.
pub fn log_uplink(view: &HostView) {
    match (&view.uplink, &view.problem) {
        (Some(uplink), _) => {
            tracing::info!("uplink {} (address {}, MTU {})", uplink.name, uplink.address, uplink.mtu);
        }
        (None, Some(problem)) => warn!("no uplink: {problem}"),
        (None, None) => warn!("no uplink: there is no default route; containers reach this host only"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn who_is_in_the_way() {
        let holder = |prefix: &str, loopback, what: &str| Holder {
            prefix: net(prefix),
            loopback,
            what: what.to_owned(),
        };
        let occupied = Occupied(vec![
            holder("127.0.0.0/8", true, "lo"),
            holder("192.0.2.0/24", false, "uplink"),
            holder("10.88.0.1/32", true, "our own gateway"),
            holder("10.90.0.1/32", false, "another's address"),
            holder("172.16.0.0/12", false, "a VPN"),
        ]);
        for (subnet, expected) in [
            ("10.88.0.0/16", None),
            ("192.0.2.0/25", Some("uplink")),
            ("192.0.0.0/16", Some("uplink")),
            ("10.90.0.0/16", Some("another's address")),
            ("10.88.0.0/15", None),
            ("10.80.0.0/12", Some("our own gateway")),
            ("172.17.0.0/16", Some("a VPN")),
        ] {
            assert_eq!(occupied.holder(net(subnet)), expected, "{subnet}");
        }
    }
}
