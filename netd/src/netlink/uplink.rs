//! The interface that leads to the world.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage, link::LinkMessage};

use super::{
    Address, Link, Netlink, Which, addresses, links, routes,
    socket::{Request, Socket},
};

/// The uplink as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkInfo {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// The node's address, and with its prefix length the subnet that is on the link.
    pub address: Ipv4Net,
    /// The node's IPv6 address likewise, if there is one.
    pub address6: Option<Ipv6Net>,
}

impl UplinkInfo {
    /// The node's addresses on it, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v6 = self.address6.map(|address| address.addr().into());
        [self.address.addr().into()].into_iter().chain(v6)
    }

    /// The same with their prefix lengths.
    #[must_use]
    pub fn subnets(&self) -> Vec<IpNet> {
        [self.address.into()].into_iter().chain(self.address6.map(IpNet::from)).collect()
    }

    /// Whether an address is on the link, of either family.
    #[must_use]
    pub fn is_near(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.address.contains(&address),
            IpAddr::V6(address) => self.address6.is_some_and(|subnet| subnet.contains(&address)),
        }
    }

    /// Whether an address is the node's own on it.
    #[must_use]
    pub fn is_own(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.address.addr() == address,
            IpAddr::V6(address) => self.address6.is_some_and(|own| own.addr() == address),
        }
    }
}

/// Which addresses an uplink is to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// This one; none: its first global one.
    pub address: Option<Ipv4Addr>,
    /// This one; none: its first global one that is stable, if it has one.
    pub address6: Option<Ipv6Addr>,
}

/// Finds the uplink: the link of that `name`, else the one of the IPv4 default route (lowest metric first) that has a
/// global address; and on it the addresses that are wanted. None: no name was given, and no link qualifies.
///
/// # Errors
/// The link of that name does not exist or has no global address, or the uplink does not have a wanted address: one line
/// that says which key of the configuration is meant.
pub async fn find_uplink(nl: &Netlink, name: Option<&str>, wanted: Wanted) -> Result<Option<UplinkInfo>> {
    let name = name.map(str::to_owned);
    nl.call(move |socket| find(socket, name.as_deref(), wanted)).await
}

fn find(socket: &mut Socket, name: Option<&str>, wanted: Wanted) -> Result<Option<UplinkInfo>> {
    let Wanted { address, address6 } = wanted;
    let candidates = match name {
        Some(name) => match link(socket, links::by_name(name))? {
            Some(link) => vec![link],
            None => bail!("uplink {name} does not exist: correct node.uplink, or leave it out"),
        },
        None => by_default_route(socket)?,
    };
    let all = addresses::all(socket).map_err(|refusal| refusal.while_doing("listing addresses"))?;
    for link in &candidates {
        let mut on_link =
            all.iter().filter(|a| a.ifindex == link.ifindex && a.scope_global).filter_map(|a| {
                match a.address {
                    IpNet::V4(net) => Some(net),
                    IpNet::V6(_) => None,
                }
            });
        let found = match address {
            Some(wanted) => on_link.find(|net| net.addr() == wanted),
            None => on_link.next(),
        };
        if let Some(address) = found {
            let Link { ifindex, ref name, mtu, .. } = *link;
            let found6 = find6(&all, ifindex, address6);
            if let (Some(wanted), None) = (address6, found6) {
                bail!("uplink {name} does not have the address {wanted}: correct node.address6");
            }
            return Ok(Some(UplinkInfo { name: name.clone(), ifindex, mtu, address, address6: found6 }));
        }
    }
    match (candidates.first(), name, address) {
        (Some(link), _, Some(address)) => {
            bail!("uplink {} does not have the address {address}: correct node.address", link.name)
        }
        (Some(link), Some(_), None) => {
            bail!("uplink {} has no global IPv4 address: give it one, or correct node.uplink", link.name)
        }
        _ => Ok(None),
    }
}

/// The IPv6 address of a link. Which one is wanted need not be stable: whoever chooses it knows.
fn find6(all: &[Address], ifindex: u32, wanted: Option<Ipv6Addr>) -> Option<Ipv6Net> {
    let mut on_link =
        all.iter().filter(|a| a.ifindex == ifindex && a.scope_global).filter_map(|a| match a.address {
            IpNet::V6(net) => Some((net, a.is_stable)),
            IpNet::V4(_) => None,
        });
    let found = match wanted {
        Some(wanted) => on_link.find(|(net, _)| net.addr() == wanted),
        None => on_link.find(|(_, is_stable)| *is_stable),
    };
    found.map(|(net, _)| net)
}

/// The links of the default routes, best first.
fn by_default_route(socket: &mut Socket) -> Result<Vec<Link>> {
    let mut routes = routes::list(socket, AddressFamily::Inet, Which::Default, |candidate| candidate)
        .map_err(|refusal| refusal.while_doing("listing the IPv4 routes"))?;
    routes.retain(|candidate| !candidate.dead);
    routes.sort_by_key(|candidate| candidate.metric);
    let mut found: Vec<Link> = Vec::new();
    for candidate in routes {
        if found.iter().any(|link| link.ifindex == candidate.route.ifindex) {
            continue;
        }
        let mut message = LinkMessage::default();
        message.header.index = candidate.route.ifindex;
        found.extend(link(socket, RouteNetlinkMessage::GetLink(message))?);
    }
    Ok(found)
}

fn link(socket: &mut Socket, message: RouteNetlinkMessage) -> Result<Option<Link>> {
    match socket.request(Request::new(message)).and_then(|found| links::only(&found)) {
        Ok(link) => Ok(Some(link)),
        Err(refusal) if refusal.is_gone() => Ok(None),
        Err(refusal) => Err(refusal.while_doing("looking for the uplink").into()),
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::route::RouteAttribute;

    use super::{
        super::{
            PairSpec, Route,
            testing::{ip, isolated, net, netns, veth},
        },
        *,
    };

    #[test]
    fn found_by_route_name_or_address() {
        isolated("found_by_route_name_or_address", || async {
            let (host, ns) = (Netlink::host()?, netns());
            assert_eq!(find_uplink(&host, None, Wanted::default()).await?, None);

            let mut links = Vec::new();
            for (n, name) in ["ndup0", "ndup1", "ndup2"].into_iter().enumerate() {
                let far = format!("eth{n}");
                let spec = PairSpec { host_name: name, container_name: &far, ..veth(&ns) };
                let ifindex = host.create_pair(&spec).await?;
                host.set_up(ifindex).await?;
                links.push(ifindex);
            }
            // The second has the better route, the third has a route and no address.
            for (ifindex, address, gateway, metric) in [
                (links[0], "192.0.2.1/24", "192.0.2.254", 200),
                (links[1], "198.51.100.1/25", "198.51.100.9", 100),
            ] {
                host.add_address(ifindex, net(address)).await?;
                default_route(&host, ifindex, gateway, metric).await?;
            }
            host.add_address(links[1], net("198.51.100.2/25")).await?;
            default_route(&host, links[2], "203.0.113.1", 50).await?;

            let info = |n: usize, name: &str, address: &str| UplinkInfo {
                name: name.into(),
                ifindex: links[n],
                mtu: 1400,
                address: address.parse().unwrap(),
                address6: None,
            };
            let found = |name, address: Option<&str>| {
                let address = address.map(|a| a.parse().unwrap());
                find_uplink(&host, name, Wanted { address, address6: None })
            };
            assert_eq!(found(None, None).await?, Some(info(1, "ndup1", "198.51.100.1/25")));
            assert_eq!(found(Some("ndup0"), None).await?, Some(info(0, "ndup0", "192.0.2.1/24")));
            assert_eq!(found(None, Some("198.51.100.2")).await?, Some(info(1, "ndup1", "198.51.100.2/25")));
            assert_eq!(found(None, Some("192.0.2.1")).await?, Some(info(0, "ndup0", "192.0.2.1/24")));

            let said = |result: Result<Option<UplinkInfo>>| result.unwrap_err().to_string();
            assert_eq!(
                said(found(Some("ndup7"), None).await),
                "uplink ndup7 does not exist: correct node.uplink, or leave it out"
            );
            assert_eq!(
                said(found(Some("ndup2"), None).await),
                "uplink ndup2 has no global IPv4 address: give it one, or correct node.uplink"
            );
            assert_eq!(
                said(found(Some("ndup1"), Some("192.0.2.1")).await),
                "uplink ndup1 does not have the address 192.0.2.1: correct node.address"
            );

            // The first IPv6 address that is to stay, or the one that is wanted.
            let forever = net("2001:db8::2/64");
            for address in ["fd00::1/64", "2001:db8::2/64"] {
                host.add_address(links[1], net(address)).await?;
            }
            deprecate(&host, links[1], net("fd00::1/64")).await?;
            let found6 = |address6: Option<&str>| {
                let address6 = address6.map(|a| a.parse().unwrap());
                find_uplink(&host, None, Wanted { address: None, address6 })
            };
            for (wanted, expected) in [(None, forever), (Some("fd00::1"), net("fd00::1/64"))] {
                let uplink = found6(wanted).await?.unwrap();
                assert_eq!(uplink.address6.map(IpNet::from), Some(expected));
                assert!(uplink.is_near(expected.addr()) && uplink.is_own(expected.addr()));
            }
            assert_eq!(
                said(found6(Some("2001:db8::3")).await),
                "uplink ndup1 does not have the address 2001:db8::3: correct node.address6"
            );

            host.delete_link(links[1]).await?;
            assert_eq!(found(None, None).await?, Some(info(0, "ndup0", "192.0.2.1/24")));
            host.delete_link(links[0]).await?;
            assert_eq!(found(None, None).await?, None);
            Ok(())
        });
    }

    /// Ends the preferred lifetime of an address (`ip address change ... preferred_lft 0`).
    async fn deprecate(host: &Netlink, ifindex: u32, address: IpNet) -> Result<()> {
        use rtnetlink::packet_route::address::{AddressAttribute, CacheInfo};

        let mut message = addresses::message(ifindex, address);
        let mut times = CacheInfo::default();
        (times.ifa_preferred, times.ifa_valid) = (0, u32::MAX);
        message.attributes.push(AddressAttribute::CacheInfo(times));
        let flags = rtnetlink::packet_core::NLM_F_REPLACE;
        host.call(move |socket| {
            let request = Request::with_flags(RouteNetlinkMessage::NewAddress(message), flags);
            socket.request(request).map_err(|refusal| refusal.while_doing("deprecating an address"))?;
            Ok(())
        })
        .await
    }

    async fn default_route(host: &Netlink, ifindex: u32, gateway: &str, metric: u32) -> Result<()> {
        let gateway = ip(gateway);
        let destination = routes::everything(gateway);
        let route = Route { destination, gateway: Some(gateway), ifindex, source: None, onlink: true };
        let mut message = routes::message(&route);
        message.attributes.push(RouteAttribute::Priority(metric));
        let flags = rtnetlink::packet_core::NLM_F_CREATE;
        host.call(move |socket| {
            let request = Request::with_flags(RouteNetlinkMessage::NewRoute(message), flags);
            socket.request(request).map_err(|refusal| refusal.while_doing("adding a default route"))?;
            Ok(())
        })
        .await
    }
}
