//! ICMP errors about connections from one container to another by a published port (see [`crate::hairpin`]).
//!
//! What such an error quotes was translated twice: its source by the flow of who sent it, its destination by that of who got it and
//! now complains. So the error is translated twice, too: source and quoted destination by the complainer's [`Tuple::OUT`] entry,
//! destination and quoted source by the other's [`Tuple::IN`] entry, as an answer would be. To the other it comes from the host,
//! and quotes what it has sent.

use crate::{
    abi::{Flow, Tuple},
    addr::{Addr, V6},
    flow::State,
    headers,
    nat::Mapping,
    packet::Packet,
    plan::{NO_SLOT, To, Verdict, count_down, header_checksum},
    reason::{Drop, Way},
    related::{self, Edit, Found},
    tables::Tables,
    wire::Be16,
};

/// The whole way of an ICMP error that a container sends to an address of the host; one about no such connection is the host's.
///
/// A program of its own in BPF: few packets come here.
#[inline(always)]
pub fn hairpin_error<A: Addr, P: Packet, T: Tables<A>>(packet: &mut P, tables: &T, ifindex: u32) -> Verdict {
    let bytes = packet.len();
    let mut sender = NO_SLOT;
    let verdict = match carry_out(packet, tables, ifindex, bytes, &mut sender) {
        Ok(HOST) => {
            tables.count_way(Way::ToHost, bytes);
            Verdict::STACK
        }
        Ok(ifindex) => Verdict { to: To::Peer, ifindex, via: V6::ZERO },
        Err(reason) => {
            // There is no error about an error.
            tables.count_drop(reason, sender, bytes);
            return Verdict::DROP;
        }
    };
    tables.count_sent(sender, bytes);
    verdict
}

/// No interface: the host's.
const HOST: u32 = 0;

/// Rewrites the error if it belongs to a connection, and says behind which link its receiver is, or [`HOST`].
///
/// On little stack: of IPv6's addresses few are held at once, and the packet is read again.
#[inline(always)]
fn carry_out<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
    bytes: u32,
    sender: &mut u32,
) -> Result<u32, Drop> {
    *sender = tables.interface(ifindex).ok_or(A::NO_INTERFACE)?.slot;
    let ip = headers::ip::<A, P>(packet)?;
    let mut found = Found::new(&ip);
    let is_found = related::find(packet, tables, ip.l4, u32::from(Tuple::<A>::OUT), &mut found) != 0;
    if !is_found || !found.is_hairpin() {
        return Ok(HOST);
    }
    let mut edit = Edit {
        l4: ip.l4,
        quoted: found.offset,
        end: ip.end,
        protocol: found.protocol,
        outward: 1,
        address: found.address,
        diff: 0,
        old_port: found.old_port,
        port: found.port,
    };
    // What stands for the other: source of what is quoted.
    let Some([other_port, _]): Option<[Be16; 2]> = packet.get(edit.quoted) else { return Ok(HOST) };
    let Some(other) = packet.get(A::DESTINATION) else { return Ok(HOST) };
    let mut to = Mapping::NONE;
    if !receiver(tables, &edit, other, other_port, &mut to) {
        return Ok(HOST);
    }
    if ip.ttl <= 1 {
        return Err(Drop::TtlExpired);
    }
    let receiver = tables.endpoint(&to.address).ok_or(Drop::NoEndpoint)?;
    packet.set(0, receiver.macs).ok_or(Drop::Rewrite)?;
    count_down::<A, P>(packet).ok_or(Drop::Rewrite)?;
    translate(packet, A::SOURCE, &mut edit).ok_or(Drop::Rewrite)?;
    edit.outward = 0;
    edit.address = to.address;
    edit.old_port = other_port;
    edit.port = to.port;
    translate(packet, A::DESTINATION, &mut edit).ok_or(Drop::Rewrite)?;
    tables.count_way(Way::Hairpin, bytes);
    tables.count_received(receiver.slot, bytes);
    Ok(receiver.ifindex)
}

/// Who is behind the address and port that stand for the other, given the first translation. `false`: nobody.
#[inline(always)]
fn receiver<A: Addr, T: Tables<A>>(
    tables: &T,
    edit: &Edit<A>,
    other: A,
    other_port: Be16,
    to: &mut Mapping<A>,
) -> bool {
    let inward = Tuple {
        source: edit.address,
        destination: other,
        source_port: edit.port,
        destination_port: other_port,
        protocol: edit.protocol as u8,
        direction: Tuple::<A>::IN,
        reserved: 0,
    };
    let Some(flow) = tables.flow(&inward) else { return false };
    *to = flow.mapping();
    flow.state.get() & State::DEAD == 0 && to.flags & Flow::<A>::HAIRPIN != 0
}

/// Writes one of both translations: into the header, at this offset, and into the quote.
#[inline(always)]
fn translate<A: Addr, P: Packet>(packet: &mut P, at: u32, edit: &mut Edit<A>) -> Option<()> {
    edit.diff = packet.get::<A>(at)?.checksum_diff(&edit.address);
    packet.set(at, edit.address)?;
    header_checksum::<A, P>(packet, edit.diff)?;
    if related::translate(packet, edit) == 0 { None } else { Some(()) }
}
