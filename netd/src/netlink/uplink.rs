//! The interface that leads to the world.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};
use ipnet::{IpNet, Ipv4Net};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage, link::LinkMessage};

use super::{
    Link, Netlink, addresses, links, routes,
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
}

/// Finds the uplink: the link of that `name`, else the one of the IPv4 default route (lowest metric first) that has a
/// global address; and on it that `address`, else its first global one. None: no name was given, and no link qualifies.
///
/// # Errors
/// The link of that name does not exist or has no global address, or the uplink does not have that address: one line
/// that says which key of the configuration is meant.
pub async fn find_uplink(
    nl: &Netlink,
    name: Option<&str>,
    address: Option<Ipv4Addr>,
) -> Result<Option<UplinkInfo>> {
    let name = name.map(str::to_owned);
    nl.call(move |socket| find(socket, name.as_deref(), address)).await
}

fn find(socket: &mut Socket, name: Option<&str>, address: Option<Ipv4Addr>) -> Result<Option<UplinkInfo>> {
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
            return Ok(Some(UplinkInfo { name: name.clone(), ifindex, mtu, address }));
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

/// The links of the default routes, best first.
fn by_default_route(socket: &mut Socket) -> Result<Vec<Link>> {
    let mut routes = routes::all(socket, AddressFamily::Inet)
        .map_err(|refusal| refusal.while_doing("listing the IPv4 routes"))?;
    routes.retain(|candidate| candidate.route.destination.prefix_len() == 0 && !candidate.dead);
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
