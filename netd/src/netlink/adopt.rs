//! What is on a link that something else has made: looked at, taken off, and put back as it was.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, Parseable},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressMessage, AddressScope},
        link::{LinkAttribute, LinkFlags},
        route::{RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType},
        tc::{TcAttribute, TcHandle, TcMessage},
    },
};
use serde::{Deserialize, Serialize};

use super::{
    Netlink, Route, addresses,
    error::Refusal,
    links::{indexed, up},
    neighbours, routes,
    socket::{Request, Socket},
};

/// The addresses and routes of a link, as the kernel's own messages, so that nothing of them is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// `RTM_NEWADDR`s, in the kernel's order.
    addresses: Vec<Vec<u8>>,
    /// `RTM_NEWROUTE`s, those without a gateway first: others need them. Routes that the kernel makes for addresses are not among them.
    routes: Vec<Vec<u8>>,
}

/// The parents of a link's filters, and of the qdisc that they hang on (linux/pkt_sched.h).
const CLSACT: TcHandle = TcHandle { major: 0xffff, minor: 0xfff1 };
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff2 };
const EGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff3 };

impl Netlink {
    /// What is on a link.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn configuration(&self, ifindex: u32) -> Result<Configuration> {
        self.call(move |socket| {
            configuration(socket, ifindex)
                .map_err(|refusal| refusal.while_doing(format!("looking at link number {ifindex}")).into())
        })
        .await
    }

    /// Takes a configuration off a link, but for IPv6's link-local addresses, and puts netd's on it, as
    /// [`configure_container`](Netlink::configure_container) does. Can be repeated.
    ///
    /// # Errors
    /// The kernel refuses a step.
    pub async fn take_over(
        &self,
        ifindex: u32,
        before: &Configuration,
        own: &[(IpNet, Option<IpAddr>)],
    ) -> Result<()> {
        let (before, own) = (before.clone(), own.to_vec());
        self.call(move |socket| {
            let what = |what: &str| format!("{what} link number {ifindex}");
            let off = before.routes().map(RouteNetlinkMessage::DelRoute).chain(
                before
                    .addresses()
                    .filter(|message| message.header.scope != AddressScope::Link)
                    .map(RouteNetlinkMessage::DelAddress),
            );
            for message in off {
                match socket.request(Request::new(message)) {
                    Err(refusal) if !refusal.is_gone() && refusal.errno != Errno::EADDRNOTAVAIL => {
                        return Err(refusal.while_doing(what("taking the configuration off")).into());
                    }
                    _ => {}
                }
            }
            let set = |socket: &mut Socket, request| {
                socket.request(request).map(drop).map_err(|refusal| refusal.while_doing(what("configuring")))
            };
            set(socket, Request::new(up(ifindex)))?;
            for (address, _) in &own {
                set(socket, addresses::add(ifindex, *address))?;
            }
            for route in default_routes(ifindex, &own) {
                set(socket, routes::add(&route))?;
            }
            let own: Vec<IpAddr> = own.iter().map(|(address, _)| address.addr()).collect();
            addresses::wait(socket, &own);
            Ok(())
        })
        .await
    }

    /// Takes netd's configuration off a link again and puts back what was there. Can be repeated.
    ///
    /// # Errors
    /// The kernel refuses a step; the others are taken all the same.
    pub async fn put_back(
        &self,
        ifindex: u32,
        before: &Configuration,
        own: &[(IpNet, Option<IpAddr>)],
        side: Side,
    ) -> Result<()> {
        let (before, own) = (before.clone(), own.to_vec());
        self.call(move |socket| {
            let mut off: Vec<_> = default_routes(ifindex, &own).iter().map(routes::del).collect();
            let addresses = own.iter().map(|(address, _)| addresses::message(ifindex, *address));
            off.extend(addresses.map(|message| Request::new(RouteNetlinkMessage::DelAddress(message))));
            for request in off {
                // What is not there any more need not go.
                let _ = socket.request(request);
            }
            let mut result = socket.request(set_side(ifindex, side)).map(drop);
            let addresses = before.addresses().map(RouteNetlinkMessage::NewAddress);
            let routes = before.routes().map(RouteNetlinkMessage::NewRoute);
            for message in addresses.chain(routes) {
                match socket.request(Request::with_flags(message, NLM_F_CREATE)) {
                    Err(refusal) if refusal.errno != Errno::EEXIST => result = result.and(Err(refusal)),
                    _ => {}
                }
            }
            result.map_err(|refusal| refusal.while_doing(format!("giving link number {ifindex} back")).into())
        })
        .await
    }

    /// Sets a link's MTU, and its alias if there is one to be set; an empty one takes it off.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn set_mtu(&self, ifindex: u32, mtu: u32, alias: Option<&str>) -> Result<()> {
        let mut message = indexed(ifindex);
        // The kernel takes the alias last: with it, all is done.
        message.attributes.push(LinkAttribute::Mtu(mtu));
        message.attributes.extend(alias.map(|alias| LinkAttribute::IfAlias(alias.to_owned())));
        self.call(move |socket| {
            socket
                .request(Request::new(RouteNetlinkMessage::SetLink(message)))
                .map(drop)
                .map_err(|refusal| refusal.while_doing(format!("setting link number {ifindex}")).into())
        })
        .await
    }

    /// Takes the host's way to an address by a link away: its route, and its neighbour.
    pub async fn forget(&self, route: &Route) -> Result<()> {
        self.del_route(route).await?;
        let (ifindex, address) = (route.ifindex, route.destination.addr());
        self.call(move |socket| match socket.request(neighbours::del(ifindex, address)) {
            Err(refusal) if !refusal.is_gone() => Err(refusal.while_doing("removing a neighbour").into()),
            _ => Ok(()),
        })
        .await
    }

    /// Whether a link has a qdisc for filters.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn has_clsact(&self, ifindex: u32) -> Result<bool> {
        self.call(move |socket| {
            let found = socket
                .dump(&RouteNetlinkMessage::GetQueueDiscipline(of(ifindex, TcHandle::default())))
                .map_err(|refusal| refusal.while_doing("listing qdiscs"))?;
            let mut found = found.iter().filter_map(|payload| TcMessage::parse(payload).ok());
            Ok(found.any(|one| {
                one.header.index.cast_unsigned() == ifindex
                    && one.attributes.iter().any(|a| matches!(a, TcAttribute::Kind(kind) if kind == "clsact"))
            }))
        })
        .await
    }

    /// Removes that qdisc, if there is one and nobody's filter hangs on it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn remove_clsact(&self, ifindex: u32) -> Result<()> {
        if !self.has_clsact(ifindex).await? {
            return Ok(());
        }
        self.call(move |socket| {
            let what = || format!("removing the qdisc of link number {ifindex}");
            for parent in [INGRESS, EGRESS] {
                let filters = RouteNetlinkMessage::GetTrafficFilter(of(ifindex, parent));
                if !socket.dump(&filters).map_err(|refusal| refusal.while_doing(what()))?.is_empty() {
                    return Ok(());
                }
            }
            let mut message = of(ifindex, CLSACT);
            message.header.handle = TcHandle { major: 0xffff, minor: 0 };
            match socket.request(Request::new(RouteNetlinkMessage::DelQueueDiscipline(message))) {
                Err(refusal) if !refusal.is_gone() => Err(refusal.while_doing(what()).into()),
                _ => Ok(()),
            }
        })
        .await
    }
}

/// One end of a link, as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Its index.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Whether it was up.
    pub up: bool,
}

impl Netlink {
    /// Makes a link up or down, and its MTU what it was.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn restore(&self, side: Side) -> Result<()> {
        let ifindex = side.ifindex;
        self.call(move |socket| {
            let set = socket.request(set_side(ifindex, side)).map(drop);
            set.map_err(|refusal| refusal.while_doing(format!("giving link number {ifindex} back")).into())
        })
        .await
    }
}

fn set_side(ifindex: u32, side: Side) -> Request {
    let mut message = indexed(ifindex);
    message.header.change_mask = LinkFlags::Up;
    message.header.flags = if side.up { LinkFlags::Up } else { LinkFlags::empty() };
    message.attributes.push(LinkAttribute::Mtu(side.mtu));
    Request::new(RouteNetlinkMessage::SetLink(message))
}

impl Configuration {
    fn addresses(&self) -> impl Iterator<Item = AddressMessage> {
        self.addresses.iter().filter_map(|payload| AddressMessage::parse(payload.as_slice()).ok())
    }

    fn routes(&self) -> impl Iterator<Item = RouteMessage> {
        self.routes.iter().filter_map(|payload| RouteMessage::parse(payload.as_slice()).ok()).map(|mut route| {
            // What the kernel says of a route, and does not take back.
            route.header.flags &= RouteFlags::Onlink | RouteFlags::Pervasive;
            route
        })
    }
}

fn default_routes(ifindex: u32, own: &[(IpNet, Option<IpAddr>)]) -> Vec<Route> {
    let route = |&(address, gateway): &(IpNet, Option<IpAddr>)| {
        let gateway = gateway?;
        let destination = routes::everything(gateway);
        let onlink = !address.contains(&gateway);
        Some(Route { destination, gateway: Some(gateway), ifindex, source: None, onlink })
    };
    own.iter().filter_map(route).collect()
}

/// A message about what hangs on a link's parent.
fn of(ifindex: u32, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = ifindex.cast_signed();
    message.header.parent = parent;
    message
}

fn configuration(socket: &mut Socket, ifindex: u32) -> Result<Configuration, Refusal> {
    let found = socket.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let is_of = |payload: &&Vec<u8>| {
        AddressMessage::parse(payload.as_slice()).is_ok_and(|message| message.header.index == ifindex)
    };
    let addresses = found.iter().filter(is_of).cloned().collect();
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        match socket.dump(&RouteNetlinkMessage::GetRoute(message)) {
            Err(refusal) if matches!(refusal.errno, Errno::EAFNOSUPPORT | Errno::ENOENT) => {}
            found => all.extend(found?),
        }
    }
    let mut routes: Vec<(bool, Vec<u8>)> = all
        .into_iter()
        .filter_map(|payload| {
            let message = RouteMessage::parse(payload.as_slice()).ok()?;
            let by = |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Oif(oif) if *oif == ifindex);
            let wanted = message.header.kind == RouteType::Unicast
                && message.header.protocol != RouteProtocol::Kernel
                && !message.header.flags.contains(RouteFlags::Cloned)
                && message.attributes.iter().any(by);
            let gateway = |attribute: &RouteAttribute| {
                matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_))
            };
            wanted.then(|| (message.attributes.iter().any(gateway), payload))
        })
        .collect();
    routes.sort_by_key(|(gateway, _)| *gateway);
    Ok(Configuration { addresses, routes: routes.into_iter().map(|(_, payload)| payload).collect() })
}
