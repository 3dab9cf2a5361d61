//! IP addresses of both families, as the tables hold them: network byte order, in words.

use crate::{checksum, wire::Wire};

/// An address family's address. Everything above the headers is written once, over this trait.
pub trait Addr: Wire + Eq {
    /// Whether this is IPv6.
    const V6: bool;
    /// The address that stands for any (0.0.0.0, `::`).
    const ANY: Self;
    /// Offset of the time to live (hop limit) in a frame without VLAN tag, bytes.
    const TTL: u32;
    /// Offset of the identification of fragments; IPv6 has it in a header of its own.
    const ID: Option<u32>;
    /// Offset of the source address.
    const SOURCE: u32;
    /// Offset of the destination address.
    const DESTINATION: u32;
    /// Offset of the header's checksum, which covers the word that begins with the time to live; IPv6 has none.
    const CHECKSUM: Option<u32>;

    /// Whether it lies in the prefix that `network` and `mask` make.
    fn within(&self, network: &Self, mask: &Self) -> bool;

    /// The change of a checksum that covers this address when `new` takes its place.
    fn checksum_diff(&self, new: &Self) -> u32;
}

/// An IPv4 address in network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct V4(pub u32);

impl V4 {
    /// From its four bytes.
    pub const fn new(bytes: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(bytes))
    }

    /// Its four bytes.
    pub const fn bytes(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }

    /// Whether a packet may be sent there through a router: not this-network (0/8), loopback (127/8), multicast (224/4),
    /// reserved (240/4) or the limited broadcast (RFC 6890).
    #[inline(always)]
    pub const fn is_routable(self) -> bool {
        let first = u32::from_be(self.0) >> 24;
        first != 0 && first != 127 && first < 224
    }
}

// SAFETY: transparent over u32.
unsafe impl Wire for V4 {}

impl Addr for V4 {
    const V6: bool = false;
    const ANY: Self = Self(0);
    const TTL: u32 = 14 + 8;
    const ID: Option<u32> = Some(14 + 4);
    const SOURCE: u32 = 14 + 12;
    const DESTINATION: u32 = 14 + 16;
    const CHECKSUM: Option<u32> = Some(14 + 10);

    #[inline(always)]
    fn within(&self, network: &Self, mask: &Self) -> bool {
        self.0 & mask.0 == network.0
    }

    #[inline(always)]
    fn checksum_diff(&self, new: &Self) -> u32 {
        checksum::diff(self.0, new.0)
    }
}

/// An IPv6 address in network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct V6(pub [u32; 4]);

// SAFETY: transparent over an array of u32.
unsafe impl Wire for V6 {}

impl Addr for V6 {
    const V6: bool = true;
    const ANY: Self = Self([0; 4]);
    const TTL: u32 = 14 + 7;
    const ID: Option<u32> = None;
    const SOURCE: u32 = 14 + 8;
    const DESTINATION: u32 = 14 + 24;
    const CHECKSUM: Option<u32> = None;

    #[inline(always)]
    fn within(&self, network: &Self, mask: &Self) -> bool {
        self.0[0] & mask.0[0] == network.0[0]
            && self.0[1] & mask.0[1] == network.0[1]
            && self.0[2] & mask.0[2] == network.0[2]
            && self.0[3] & mask.0[3] == network.0[3]
    }

    #[inline(always)]
    fn checksum_diff(&self, new: &Self) -> u32 {
        let a = checksum::add(checksum::diff(self.0[0], new.0[0]), checksum::diff(self.0[1], new.0[1]));
        let b = checksum::add(checksum::diff(self.0[2], new.0[2]), checksum::diff(self.0[3], new.0[3]));
        checksum::add(a, b)
    }
}
