//! The traffic class of a packet: DSCP (RFC 2474) and ECN (RFC 3168), the second byte of an IPv4 header, and of an IPv6 header the four
//! bits on either side of the border of the first two.

use crate::{Addr, Packet, checksum, plan::header_checksum, wire::Ethernet};

/// That of the header at an offset.
#[inline(always)]
pub fn of<A: Addr, P: Packet>(packet: &P, offset: u32) -> Option<u8> {
    let [first, second]: [u8; 2] = packet.get(offset)?;
    Some(if A::V6 { first << 4 | second >> 4 } else { second })
}

/// Writes the two bits of ECN into the header after a frame's Ethernet header.
#[inline(always)]
pub fn set_ecn<A: Addr, P: Packet>(packet: &mut P, ecn: u8) -> Option<()> {
    let old: [u8; 2] = packet.get(Ethernet::LEN)?;
    let second = if A::V6 { old[1] & 0xcf | ecn << 4 } else { old[1] & 0xfc | ecn };
    let new = [old[0], second];
    packet.set(Ethernet::LEN, new)?;
    let diff = checksum::diff(u32::from(u16::from_ne_bytes(old)), u32::from(u16::from_ne_bytes(new)));
    if A::V6 {
        packet.summed(diff);
    }
    header_checksum::<A, P>(packet, diff)
}
