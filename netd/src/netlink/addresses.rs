//! Addresses of links.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_REPLACE, Parseable},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
        route::{RouteAttribute, RouteMessage, RouteType},
    },
};

use super::{
    Netlink,
    error::Refusal,
    socket::{Request, Socket},
};

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The link's index.
    pub ifindex: u32,
    /// The address and its prefix length.
    pub address: IpNet,
    /// Whether its scope is global, i.e. others than the link's neighbours may reach it.
    pub scope_global: bool,
    /// IPv6: whether it is of use and to stay: not one that is still looked for on the link or was found there, nor one
    /// that is deprecated or temporary (RFC 8981). IPv4 addresses all are.
    pub is_stable: bool,
}

impl Netlink {
    /// All addresses of the namespace, of both families.
    pub async fn addresses(&self) -> Result<Vec<Address>> {
        self.call(|socket| Ok(all(socket).map_err(|refusal| refusal.while_doing("listing addresses"))?)).await
    }

    /// Adds an address, ready for use at once (no duplicate address detection); fine if it is there. One that stands for
    /// itself alone (/32, /128) brings no route for a prefix.
    pub async fn add_address(&self, ifindex: u32, address: IpNet) -> Result<()> {
        self.call(move |socket| {
            socket.request(add(ifindex, address)).map_err(|refusal| {
                refusal.while_doing(format!("adding address {address} to link number {ifindex}"))
            })?;
            wait(socket, &[address.addr()]);
            Ok(())
        })
        .await
    }

    /// Removes an address; false: it was gone, or its link was.
    pub async fn del_address(&self, ifindex: u32, address: IpNet) -> Result<bool> {
        self.call(move |socket| {
            let message = RouteNetlinkMessage::DelAddress(message(ifindex, address));
            match socket.request(Request::new(message)) {
                Ok(_) => Ok(true),
                Err(refusal) if refusal.is_gone() || refusal.errno == Errno::EADDRNOTAVAIL => Ok(false),
                Err(refusal) => Err(refusal
                    .while_doing(format!("removing address {address} from link number {ifindex}"))
                    .into()),
            }
        })
        .await
    }
}

/// Asks for all addresses.
pub(super) fn all(socket: &mut Socket) -> Result<Vec<Address>, Refusal> {
    let found = socket.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    Ok(found.iter().filter_map(|payload| Address::parse(payload)).collect())
}

pub(super) fn add(ifindex: u32, address: IpNet) -> Request {
    let mut message = message(ifindex, address);
    let mut flags = AddressFlags::Nodad;
    if address.prefix_len() == address.max_prefix_len() {
        flags |= AddressFlags::Noprefixroute;
    }
    message.attributes.push(AddressAttribute::Flags(flags));
    Request::with_flags(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// How long to wait for what takes a kernel thread's turn.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often to look.
const INTERVAL: Duration = Duration::from_micros(200);

/// Waits until addresses that were added receive. An IPv6 address does not at once, even without duplicate address detection:
/// its local route is made by a kernel thread (`addrconf_dad_work`). On a busy machine that takes long enough to lose the first
/// packet of a connection. If it never comes (the address is gone again, say), that shows elsewhere.
pub(super) fn wait(socket: &mut Socket, addresses: &[IpAddr]) {
    let end = Instant::now() + PATIENCE;
    for address in addresses.iter().filter(|address| address.is_ipv6()) {
        while is_local(socket, *address) == Ok(false) && Instant::now() < end {
            thread::sleep(INTERVAL);
        }
    }
}

/// Whether packets to an address are the namespace's own (`ip route get`).
fn is_local(socket: &mut Socket, address: IpAddr) -> Result<bool, Errno> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = IpNet::from(address).prefix_len();
    message.attributes.push(RouteAttribute::Destination(address.into()));
    let answer = match socket.request(Request::new(RouteNetlinkMessage::GetRoute(message))) {
        Ok(answer) => answer,
        // No route at all yet.
        Err(refusal) if refusal.errno == Errno::ENETUNREACH => return Ok(false),
        Err(refusal) => return Err(refusal.errno),
    };
    let route = answer.first().and_then(|payload| RouteMessage::parse(payload).ok());
    Ok(route.is_none_or(|route| route.header.kind == RouteType::Local))
}

pub(super) fn message(ifindex: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = ifindex;
    message.attributes =
        vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    message
}

pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

impl Address {
    fn parse(payload: &[u8]) -> Option<Self> {
        let message = AddressMessage::parse(payload).ok()?;
        // `Address` is the other side's on a point-to-point link; `Local` is missing where both are the same.
        let (mut local, mut either) = (None, None);
        let mut flags = AddressFlags::empty();
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Flags(all) => flags = all,
                AddressAttribute::Local(address) => local = Some(address),
                AddressAttribute::Address(address) => either = Some(address),
                _ => {}
            }
        }
        let address = IpNet::new(local.or(either)?, message.header.prefix_len).ok()?;
        // The bit of a temporary IPv6 address is that of a secondary IPv4 one (linux/if_addr.h).
        let passing = AddressFlags::Secondary
            | AddressFlags::Tentative
            | AddressFlags::Dadfailed
            | AddressFlags::Deprecated;
        Some(Self {
            ifindex: message.header.index,
            address,
            scope_global: message.header.scope == AddressScope::Universe,
            is_stable: address.addr().is_ipv4() || !flags.intersects(passing),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            is_gone,
            testing::{ip, isolated, net, netns, veth},
        },
        *,
    };

    #[test]
    fn come_and_go() {
        isolated("addresses::come_and_go", || async {
            let (host, ns) = (Netlink::host()?, netns());
            let ifindex = host.create_pair(&veth(&ns)).await?;
            host.set_up(ifindex).await?;
            assert_eq!(host.addresses().await?, []);
            let given = [net("192.0.2.1/24"), net("198.51.100.7/32"), net("fd00::1/64"), net("fd00::2/128")];
            for _ in 0..2 {
                for address in given {
                    host.add_address(ifindex, address).await?;
                }
            }
            let mut found = host.addresses().await?;
            found.sort_by_key(|a| a.address);
            assert_eq!(
                found,
                given.map(|address| Address { ifindex, address, scope_global: true, is_stable: true })
            );

            // Of use at once, though the other end is down: no duplicate address detection.
            std::net::UdpSocket::bind((ip("fd00::1"), 0))?;
            let local = host.call(|socket| Ok(is_local(socket, ip("fd00::1")))).await?;
            assert_eq!(local, Ok(true), "it does not receive yet");
            // Prefixes bring a route, lone addresses none.
            let routes = host.routes(super::super::Which::All).await?;
            assert!(routes.iter().any(|r| r.destination == net("192.0.2.0/24")), "{routes:?}");
            assert!(routes.iter().all(|r| !matches!(r.destination.prefix_len(), 32 | 128)), "{routes:?}");

            for address in given {
                assert!(host.del_address(ifindex, address).await?);
                assert!(!host.del_address(ifindex, address).await?);
            }
            assert!(!host.del_address(77, given[0]).await?);
            let error = host.add_address(77, given[0]).await.unwrap_err();
            assert!(is_gone(&error));
            assert!(
                error.to_string().starts_with("adding address 192.0.2.1/24 to link number 77: "),
                "{error}"
            );
            Ok(())
        });
    }
}
