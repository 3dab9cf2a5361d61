//! netd and netfilter side by side: two copies of one small internet, the same packets into both, and what each party gets.
//!
//! A copy has two containers on a host, one behind netd, the other behind a bridge with the rules that Docker sets; a router; a
//! server; and a server behind a link with a smaller MTU. Both containers have published ports. All have IPv4 and IPv6; a
//! story is of one of them. The kernels of containers and servers are mute (their INPUT is DROP), so
//! that all that is said is the story's: what a story has a party send goes out by a packet socket, and what comes is read there.

mod canon;
mod copy;
mod fragments;
pub mod generate;
pub mod known;
mod parts;
mod rules;
mod run;
pub mod sockets;
pub mod story;
mod tap;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netd_common::wire::protocol;

pub use copy::{Copy, Kind};
pub use run::{Outcome, Twins};

/// What a story is told in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The host's address on the uplink.
    #[must_use]
    pub fn node(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from(NODE).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 2).into(),
        }
    }

    /// The host's address towards its containers.
    #[must_use]
    pub fn gateway(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from(GATEWAY).into(),
            Self::V6 => Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 1).into(),
        }
    }

    /// The bytes of a header without options, which every quote of an error has.
    const fn header(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }
}

/// Who sends and receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// A container.
    A,
    /// Another one of the same network.
    B,
    /// A server in the world.
    Server,
    /// A server behind a small MTU.
    Narrow,
}

impl Party {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::A, Self::B, Self::Server, Self::Narrow];

    /// Its address, the same in both copies.
    #[must_use]
    pub const fn address(self) -> [u8; 4] {
        match self {
            Self::A => [10, 88, 0, 2],
            Self::B => [10, 88, 0, 3],
            Self::Server => [203, 0, 113, 10],
            Self::Narrow => [192, 0, 2, 10],
        }
    }

    /// Its address in a family.
    #[must_use]
    pub fn ip(self, family: Family) -> IpAddr {
        let (network, host) = match (family, self) {
            (Family::V4, _) => return Ipv4Addr::from(self.address()).into(),
            (_, Self::A) => ([0xfd88, 0, 0, 0], 2),
            (_, Self::B) => ([0xfd88, 0, 0, 0], 3),
            (_, Self::Server) => ([0x2001, 0xdb8, 0, 0xff], 10),
            (_, Self::Narrow) => ([0x2001, 0xdb8, 0, 0xfe], 10),
        };
        let [a, b, c, d] = network;
        Ipv6Addr::new(a, b, c, d, 0, 0, 0, host).into()
    }

    /// Whether it is a container.
    #[must_use]
    pub const fn is_container(self) -> bool {
        matches!(self, Self::A | Self::B)
    }
}

/// The host's address on the uplink.
pub const NODE: [u8; 4] = [198, 18, 1, 2];
/// The host's address towards its containers.
pub const GATEWAY: [u8; 4] = [10, 88, 0, 1];
/// The MTU of the link to [`Party::Narrow`]; IPv6 has to have 1,280.
pub const NARROW_MTU: u16 = 1300;
/// The ports that are published, in both families.
pub const PUBLISHED: [Published; 4] = [
    Published { protocol: protocol::TCP, port: 8080, owner: Party::A, inner: 80, bound: false },
    Published { protocol: protocol::UDP, port: 5353, owner: Party::A, inner: 53, bound: false },
    Published { protocol: protocol::TCP, port: 9090, owner: Party::B, inner: 90, bound: true },
    Published { protocol: protocol::UDP, port: 5454, owner: Party::B, inner: 54, bound: true },
];

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// TCP or UDP.
    pub protocol: u8,
    /// The host's port.
    pub port: u16,
    /// Whose it is.
    pub owner: Party,
    /// The container's port.
    pub inner: u16,
    /// Only at the host's addresses on the uplink, not at any.
    pub bound: bool,
}

impl Published {
    /// The one of the host's port, at whichever address.
    #[must_use]
    pub fn find(protocol: u8, port: u16) -> Option<&'static Self> {
        PUBLISHED.iter().find(|one| (one.protocol, one.port) == (protocol, port))
    }

    /// Its protocol's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        if self.protocol == protocol::TCP { "tcp" } else { "udp" }
    }

    /// As options of `netd attach`.
    fn options(&self) -> Vec<String> {
        let Self { port, inner, .. } = self;
        let name = self.name();
        let ports = match self.bound {
            true => Family::ALL
                .map(|family| match family.node() {
                    IpAddr::V4(node) => format!("{node}:{port}:{inner}/{name}"),
                    IpAddr::V6(node) => format!("[{node}]:{port}:{inner}/{name}"),
                })
                .to_vec(),
            // Of both families.
            false => vec![format!("{port}:{inner}/{name}")],
        };
        ports.into_iter().flat_map(|port| ["-p".to_owned(), port]).collect()
    }
}

/// The ports that netd takes for flows whose own is not among them.
pub const PORTS: std::ops::RangeInclusive<u16> = 50_000..=50_999;
