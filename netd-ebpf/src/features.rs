//! What not every kernel's helpers know, found by trying.

use netd_common::abi::HelperFlags;

use crate::skb::Skb;

/// Tries each on a frame of IPv4 with as many bytes as VXLAN has before an inner IPv6 header, and that header.
#[inline(always)]
pub(crate) fn run(skb: &mut Skb) -> u32 {
    let mut known = 0;
    if skb.knows_ipv6_sums() {
        known |= HelperFlags::IPV6_SUMS;
    }
    // Last: the frame is another after it.
    if skb.decapsulate_at_once(false, true) {
        known |= HelperFlags::DECAPSULATE;
    }
    known
}
