//! IPv6's extension headers (RFC 8200 section 4): between the header and what it carries, as many as somebody likes. Packets
//! that have none, which is nearly all, do not come here.

use crate::{
    packet::Packet,
    reason::Drop,
    wire::{Be16, Be32, Wire, protocol},
};

/// Most extension headers that are looked at: one of each kind, and destination options twice (RFC 8200 section 4.1).
const MOST: u32 = 6;

/// The first eight bytes of an extension header, as those of a fragment have them (RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Extension {
    /// What follows it.
    next: u8,
    /// Its length beyond eight bytes, in units of eight. Of a fragment's: zero.
    length: u8,
    /// A fragment's offset in units of eight bytes (high 13 bits), and whether more follow (lowest bit). A routing header's
    /// type and how much of its way is left.
    word: Be16,
    /// A fragment's identification.
    id: Be32,
}

// SAFETY: bytes and words, no padding (size asserted below).
unsafe impl Wire for Extension {}
const _: () = assert!(size_of::<Extension>() == 8);

/// Where a walk over the headers has got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Offset of what follows.
    pub offset: u32,
    /// What that is.
    pub next: u32,
    /// The fragment's identification as it lies in memory.
    pub id: u32,
    /// Offset of that; 0: it is no fragment.
    pub id_at: u32,
    /// The fragment's flag and offset as IPv4 has them, host byte order.
    pub fragment: u32,
}

/// Whether a header of this kind is to be walked over.
#[inline(always)]
pub const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        protocol::HOP_BY_HOP | protocol::ROUTING | protocol::FRAGMENT | protocol::DESTINATION_OPTIONS
    )
}

/// Walks on to what the extension headers are before, or to the end of a later fragment's own. Returns 0, or the [`Drop`] reason.
///
/// Encrypted and authenticated payloads are no extension headers here: what is in them is nobody's business.
///
/// A subprogram of its own in BPF.
#[inline(never)]
pub fn skip<P: Packet>(packet: &P, walk: &mut Walk) -> u32 {
    let mut count = 0;
    while count < MOST {
        let kind = walk.next as u8;
        if !is_extension(kind) {
            return 0;
        }
        // Options for every hop come first, or not at all.
        if kind == protocol::HOP_BY_HOP && count != 0 {
            return Drop::ExtensionHeader as u32;
        }
        packet.pull(walk.offset + 8);
        let Some(header) = packet.get::<Extension>(walk.offset) else { return Drop::Malformed as u32 };
        walk.next = u32::from(header.next);
        if kind == protocol::FRAGMENT {
            if walk.id_at != 0 {
                return Drop::ExtensionHeader as u32;
            }
            let word = u32::from(header.word.host());
            walk.id = header.id.raw();
            walk.id_at = walk.offset + 4;
            walk.fragment = word >> 3 | (word & 1) << 13;
            walk.offset += 8;
            if walk.fragment & 0x1fff != 0 {
                return 0;
            }
        } else {
            // The packet would go on to another than its destination. Type 0 did that, too often (RFC 5095).
            if kind == protocol::ROUTING && (header.word.host() & 0xff != 0 || header.word.host() >> 8 == 0) {
                return Drop::ExtensionHeader as u32;
            }
            walk.offset += 8 + u32::from(header.length) * 8;
        }
        count += 1;
    }
    if is_extension(walk.next as u8) { Drop::ExtensionHeader as u32 } else { 0 }
}
