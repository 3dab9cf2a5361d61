//! Neighbour discovery (RFC 4861): as with ARP, the host's MAC answers for everything in a container's subnet.

use crate::{
    abi::Interface,
    addr::{Addr, V6},
    checksum,
    headers::Headers,
    packet::Packet,
    plan::{Plan, To},
    reason::{Drop, Way},
    wire::{Ethernet, Ipv6, Mac, MacPair, Wire, icmpv6, protocol},
};

/// A neighbour solicitation or advertisement (RFC 4861 sections 4.3, 4.4) without its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Message {
    /// Type and code.
    kind: [u8; 2],
    /// Checksum, over the pseudo-header too.
    checksum: u16,
    /// An advertisement's flags.
    flags: u32,
    /// Whose MAC is asked for, or told.
    target: V6,
}

// SAFETY: words without padding (size asserted below).
unsafe impl Wire for Message {}
const _: () = assert!(size_of::<Message>() == MESSAGE as usize);

/// A link-layer address option (RFC 4861 section 4.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct LinkLayer {
    /// Type and length in units of eight bytes.
    kind: [u8; 2],
    /// The address.
    mac: Mac,
}

// SAFETY: words without padding (size asserted below).
unsafe impl Wire for LinkLayer {}
const _: () = assert!(size_of::<LinkLayer>() == OPTION as usize);

impl LinkLayer {
    const SOURCE: [u8; 2] = [1, 1];
    const TARGET: [u8; 2] = [2, 1];
}

/// Lengths of a message and of that option, bytes.
const MESSAGE: u32 = 24;
const OPTION: u32 = 8;
/// Offsets of them in an answer.
const L4: u32 = Ethernet::LEN + Ipv6::LEN;
const TLLA: u32 = L4 + MESSAGE;

/// An advertisement's flags: sent by a router; answers a solicitation; takes the place of what is known.
const ROUTER: u32 = 0x8000_0000;
const SOLICITED: u32 = 0x4000_0000;
const OVERRIDE: u32 = 0x2000_0000;

/// All nodes of the link (RFC 4291 section 2.7.1).
const ALL_NODES: V6 = V6::new([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// What a packet from a container is: [`Kind::Packet`] to somebody, from its one address; or neighbour discovery, which stays on
/// the link.
///
/// # Errors
/// [`Drop::Multicast`] for groups, of which netd has none, also from the addresses that a host has before it has one of its own.
/// [`Drop::SpoofedAddress`] for anything else that is not from the container's address. [`Drop::Malformed`].
#[inline(always)]
pub fn kind<P: Packet>(packet: &P, interface: &Interface<V6>, ip: &Headers<V6>) -> Result<Kind, Drop> {
    if ip.protocol == protocol::ICMPV6 && !ip.is_later_fragment() {
        let [kind, _]: [u8; 2] = packet.get(ip.l4).ok_or(Drop::Malformed)?;
        if matches!(kind, icmpv6::ROUTER_SOLICITATION..=icmpv6::REDIRECT) {
            return Ok(Kind::Discovery);
        }
    }
    let own = ip.source == interface.address;
    if ip.destination.is_multicast() && (own || is_of_link(&ip.source)) {
        return Err(Drop::Multicast);
    }
    if own { Ok(Kind::Packet) } else { Err(Drop::SpoofedAddress) }
}

/// See [`kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A packet.
    Packet,
    /// Neighbour discovery.
    Discovery,
}

/// Whether a host sends from there before it has an address, or to its neighbours only.
#[inline(always)]
fn is_of_link(source: &V6) -> bool {
    source.is_link_local() || *source == V6::ZERO
}

/// Decides on a neighbour discovery message from a container.
///
/// # Errors
/// [`Drop::Ndp`] for what gets no answer: anything but a solicitation, which would make the container a router or somebody else; an
/// address outside the subnet; the container's own address, for which an answer would mean a conflict (RFC 4862 section 5.4.3).
/// [`Drop::SpoofedNdp`] for one from another's addresses, [`Drop::Malformed`].
#[inline(always)]
pub fn decide<P: Packet>(
    packet: &P,
    interface: &Interface<V6>,
    ip: &Headers<V6>,
    plan: &mut Plan<V6>,
) -> Result<(), Drop> {
    let [kind, _]: [u8; 2] = packet.get(ip.l4).ok_or(Drop::Malformed)?;
    if kind != icmpv6::NEIGHBOUR_SOLICITATION {
        return Err(Drop::Ndp);
    }
    if ip.source != interface.address && !is_of_link(&ip.source) {
        return Err(Drop::SpoofedNdp);
    }
    solicitation(packet, interface, ip, plan)
}

#[inline(always)]
fn solicitation<P: Packet>(
    packet: &P,
    interface: &Interface<V6>,
    ip: &Headers<V6>,
    plan: &mut Plan<V6>,
) -> Result<(), Drop> {
    // A hop limit below 255: it comes from beyond the link (section 7.1.1). Extension headers, fragments among them: no host
    // sends any (RFC 6980).
    if ip.ttl != 255 || ip.l4 != L4 || ip.end < TLLA {
        return Err(Drop::Malformed);
    }
    // Who has no address yet asks in the right group alone, and does not say its MAC (section 7.1.1).
    let nobody = ip.source == V6::ZERO;
    if nobody && !ip.destination.is_solicited_node() {
        return Err(Drop::Malformed);
    }
    packet.pull(TLLA + OPTION);
    let message: Message = packet.get(L4).ok_or(Drop::Malformed)?;
    if ip.end >= TLLA + OPTION {
        // The first option is looked at; there may be others (RFC 3971), which nobody gets to see.
        let option: LinkLayer = packet.get(TLLA).ok_or(Drop::Malformed)?;
        let tells = option.kind == LinkLayer::SOURCE;
        if tells && nobody {
            return Err(Drop::Malformed);
        }
        if tells && option.mac != interface.mac {
            return Err(Drop::SpoofedNdp);
        }
    }
    let target = message.target;
    let host = target == V6::link_local(interface.macs.source());
    if target == interface.address || !host && !target.within(&interface.subnet, &interface.mask) {
        return Err(Drop::Ndp);
    }
    plan.to = To::Link;
    plan.way = Way::Ndp;
    plan.macs = interface.macs;
    plan.rewrite = Plan::<V6>::MACS | Plan::<V6>::NEIGHBOUR;
    // The host is a router, by the addresses that are its own.
    plan.network = u32::from(host || target == interface.gateway);
    Ok(())
}

/// Turns a solicitation into its answer (sections 4.4, 7.2.4); the Ethernet header is another's work. `macs` is that header: to
/// the container, from the host's side.
#[inline(always)]
pub fn answer<P: Packet>(packet: &mut P, macs: &MacPair, router: bool) -> Option<()> {
    let asker: V6 = packet.get(V6::SOURCE)?;
    let question: Message = packet.get(L4)?;
    const LENGTH: u32 = TLLA + OPTION;
    if packet.len() != LENGTH {
        packet.resize(LENGTH)?;
    }
    // Who has no address yet is told with everybody.
    let nobody = asker == V6::ZERO;
    let destination = if nobody { ALL_NODES } else { asker };
    let flags = OVERRIDE | if router { ROUTER } else { 0 } | if nobody { 0 } else { SOLICITED };
    const PAYLOAD: u16 = (LENGTH - L4) as u16;
    packet
        .set(Ethernet::LEN, Ipv6::simple(0, PAYLOAD, protocol::ICMPV6, 255, question.target, destination))?;
    let kind = [icmpv6::NEIGHBOUR_ADVERTISEMENT, 0];
    let mac = macs.source();
    // The pseudo-header (RFC 8200 section 8.1), then the message.
    let mut sum = checksum::add(question.target.sum(), destination.sum());
    sum = checksum::add(sum, u32::from(PAYLOAD.to_be()));
    sum = checksum::add(sum, u32::from(u16::from_ne_bytes([0, protocol::ICMPV6])));
    sum = checksum::add(sum, u32::from(u16::from_ne_bytes(kind)));
    sum = checksum::add(sum, flags.to_be());
    sum = checksum::add(sum, question.target.sum());
    sum = checksum::add(sum, u32::from(u16::from_ne_bytes(LinkLayer::TARGET)));
    sum = checksum::add(sum, u32::from(mac.0[0]));
    sum = checksum::add(sum, u32::from(mac.0[1]));
    sum = checksum::add(sum, u32::from(mac.0[2]));
    let checksum = !checksum::fold(sum);
    packet.set(L4, Message { kind, checksum, flags: flags.to_be(), target: question.target })?;
    packet.set(TLLA, LinkLayer { kind: LinkLayer::TARGET, mac })
}
