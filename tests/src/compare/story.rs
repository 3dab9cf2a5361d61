//! What parties send, in terms that mean the same in both copies.

use std::net::IpAddr;

use netd_common::{
    host::build::{
        Body as Built, Ip, Ip6, fragments, fragments6, icmp_error, internet_checksum, ipv4_of, ipv6_of,
    },
    wire::protocol,
};

use super::{Family, Party, Published, canon::Names, parts::Parts};

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A party sends a packet.
    Packet(Packet),
    /// A party sends an ICMP error about the last packet that a party has got, to that packet's source.
    Error(Error),
    /// All flows time out.
    Expire,
    /// Those with a server do.
    ExpireWith(Party),
}

/// A packet, and what becomes of it on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sends it.
    pub from: Party,
    /// To whom.
    pub to: To,
    /// What it carries.
    pub body: Body,
    /// Time to live.
    pub ttl: u8,
    /// "Don't fragment".
    pub df: bool,
    /// With an option in its header (RFC 791: no operation).
    pub options: bool,
    /// Sent in fragments of so many bytes; 0: whole.
    pub cut: u16,
    /// The later fragments before the first one.
    pub reversed: bool,
    /// Its checksum is wrong.
    pub spoiled: bool,
}

/// To whom a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// To another party.
    Party(Party),
    /// To the host, as containers see it.
    Gateway,
    /// To the host, as the world sees it.
    Node,
    /// To the host, and the port that a flow has there.
    Flow(Flow),
}

/// A flow of a container's with the world, or with a container by a published port of the host's. For ICMP echo the port is the identifier, and the other one 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// IP protocol.
    pub protocol: u8,
    /// The container.
    pub owner: Party,
    /// Its port.
    pub port: u16,
    /// The server.
    pub remote: Party,
    /// Its port.
    pub remote_port: u16,
}

/// What a packet carries. Of a packet to a flow, the destination port is that which the flow has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// TCP.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Flags.
        flags: u8,
        /// Sequence number.
        seq: u32,
        /// Acknowledgement number.
        ack: u32,
        /// Bytes of data.
        length: u16,
    },
    /// UDP.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Bytes of data.
        length: u16,
        /// Without a checksum.
        unchecked: bool,
    },
    /// ICMP echo.
    Echo {
        /// A reply, not a request.
        reply: bool,
        /// Its identifier.
        identifier: u16,
        /// Bytes of data.
        length: u16,
    },
    /// An ICMP message that is neither echo nor error.
    Icmp {
        /// Its type.
        kind: u8,
        /// Its identifier.
        identifier: u16,
    },
    /// Another protocol.
    Other {
        /// Its number.
        protocol: u8,
        /// Bytes of data.
        length: u16,
    },
}

/// An ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// Who sends it.
    pub from: Party,
    /// Whose last packet it is about.
    pub about: Party,
    /// Its type, code and second word.
    pub kind: (u8, u8, u32),
    /// Bytes of the packet that it quotes.
    pub quoted: u16,
    /// The quoted destination port is another one: it is about no flow.
    pub other_port: bool,
}

impl Body {
    /// The source port, where there is one; else 0.
    #[must_use]
    pub const fn source(&self) -> u16 {
        match self {
            Self::Tcp { source, .. } | Self::Udp { source, .. } => *source,
            _ => 0,
        }
    }
}

impl Packet {
    /// A whole packet, 64 hops.
    #[must_use]
    pub const fn new(from: Party, to: To, body: Body) -> Self {
        Self { from, to, body, ttl: 64, df: false, options: false, cut: 0, reversed: false, spoiled: false }
    }

    /// The published port that it goes to.
    #[must_use]
    pub fn published(&self) -> Option<&'static Published> {
        let (protocol, port) = match self.body {
            Body::Tcp { destination, .. } => (protocol::TCP, destination),
            Body::Udp { destination, .. } => (protocol::UDP, destination),
            _ => return None,
        };
        let is_there = |one: &&Published| self.to == To::Node || self.to == To::Gateway && !one.bound;
        Published::find(protocol, port).filter(is_there)
    }

    /// The flow that it belongs to if it is a container's, to the world or to a published port.
    #[must_use]
    pub fn flow(&self) -> Option<Flow> {
        if !self.from.is_container() {
            return None;
        }
        let (protocol, port, mut remote_port) = match self.body {
            Body::Tcp { source, destination, .. } => (protocol::TCP, source, destination),
            Body::Udp { source, destination, .. } => (protocol::UDP, source, destination),
            Body::Echo { reply: false, identifier, .. } => (protocol::ICMP, identifier, 0),
            _ => return None,
        };
        let remote = match self.to {
            To::Party(remote) if !remote.is_container() => remote,
            _ => {
                let published = self.published()?;
                remote_port = published.inner;
                published.owner
            }
        };
        Some(Flow { protocol, owner: self.from, port, remote, remote_port })
    }

    /// Its bytes, or those of its fragments, in the order in which they are sent; none if a flow has no port (yet). `number`, of 15
    /// bits, makes its identification.
    #[must_use]
    pub(super) fn bytes(&self, family: Family, names: &Names, number: u16) -> Option<Vec<Vec<u8>>> {
        let (address, translated) = match self.to {
            To::Party(party) => (party.ip(family), None),
            To::Gateway => (family.gateway(), None),
            To::Node => (family.node(), None),
            To::Flow(flow) => names.port(&flow).map(|(address, port)| (address, Some(port)))?,
        };
        let (request, reply_kind) = if family == Family::V4 { (8, 0) } else { (128, 129) };
        let from = self.from.ip(family);
        let body = match self.body {
            Body::Tcp { source, destination, flags, seq, ack, length } => {
                let ports = [source, translated.unwrap_or(destination)];
                tcp([from, address], ports, flags, [seq, ack], &data(length))
            }
            Body::Udp { source, destination, length, unchecked } => {
                let destination = translated.unwrap_or(destination);
                match unchecked {
                    true => Built::UdpUnchecked(source, destination, data(length)),
                    false => Built::Udp(source, destination, data(length)),
                }
            }
            Body::Echo { reply, identifier, length } => {
                let kind = if reply { reply_kind } else { request };
                Built::Icmp(kind, 0, translated.unwrap_or(identifier), data(length))
            }
            // In IPv6: a node information query (RFC 4620).
            Body::Icmp { identifier, .. } if family == Family::V6 => {
                Built::Icmp(139, 0, identifier, data(12))
            }
            Body::Icmp { kind, identifier } => Built::Icmp(kind, 0, identifier, data(12)),
            Body::Other { protocol, length } => Built::Other(protocol, data(length)),
        };
        let mut packet = match (from, address) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut ip = Ip::new(from.octets(), to.octets());
                ip.ttl = self.ttl;
                // What was cut has an identification that is not compared: netd gives it another one.
                ip.id = number & 0x7fff | if self.cut > 0 { 0x8000 } else { 0 };
                ip.fragment = if self.df { 0x4000 } else { 0 };
                if self.options {
                    ip.options = vec![1; 4];
                }
                ipv4_of(&ip, &body)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut ip = Ip6::new(from.octets(), to.octets());
                ip.hops = self.ttl;
                if self.options {
                    // Destination options: padding (RFC 8200 section 4.2).
                    ip.extensions = vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])];
                }
                ipv6_of(&ip, &body)
            }
            _ => return None,
        };
        if self.spoiled {
            spoil(&mut packet);
        }
        if self.cut == 0 {
            return Some(vec![packet]);
        }
        let mut pieces = match family {
            Family::V4 => fragments(&packet, usize::from(self.cut)),
            Family::V6 => fragments6(&packet, number.into(), usize::from(self.cut)),
        };
        if self.reversed {
            pieces.reverse();
        }
        Some(pieces)
    }
}

impl Error {
    /// Its bytes, given the packet that it is about.
    #[must_use]
    pub(super) fn bytes(&self, about: &[u8]) -> Option<Vec<u8>> {
        let family = Parts::new(about)?.family;
        // At least the header and eight bytes.
        let quoted = usize::from(self.quoted) + family.header() - Family::V4.header();
        let mut quote = about.get(..quoted.min(about.len()))?.to_vec();
        let (destination, l4) = Parts::new(&quote).map(|parts| (parts.source, parts.l4.len()))?;
        if self.other_port {
            // The source's port: that is the flow's, which it then is not.
            let at = quote.len() - l4;
            *quote.get_mut(at)? = 0x11;
        }
        match (self.from.ip(family), destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                Some(ipv4_of(&Ip::new(from.octets(), to.octets()), &icmp_error(self.kind, &quote)))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let (kind, code, word) = self.kind_in(Family::V6)?;
                Some(ipv6_of(&Ip6::new(from.octets(), to.octets()), &Built::Icmp6(kind, code, word, quote)))
            }
            _ => None,
        }
    }

    /// Its type, code and second word in a family: in IPv6 (RFC 4443) what says the same, if anything does.
    pub(super) const fn kind_in(&self, family: Family) -> Option<(u8, u8, u32)> {
        if matches!(family, Family::V4) {
            return Some(self.kind);
        }
        Some(match self.kind {
            (3, 4, mtu) => (2, 0, if mtu < 1280 { 1280 } else { mtu }),
            (3, 0, _) => (1, 0, 0),
            (3, 1, _) => (1, 3, 0),
            (3, 3, _) => (1, 4, 0),
            (3, ..) => (1, 1, 0),
            (11, code, _) => (3, code, 0),
            (12, ..) => (4, 0, 6),
            _ => return None,
        })
    }
}

fn data(length: u16) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

fn tcp(between: [IpAddr; 2], ports: [u16; 2], flags: u8, [seq, ack]: [u32; 2], data: &[u8]) -> Built {
    let mut l4 = Vec::new();
    ports.iter().for_each(|port| l4.extend(port.to_be_bytes()));
    l4.extend(seq.to_be_bytes());
    l4.extend(ack.to_be_bytes());
    l4.extend([0x50, flags, 0x7f, 0xff, 0, 0, 0, 0]);
    l4.extend(data);
    // The two pseudo-headers have the same words, but for zeros.
    let mut pseudo = Vec::new();
    for address in between {
        match address {
            IpAddr::V4(address) => pseudo.extend(address.octets()),
            IpAddr::V6(address) => pseudo.extend(address.octets()),
        }
    }
    pseudo.extend([0, protocol::TCP]);
    pseudo.extend((l4.len() as u16).to_be_bytes());
    let sum = internet_checksum(&[&pseudo, &l4]);
    l4[16..18].copy_from_slice(&sum.to_be_bytes());
    Built::Other(protocol::TCP, l4)
}

/// Makes a checksum wrong.
fn spoil(packet: &mut [u8]) {
    let Some((l4, protocol)) = Parts::new(packet).map(|parts| (parts.l4.len(), parts.protocol)) else {
        return;
    };
    let field = match protocol {
        protocol::TCP => 16,
        protocol::UDP => 6,
        _ => 2,
    };
    packet[packet.len() - l4 + field] ^= 0x5a;
}
