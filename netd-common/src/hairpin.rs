//! From one container to another, or to itself, by a published port: what RFC 4787 REQ-9 calls hairpinning.
//!
//! Two flows make up such a connection. To the host, the first is the sender's, masqueraded: its address and port become one of
//! the host's, which is the address that it asked for and a port of the range. The second is the receiver's, from that address to
//! its published port, as if it came from outside. So a packet is translated twice in one go, there and back alike: its source by
//! the [`Tuple::OUT`] entry of the sender's flow, its destination by the [`Tuple::IN`] entry of the receiver's.

use crate::{
    V4,
    abi::{Flow, Interface, Tuple},
    addr::Addr,
    checksum,
    flow::{self, When},
    fragment,
    headers::{self, Headers},
    nat::{self, Mapping},
    packet::Packet,
    plan::{NO_SLOT, To, Verdict},
    published::{self, NOT_OURS},
    reason::{Drop, Way},
    tables::Tables,
    wire::{Be16, MacPair, protocol, tcp, udp},
};

/// What a packet becomes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Rewrite<A> {
    /// Its new source.
    pub source: Mapping<A>,
    /// Its new destination.
    pub destination: Mapping<A>,
    /// Fragments: its new identification, as it lies in memory.
    pub id: u32,
}

/// Tries to find a port that the receiver has no connection from.
const TRIES: u32 = 3;

/// Whether a packet of a container's to an address of the host may be for another container: it goes to a published port, or to
/// one that may stand for a container.
#[inline(always)]
pub fn concerns<P: Packet, T: Tables<V4>>(packet: &P, tables: &T, ip: &Headers<V4>) -> bool {
    if ip.protocol != protocol::TCP && ip.protocol != protocol::UDP {
        return false;
    }
    if ip.is_later_fragment() {
        return true;
    }
    let Some([_, port]): Option<[Be16; 2]> = packet.get(ip.l4) else { return false };
    let port = port.host();
    tables.is_published(ip.protocol, port)
        || tables.config().is_some_and(|config| config.first_port <= port && port <= config.last_port)
}

/// The whole way of a packet that [`concerns`] says yes to, or whose flow is a [`Flow::HAIRPIN`]; the verdict, packed.
///
/// A subprogram of its own in BPF: what it needs of stack and registers, all the others would pay for.
#[inline(never)]
pub fn hairpin<P: Packet, T: Tables<V4>>(packet: &mut P, tables: &T, ifindex: u32) -> u64 {
    let bytes = packet.len();
    let mut sender = NO_SLOT;
    let done = carry_out(packet, tables, ifindex, bytes, &mut sender);
    let verdict = match done {
        Ok(Some(ifindex)) => Verdict { to: To::Peer, ifindex, via: V4(0) },
        Ok(None) => {
            tables.count_way(Way::ToHost, bytes);
            Verdict::STACK
        }
        Err(reason) => {
            tables.count_drop(reason, sender, bytes);
            return Verdict::DROP.pack();
        }
    };
    tables.count_sent(sender, bytes);
    verdict.pack()
}

/// The interface that the packet goes to, rewritten; `None`: the host's stack.
#[inline(always)]
fn carry_out<P: Packet, T: Tables<V4>>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
    bytes: u32,
    sender: &mut u32,
) -> Result<Option<u32>, Drop> {
    let interface = tables.interface(ifindex).ok_or(Drop::UnknownInterface)?;
    *sender = interface.slot;
    let ip = headers::ipv4(packet)?;
    let none = Mapping::NONE;
    let mut rewrite = Rewrite { source: none, destination: none, id: fragment::UNKNOWN };
    if ip.is_later_fragment() {
        if follow(tables, &ip, &mut rewrite) != 0 {
            return Ok(None);
        }
        fragment::check_offset(&ip)?;
    } else {
        let Ok(transport) = headers::transport(packet, &ip, false) else { return Ok(None) };
        let tuple = transport.tuple(&ip, Tuple::<V4>::OUT);
        let flags = u32::from(transport.tcp_flags);
        match tables.hairpin(&tuple, flags, interface.slot, &mut rewrite) {
            0 => {}
            NOT_OURS => return Ok(None),
            reason => return Err(refusal(reason & !nat::SOON)),
        }
        if ip.is_fragment() {
            remember(tables, &tuple, u32::from(ip.id.raw()), interface.slot, &mut rewrite);
        }
    }
    if ip.ttl <= 1 {
        return Err(Drop::TtlExpired);
    }
    let receiver = tables.endpoint(&rewrite.destination.address).ok_or(Drop::NoEndpoint)?;
    write(packet, &ip, &receiver.macs, &rewrite).ok_or(Drop::Rewrite)?;
    tables.count_way(Way::Hairpin, bytes);
    tables.count_received(receiver.slot, bytes);
    Ok(Some(receiver.ifindex))
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
    let flags = Flow::<A>::HAIRPIN;
    rewrite.source = Mapping { address: tuple.destination, port: Be16::ZERO, flags };
    let mut outcome = NOT_OURS;
    let mut tries = 0;
    while tries < TRIES {
        outcome = tables.create(tuple, slot, &mut rewrite.source);
        if outcome != 0 {
            break;
        }
        let inward = second(tuple, &rewrite.source);
        rewrite.destination = Mapping { flags, ..Mapping::NONE };
        outcome = tables.open(&inward, tcp_flags, &mut rewrite.destination);
        if outcome == 0 {
            break;
        }
        give_up(tables, tuple, &rewrite.source);
        if outcome != Drop::PublishedClash as u32 {
            break;
        }
        // The receiver has a connection from there by another of its published ports.
        rewrite.source =
            Mapping { address: tuple.destination, port: Be16::from_raw(tables.random() as u16 | 1), flags };
        tries += 1;
    }
    outcome
}

/// The tuple of a packet in the receiver's flow, given that in the sender's and what its source becomes.
#[inline(always)]
fn second<A: Addr>(tuple: &Tuple<A>, source: &Mapping<A>) -> Tuple<A> {
    Tuple { source: source.address, source_port: source.port, direction: Tuple::<A>::IN, ..*tuple }
}

/// Removes the sender's flow.
#[inline(always)]
fn give_up<A: Addr, T: Tables<A>>(tables: &T, tuple: &Tuple<A>, source: &Mapping<A>) {
    let inward = tuple.opposite(source.address, source.port);
    match tables.flow(&inward) {
        Some(flow) => {
            flow::remove(tables, &inward, &flow, tables.now(), When::Now);
        }
        None => tables.flow_remove(tuple),
    }
}

/// Remembers a first fragment, once for each translation.
#[inline(never)]
fn remember<A: Addr, T: Tables<A>>(
    tables: &T,
    tuple: &Tuple<A>,
    id: u32,
    slot: u32,
    rewrite: &mut Rewrite<A>,
) {
    rewrite.id = fragment::remember(tables, tuple, id, slot, &rewrite.source);
    let inward = second(tuple, &rewrite.source);
    fragment::remember(tables, &inward, rewrite.id, slot, &rewrite.destination);
}

/// What was remembered of a later fragment's first one. 0 if it was.
#[inline(never)]
fn follow<A: Addr, T: Tables<A>>(tables: &T, ip: &Headers<A>, rewrite: &mut Rewrite<A>) -> u32 {
    let tuple = fragment::tuple(ip, Tuple::<A>::OUT);
    rewrite.id = fragment::follow(tables, &tuple, u32::from(ip.id.raw()), &mut rewrite.source);
    if rewrite.id == fragment::UNKNOWN {
        return 1;
    }
    let inward = second(&tuple, &Mapping { port: Be16::ZERO, ..rewrite.source });
    u32::from(fragment::follow(tables, &inward, rewrite.id, &mut rewrite.destination) == fragment::UNKNOWN)
}

/// Writes both translations, as a router would: the time to live counts down.
#[inline(always)]
fn write<P: Packet>(packet: &mut P, ip: &Headers<V4>, macs: &MacPair, rewrite: &Rewrite<V4>) -> Option<()> {
    let Rewrite { source, destination, id } = rewrite;
    packet.set(0, *macs)?;
    let ttl: [u8; 2] = packet.get(V4::TTL)?;
    if ttl[0] <= 1 {
        return None;
    }
    packet.set(V4::TTL, [ttl[0] - 1, ttl[1]])?;
    packet.set(V4::SOURCE, source.address)?;
    packet.set(V4::DESTINATION, destination.address)?;
    let pseudo = checksum::add(
        ip.source.checksum_diff(&source.address),
        ip.destination.checksum_diff(&destination.address),
    );
    let mut sum = checksum::add(pseudo, words(ttl, [ttl[0] - 1, ttl[1]]));
    if let (true, Some(offset)) = (*id != fragment::UNKNOWN, V4::ID) {
        packet.set(offset, *id as u16)?;
        sum = checksum::add(sum, checksum::diff(u32::from(ip.id.raw()), u32::from(*id as u16)));
    }
    if let Some(offset) = V4::CHECKSUM {
        let old: u16 = packet.get(offset)?;
        packet.set(offset, checksum::update(old, sum))?;
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
    packet.l4_checksum(ip.l4 + field, pseudo, data, is_udp, V4::V6)
}

#[inline(always)]
fn words(old: [u8; 2], new: [u8; 2]) -> u32 {
    checksum::diff(u32::from(u16::from_ne_bytes(old)), u32::from(u16::from_ne_bytes(new)))
}

/// The reason behind the number that a subprogram returned.
#[inline(always)]
pub(crate) fn refusal(number: u32) -> Drop {
    const QUOTA: u32 = Drop::FlowQuota as u32;
    const FULL: u32 = Drop::FlowTableFull as u32;
    const PORTS: u32 = Drop::PortsExhausted as u32;
    const CLASH: u32 = Drop::PublishedClash as u32;
    match number {
        QUOTA => Drop::FlowQuota,
        FULL => Drop::FlowTableFull,
        PORTS => Drop::PortsExhausted,
        CLASH => Drop::PublishedClash,
        _ => Drop::NoRoute,
    }
}

/// Whether what an interface sends may be an answer that takes the host's address and port.
#[inline(always)]
pub const fn translates(interface: &Interface<V4>) -> bool {
    interface.flags & (Interface::<V4>::MASQUERADE | Interface::<V4>::PUBLISHED) != 0
}
