//! From one container to another, or to itself, by a published port: what RFC 4787 REQ-9 calls hairpinning.
//!
//! Two flows make up such a connection. To the host, the first is the sender's, masqueraded: its address and port become one of
//! the host's, which is the address that it asked for and a port of the range. The second is the receiver's, from that address to
//! its published port, as if it came from outside. So a packet is translated twice in one go, there and back alike: its source by
//! the [`Tuple::OUT`] entry of the sender's flow, its destination by the [`Tuple::IN`] entry of the receiver's.

use crate::{
    abi::{Flow, Interface, Tuple},
    addr::{Addr, V6},
    checksum,
    flow::{self, State, When},
    fragment,
    from_container::Told,
    headers::{self, Headers},
    nat::{self, Mapping},
    packet::Packet,
    plan::{NO_SLOT, To, Verdict},
    published::{self, NOT_OURS},
    reason::{Drop, Way},
    tables::{Tables, Whose},
    wire::{Be16, Ethernet, MacPair, protocol, tcp, udp},
};

/// What a packet becomes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Rewrite<A> {
    /// Its new source.
    pub source: Mapping<A>,
    /// Its new destination.
    pub destination: Mapping<A>,
    /// Fragments: its new identification, as it lies in memory; else [`fragment::UNKNOWN`].
    pub id: u64,
}

/// Tries to find a port that the receiver has no connection from.
pub const TRIES: u32 = 3;

/// Whether a packet of a container's to an address of the host may be for another container: it goes to a published port, or to
/// one that may stand for a container, or is an ICMP error.
#[inline(always)]
pub fn concerns<A: Addr, P: Packet, T: Tables<A>>(packet: &P, tables: &T, ip: &Headers<A>) -> bool {
    if ip.protocol != protocol::TCP && ip.protocol != protocol::UDP {
        let is_error = |[kind, _]: [u8; 2]| A::is_icmp_error_of_flow(kind);
        return ip.protocol == A::ICMP.protocol
            && !ip.is_fragment()
            && packet.get(ip.l4).is_some_and(is_error);
    }
    if ip.is_later_fragment() {
        return true;
    }
    let Some([_, port]): Option<[Be16; 2]> = packet.get(ip.l4) else { return false };
    let port = port.host();
    tables.is_published(ip.protocol, port)
        || tables.config().is_some_and(|config| config.first_port <= port && port <= config.last_port)
}

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It goes into the container behind this link.
    Peer(u32),
    /// It is for the host.
    Host,
    /// The sender's flow is to be made first: see [`make_first`].
    MakeFirst,
    /// The receiver's flow is to be made first: see [`make_second`].
    MakeSecond,
    /// It is an ICMP error: see [`crate::hairpin_error`].
    Error,
    /// It goes nowhere.
    Refuse,
}

/// The whole way of a packet that [`concerns`] says yes to, or whose flow is a [`Flow::HAIRPIN`].
///
/// A program of its own in BPF, which others end with: what it needs of stack and registers, all the others would pay for. That of
/// IPv6 has no room for the making of flows.
///
/// # Errors
/// What is left to do: [`Then::Error`], [`Then::Refuse`], for what is in `told`, or, of IPv6 only, [`Then::MakeFirst`] or
/// [`Then::MakeSecond`].
#[inline(always)]
pub fn hairpin<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
    told: &mut Told,
) -> Result<Verdict, Then> {
    let bytes = packet.len();
    let mut sender = NO_SLOT;
    let verdict = match carry_out(packet, tables, ifindex, bytes, &mut sender, told) {
        Ok(Then::Peer(ifindex)) => Verdict { to: To::Peer, ifindex, via: V6::ZERO },
        Ok(Then::Host) => {
            tables.count_way(Way::ToHost, bytes);
            Verdict::STACK
        }
        Ok(then) => return Err(then),
        Err(reason) => {
            told.reason = reason as u32;
            return Err(Then::Refuse);
        }
    };
    tables.count_sent(sender, bytes);
    Ok(verdict)
}

/// Rewrites the packet, if both flows are there.
#[inline(always)]
fn carry_out<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
    bytes: u32,
    sender: &mut u32,
    told: &mut Told,
) -> Result<Then, Drop> {
    let interface = tables.interface(ifindex).ok_or(A::NO_INTERFACE)?;
    *sender = interface.slot;
    let ip = headers::ip::<A, P>(packet)?;
    if ip.protocol == A::ICMP.protocol {
        return Ok(Then::Error);
    }
    let none = Mapping::NONE;
    let mut rewrite = Rewrite { source: none, destination: none, id: fragment::UNKNOWN };
    if ip.is_later_fragment() {
        if follow(tables, &ip, &mut rewrite) != 0 {
            return Ok(Then::Host);
        }
        fragment::check_offset(&ip)?;
    } else {
        let Ok(transport) = headers::transport(packet, &ip, false) else { return Ok(Then::Host) };
        let tuple = transport.tuple(&ip, Tuple::<A>::OUT);
        let flags = u32::from(transport.segment.flags);
        let outcome = if A::V6 {
            known(tables, &tuple, flags, &mut rewrite)
        } else {
            tables.hairpin(&tuple, flags, interface.slot, &mut rewrite)
        };
        match outcome {
            0 => {}
            NOT_OURS => return Ok(Then::Host),
            NO_FIRST => return Ok(Then::MakeFirst),
            NO_SECOND => return Ok(Then::MakeSecond),
            outcome => {
                *told = Told::refused(outcome);
                return Ok(Then::Refuse);
            }
        }
        if ip.is_fragment() {
            remember(tables, &tuple, ip.id, interface.slot, &mut rewrite);
        }
    }
    if ip.ttl <= 1 {
        return Err(Drop::TtlExpired);
    }
    let receiver = tables.endpoint(&rewrite.destination.address).ok_or(Drop::NoEndpoint)?;
    write(packet, &ip, &receiver.macs, &rewrite).ok_or(Drop::Rewrite)?;
    tables.count_way(Way::Hairpin, bytes);
    tables.count_received(receiver.slot, bytes);
    Ok(Then::Peer(receiver.ifindex))
}

/// The sender's flow is not there.
const NO_FIRST: u32 = NOT_OURS - 1;
/// The receiver's is not.
const NO_SECOND: u32 = NOT_OURS - 2;

/// The two flows of a packet, if they are there: 0. Else [`NOT_OURS`], [`NO_FIRST`] or [`NO_SECOND`].
#[inline(always)]
fn known<A: Addr, T: Tables<A>>(
    tables: &T,
    tuple: &Tuple<A>,
    tcp_flags: u32,
    rewrite: &mut Rewrite<A>,
) -> u32 {
    let opens = published::opens(tuple.protocol, tcp_flags as u8)
        && tables.is_published(tuple.protocol, tuple.destination_port.host());
    if !nat::known(tables, tuple, tcp_flags as u8, &mut rewrite.source) {
        return if opens { NO_FIRST } else { NOT_OURS };
    }
    if rewrite.source.flags & Flow::<A>::HAIRPIN == 0 {
        return NOT_OURS;
    }
    let inward = second(tuple, &rewrite.source);
    if nat::reply(tables, &inward, tcp_flags as u8, &mut rewrite.destination) {
        return 0;
    }
    if opens { NO_SECOND } else { NOT_OURS }
}

/// Makes the sender's flow of a packet; its receiver's is next. A program of its own in BPF. `tries`: how often there was one with
/// which the receiver's could not be made. Returns 0, the [`Drop`] reason (see [`nat::SOON`]), or [`NOT_OURS`].
#[inline(always)]
pub fn make_first<A: Addr, P: Packet, T: Tables<A>>(packet: &P, tables: &T, ifindex: u32, tries: u32) -> u32 {
    let Some(interface) = tables.interface(ifindex) else { return A::NO_INTERFACE as u32 };
    let Ok(ip) = headers::ip::<A, P>(packet) else { return Drop::Malformed as u32 };
    let Ok(transport) = headers::transport(packet, &ip, false) else { return Drop::Malformed as u32 };
    let tuple = transport.tuple(&ip, Tuple::<A>::OUT);
    // So far only its number is known to be published: that may be at another address, or of the other family.
    if published::find(tables, &tuple).is_none() {
        return NOT_OURS;
    }
    let port = if tries == 0 { Be16::ZERO } else { any_port(tables) };
    tables.create(&tuple, interface.slot, &mut stand_in(&tuple, port))
}

/// Makes the receiver's flow of a packet that has the sender's; then the packet is to be looked at anew. A program of its own in
/// BPF. Where that cannot be, the sender's flow goes again. Returns 0, the [`Drop`] reason, or [`NOT_OURS`], where nobody has
/// published the port any more; with [`Drop::PublishedClash`] another port for the sender may help, up to [`TRIES`].
#[inline(always)]
pub fn make_second<A: Addr, P: Packet, T: Tables<A>>(packet: &P, tables: &T, ifindex: u32) -> u32 {
    let Some(_) = tables.interface(ifindex) else { return A::NO_INTERFACE as u32 };
    let Ok(ip) = headers::ip::<A, P>(packet) else { return Drop::Malformed as u32 };
    let Ok(transport) = headers::transport(packet, &ip, false) else { return Drop::Malformed as u32 };
    let tuple = transport.tuple(&ip, Tuple::<A>::OUT);
    let Some(source) = tables.flow(&tuple).map(|flow| flow.mapping()) else {
        return Drop::PublishedClash as u32;
    };
    let mut destination = Mapping { flags: Flow::<A>::HAIRPIN, ..Mapping::NONE };
    let Some(mut scratch) = tables.scratch(Whose::Hairpin) else { return Drop::FlowTableFull as u32 };
    scratch.inward = second(&tuple, &source);
    let outcome = tables.open(&scratch.inward, u32::from(transport.segment.flags), &mut destination);
    if outcome != 0 {
        give_up(tables, &tuple, &source);
    }
    outcome
}

/// The two flows of a packet, given its [`Tuple::OUT`] and its sender's slot; made if they are not there and the packet is for a
/// published port. Returns 0, [`NOT_OURS`], or the [`Drop`] reason.
#[inline(always)]
pub fn translate<A: Addr, T: Tables<A>>(
    tables: &T,
    tuple: &Tuple<A>,
    tcp_flags: u32,
    slot: u32,
    rewrite: &mut Rewrite<A>,
) -> u32 {
    if nat::known(tables, tuple, tcp_flags as u8, &mut rewrite.source) {
        if rewrite.source.flags & Flow::<A>::HAIRPIN == 0 {
            return NOT_OURS;
        }
        let inward = second(tuple, &rewrite.source);
        if nat::reply(tables, &inward, tcp_flags as u8, &mut rewrite.destination) {
            return 0;
        }
        // The other's half is gone: it has timed out, or the port is somebody else's now.
        give_up(tables, tuple, &rewrite.source);
    }
    if !published::opens(tuple.protocol, tcp_flags as u8)
        || !tables.is_published(tuple.protocol, tuple.destination_port.host())
    {
        return NOT_OURS;
    }
    let mut outcome = NOT_OURS;
    let mut port = Be16::ZERO;
    let mut tries = 0;
    while tries < TRIES {
        rewrite.source = stand_in(tuple, port);
        outcome = tables.create(tuple, slot, &mut rewrite.source);
        if outcome != 0 {
            break;
        }
        let inward = second(tuple, &rewrite.source);
        rewrite.destination = Mapping { flags: Flow::<A>::HAIRPIN, ..Mapping::NONE };
        outcome = tables.open(&inward, tcp_flags, &mut rewrite.destination);
        if outcome == 0 {
            break;
        }
        give_up(tables, tuple, &rewrite.source);
        if outcome != Drop::PublishedClash as u32 {
            break;
        }
        // The receiver has a connection from there by another of its published ports.
        port = any_port(tables);
        tries += 1;
    }
    outcome
}

/// What is to stand for a packet's sender, given its [`Tuple::OUT`]: the address that it asked for, with a port if that may be.
#[inline(always)]
const fn stand_in<A: Addr>(tuple: &Tuple<A>, port: Be16) -> Mapping<A> {
    Mapping { address: tuple.destination, port, flags: Flow::<A>::HAIRPIN }
}

/// A port to try, which need not be one of the range: then [`nat::create`] takes another.
#[inline(always)]
fn any_port<A: Addr, T: Tables<A>>(tables: &T) -> Be16 {
    Be16::from_raw(tables.random() as u16 | 1)
}

/// The tuple of a packet in the receiver's flow, given that in the sender's and what its source becomes.
#[inline(always)]
fn second<A: Addr>(tuple: &Tuple<A>, source: &Mapping<A>) -> Tuple<A> {
    Tuple { source: source.address, source_port: source.port, direction: Tuple::<A>::IN, ..*tuple }
}

/// Removes the sender's flow.
#[inline(always)]
fn give_up<A: Addr, T: Tables<A>>(tables: &T, tuple: &Tuple<A>, source: &Mapping<A>) {
    let number = tables.flow(tuple).map(|flow| State::number(flow.state.get()));
    let inward = tuple.opposite(source.address, source.port);
    match (tables.flow(&inward), number) {
        (Some(flow), _) => {
            flow::remove(tables, &inward, &flow, tables.now(), When::Now);
        }
        (None, Some(number)) => {
            flow::remove_outward(tables, tuple, (source.address, source.port), number);
        }
        (None, None) => {}
    }
}

/// Remembers a first fragment, once for each translation.
#[inline(always)]
fn remember<A: Addr, T: Tables<A>>(
    tables: &T,
    tuple: &Tuple<A>,
    id: u32,
    slot: u32,
    rewrite: &mut Rewrite<A>,
) {
    let id = fragment::remember(tables, tuple, id, slot, &rewrite.source);
    rewrite.id = u64::from(id);
    let inward = second(tuple, &rewrite.source);
    fragment::remember(tables, &inward, id, slot, &rewrite.destination);
}

/// What was remembered of a later fragment's first one. 0 if it was.
#[inline(always)]
fn follow<A: Addr, T: Tables<A>>(tables: &T, ip: &Headers<A>, rewrite: &mut Rewrite<A>) -> u32 {
    let tuple = fragment::tuple(ip, Tuple::<A>::OUT);
    rewrite.id = fragment::follow(tables, &tuple, ip.id, &mut rewrite.source);
    if rewrite.id == fragment::UNKNOWN {
        return 1;
    }
    let inward = second(&tuple, &Mapping { port: Be16::ZERO, ..rewrite.source });
    let id = rewrite.id as u32;
    u32::from(fragment::follow(tables, &inward, id, &mut rewrite.destination) == fragment::UNKNOWN)
}

/// Writes both translations, as a router would: the time to live counts down.
#[inline(always)]
fn write<A: Addr, P: Packet>(
    packet: &mut P,
    ip: &Headers<A>,
    macs: &MacPair,
    rewrite: &Rewrite<A>,
) -> Option<()> {
    let Rewrite { source, destination, id } = rewrite;
    packet.set(0, *macs)?;
    let ttl: [u8; 2] = packet.get(A::TTL)?;
    if ttl[A::TTL_BYTE] <= 1 {
        return None;
    }
    let mut counted = ttl;
    counted[A::TTL_BYTE] -= 1;
    packet.set(A::TTL, counted)?;
    packet.set(A::SOURCE, source.address)?;
    packet.set(A::DESTINATION, destination.address)?;
    let pseudo = checksum::add(
        ip.source.checksum_diff(&source.address),
        ip.destination.checksum_diff(&destination.address),
    );
    // What no checksum of a header's makes up for, where there is none (IPv6): the sum that a device has made has to follow.
    let mut rest = words(ttl, counted);
    if *id != fragment::UNKNOWN {
        let (at, id) = (ip.id_at, *id as u32);
        if A::V6 {
            packet.set(at, id)?;
        } else {
            packet.set(Ethernet::LEN + 4, id as u16)?;
        }
        rest = checksum::add(rest, checksum::diff(ip.id, id));
    }
    if let Some(offset) = A::CHECKSUM {
        let old: u16 = packet.get(offset)?;
        packet.set(offset, checksum::update(old, checksum::add(pseudo, rest)))?;
    } else {
        packet.summed(if ip.is_later_fragment() { checksum::add(pseudo, rest) } else { rest });
    }
    if ip.is_later_fragment() {
        return Some(());
    }
    let old: [u16; 2] = packet.get(ip.l4)?;
    packet.set(ip.l4, [source.port.raw(), destination.port.raw()])?;
    let data = checksum::add(
        checksum::diff(u32::from(old[0]), u32::from(source.port.raw())),
        checksum::diff(u32::from(old[1]), u32::from(destination.port.raw())),
    );
    let is_udp = ip.protocol == protocol::UDP;
    let field = if is_udp { udp::CHECKSUM } else { tcp::CHECKSUM };
    packet.l4_checksum(ip.l4 + field, pseudo, data, is_udp, A::V6)
}

#[inline(always)]
fn words(old: [u8; 2], new: [u8; 2]) -> u32 {
    checksum::diff(u32::from(u16::from_ne_bytes(old)), u32::from(u16::from_ne_bytes(new)))
}

/// Whether what an interface sends may be an answer that takes the host's address and port.
#[inline(always)]
pub const fn translates<A>(interface: &Interface<A>) -> bool {
    interface.flags & (Interface::<A>::MASQUERADE | Interface::<A>::PUBLISHED) != 0
}
