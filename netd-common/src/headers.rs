//! From bytes to headers: what is not understood, or contradicts itself, goes no further.

use crate::{
    abi::Tuple,
    addr::{Addr, V4, V6},
    extension::{self, Walk},
    packet::{MAX_OFFSET, Packet},
    reason::Drop,
    segment::Segment,
    wire::{Be16, Be32, Ethernet, Ipv4, Ipv6, icmp, protocol, tcp, udp},
};

/// What the network header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Offset of what follows the network header.
    pub l4: u32,
    /// Offset of the packet's end: the frame may go on, with padding.
    pub end: u32,
    /// Its protocol.
    pub protocol: u8,
    /// Time to live, hops.
    pub ttl: u8,
    /// Identification, as it lies in memory: what the fragments of a packet have in common.
    pub id: u32,
    /// Offset of that; 0: there is none.
    pub id_at: u32,
    /// Flags and fragment offset, as IPv4 has them.
    pub fragment: Be16,
}

impl<A> Headers<A> {
    /// Whether it is a fragment, first or later.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.fragment.raw() & Ipv4::FRAGMENT.raw() != 0
    }

    /// Whether it is a fragment other than the first, which has no transport header.
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment.raw() & Ipv4::OFFSET.raw() != 0
    }
}

/// Reads the header after a frame's Ethernet header.
///
/// # Errors
/// [`Drop::Malformed`], [`Drop::ExtensionHeader`].
#[inline(always)]
pub fn ip<A: Addr, P: Packet>(packet: &P) -> Result<Headers<A>, Drop> {
    let ip: Headers<A> = A::headers(packet, Ethernet::LEN)?;
    if !A::V6 && ip.l4 > Ethernet::LEN + Ipv4::LEN {
        // With options, the transport header may lie beyond what a hook brings into reach.
        packet.pull(ip.l4 + tcp::LEN);
    }
    Ok(ip)
}

/// Reads an IPv4 header (RFC 791), with options, at an offset.
///
/// # Errors
/// [`Drop::Malformed`].
#[inline(always)]
pub fn ipv4_at<P: Packet>(packet: &P, offset: u32) -> Result<Headers<V4>, Drop> {
    let ip: Ipv4 = packet.get(offset).ok_or(Drop::Malformed)?;
    let header = u32::from(ip.version_ihl & 0x0f) * 4;
    if ip.version_ihl >> 4 != 4 || header < Ipv4::LEN {
        return Err(Drop::Malformed);
    }
    let room = packet.len() - offset;
    // A segmentation-offloaded packet above 64 KiB has length 0 (BIG TCP): what counts is the packet's own length.
    let total = match u32::from(ip.total_length.host()) {
        0 if room > 0xffff => room,
        total => total,
    };
    if total < header || total > room {
        return Err(Drop::Malformed);
    }
    Ok(Headers {
        source: ip.source,
        destination: ip.destination,
        l4: offset + header,
        end: offset + total,
        protocol: ip.protocol,
        ttl: ip.ttl,
        id: u32::from(ip.id.raw()),
        id_at: offset + 4,
        fragment: ip.fragment,
    })
}

/// Reads the IPv4 header that an ICMP error quotes at an offset: what it says of lengths is about the whole packet, of which
/// the quote is the beginning. [`Headers::end`] is 0.
#[inline(always)]
pub fn quoted_ipv4<P: Packet>(packet: &P, offset: u32) -> Option<Headers<V4>> {
    let ip: Ipv4 = packet.get(offset)?;
    let header = u32::from(ip.version_ihl & 0x0f) * 4;
    if ip.version_ihl >> 4 != 4 || header < Ipv4::LEN {
        return None;
    }
    Some(Headers {
        source: ip.source,
        destination: ip.destination,
        l4: offset + header,
        end: 0,
        protocol: ip.protocol,
        ttl: ip.ttl,
        id: u32::from(ip.id.raw()),
        id_at: offset + 4,
        fragment: ip.fragment,
    })
}

/// Reads an IPv6 header (RFC 8200), with extension headers, at an offset.
///
/// # Errors
/// [`Drop::Malformed`], [`Drop::ExtensionHeader`].
#[inline(always)]
pub fn ipv6_at<P: Packet>(packet: &P, offset: u32) -> Result<Headers<V6>, Drop> {
    let ip: Ipv6 = packet.get(offset).ok_or(Drop::Malformed)?;
    if ip.version.host() >> 28 != 6 {
        return Err(Drop::Malformed);
    }
    let room = packet.len() - offset;
    // As IPv4's length; the kernel may put a jumbo payload option (RFC 2675) before what it has aggregated.
    let total = match u32::from(ip.payload_length.host()) {
        0 if room > 0xffff + Ipv6::LEN => room,
        payload => Ipv6::LEN + payload,
    };
    if total > room {
        return Err(Drop::Malformed);
    }
    let mut headers = plain_ipv6(&ip, offset, offset + total);
    match follow(packet, &mut headers) {
        0 if headers.l4 <= headers.end => Ok(headers),
        EXTENSION => Err(Drop::ExtensionHeader),
        _ => Err(Drop::Malformed),
    }
}

/// What [`extension::skip`] says of extension headers that make no sense.
const EXTENSION: u32 = Drop::ExtensionHeader as u32;

/// Reads the IPv6 header that an ICMPv6 error quotes at an offset, as [`quoted_ipv4`] does.
#[inline(always)]
pub fn quoted_ipv6<P: Packet>(packet: &P, offset: u32) -> Option<Headers<V6>> {
    let ip: Ipv6 = packet.get(offset)?;
    if ip.version.host() >> 28 != 6 {
        return None;
    }
    let mut headers = plain_ipv6(&ip, offset, 0);
    (follow(packet, &mut headers) == 0).then_some(headers)
}

#[inline(always)]
const fn plain_ipv6(ip: &Ipv6, offset: u32, end: u32) -> Headers<V6> {
    Headers {
        source: ip.source,
        destination: ip.destination,
        l4: offset + Ipv6::LEN,
        end,
        protocol: ip.next,
        ttl: ip.hops,
        id: 0,
        id_at: 0,
        fragment: Be16::ZERO,
    }
}

/// To what is behind the extension headers, if there are any.
#[inline(always)]
fn follow<P: Packet>(packet: &P, headers: &mut Headers<V6>) -> u32 {
    if !extension::is_extension(headers.protocol) {
        return 0;
    }
    let mut walk =
        Walk { offset: headers.l4, next: u32::from(headers.protocol), id: 0, id_at: 0, fragment: 0 };
    let refused = extension::skip(packet, &mut walk);
    if refused == 0 && walk.offset > MAX_OFFSET {
        return Drop::Malformed as u32;
    }
    // Verifiers before Linux 6.9 forget that an offset is bounded when it has been on the stack: a mask stays with it.
    headers.l4 = walk.offset & MAX_OFFSET;
    headers.id_at = walk.id_at & MAX_OFFSET;
    headers.protocol = walk.next as u8;
    headers.id = walk.id;
    headers.fragment = Be16::new(walk.fragment as u16);
    refused
}

/// The part of the transport header that makes a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Source port, or an echo request's identifier.
    pub source: Be16,
    /// Destination port, or an echo reply's identifier.
    pub destination: Be16,
    /// What TCP's header says; nothing for others.
    pub segment: Segment,
}

/// Reads the transport header of a packet that is to be translated. `inward`: it comes from the uplink.
///
/// # Errors
/// [`Drop::Fragment`] for a later fragment, which has none; [`Drop::FragmentTiny`], [`Drop::Protocol`] or
/// [`Drop::Malformed`].
#[inline(always)]
pub fn transport<P: Packet, A: Addr>(packet: &P, ip: &Headers<A>, inward: bool) -> Result<Transport, Drop> {
    if ip.is_later_fragment() {
        return Err(Drop::Fragment);
    }
    // A header that is spread over fragments (RFC 1858), or a packet that ends before its header does: what follows it in the frame is
    // padding.
    let length = if ip.protocol == protocol::TCP { tcp::LEN } else { udp::LEN };
    if ip.end < ip.l4 + length && is_translated::<A>(ip.protocol) {
        return Err(if ip.is_fragment() { Drop::FragmentTiny } else { Drop::Malformed });
    }
    let segment = Segment::default();
    match ip.protocol {
        // Whole headers, though little of them is used: one check, and nothing is cut short in what is rewritten later.
        protocol::TCP => {
            let header: [u16; tcp::LEN as usize / 2] = packet.get(ip.l4).ok_or(Drop::Malformed)?;
            let [offset, flags] = header[tcp::FLAGS as usize / 2].to_ne_bytes();
            Ok(Transport {
                source: Be16::from_raw(header[0]),
                destination: Be16::from_raw(header[1]),
                segment: Segment {
                    flags,
                    data: ip.end > ip.l4 + u32::from(offset >> 4) * 4,
                    trusted: false,
                    sequence: Be32::from_halves(header[2], header[3]),
                    acknowledged: Be32::from_halves(header[4], header[5]),
                },
            })
        }
        protocol::UDP => {
            let header: [Be16; udp::LEN as usize / 2] = packet.get(ip.l4).ok_or(Drop::Malformed)?;
            Ok(Transport { source: header[0], destination: header[1], segment })
        }
        kind if kind == A::ICMP.protocol => {
            let header: [u16; icmp::LEN as usize / 2] = packet.get(ip.l4).ok_or(Drop::Malformed)?;
            let [kind, _] = header[0].to_ne_bytes();
            let id = Be16::from_raw(header[icmp::IDENTIFIER as usize / 2]);
            if !inward && kind == A::ICMP.echo_request {
                Ok(Transport { source: id, destination: Be16::ZERO, segment })
            } else if inward && kind == A::ICMP.echo_reply {
                Ok(Transport { source: Be16::ZERO, destination: id, segment })
            } else {
                Err(Drop::Protocol)
            }
        }
        _ => Err(Drop::Protocol),
    }
}

/// Whether a protocol has flows.
#[inline(always)]
const fn is_translated<A: Addr>(protocol: u8) -> bool {
    protocol == protocol::TCP || protocol == protocol::UDP || protocol == A::ICMP.protocol
}

const _: () = assert!(udp::LEN == icmp::LEN, "the shortest header that a flow has");

impl Transport {
    /// The flow that the packet belongs to.
    #[inline(always)]
    pub fn tuple<A: Addr>(&self, ip: &Headers<A>, direction: u8) -> Tuple<A> {
        Tuple {
            source: ip.source,
            destination: ip.destination,
            source_port: self.source,
            destination_port: self.destination,
            protocol: ip.protocol,
            direction,
            reserved: 0,
        }
    }
}
