//! A packet that the host's own stack sends to a container: the host side of its link, egress. Of packets that the other
//! programs deliver, those come by here that cannot be put into the container's end at once.

use crate::{
    abi::Interface,
    addr::V4,
    packet::{Hook, Packet},
    plan::{NO_SLOT, Verdict},
    reason::{Drop, Way},
    tables::Tables,
    wire::Ethernet,
};

/// Lets the host's own packets pass, and those that the host forwards only into networks without masquerade: a network
/// behind masquerade is not to be entered from the outside by whoever has a route to it. For both families: an endpoint's entry for
/// IPv4 says all that counts here, and is always there.
#[inline(always)]
pub fn to_container<P: Packet, T: Tables<V4>>(packet: &P, tables: &T, hook: Hook) -> Verdict {
    if hook.delivered {
        return Verdict::STACK;
    }
    let bytes = packet.len();
    let Some(interface) = tables.interface(hook.ifindex) else {
        tables.count_drop(Drop::UnknownInterface, NO_SLOT, bytes);
        return Verdict::DROP;
    };
    let is_ip =
        |ethernet: Ethernet| ethernet.ethertype == Ethernet::IPV4 || ethernet.ethertype == Ethernet::IPV6;
    if !packet.get(0).is_some_and(is_ip) {
        // ARP, the answers of from_container among it, which are sent from here.
        return Verdict::STACK;
    }
    if hook.forwarded && interface.flags & Interface::<V4>::MASQUERADE != 0 {
        tables.count_drop(Drop::Unsolicited, NO_SLOT, bytes);
        return Verdict::DROP;
    }
    tables.count_way(Way::FromHost, bytes);
    tables.count_received(interface.slot, bytes);
    Verdict::STACK
}
