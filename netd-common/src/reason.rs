//! Why packets are dropped, and the ways that packets are forwarded: numbered, counted, shown by `netd status`.
//!
//! The numbers are part of the maps' layout and of what users' dashboards hold: append, never renumber.

macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $label:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name { $($(#[doc = $doc])+ $variant = $number,)+ }

        #[cfg(feature = "host")]
        impl $name {
            /// All of them, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its short name.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)+).trim_ascii_start(),)+ }
            }
        }
    };
}

numbered! {
    /// Why a packet was dropped.
    Drop {
        /// A header is truncated or contradicts itself.
        Malformed = 1, "malformed";
        /// The EtherType is neither IPv4 nor ARP, nor IPv6 where the endpoint's network has it.
        EtherType = 2, "ethertype";
        /// The frame carries a VLAN tag; at the uplink, more tags than are looked behind (xdp_uplink).
        Vlan = 3, "vlan";
        /// The frame's source MAC is not the endpoint's.
        SpoofedMac = 4, "spoofed-mac";
        /// The packet's source address is not the endpoint's.
        SpoofedAddress = 5, "spoofed-address";
        /// The ARP message claims another sender than the endpoint.
        SpoofedArp = 6, "spoofed-arp";
        /// An ARP message that asks nothing that netd answers.
        Arp = 7, "arp";
        /// The destination is in another network.
        Isolated = 8, "isolated";
        /// No endpoint has the destination address.
        NoEndpoint = 9, "no-endpoint";
        /// The destination is multicast, broadcast, loopback or reserved.
        Destination = 10, "destination";
        /// No route leads to the destination (is there an uplink?).
        NoRoute = 11, "no-route";
        /// A fragment that needs translation, and whose first fragment has not come by.
        Fragment = 12, "fragment";
        /// A protocol that cannot be translated.
        Protocol = 13, "protocol";
        /// The endpoint has as many flows as it may have.
        FlowQuota = 14, "flow-quota";
        /// The flow table is full.
        FlowTableFull = 15, "flow-table-full";
        /// No port is free towards this destination.
        PortsExhausted = 16, "ports-exhausted";
        /// The time to live ran out.
        TtlExpired = 17, "ttl-expired";
        /// Forwarded by the host to an endpoint of a masqueraded network.
        Unsolicited = 18, "unsolicited";
        /// The interface is not one of netd's endpoints.
        UnknownInterface = 19, "unknown-interface";
        /// The packet could not be rewritten.
        Rewrite = 20, "rewrite";
        /// Too big for the way, and the sender cannot be told (ICMP fragmentation needed).
        TooBig = 21, "too-big";
        /// An overlay packet that the node of its inner source has not sent, or not to this node's address.
        OverlayNode = 22, "overlay-node";
        /// An overlay packet with the VNI of another network than its inner source's or destination's.
        OverlayNetwork = 23, "overlay-network";
        /// A container's own packet to the overlay's port, on a node of a cluster: masqueraded, it would pass for the node's.
        OverlayContainer = 24, "overlay-container";
        /// An ICMP error of a container's about a packet that was not sent to it.
        SpoofedError = 25, "spoofed-error";
        /// An ICMP error of a container's about a packet of no flow.
        UnrelatedError = 26, "unrelated-error";
        /// A fragment made to hide a transport header: the first too short for it, or another that overlaps it.
        FragmentTiny = 27, "fragment-tiny";
        /// The neighbour discovery message claims another sender than the endpoint.
        SpoofedNdp = 28, "spoofed-ndp";
        /// A neighbour discovery message that asks nothing that netd answers (every host sends some when it comes up).
        Ndp = 29, "ndp";
        /// An IPv6 packet to a group (every host sends some when it comes up).
        Multicast = 30, "multicast";
        /// IPv6 extension headers that are too many, in no order that makes sense, or would send the packet elsewhere.
        ExtensionHeader = 31, "extension-header";
        /// From a source of the deny list, at the uplink (xdp_uplink).
        Denied = 40, "denied";
        /// To a published port, from a client that the container has a flow with already, by that port of its own and another of the host's.
        PublishedClash = 32, "published-clash";
        /// To a published port, from a source that nobody outside has: a container's, or none of a single host.
        Martian = 33, "martian";
        /// An overlay packet that a router has marked as congested, around one that cannot say so (RFC 6040).
        OverlayCongested = 34, "overlay-congested";
    }
}

numbered! {
    /// The way of a forwarded packet.
    Way {
        /// Container to container, same network (from_container, redirect_peer).
        Local = 0, "local";
        /// Container to the host's own stack (from_container).
        ToHost = 1, "to-host";
        /// Container to the uplink, masqueraded (from_container, redirect_neigh).
        Masquerade = 2, "masquerade";
        /// Container to the uplink with its own address (from_container, redirect_neigh).
        Routed = 3, "routed";
        /// Uplink to container, translated back (from_uplink, redirect_peer).
        Reply = 4, "reply";
        /// The host's own stack to a container (to_container).
        FromHost = 5, "from-host";
        /// ARP requests answered (from_container).
        Arp = 6, "arp";
        /// To another node on the uplink's subnet, with its own address (from_container, redirect_neigh).
        ToNode = 7, "to-node";
        /// To another node in VXLAN (from_container, redirect_neigh).
        ToNodeVxlan = 8, "to-node-vxlan";
        /// From another node on the uplink's subnet (from_uplink, redirect_peer).
        FromNode = 9, "from-node";
        /// From another node in VXLAN (from_uplink, redirect_peer).
        FromNodeVxlan = 10, "from-node-vxlan";
        /// From another node in VXLAN, decapsulated by the kernel (from_overlay, redirect_peer).
        FromNodeKernel = 11, "from-node-kernel";
        /// ICMP errors sent to containers whose packets were too big (from_container).
        TooBigSent = 12, "too-big-sent";
        /// ICMP errors sent to containers about packets that were dropped, for which see there (from_container).
        ErrorSent = 13, "icmp-error-sent";
        /// Neighbour solicitations answered (from_container).
        Ndp = 14, "ndp";
        /// New flows to published ports (from_uplink, redirect_peer); what follows is counted as replies.
        Published = 15, "published";
        /// Container to container by a published port (from_container, redirect_peer).
        Hairpin = 16, "hairpin";
    }
}

/// Counters of drop reasons come first, those of the ways from this index on.
pub const WAYS: u32 = 64;
/// Entries of the counters map.
pub const COUNTERS: u32 = 96;
