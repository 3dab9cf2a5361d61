//! Fragments of translated packets: only the first has ports, so the later ones follow it by what they have in common, the
//! addresses, the protocol and the identification (RFC 791 section 3.2).
//!
//! Nothing is put together and nothing is held back: a later fragment that comes before its first one is not known.
//!
//! What is remembered of a datagram is an entry of a hash table. Each endpoint has a ring of places for its entries, and what
//! it adds takes the place of its own oldest, so nobody's fragments suffer from another's. Nobody has to clean up either: what
//! is too old is not followed.

use crate::{
    abi::{Fragment, FragmentKey, FragmentRing, Tuple},
    addr::Addr,
    flow::{Ticks, ticks},
    headers::Headers,
    nat::Mapping,
    reason::Drop,
    tables::Tables,
    wire::{Be16, protocol, tcp},
};

/// How long later fragments may follow the first one: 30 s, as long as Linux waits for them (`ipfrag_time`).
pub const TIMEOUT: Ticks = ticks(30);

/// What the fragments of a packet have in common. `tuple` is the first one's, or has no ports.
#[inline(always)]
const fn key<A: Addr>(tuple: &Tuple<A>, id: Be16) -> FragmentKey<A> {
    FragmentKey {
        source: tuple.source,
        destination: tuple.destination,
        id,
        protocol: tuple.protocol,
        direction: tuple.direction,
    }
}

/// The tuple of a later fragment, as far as it has one.
#[inline(always)]
pub const fn tuple<A: Addr>(ip: &Headers<A>, direction: u8) -> Tuple<A> {
    Tuple {
        source: ip.source,
        destination: ip.destination,
        source_port: Be16::ZERO,
        destination_port: Be16::ZERO,
        protocol: ip.protocol,
        direction,
        reserved: 0,
    }
}

/// Whether a later fragment is where a transport header belongs: made to overwrite what was looked at in the first one (RFC
/// 1858, RFC 3128).
///
/// # Errors
/// [`Drop::FragmentTiny`] if so.
#[inline(always)]
pub fn check_offset<A: Addr>(ip: &Headers<A>) -> Result<(), Drop> {
    if ip.protocol == protocol::TCP && u32::from(ip.fragment.host() & 0x1fff) * 8 < tcp::LEN {
        return Err(Drop::FragmentTiny);
    }
    Ok(())
}

/// Remembers a first fragment: of which flow it is (`tuple`), its identification as it lies in memory, the endpoint's slot, and
/// what the flow is translated to. Returns the identification that all its fragments get.
///
/// An answer keeps its own. What leaves gets a random one: identifications of packets whose address many share are to be made
/// by who shares it out (RFC 6864 section 5.3). Two containers that chose the same one would have their fragments mixed up, by
/// accident or on purpose.
///
/// A subprogram of its own in BPF, so that whole packets do not pay for it; on little stack.
#[inline(never)]
pub fn remember<A: Addr, T: Tables<A>>(
    tables: &T,
    tuple: &Tuple<A>,
    id: u32,
    slot: u32,
    mapping: &Mapping<A>,
) -> u32 {
    let id = Be16::from_raw(id as u16);
    let key = key(tuple, id);
    let mut entry = Fragment { seen: tables.now(), address: mapping.address, id, reserved: 0 };
    let outward = tuple.direction == Tuple::<A>::OUT;
    if outward {
        entry.id = Be16::from_raw(tables.random() as u16);
    }
    if let Some(known) = tables.fragment(&key) {
        // Sent twice, or an identification used again; its later fragments are to follow the new one.
        if outward && is_fresh(known.seen, entry.seen) {
            entry.id = known.id;
        }
    } else {
        let ring = slot & FragmentRing::MASK;
        let place = tables.fragment_turn(ring) & (FragmentRing::PLACES - 1);
        let oldest = tables.fragment_place(ring * FragmentRing::PLACES + place, &key);
        tables.fragment_remove(&oldest);
    }
    tables.fragment_set(&key, &entry);
    u32::from(entry.id.raw())
}

/// What was remembered of a later fragment's first one: the address goes into `mapping`. Returns the new identification as it
/// lies in memory, or [`UNKNOWN`].
#[inline(never)]
pub fn follow<A: Addr, T: Tables<A>>(tables: &T, tuple: &Tuple<A>, id: u32, mapping: &mut Mapping<A>) -> u32 {
    let now = tables.now();
    match tables.fragment(&key(tuple, Be16::from_raw(id as u16))) {
        Some(known) if is_fresh(known.seen, now) => {
            mapping.address = known.address;
            u32::from(known.id.raw())
        }
        _ => UNKNOWN,
    }
}

/// Forgets what was remembered of a packet with this identification: the first fragment of another one has come, which is not
/// translated, and its later ones are not to follow the old one's.
#[inline(never)]
pub fn forget<A: Addr, T: Tables<A>>(tables: &T, tuple: &Tuple<A>, id: u32) {
    tables.fragment_remove(&key(tuple, Be16::from_raw(id as u16)));
}

/// No identification: nothing is known of a fragment.
pub const UNKNOWN: u32 = u32::MAX;

/// Whether later fragments may still follow a first one that was seen then. A clock read on another CPU may be a tick ahead of
/// ours.
#[inline(always)]
pub const fn is_fresh(seen: Ticks, now: Ticks) -> bool {
    now.wrapping_sub(seen).wrapping_add(1) <= TIMEOUT + 1
}
