//! A packet as a hook hands it over.

use crate::{addr::V6, wire::Wire};

/// What the hook knows of a packet besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hook {
    /// The interface that the program is attached to.
    pub ifindex: u32,
    /// The kernel has taken a VLAN tag off the frame and keeps it beside the packet (`skb->vlan_tci`).
    pub vlan: bool,
    /// The frame was not sent to the interface's own MAC address: to another's, to a group or to all (`skb->pkt_type`).
    pub foreign: bool,
    /// Where the kernel decapsulated the packet: the outer source, IPv4-mapped if it is IPv4; zero elsewhere.
    pub node: V6,
    /// And the outer destination.
    pub own: V6,
    /// And its VNI.
    pub vni: u32,
    /// The packet came in by an interface and is being forwarded, instead of from a socket of the host (`skb->skb_iif`).
    pub forwarded: bool,
    /// Another program has decided about it and sends it out of the container's link: see [`crate::abi::DELIVERED`].
    pub delivered: bool,
}

/// Highest offset that a header is read at, a mask: lets the verifier bound pointer arithmetic with variable offsets.
pub const MAX_OFFSET: u32 = 0x3fff;

/// A packet's bytes, from the Ethernet header on.
pub trait Packet {
    /// Length in bytes; of a segmentation-offloaded packet, of all of it.
    fn len(&self) -> u32;

    /// Reads at an offset; `None` past the end. By value: a borrow would not survive the helpers that move the packet.
    fn get<T: Wire>(&self, offset: u32) -> Option<T>;

    /// Writes at an offset; `None` past the end.
    fn set<T: Wire>(&mut self, offset: u32, value: T) -> Option<()>;

    /// Changes the TCP or UDP checksum at an offset by `pseudo`, the change of the pseudo-header, and `data`, that of
    /// what the segment itself holds.
    ///
    /// They are told apart because of checksum offload: where the device still has to sum up the segment
    /// (CHECKSUM_PARTIAL), the field holds the pseudo-header's sum alone, and where the device has summed up the packet
    /// (CHECKSUM_COMPLETE), that sum has to follow. A program cannot see which it is; `bpf_l4_csum_replace` can.
    fn l4_checksum(&mut self, offset: u32, pseudo: u32, data: u32, udp: bool, v6: bool) -> Option<()>;

    /// Tells of a change of bytes that no checksum in the packet makes up for (an IPv6 header has none): where the device has
    /// summed up the packet, its sum has to follow.
    fn summed(&mut self, _diff: u32) {}

    /// Brings that many bytes into reach of [`Packet::get`], as far as there are so many.
    fn pull(&self, _length: u32) {}

    /// Brings the frame's Ethernet header back where the kernel begins with what is behind it; whether it was so.
    fn restore_link_header(&self) -> bool {
        false
    }

    /// Payload bytes of each segment that the packet will be cut into; 0: it is one already.
    fn segment_size(&self) -> u32 {
        0
    }

    /// How many segments the packet will be cut into, at least 1.
    fn segments(&self) -> u32 {
        1
    }

    /// A hash of the flow, for the outer source port of an encapsulation.
    fn hash(&mut self) -> u32;

    /// Makes room for the headers of VXLAN over IPv4 or IPv6 ([`crate::wire::Vxlan::overhead`]) between the Ethernet header and
    /// the rest, which becomes the inner packet.
    fn encapsulate(&mut self, v6: bool) -> Option<()>;

    /// Says how the kernel's own tunnel device is to encapsulate the packet: to this node, from this address (IPv4-mapped if they
    /// are IPv4), with this VNI and this traffic class, whose two ECN bits the device makes itself.
    fn tunnel(&mut self, node: &V6, own: &V6, vni: u32, class: u8) -> Option<()>;

    /// Takes those bytes away again. `inner_v6`: what is left is IPv6.
    fn decapsulate(&mut self, v6: bool, inner_v6: bool) -> Option<()>;

    /// Cuts the packet to a length, or makes it that long with zeros; it is no longer segmented.
    fn resize(&mut self, length: u32) -> Option<()>;

    /// Whether there is nothing in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
