//! IP addresses of both families, as the tables hold them: network byte order, in words. And what differs between the families:
//! where things are in a header, and what they are called.

use crate::{
    abi::Interface,
    arp, checksum,
    headers::{self, Headers},
    icmp_error, ndp,
    packet::Packet,
    plan::Plan,
    reason::Drop,
    wire::{Be16, Ethernet, Ipv4, Ipv6, Mac, Wire, icmp, icmpv6, protocol},
};

/// The numbers of a family's ICMP (RFC 792, RFC 4443).
#[derive(Clone, Copy, Debug)]
pub struct Icmp {
    /// The IP protocol.
    pub protocol: u8,
    /// Type of an echo request.
    pub echo_request: u8,
    /// Type of an echo reply.
    pub echo_reply: u8,
    /// Type and code: the time to live has been counted down.
    pub time_exceeded: [u8; 2],
    /// Type and code: a packet is too big; its MTU follows.
    pub too_big: [u8; 2],
    /// Type and code: a filter does not let a packet pass.
    pub prohibited: [u8; 2],
    /// Type and code where no route leads to the destination; zeros: that is not said.
    pub no_route: [u8; 2],
}

/// An address family's address. Everything above the headers is written once, over this trait.
pub trait Addr: Wire + Eq {
    /// Whether this is IPv6.
    const V6: bool;
    /// No address.
    const ZERO: Self;
    /// The host itself, to its own processes.
    const LOOPBACK: Self;
    /// The EtherType.
    const ETHERTYPE: Be16;
    /// The other family's.
    const OTHER: Be16;
    /// Why a packet is dropped whose interface has no entry for the family: it is no endpoint's, or the endpoint's network has no
    /// IPv6.
    const NO_INTERFACE: Drop;
    /// Length of the header without what is optional, bytes.
    const HEADER: u32;
    /// Offset of the 16-bit word with the time to live (hop limit) in a frame without VLAN tag, bytes: sums are over such words.
    const TTL: u32;
    /// Which of its two bytes that is.
    const TTL_BYTE: usize;
    /// Offset of the source address.
    const SOURCE: u32;
    /// Offset of the destination address.
    const DESTINATION: u32;
    /// Offset of the header's checksum, which covers the word that begins with the time to live; IPv6 has none.
    const CHECKSUM: Option<u32>;
    /// Its ICMP.
    const ICMP: Icmp;

    /// Whether it lies in the prefix that `network` and `mask` make.
    fn within(&self, network: &Self, mask: &Self) -> bool;

    /// The change of a checksum that covers this address when `new` takes its place.
    fn checksum_diff(&self, new: &Self) -> u32;

    /// Whether a packet may be sent there through a router.
    fn is_routable(&self) -> bool;

    /// Whether it is one of the loopback interface's: 127/8 (RFC 1122 section 3.2.1.3), ::1 (RFC 4291 section 2.5.3).
    fn is_loopback(&self) -> bool;

    /// As an IPv6 address: an IPv4 one is mapped (RFC 4291 section 2.5.5.2).
    fn mapped(&self) -> V6;

    /// All of it in one word: see [`crate::abi::place_of`].
    fn folded(&self) -> u32;

    /// The IPv4 address of the endpoint of a network that has this address: what its MAC is made from (see [`Mac::of`]).
    fn address4(&self, interface: &Interface<Self>) -> V4;

    /// Whether an ICMP message of this type is an error: it quotes the packet that it is about.
    fn is_icmp_error(kind: u8) -> bool;

    /// Whether an ICMP error of this type says something about the packet that it quotes, for which its sender has to get it.
    fn is_icmp_error_of_flow(kind: u8) -> bool;

    /// Reads a header at an offset.
    ///
    /// # Errors
    /// [`Drop::Malformed`], [`Drop::ExtensionHeader`].
    fn headers<P: Packet>(packet: &P, offset: u32) -> Result<Headers<Self>, Drop>;

    /// Reads the header that an ICMP error quotes at an offset: what it says of lengths is about the whole packet, of which the
    /// quote is the beginning. [`Headers::end`] is 0.
    fn quoted<P: Packet>(packet: &P, offset: u32) -> Option<Headers<Self>>;

    /// Turns a packet into an ICMP error about it.
    fn write_error<P: Packet>(packet: &mut P, message: &icmp_error::Message<Self>) -> Option<()>;

    /// Decides on an ARP message from a container, which is IPv4's.
    ///
    /// # Errors
    /// Why it gets no answer.
    fn resolve<P: Packet>(packet: &P, interface: &Interface<Self>, plan: &mut Plan<Self>)
    -> Result<(), Drop>;

    /// Whether what a container sends is no packet to anybody but neighbour discovery, which is IPv6's.
    ///
    /// # Errors
    /// It is not from the container's own address, or to nobody: see [`ndp::kind`].
    fn is_discovery<P: Packet>(
        packet: &P,
        interface: &Interface<Self>,
        ip: &Headers<Self>,
    ) -> Result<bool, Drop>;

    /// Decides on that.
    ///
    /// # Errors
    /// Why it gets no answer.
    fn discover<P: Packet>(
        packet: &P,
        interface: &Interface<Self>,
        ip: &Headers<Self>,
        plan: &mut Plan<Self>,
    ) -> Result<(), Drop>;
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
}

// SAFETY: transparent over u32.
unsafe impl Wire for V4 {}

impl Addr for V4 {
    const V6: bool = false;
    const ZERO: Self = Self(0);
    const LOOPBACK: Self = Self::new([127, 0, 0, 1]);
    const ETHERTYPE: Be16 = Ethernet::IPV4;
    const OTHER: Be16 = Ethernet::IPV6;
    const NO_INTERFACE: Drop = Drop::UnknownInterface;
    const HEADER: u32 = Ipv4::LEN;
    const TTL: u32 = 14 + 8;
    const TTL_BYTE: usize = 0;
    const SOURCE: u32 = 14 + 12;
    const DESTINATION: u32 = 14 + 16;
    const CHECKSUM: Option<u32> = Some(14 + 10);
    const ICMP: Icmp = Icmp {
        protocol: protocol::ICMP,
        echo_request: icmp::ECHO_REQUEST,
        echo_reply: icmp::ECHO_REPLY,
        time_exceeded: [icmp::TIME_EXCEEDED, icmp::IN_TRANSIT],
        too_big: [icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED],
        prohibited: [icmp::UNREACHABLE, icmp::PROHIBITED],
        no_route: [0, 0],
    };

    #[inline(always)]
    fn within(&self, network: &Self, mask: &Self) -> bool {
        self.0 & mask.0 == network.0
    }

    #[inline(always)]
    fn checksum_diff(&self, new: &Self) -> u32 {
        checksum::diff(self.0, new.0)
    }

    /// Not this-network (0/8), loopback (127/8), multicast (224/4), reserved (240/4) or the limited broadcast (RFC 6890).
    #[inline(always)]
    fn is_routable(&self) -> bool {
        let first = u32::from_be(self.0) >> 24;
        first != 0 && first != 127 && first < 224
    }

    #[inline(always)]
    fn is_loopback(&self) -> bool {
        self.bytes()[0] == 127
    }

    #[inline(always)]
    fn mapped(&self) -> V6 {
        V6([0, 0, V6::MAPPED, self.0])
    }

    #[inline(always)]
    fn folded(&self) -> u32 {
        self.0
    }

    #[inline(always)]
    fn address4(&self, _: &Interface<Self>) -> V4 {
        *self
    }

    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        icmp::is_error(kind)
    }

    #[inline(always)]
    fn is_icmp_error_of_flow(kind: u8) -> bool {
        matches!(kind, icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM)
    }

    #[inline(always)]
    fn headers<P: Packet>(packet: &P, offset: u32) -> Result<Headers<Self>, Drop> {
        headers::ipv4_at(packet, offset)
    }

    #[inline(always)]
    fn quoted<P: Packet>(packet: &P, offset: u32) -> Option<Headers<Self>> {
        headers::quoted_ipv4(packet, offset)
    }

    #[inline(always)]
    fn write_error<P: Packet>(packet: &mut P, message: &icmp_error::Message<Self>) -> Option<()> {
        icmp_error::write4(packet, message)
    }

    #[inline(always)]
    fn resolve<P: Packet>(
        packet: &P,
        interface: &Interface<Self>,
        plan: &mut Plan<Self>,
    ) -> Result<(), Drop> {
        arp::decide(packet, interface, plan)
    }

    #[inline(always)]
    fn is_discovery<P: Packet>(_: &P, interface: &Interface<Self>, ip: &Headers<Self>) -> Result<bool, Drop> {
        if ip.source == interface.address { Ok(false) } else { Err(Drop::SpoofedAddress) }
    }

    #[inline(always)]
    fn discover<P: Packet>(
        _: &P,
        _: &Interface<Self>,
        _: &Headers<Self>,
        _: &mut Plan<Self>,
    ) -> Result<(), Drop> {
        Err(Drop::Protocol)
    }
}

/// An IPv6 address in network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct V6(pub [u32; 4]);

impl V6 {
    /// Third word of an IPv4-mapped address.
    const MAPPED: u32 = 0xffff_u32.to_be();

    /// From its sixteen bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        const fn word(bytes: &[u8; 16], at: usize) -> u32 {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        }
        Self([word(&bytes, 0), word(&bytes, 4), word(&bytes, 8), word(&bytes, 12)])
    }

    /// Its sixteen bytes.
    pub fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (at, word) in self.0.iter().enumerate() {
            bytes[at * 4..at * 4 + 4].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// The IPv4 address that it maps, if it does.
    #[inline(always)]
    pub const fn unmapped(&self) -> Option<V4> {
        if self.is_mapped() { Some(V4(self.0[3])) } else { None }
    }

    /// Whether it maps an IPv4 address.
    #[inline(always)]
    pub const fn is_mapped(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::MAPPED
    }

    /// Whether it is a group's (ff00::/8).
    #[inline(always)]
    pub const fn is_multicast(&self) -> bool {
        u32::from_be(self.0[0]) >> 24 == 0xff
    }

    /// Whether it is a solicited-node multicast address (ff02::1:ff00:0/104, RFC 4291 section 2.7.1).
    #[inline(always)]
    pub const fn is_solicited_node(&self) -> bool {
        const PREFIX: V6 = V6::new([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0]);
        self.0[0] == PREFIX.0[0]
            && self.0[1] == PREFIX.0[1]
            && self.0[2] == PREFIX.0[2]
            && u32::from_be(self.0[3]) >> 24 == 0xff
    }

    /// Whether it is of one link only (fe80::/10).
    #[inline(always)]
    pub const fn is_link_local(&self) -> bool {
        u32::from_be(self.0[0]) >> 22 == 0xfe80 >> 6
    }

    /// The link-local address that is made from a MAC (RFC 4291 appendix A).
    #[inline(always)]
    pub const fn link_local(mac: Mac) -> Self {
        let [a, b, c] = [mac.0[0].to_ne_bytes(), mac.0[1].to_ne_bytes(), mac.0[2].to_ne_bytes()];
        Self([
            u32::from_ne_bytes([0xfe, 0x80, 0, 0]),
            0,
            u32::from_ne_bytes([a[0] ^ 2, a[1], b[0], 0xff]),
            u32::from_ne_bytes([0xfe, b[1], c[0], c[1]]),
        ])
    }

    /// The sum of its words, for a pseudo-header.
    #[inline(always)]
    pub const fn sum(&self) -> u32 {
        checksum::add(checksum::add(self.0[0], self.0[1]), checksum::add(self.0[2], self.0[3]))
    }
}

// SAFETY: transparent over an array of u32.
unsafe impl Wire for V6 {}

impl Addr for V6 {
    const V6: bool = true;
    const ZERO: Self = Self([0; 4]);
    const LOOPBACK: Self = Self([0, 0, 0, 1_u32.to_be()]);
    const ETHERTYPE: Be16 = Ethernet::IPV6;
    const OTHER: Be16 = Ethernet::IPV4;
    const NO_INTERFACE: Drop = Drop::EtherType;
    const HEADER: u32 = Ipv6::LEN;
    const TTL: u32 = 14 + 6;
    const TTL_BYTE: usize = 1;
    const SOURCE: u32 = 14 + 8;
    const DESTINATION: u32 = 14 + 24;
    const CHECKSUM: Option<u32> = None;
    const ICMP: Icmp = Icmp {
        protocol: protocol::ICMPV6,
        echo_request: icmpv6::ECHO_REQUEST,
        echo_reply: icmpv6::ECHO_REPLY,
        time_exceeded: [icmpv6::TIME_EXCEEDED, icmpv6::IN_TRANSIT],
        too_big: [icmpv6::TOO_BIG, 0],
        prohibited: [icmpv6::UNREACHABLE, icmpv6::PROHIBITED],
        no_route: [icmpv6::UNREACHABLE, icmpv6::NO_ROUTE],
    };

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

    /// Not multicast (ff00::/8), link-local (fe80::/10), nor in ::/64, where the unspecified address, loopback and mapped
    /// addresses are (RFC 6890).
    #[inline(always)]
    fn is_routable(&self) -> bool {
        !self.is_multicast() && !self.is_link_local() && self.0[0] | self.0[1] != 0
    }

    #[inline(always)]
    fn is_loopback(&self) -> bool {
        *self == Self::LOOPBACK
    }

    #[inline(always)]
    fn mapped(&self) -> V6 {
        *self
    }

    #[inline(always)]
    fn folded(&self) -> u32 {
        let [a, b, c, d] = self.0;
        a ^ b ^ c ^ d
    }

    #[inline(always)]
    fn address4(&self, interface: &Interface<Self>) -> V4 {
        V4(interface.subnet4.0 | self.0[3] & !interface.mask.0[3])
    }

    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        kind < 128
    }

    #[inline(always)]
    fn is_icmp_error_of_flow(kind: u8) -> bool {
        matches!(
            kind,
            icmpv6::UNREACHABLE | icmpv6::TOO_BIG | icmpv6::TIME_EXCEEDED | icmpv6::PARAMETER_PROBLEM
        )
    }

    #[inline(always)]
    fn headers<P: Packet>(packet: &P, offset: u32) -> Result<Headers<Self>, Drop> {
        headers::ipv6_at(packet, offset)
    }

    #[inline(always)]
    fn quoted<P: Packet>(packet: &P, offset: u32) -> Option<Headers<Self>> {
        headers::quoted_ipv6(packet, offset)
    }

    #[inline(always)]
    fn write_error<P: Packet>(packet: &mut P, message: &icmp_error::Message<Self>) -> Option<()> {
        icmp_error::write6(packet, message)
    }

    #[inline(always)]
    fn resolve<P: Packet>(_: &P, _: &Interface<Self>, _: &mut Plan<Self>) -> Result<(), Drop> {
        Err(Drop::EtherType)
    }

    #[inline(always)]
    fn is_discovery<P: Packet>(
        packet: &P,
        interface: &Interface<Self>,
        ip: &Headers<Self>,
    ) -> Result<bool, Drop> {
        Ok(matches!(ndp::kind(packet, interface, ip)?, ndp::Kind::Discovery))
    }

    #[inline(always)]
    fn discover<P: Packet>(
        packet: &P,
        interface: &Interface<Self>,
        ip: &Headers<Self>,
        plan: &mut Plan<Self>,
    ) -> Result<(), Drop> {
        ndp::decide(packet, interface, ip, plan)
    }
}
