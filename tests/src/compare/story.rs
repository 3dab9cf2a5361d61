//! What parties send, in terms that mean the same in both copies.

use netd_common::{
    host::build::{self, Body as Built, Ip, fragments, icmp_error, internet_checksum, ipv4_of},
    wire::protocol,
};

use super::{GATEWAY, NODE, Party, canon::Names};

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A party sends a packet.
    Packet(Packet),
    /// A party sends an ICMP error about the last packet that a party has got, to that packet's source.
    Error(Error),
    /// All flows time out.
    Expire,
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

/// A flow of a container's with the world. For ICMP echo the port is the identifier, and the other one 0.
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

    /// The flow that it belongs to if it is a container's, to the world.
    #[must_use]
    pub fn flow(&self) -> Option<Flow> {
        let To::Party(remote) = self.to else { return None };
        if !self.from.is_container() || remote.is_container() {
            return None;
        }
        let (protocol, port, remote_port) = match self.body {
            Body::Tcp { source, destination, .. } => (protocol::TCP, source, destination),
            Body::Udp { source, destination, .. } => (protocol::UDP, source, destination),
            Body::Echo { reply: false, identifier, .. } => (protocol::ICMP, identifier, 0),
            _ => return None,
        };
        Some(Flow { protocol, owner: self.from, port, remote, remote_port })
    }

    /// Its bytes, or those of its fragments, in the order in which they are sent; none if a flow has no port (yet). `number`, of 15
    /// bits, makes its identification.
    #[must_use]
    pub(super) fn bytes(&self, names: &Names, number: u16) -> Option<Vec<Vec<u8>>> {
        let (address, translated) = match self.to {
            To::Party(party) => (party.address(), None),
            To::Gateway => (GATEWAY, None),
            To::Node => (NODE, None),
            To::Flow(flow) => (NODE, Some(names.port(&flow)?)),
        };
        let mut ip = Ip::new(self.from.address(), address);
        ip.ttl = self.ttl;
        // What was cut has an identification that is not compared: netd gives it another one.
        ip.id = number & 0x7fff | if self.cut > 0 { 0x8000 } else { 0 };
        ip.fragment = if self.df { 0x4000 } else { 0 };
        if self.options {
            ip.options = vec![1; 4];
        }
        let body = match self.body {
            Body::Tcp { source, destination, flags, seq, ack, length } => {
                tcp(&ip, [source, translated.unwrap_or(destination)], flags, [seq, ack], &data(length))
            }
            Body::Udp { source, destination, length, unchecked } => {
                let destination = translated.unwrap_or(destination);
                match unchecked {
                    true => Built::UdpUnchecked(source, destination, data(length)),
                    false => Built::Udp(source, destination, data(length)),
                }
            }
            Body::Echo { reply, identifier, length } => {
                Built::Icmp(if reply { 0 } else { 8 }, 0, translated.unwrap_or(identifier), data(length))
            }
            Body::Icmp { kind, identifier } => Built::Icmp(kind, 0, identifier, data(12)),
            Body::Other { protocol, length } => Built::Other(protocol, data(length)),
        };
        let mut packet = ipv4_of(&ip, &body);
        if self.spoiled {
            spoil(&mut packet);
        }
        if self.cut == 0 {
            return Some(vec![packet]);
        }
        let mut pieces = fragments(&packet, usize::from(self.cut));
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
        let mut quote = about.get(..usize::from(self.quoted).min(about.len()))?.to_vec();
        let header = usize::from(quote.first()? & 15) * 4;
        let destination: [u8; 4] = quote.get(12..16)?.try_into().ok()?;
        if self.other_port
            && let Some(port) = quote.get_mut(header)
        {
            // The source's port: that is the flow's, which it then is not.
            *port = 0x11;
        }
        Some(ipv4_of(&Ip::new(self.from.address(), destination), &icmp_error(self.kind, &quote)))
    }
}

fn data(length: u16) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

fn tcp(ip: &Ip, ports: [u16; 2], flags: u8, [seq, ack]: [u32; 2], data: &[u8]) -> Built {
    let mut l4 = Vec::new();
    ports.iter().for_each(|port| l4.extend(port.to_be_bytes()));
    l4.extend(seq.to_be_bytes());
    l4.extend(ack.to_be_bytes());
    l4.extend([0x50, flags, 0x7f, 0xff, 0, 0, 0, 0]);
    l4.extend(data);
    let pseudo = [&ip.source[..], &ip.destination[..], &[0, protocol::TCP], &(l4.len() as u16).to_be_bytes()];
    let sum = internet_checksum(&[&pseudo.concat(), &l4]);
    l4[16..18].copy_from_slice(&sum.to_be_bytes());
    build::Body::Other(protocol::TCP, l4)
}

/// Makes a checksum wrong.
fn spoil(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 15) * 4;
    let field = header
        + if packet[9] == protocol::TCP {
            16
        } else if packet[9] == protocol::UDP {
            6
        } else {
            2
        };
    packet[field] ^= 0x5a;
}
