//! Headers as they are on the wire, and the byte order of what they hold.
//!
//! The structs have their natural alignment, which a packet's memory does not promise: in BPF the loads are as wide as
//! the field anyway (x86-64, arm64 and riscv64 load unaligned, and the verifier knows), on the host the packet's memory
//! is read with `read_unaligned`. Packed structs would turn each field into byte loads in BPF: 15 % more instructions.

/// A type that can be read from and written to a packet as bytes.
///
/// # Safety
/// Every bit pattern is a valid value, and there are no padding bytes.
pub unsafe trait Wire: Copy + 'static {}

// SAFETY: integers have no padding and no invalid bit pattern.
unsafe impl Wire for u8 {}
// SAFETY: as above.
unsafe impl Wire for u16 {}
// SAFETY: as above.
unsafe impl Wire for u32 {}
// SAFETY: an array has the properties of its element, and no padding between two.
unsafe impl<T: Wire, const N: usize> Wire for [T; N] {}

/// A 16-bit number in network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Be16(u16);

impl Be16 {
    /// Zero, which reads the same in both orders.
    pub const ZERO: Self = Self(0);

    /// From host byte order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// From a word as it lies in memory.
    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// To host byte order.
    #[inline(always)]
    pub const fn host(self) -> u16 {
        u16::from_be(self.0)
    }

    /// As it lies in memory, for checksums (which do not depend on the byte order, RFC 1071 section 2).
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }
}

// SAFETY: transparent over u16.
unsafe impl Wire for Be16 {}

/// A 32-bit number in network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Be32(u32);

impl Be32 {
    /// From its halves as they lie in memory.
    #[inline(always)]
    pub const fn from_halves(first: u16, second: u16) -> Self {
        let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
        Self(u32::from_ne_bytes([a, b, c, d]))
    }

    /// As it lies in memory.
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// From host byte order.
    #[inline(always)]
    pub const fn new(host: u32) -> Self {
        Self(host.to_be())
    }

    /// To host byte order.
    #[inline(always)]
    pub const fn host(self) -> u32 {
        u32::from_be(self.0)
    }

    /// As it lies in memory, for checksums.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }
}

// SAFETY: transparent over u32.
unsafe impl Wire for Be32 {}

/// A link-layer address, as three 16-bit words in memory order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Mac(pub [u16; 3]);

impl Mac {
    /// From its bytes.
    #[inline(always)]
    pub const fn new(bytes: [u8; 6]) -> Self {
        Self([
            u16::from_ne_bytes([bytes[0], bytes[1]]),
            u16::from_ne_bytes([bytes[2], bytes[3]]),
            u16::from_ne_bytes([bytes[4], bytes[5]]),
        ])
    }

    /// The MAC that an endpoint with this address has, on whatever node: locally administered, then the address. So the
    /// other end of an overlay needs no table to address a frame, and an address that moves keeps its MAC.
    #[inline(always)]
    pub const fn of(address: crate::V4) -> Self {
        let [a, b] = halves(address.0);
        Self([u16::from_ne_bytes([0x02, 0x6e]), a, b])
    }

    /// Its bytes.
    pub const fn bytes(self) -> [u8; 6] {
        let [a, b, c] = [self.0[0].to_ne_bytes(), self.0[1].to_ne_bytes(), self.0[2].to_ne_bytes()];
        [a[0], a[1], b[0], b[1], c[0], c[1]]
    }
}

// SAFETY: transparent over an array of u16.
unsafe impl Wire for Mac {}

/// Destination and source of an Ethernet header, ready to be written: twelve bytes as three 32-bit stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct MacPair(pub [u32; 3]);

impl MacPair {
    /// A frame to `destination` from `source`.
    pub const fn new(destination: [u8; 6], source: [u8; 6]) -> Self {
        let (d, s) = (destination, source);
        Self([
            u32::from_ne_bytes([d[0], d[1], d[2], d[3]]),
            u32::from_ne_bytes([d[4], d[5], s[0], s[1]]),
            u32::from_ne_bytes([s[2], s[3], s[4], s[5]]),
        ])
    }

    /// The destination, as the other headers hold it.
    #[inline(always)]
    pub const fn destination(&self) -> Mac {
        let (a, b) = (halves(self.0[0]), halves(self.0[1]));
        Mac([a[0], a[1], b[0]])
    }

    /// The source.
    #[inline(always)]
    pub const fn source(&self) -> Mac {
        let (b, c) = (halves(self.0[1]), halves(self.0[2]));
        Mac([b[1], c[0], c[1]])
    }
}

/// The two 16-bit words of a 32-bit one, in memory order.
#[inline(always)]
const fn halves(word: u32) -> [u16; 2] {
    if cfg!(target_endian = "little") {
        [word as u16, (word >> 16) as u16]
    } else {
        [(word >> 16) as u16, word as u16]
    }
}

// SAFETY: transparent over an array of u32.
unsafe impl Wire for MacPair {}

/// Ethernet II.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ethernet {
    /// Destination.
    pub destination: Mac,
    /// Source.
    pub source: Mac,
    /// EtherType.
    pub ethertype: Be16,
}

impl Ethernet {
    /// Length in bytes.
    pub const LEN: u32 = 14;
    /// EtherType of IPv4.
    pub const IPV4: Be16 = Be16::new(0x0800);
    /// EtherType of a VLAN tag (IEEE 802.1Q).
    pub const VLAN: Be16 = Be16::new(0x8100);
    /// EtherType of a service provider's VLAN tag (IEEE 802.1ad).
    pub const SERVICE_VLAN: Be16 = Be16::new(0x88a8);
    /// EtherType of ARP.
    pub const ARP: Be16 = Be16::new(0x0806);
    /// EtherType of IPv6.
    pub const IPV6: Be16 = Be16::new(0x86dd);
    /// Offset of the EtherType.
    pub const ETHERTYPE: u32 = 12;
}

// SAFETY: seven 16-bit words, no padding (size asserted below).
unsafe impl Wire for Ethernet {}
const _: () = assert!(size_of::<Ethernet>() == Ethernet::LEN as usize);

/// ARP for IPv4 over Ethernet (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Arp {
    /// Hardware type (1), protocol type (IPv4), hardware length (6), protocol length (4), in one comparison each.
    pub hardware: Be16,
    /// Protocol type.
    pub protocol: Be16,
    /// Lengths of the addresses: 6, 4.
    pub lengths: Be16,
    /// 1: request, 2: reply.
    pub operation: Be16,
    /// Sender's MAC.
    pub sender_mac: Mac,
    /// Sender's IPv4 address, in two words: it is not aligned to four bytes.
    pub sender: [u16; 2],
    /// Target's MAC.
    pub target_mac: Mac,
    /// Target's IPv4 address.
    pub target: [u16; 2],
}

impl Arp {
    /// Length in bytes.
    pub const LEN: u32 = 28;
    /// A request.
    pub const REQUEST: Be16 = Be16::new(1);
    /// A reply.
    pub const REPLY: Be16 = Be16::new(2);
}

// SAFETY: fourteen 16-bit words, no padding (size asserted below).
unsafe impl Wire for Arp {}
const _: () = assert!(size_of::<Arp>() == Arp::LEN as usize);

/// IPv4 without its options (RFC 791).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ipv4 {
    /// Version (high four bits) and header length in 32-bit words.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length with the header, or 0 in a segmentation-offloaded packet above 65,535 bytes (BIG TCP).
    pub total_length: Be16,
    /// Identification.
    pub id: Be16,
    /// Flags (high three bits) and fragment offset in units of eight bytes.
    pub fragment: Be16,
    /// Time to live, in hops.
    pub ttl: u8,
    /// Protocol.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: u16,
    /// Source address.
    pub source: crate::V4,
    /// Destination address.
    pub destination: crate::V4,
}

impl Ipv4 {
    /// Length in bytes, without options.
    pub const LEN: u32 = 20;
    /// More-fragments flag and offset: either set makes a packet a fragment.
    pub const FRAGMENT: Be16 = Be16::new(0x3fff);
    /// The offset alone.
    pub const OFFSET: Be16 = Be16::new(0x1fff);
    /// Don't-fragment flag.
    pub const DONT_FRAGMENT: Be16 = Be16::new(0x4000);

    /// A header of this traffic class and packet length (bytes, with the header), with its checksum: 64 hops, may be fragmented.
    #[inline(always)]
    pub const fn simple(
        class: u8,
        id: u16,
        length: u16,
        protocol: u8,
        source: crate::V4,
        destination: crate::V4,
    ) -> Self {
        let mut header = Self {
            version_ihl: 0x45,
            tos: class,
            total_length: Be16::new(length),
            id: Be16::from_raw(id),
            fragment: Be16::ZERO,
            ttl: 64,
            protocol,
            checksum: 0,
            source,
            destination,
        };
        let first = u16::from_ne_bytes([0x45, class]) as u32 + header.total_length.raw() as u32 + id as u32;
        let third = u16::from_ne_bytes([64, protocol]) as u32;
        let addresses = crate::checksum::add(source.0, destination.0);
        header.checksum = !crate::checksum::fold(crate::checksum::add(first + third, addresses));
        header
    }
}

// SAFETY: fields in order of the RFC, no padding (size asserted below).
unsafe impl Wire for Ipv4 {}
const _: () = assert!(size_of::<Ipv4>() == Ipv4::LEN as usize);

/// IPv6 without extension headers (RFC 8200 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ipv6 {
    /// Version (high four bits), traffic class, flow label.
    pub version: Be32,
    /// Length without this header, or 0 in a segmentation-offloaded packet above 65,535 bytes (BIG TCP).
    pub payload_length: Be16,
    /// Protocol, or the first extension header's type.
    pub next: u8,
    /// Hop limit.
    pub hops: u8,
    /// Source address.
    pub source: crate::V6,
    /// Destination address.
    pub destination: crate::V6,
}

impl Ipv6 {
    /// Length in bytes.
    pub const LEN: u32 = 40;

    /// A header of this traffic class for this length of payload.
    #[inline(always)]
    pub const fn simple(
        class: u8,
        payload_length: u16,
        next: u8,
        hops: u8,
        source: crate::V6,
        destination: crate::V6,
    ) -> Self {
        Self {
            version: Be32::new(6 << 28 | (class as u32) << 20),
            payload_length: Be16::new(payload_length),
            next,
            hops,
            source,
            destination,
        }
    }
}

// SAFETY: fields in order of the RFC, no padding (size asserted below).
unsafe impl Wire for Ipv6 {}
const _: () = assert!(size_of::<Ipv6>() == Ipv6::LEN as usize);

/// UDP (RFC 768).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Udp {
    /// Source port.
    pub source: Be16,
    /// Destination port.
    pub destination: Be16,
    /// Length with the header, bytes.
    pub length: Be16,
    /// Checksum; 0: there is none.
    pub checksum: u16,
}

// SAFETY: four 16-bit words.
unsafe impl Wire for Udp {}

/// VXLAN (RFC 7348 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Vxlan {
    /// Flags; all but [`Vxlan::VALID`] are zero and ignored.
    pub flags: Be32,
    /// VXLAN network identifier, shifted left by eight bits.
    pub vni: Be32,
}

impl Vxlan {
    /// The VNI is valid.
    pub const VALID: u32 = 0x0800_0000;
    /// UDP port.
    pub const PORT: Be16 = Be16::new(4789);
    /// What an encapsulation over IPv4 adds to a packet, bytes: IPv4, UDP, VXLAN, Ethernet.
    pub const OVERHEAD: u32 = Ipv4::LEN + udp::LEN + 8 + Ethernet::LEN;
    /// What one over IPv6 adds.
    pub const OVERHEAD6: u32 = Ipv6::LEN + udp::LEN + 8 + Ethernet::LEN;

    /// What an encapsulation adds, bytes. `v6`: over IPv6.
    #[inline(always)]
    pub const fn overhead(v6: bool) -> u32 {
        if v6 { Self::OVERHEAD6 } else { Self::OVERHEAD }
    }
}

// SAFETY: two 32-bit words.
unsafe impl Wire for Vxlan {}

/// Explicit congestion notification: the last two bits of the traffic class (RFC 3168).
pub mod ecn {
    /// Both bits.
    pub const MASK: u8 = 3;
    /// The sender cannot do it.
    pub const NOT_ECT: u8 = 0;
    /// The sender can: one of two code points. The other is 2.
    pub const ECT1: u8 = 1;
    /// The other.
    pub const ECT0: u8 = 2;
    /// A router has met congestion.
    pub const CE: u8 = 3;
}

/// IP protocol numbers.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;

    /// IPv6's extension headers (RFC 8200 section 4): options for every hop.
    pub const HOP_BY_HOP: u8 = 0;
    /// The way that a packet is to take.
    pub const ROUTING: u8 = 43;
    /// What a fragment is of.
    pub const FRAGMENT: u8 = 44;
    /// Options for the destination.
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// TCP's flags that a flow's state depends on (RFC 9293 section 3.1).
pub mod tcp {
    /// Sender has no more data.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field is significant.
    pub const ACK: u8 = 0x10;
    /// Offset of the word whose first four bits are the header's length in 32-bit words, bytes.
    pub const DATA_OFFSET: u32 = 12;
    /// Offset of the flags in the header, bytes.
    pub const FLAGS: u32 = 13;
    /// Offset of the checksum, bytes.
    pub const CHECKSUM: u32 = 16;
    /// Shortest header, bytes.
    pub const LEN: u32 = 20;
}

/// UDP (RFC 768).
pub mod udp {
    /// Offset of the checksum, bytes.
    pub const CHECKSUM: u32 = 6;
    /// Header, bytes.
    pub const LEN: u32 = 8;
}

/// ICMP (RFC 792).
pub mod icmp {
    /// Type of an echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Type of a destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Its code where a packet is too big and must not be fragmented.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Its code where a filter does not let a packet pass (RFC 1812 section 5.2.7.1).
    pub const PROHIBITED: u8 = 13;
    /// Type of a source quench: no longer sent, and ignored (RFC 6633).
    pub const SOURCE_QUENCH: u8 = 4;
    /// Type of a redirect.
    pub const REDIRECT: u8 = 5;
    /// Type of a time exceeded: in transit (code 0) or in reassembly (1).
    pub const TIME_EXCEEDED: u8 = 11;
    /// Its code where a router has counted the time to live down.
    pub const IN_TRANSIT: u8 = 0;
    /// Type of a parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// Type of an echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Offset of the checksum, bytes.
    pub const CHECKSUM: u32 = 2;
    /// Offset of an echo message's identifier, bytes.
    pub const IDENTIFIER: u32 = 4;
    /// Header, bytes.
    pub const LEN: u32 = 8;

    /// Whether a message of this type is an error: it quotes the packet that it is about (RFC 1122 section 3.2.2).
    #[inline(always)]
    pub const fn is_error(kind: u8) -> bool {
        matches!(kind, UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }
}

/// ICMPv6 (RFC 4443). Checksum, identifier and header's length are as ICMP has them.
pub mod icmpv6 {
    /// Type of a destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Its code where there is no route.
    pub const NO_ROUTE: u8 = 0;
    /// Its code where a filter does not let a packet pass.
    pub const PROHIBITED: u8 = 1;
    /// Type of a packet too big.
    pub const TOO_BIG: u8 = 2;
    /// Type of a time exceeded: in transit (code 0) or in reassembly (1).
    pub const TIME_EXCEEDED: u8 = 3;
    /// Its code where a router has counted the hop limit down.
    pub const IN_TRANSIT: u8 = 0;
    /// Type of a parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Type of an echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Type of an echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// First type of neighbour discovery (RFC 4861 section 4): a router solicitation.
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Type of a neighbour solicitation.
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Type of a neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Last type of neighbour discovery: a redirect.
    pub const REDIRECT: u8 = 137;
}
