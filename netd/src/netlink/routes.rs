//! Routes of the main table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::errno::Errno;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_REPLACE, Parseable},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags,
            RouteProtocol, RouteScope, RouteType, RouteVia,
        },
    },
};

use super::{
    Netlink,
    addresses::family,
    error::Refusal,
    socket::{Request, Socket},
};

/// A unicast route of the main table. Without a gateway its scope is the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; `0.0.0.0/0` or `::/0` is the default route.
    pub destination: IpNet,
    /// The next hop; none: the destination is on the link. An IPv4 destination may have an IPv6 gateway.
    pub gateway: Option<IpAddr>,
    /// The link's index.
    pub ifindex: u32,
    /// The source address that the host's own packets prefer.
    pub source: Option<IpAddr>,
    /// The gateway counts as a neighbour even if no address of the link says so.
    pub onlink: bool,
}

/// A route, and what decides between several of the same destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) route: Route,
    pub(super) metric: u32,
    pub(super) dead: bool,
}

impl Netlink {
    /// Adds a route, or replaces the one to the same destination. Routes of a metric other than the kernel's default are
    /// left alone.
    pub async fn add_route(&self, route: &Route) -> Result<()> {
        let route = *route;
        self.call(move |socket| {
            socket
                .request(add(&route))
                .map_err(|refusal| refusal.while_doing(format!("adding {}", route.words())))?;
            Ok(())
        })
        .await
    }

    /// Removes a route; false: it was gone, or its link was. Removes only a route of that very gateway and link.
    pub async fn del_route(&self, route: &Route) -> Result<bool> {
        let route = *route;
        self.call(move |socket| {
            let mut message = message(&route);
            // On removal these stand for "any".
            message.header.scope = RouteScope::NoWhere;
            message.header.protocol = RouteProtocol::Unspec;
            match socket.request(Request::new(RouteNetlinkMessage::DelRoute(message))) {
                Ok(_) => Ok(true),
                Err(refusal) if refusal.is_gone() => Ok(false),
                Err(refusal) => Err(refusal.while_doing(format!("removing {}", route.words())).into()),
            }
        })
        .await
    }

    /// Routes of the main table, IPv4 and IPv6; one with several next hops appears once for each. What is not asked for takes
    /// no memory, and most of it no time: a router may have a million routes.
    pub async fn routes(&self, which: Which) -> Result<Vec<Route>> {
        self.each_route(which, |route| route).await
    }

    /// Where all routes of the main table lead to, each with the index of its link.
    pub async fn destinations(&self) -> Result<Vec<(IpNet, u32)>> {
        self.each_route(Which::All, |route| (route.destination, route.ifindex)).await
    }

    async fn each_route<T: Send + 'static>(
        &self,
        which: Which,
        keep: impl Fn(Route) -> T + Send + 'static,
    ) -> Result<Vec<T>> {
        self.call(move |socket| {
            let keep = |candidate: Candidate| keep(candidate.route);
            let mut routes = list(socket, AddressFamily::Inet, which, keep)
                .map_err(|refusal| refusal.while_doing("listing the IPv4 routes"))?;
            match list(socket, AddressFamily::Inet6, which, keep) {
                Ok(more) => routes.extend(more),
                Err(refusal) if refusal.errno == Errno::EAFNOSUPPORT => {}
                Err(refusal) => return Err(refusal.while_doing("listing the IPv6 routes").into()),
            }
            Ok(routes)
        })
        .await
    }
}

/// Which unicast routes of the main table are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All.
    All,
    /// The default routes.
    Default,
    /// Those to single addresses that are static, as [`Netlink::add_route`] makes them.
    Single,
}

impl Which {
    /// The header that asks for them. The kernel leaves out the others as far as it can say it: not by length.
    fn header(self, family: AddressFamily) -> RouteHeader {
        let protocol = if self == Self::Single { RouteProtocol::Static } else { RouteProtocol::Unspec };
        RouteHeader {
            address_family: family,
            table: RouteHeader::RT_TABLE_MAIN,
            kind: RouteType::Unicast,
            protocol,
            ..RouteHeader::default()
        }
    }

    /// Whether a message is about one of them, by its header alone.
    fn fits(self, payload: &[u8]) -> bool {
        let Ok(header) = RouteHeader::parse(payload) else { return false };
        let single = if header.address_family == AddressFamily::Inet { 32 } else { 128 };
        header.table == RouteHeader::RT_TABLE_MAIN
            && header.kind == RouteType::Unicast
            && match self {
                Self::All => true,
                Self::Default => header.destination_prefix_length == 0,
                Self::Single => {
                    header.destination_prefix_length == single && header.protocol == RouteProtocol::Static
                }
            }
    }
}

impl Route {
    fn words(&self) -> String {
        let via = self.gateway.map(|gateway| format!(" by {gateway}")).unwrap_or_default();
        format!("the route to {}{via} over link number {}", self.destination, self.ifindex)
    }
}

/// The destination of the default route of an address's family.
pub(super) fn everything(family_of: IpAddr) -> IpNet {
    match family_of {
        IpAddr::V4(_) => Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

pub(super) fn add(route: &Route) -> Request {
    Request::with_flags(RouteNetlinkMessage::NewRoute(message(route)), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Asks for routes of a family; returns what `keep` makes of each.
pub(super) fn list<T>(
    socket: &mut Socket,
    family: AddressFamily,
    which: Which,
    keep: impl Fn(Candidate) -> T,
) -> Result<Vec<T>, Refusal> {
    let mut message = RouteMessage::default();
    message.header = which.header(family);
    let found = socket.pick(&RouteNetlinkMessage::GetRoute(message), |payload, routes| {
        if which.fits(payload) {
            routes.extend(candidates(payload).into_iter().map(&keep));
        }
    });
    match found {
        // There is no such table before it has a route.
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(Vec::new()),
        found => found,
    }
}

pub(super) fn message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(route.destination.addr());
    header.destination_prefix_length = route.destination.prefix_len();
    header.table = RouteHeader::RT_TABLE_MAIN;
    header.protocol = RouteProtocol::Static;
    header.kind = RouteType::Unicast;
    header.scope = if route.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
    if route.onlink {
        header.flags |= RouteFlags::Onlink;
    }
    message.attributes.push(RouteAttribute::Oif(route.ifindex));
    if route.destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(route.destination.network().into()));
    }
    message.attributes.extend(route.gateway.map(|gateway| match (route.destination, gateway) {
        (IpNet::V4(_), IpAddr::V6(gateway)) => RouteAttribute::Via(RouteVia::Inet6(gateway)),
        _ => RouteAttribute::Gateway(gateway.into()),
    }));
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message
}

/// Whether a message is about a default route of the main table. Used where all that matters is whether the uplink may be
/// another now.
pub(super) fn is_default_route(payload: &[u8]) -> bool {
    // Without the attributes: tables beyond 255 have 252 in the header.
    RouteHeader::parse(payload).is_ok_and(|header| {
        header.destination_prefix_length == 0 && header.table == RouteHeader::RT_TABLE_MAIN
    })
}

/// The routes in a message: none if it is not a unicast route of the main table, several if it has several next hops.
fn candidates(payload: &[u8]) -> Vec<Candidate> {
    // A kind of route that cannot be read is none that netd made, or could use.
    let Ok(message) = RouteMessage::parse(payload) else { return Vec::new() };
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN
        || header.kind != RouteType::Unicast
        || header.flags.contains(RouteFlags::Cloned)
    {
        return Vec::new();
    }
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return Vec::new(),
    };
    let (mut destination, mut metric, mut source) = (unspecified, 0, None);
    let (mut ifindex, mut gateway, mut hops) = (None, None, Vec::new());
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => destination = address(to).unwrap_or(unspecified),
            RouteAttribute::PrefSource(from) => source = address(from),
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Oif(value) => ifindex = Some(*value),
            RouteAttribute::MultiPath(several) => hops.clone_from(several),
            other => gateway = gateway_of(other).or(gateway),
        }
    }
    let Ok(destination) = IpNet::new(destination, header.destination_prefix_length) else {
        return Vec::new();
    };
    let candidate = |ifindex, gateway, onlink, dead| Candidate {
        route: Route { destination, gateway, ifindex, source, onlink },
        metric,
        dead,
    };
    let single = ifindex.map(|ifindex| {
        let flags = header.flags;
        candidate(ifindex, gateway, flags.contains(RouteFlags::Onlink), flags.contains(RouteFlags::Dead))
    });
    let several = hops.iter().map(|hop| {
        let flags = hop.flags;
        candidate(
            hop.interface_index,
            hop.attributes.iter().find_map(gateway_of),
            flags.contains(RouteNextHopFlags::Onlink),
            flags.contains(RouteNextHopFlags::Dead),
        )
    });
    single.into_iter().chain(several).collect()
}

fn gateway_of(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(gateway) => address(gateway),
        RouteAttribute::Via(RouteVia::Inet6(gateway)) => Some((*gateway).into()),
        _ => None,
    }
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
