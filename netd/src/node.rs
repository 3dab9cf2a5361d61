//! The node: what its own network looks like, beside what netd makes.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use anyhow::Result;
use ipnet::IpNet;
use tracing::warn;

use crate::{
    cluster::ClusterConfig,
    config::NodeConfig,
    endpoint,
    ipam::gateway_of,
    netlink::{Link, Netlink, UplinkInfo, Wanted, Which, find_uplink, has_ipv6},
    network::any_overlap,
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
    /// Where there is no uplink: the index of the last one, while that is there.
    pub last: Option<u32>,
    /// The host's addresses of both families, without those of the loopback ranges and link-local IPv6 ones.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether this host has IPv6. Without it, networks are as if they had no IPv6 subnets.
    pub ipv6: bool,
    /// Bytes that packets to other nodes grow by.
    pub overhead: u32,
}

impl HostView {
    /// Looks at the host; `last` is the index of the last uplink, if there was one. An uplink that is not as it is configured is no error here: it may come back.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn observe(
        nl: &Netlink,
        node: &NodeConfig,
        cluster: &ClusterConfig,
        last: Option<u32>,
    ) -> Result<Self> {
        let (uplink, problem) = match find_uplink(nl, node.uplink.as_deref(), wanted(node)).await {
            Ok(uplink) => (uplink, None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        let last = match last.filter(|_| uplink.is_none()) {
            Some(ifindex) => nl.link_by_index(ifindex).await?.map(|link| link.ifindex),
            None => None,
        };
        let is_link_local =
            |address: &IpAddr| matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
        let addresses = nl.addresses().await?.into_iter().map(|address| address.address.addr());
        let addresses = addresses.filter(|address| !address.is_loopback() && !is_link_local(address));
        let overhead = cluster.overhead(uplink.as_ref());
        // Gateways are on lo; endpoints' links are yet to be made.
        let ipv6 = has_ipv6("lo") && has_ipv6("default");
        Ok(Self { uplink, problem, last, addresses: addresses.collect(), ipv6, overhead })
    }

    /// What is wrong with the uplink, in words.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match (&self.uplink, &self.problem) {
            (Some(_), _) => None,
            (None, Some(problem)) => Some(format!("no uplink: {problem}")),
            (None, None) => Some(
                "no uplink: there is no default route by a link with a global address; containers reach this host only"
                    .to_owned(),
            ),
        }
    }

    /// The MTU that links get if their network says nothing: the uplink's, or Ethernet's, less what an overlay needs.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.uplink.as_ref().map_or(1500, |uplink| uplink.mtu).saturating_sub(self.overhead)
    }
}

/// The addresses that the configuration wants of the uplink.
#[must_use]
pub fn wanted(node: &NodeConfig) -> Wanted {
    Wanted { address: node.address, address6: node.address6 }
}

/// Routes to single addresses, with the index of their link.
pub type HostRoutes = HashSet<(IpAddr, u32)>;

/// The host's static routes to single addresses, which those to endpoints are.
///
/// # Errors
/// The kernel does not answer.
pub async fn host_routes(nl: &Netlink) -> Result<HostRoutes> {
    let routes = nl.routes(Which::Single).await?.into_iter();
    Ok(routes.map(|route| (route.destination.addr(), route.ifindex)).collect())
}

/// Prefixes that the host already reaches by links that are not netd's.
#[derive(Clone, Debug, Default)]
pub struct Occupied {
    holders: Vec<Holder>,
    /// Names of links, by index.
    names: HashMap<u32, String>,
}

/// A prefix by a link. There may be a million: no words are kept of them.
#[derive(Clone, Copy, Debug)]
struct Holder {
    prefix: IpNet,
    ifindex: u32,
    is_route: bool,
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
        let addresses = nl.addresses().await?.into_iter();
        let mut holders: Vec<Holder> = addresses
            .map(|own| Holder { prefix: own.address, ifindex: own.ifindex, is_route: false })
            .collect();
        let routes = nl.destinations().await?.into_iter();
        let others = routes.filter(|(prefix, ifindex)| prefix.prefix_len() > 0 && !own.contains(ifindex));
        holders.extend(others.map(|(prefix, ifindex)| Holder { prefix, ifindex, is_route: true }));
        Ok(Self { holders, names })
    }

    /// What is in the way of a network with that subnet, in words.
    #[must_use]
    pub fn holder(&self, subnet: IpNet) -> Option<String> {
        self.holder_beside(subnet, None)
    }

    /// The same of a network that is the LAN of a `parent`: what that has within the subnet, or around it, is that LAN.
    #[must_use]
    pub fn holder_beside(&self, subnet: IpNet, parent: Option<&str>) -> Option<String> {
        // The gateway's address on lo is what netd itself puts there.
        let gateway = IpNet::from(gateway_of(subnet));
        let is_own = |holder: &Holder| {
            !holder.is_route && holder.ifindex == LOOPBACK && holder.prefix.trunc() == gateway
        };
        let is_lan = |holder: &Holder| {
            parent.is_some_and(|parent| self.names.get(&holder.ifindex).is_some_and(|name| name == parent))
        };
        let in_the_way = |holder: &&Holder| {
            any_overlap(holder.prefix.trunc(), subnet) && !is_own(holder) && !is_lan(holder)
        };
        self.holders.iter().find(in_the_way).map(|holder| {
            let Holder { prefix, ifindex, is_route } = holder;
            let link = self.names.get(ifindex).map_or("?", String::as_str);
            match is_route {
                true => format!("the route to {prefix} by {link}"),
                false => format!("the address {prefix} on {link}"),
            }
        })
    }
}

/// Whether a link is one that netd made for this state directory. Its alias says so, whatever it is called.
#[must_use]
pub fn is_own(link: &Link, identity: &str) -> bool {
    link.alias.as_deref().is_some_and(|alias| alias.starts_with(&endpoint::alias_prefix(identity)))
}

/// Says in the log how the uplink is, when that has changed.
pub fn log_uplink(view: &HostView) {
    if let Some(uplink) = &view.uplink {
        let address6 = uplink.address6.map(|address| format!(" and {address}")).unwrap_or_default();
        tracing::info!("uplink {} (address {}{address6}, MTU {})", uplink.name, uplink.address, uplink.mtu);
    } else if let Some(trouble) = view.trouble() {
        warn!("{trouble}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn who_is_in_the_way() {
        let address = |prefix: &str, ifindex| Holder { prefix: net(prefix), ifindex, is_route: false };
        let route = |prefix: &str, ifindex| Holder { prefix: net(prefix), ifindex, is_route: true };
        let occupied = Occupied {
            holders: vec![
                address("127.0.0.1/8", LOOPBACK),
                address("192.0.2.7/24", 2),
                address("10.88.0.1/32", LOOPBACK),
                address("10.90.0.1/32", 2),
                route("172.16.0.0/12", 3),
                address("fd88::1/128", LOOPBACK),
                address("2001:db8::7/64", 2),
            ],
            names: [(LOOPBACK, "lo"), (2, "up")].map(|(index, name)| (index, name.to_owned())).into(),
        };
        for (subnet, expected) in [
            ("10.88.0.0/16", None),
            ("192.0.2.0/25", Some("the address 192.0.2.7/24 on up")),
            ("192.0.0.0/16", Some("the address 192.0.2.7/24 on up")),
            ("10.90.0.0/16", Some("the address 10.90.0.1/32 on up")),
            ("10.88.0.0/15", None),
            ("10.80.0.0/12", Some("the address 10.88.0.1/32 on lo")),
            ("172.17.0.0/16", Some("the route to 172.16.0.0/12 by ?")),
            ("fd88::/48", None),
            ("fd88::/47", None),
            ("fd00::/8", Some("the address fd88::1/128 on lo")),
            ("2001:db8::/48", Some("the address 2001:db8::7/64 on up")),
            ("2001:db8:0:1::/64", None),
        ] {
            assert_eq!(occupied.holder(net(subnet)).as_deref(), expected, "{subnet}");
        }
    }
}
