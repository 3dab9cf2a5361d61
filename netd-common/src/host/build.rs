//! Frames from their parts, with checksums computed from scratch: what expectations are made of.

use crate::wire::protocol;

/// An Ethernet address.
pub type MacBytes = [u8; 6];

/// What varies in an IPv4 packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source.
    pub source: [u8; 4],
    /// Destination.
    pub destination: [u8; 4],
    /// Time to live.
    pub ttl: u8,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset.
    pub fragment: u16,
    /// Options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// DSCP and ECN.
    pub class: u8,
}

impl Ip {
    /// From here to there, 64 hops, neither fragment nor options.
    pub fn new(source: [u8; 4], destination: [u8; 4]) -> Self {
        Self { source, destination, ttl: 64, id: 0x1234, fragment: 0, options: Vec::new(), class: 0 }
    }
}

/// What varies in an IPv6 packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip6 {
    /// Source.
    pub source: [u8; 16],
    /// Destination.
    pub destination: [u8; 16],
    /// Hop limit.
    pub hops: u8,
    /// Extension headers: type and bytes, of which the first will be the next one's type.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// DSCP and ECN.
    pub class: u8,
}

impl Ip6 {
    /// From here to there, 64 hops, no extension headers.
    pub fn new(source: [u8; 16], destination: [u8; 16]) -> Self {
        Self { source, destination, hops: 64, extensions: Vec::new(), class: 0 }
    }
}

/// What follows the network header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// UDP: source port, destination port, payload.
    Udp(u16, u16, Vec<u8>),
    /// UDP without a checksum.
    UdpUnchecked(u16, u16, Vec<u8>),
    /// TCP: source port, destination port, flags, payload.
    Tcp(u16, u16, u8, Vec<u8>),
    /// ICMP or ICMPv6: type, code, identifier (or the second word), payload.
    Icmp(u8, u8, u16, Vec<u8>),
    /// ICMPv6: type, code, second word, what follows.
    Icmp6(u8, u8, u32, Vec<u8>),
    /// Another protocol, with its bytes.
    Other(u8, Vec<u8>),
}

/// A whole frame.
pub fn frame(destination: MacBytes, source: MacBytes, ip: &Ip, body: &Body) -> Vec<u8> {
    let (protocol, l4) = transport4(ip, body);
    ethernet(destination, source, 0x0800, &ipv4(ip, protocol, &l4))
}

/// A whole frame of IPv6.
pub fn frame6(destination: MacBytes, source: MacBytes, ip: &Ip6, body: &Body) -> Vec<u8> {
    ethernet(destination, source, 0x86dd, &ipv6_of(ip, body))
}

/// An IPv6 packet of these parts, without a frame.
pub fn ipv6_of(ip: &Ip6, body: &Body) -> Vec<u8> {
    let pseudo = |protocol: u8, length: usize| {
        [&ip.source[..], &ip.destination, &(length as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat()
    };
    let (protocol, l4) = transport(pseudo, true, body);
    ipv6(ip, protocol, &l4)
}

/// An IPv6 packet.
pub fn ipv6(ip: &Ip6, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let types: Vec<u8> = ip.extensions.iter().map(|(kind, _)| *kind).chain([protocol]).collect();
    let mut rest = Vec::new();
    for (number, (_, bytes)) in ip.extensions.iter().enumerate() {
        rest.push(types[number + 1]);
        rest.extend(&bytes[1..]);
    }
    rest.extend(payload);
    let version = [0x60 | ip.class >> 4, ip.class << 4, 0, 0];
    let head = [&version[..], &(rest.len() as u16).to_be_bytes(), &[types[0], ip.hops]].concat();
    [&head[..], &ip.source, &ip.destination, &rest].concat()
}

/// An IPv6 packet without extension headers, cut into fragments of `piece` bytes, a multiple of eight.
pub fn fragments6(packet: &[u8], id: u32, piece: usize) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(40);
    let count = payload.len().div_ceil(piece);
    let cut = |(number, data): (usize, &[u8])| {
        let word = (number * piece) as u16 | u16::from(number + 1 < count);
        let extension = [&[header[6], 0][..], &word.to_be_bytes(), &id.to_be_bytes()].concat();
        let mut bytes = [header, &extension, data].concat();
        bytes[4..6].copy_from_slice(&((8 + data.len()) as u16).to_be_bytes());
        bytes[6] = protocol::FRAGMENT;
        bytes
    };
    payload.chunks(piece).enumerate().map(cut).collect()
}

/// An Ethernet header and what follows.
pub fn ethernet(destination: MacBytes, source: MacBytes, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source[..], &ethertype.to_be_bytes()[..], payload].concat()
}

/// An IPv4 packet.
pub fn ipv4(ip: &Ip, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = 20 + ip.options.len();
    let mut bytes = vec![0x40 | (header / 4) as u8, ip.class];
    bytes.extend(((header + payload.len()) as u16).to_be_bytes());
    bytes.extend(ip.id.to_be_bytes());
    bytes.extend(ip.fragment.to_be_bytes());
    bytes.extend([ip.ttl, protocol, 0, 0]);
    bytes.extend(ip.source);
    bytes.extend(ip.destination);
    bytes.extend(&ip.options);
    let sum = internet_checksum(&[&bytes]);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An IPv4 packet of these parts, without a frame.
pub fn ipv4_of(ip: &Ip, body: &Body) -> Vec<u8> {
    let (protocol, l4) = transport4(ip, body);
    ipv4(ip, protocol, &l4)
}

/// An IPv4 packet without options, cut into fragments of `piece` bytes, a multiple of eight.
pub fn fragments(packet: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(20);
    let count = payload.len().div_ceil(piece);
    let cut = |(number, data): (usize, &[u8])| {
        let mut bytes = [header, data].concat();
        let more = if number + 1 < count { 0x2000 } else { 0 };
        bytes[2..4].copy_from_slice(&((20 + data.len()) as u16).to_be_bytes());
        bytes[6..8].copy_from_slice(&((number * piece / 8) as u16 | more).to_be_bytes());
        bytes[10..12].fill(0);
        let sum = internet_checksum(&[&bytes[..20]]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    payload.chunks(piece).enumerate().map(cut).collect()
}

/// An ICMP error: type, code and second word, and what it quotes.
pub fn icmp_error((kind, code, word): (u8, u8, u32), quote: &[u8]) -> Body {
    let mut l4 = [&[kind, code, 0, 0][..], &word.to_be_bytes(), quote].concat();
    let sum = internet_checksum(&[&l4]);
    l4[2..4].copy_from_slice(&sum.to_be_bytes());
    Body::Other(protocol::ICMP, l4)
}

/// An ARP message: operation, sender, target.
pub fn arp(operation: u16, sender: (MacBytes, [u8; 4]), target: (MacBytes, [u8; 4])) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4];
    [&head[..], &operation.to_be_bytes(), &sender.0, &sender.1, &target.0, &target.1].concat()
}

/// The internet checksum of bytes (RFC 1071), the plain way.
pub fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum: u64 = 0;
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn transport4(ip: &Ip, body: &Body) -> (u8, Vec<u8>) {
    let pseudo = |protocol: u8, length: usize| {
        let tail = [0, protocol, (length >> 8) as u8, length as u8];
        [&ip.source[..], &ip.destination[..], &tail[..]].concat()
    };
    transport(pseudo, false, body)
}

fn transport(pseudo: impl Fn(u8, usize) -> Vec<u8>, v6: bool, body: &Body) -> (u8, Vec<u8>) {
    match body {
        Body::Udp(source, destination, payload) | Body::UdpUnchecked(source, destination, payload) => {
            let length = 8 + payload.len();
            let mut l4 = Vec::new();
            l4.extend(source.to_be_bytes());
            l4.extend(destination.to_be_bytes());
            l4.extend((length as u16).to_be_bytes());
            l4.extend([0, 0]);
            l4.extend(payload);
            if matches!(body, Body::Udp(..)) {
                let sum = match internet_checksum(&[&pseudo(protocol::UDP, length), &l4]) {
                    0 => 0xffff,
                    sum => sum,
                };
                l4[6..8].copy_from_slice(&sum.to_be_bytes());
            }
            (protocol::UDP, l4)
        }
        Body::Tcp(source, destination, flags, payload) => {
            let mut l4 = Vec::new();
            l4.extend(source.to_be_bytes());
            l4.extend(destination.to_be_bytes());
            l4.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, *flags, 0xff, 0xff, 0, 0, 0, 0]);
            l4.extend(payload);
            let sum = internet_checksum(&[&pseudo(protocol::TCP, l4.len()), &l4]);
            l4[16..18].copy_from_slice(&sum.to_be_bytes());
            (protocol::TCP, l4)
        }
        Body::Icmp(kind, code, identifier, payload) => {
            let mut l4 = vec![*kind, *code, 0, 0];
            l4.extend(identifier.to_be_bytes());
            l4.extend([0, 7]);
            l4.extend(payload);
            icmp(pseudo, v6, l4)
        }
        Body::Icmp6(kind, code, word, payload) => {
            icmp(pseudo, v6, [&[*kind, *code, 0, 0][..], &word.to_be_bytes(), payload].concat())
        }
        Body::Other(protocol, bytes) => (*protocol, bytes.clone()),
    }
}

fn icmp(pseudo: impl Fn(u8, usize) -> Vec<u8>, v6: bool, mut l4: Vec<u8>) -> (u8, Vec<u8>) {
    let protocol = if v6 { protocol::ICMPV6 } else { protocol::ICMP };
    let pseudo = if v6 { pseudo(protocol, l4.len()) } else { Vec::new() };
    let sum = internet_checksum(&[&pseudo, &l4]);
    l4[2..4].copy_from_slice(&sum.to_be_bytes());
    (protocol, l4)
}
