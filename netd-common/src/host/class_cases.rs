//! The table of [`super::cases`]: traffic class (DSCP and ECN) into a tunnel between nodes and out of it (RFC 2983, RFC 6040).

use super::{
    build::{Body, Ip, Ip6, frame, frame6},
    cases::{At, Case, FAR, FAR_NODE, Fate, NODE, Step, World, case, unchanged},
    ipv6::{FAR_NODE6, FAR6, FARTHER, FARTHER6, NODE6},
    ipv6_node_cases::vxlan6,
    overlay_cases::vxlan,
};
use crate::{Drop, To, V4, Way, abi::vni, wire::Mac};

/// Expedited forwarding.
const DSCP: u8 = 46 << 2;
/// Not capable of ECN, and what is: two code points, and "congestion experienced".
const ECN: [u8; 4] = [0, 1, 2, 3];
const CE: u8 = 3;

pub(super) fn cases(world: &World) -> Vec<Case> {
    [outward(world), inward(world)].concat()
}

fn body() -> Body {
    Body::Udp(1000, 2000, b"hello".to_vec())
}

/// The outer header has what the inner one has.
fn outward(world: &World) -> Vec<Case> {
    let a = world.a;
    let wraps = |frame: Vec<u8>, wrapped: Vec<u8>, free| Step {
        at: At::FromContainer(a.ifindex),
        frame,
        fate: Fate::Goes(To::Neighbour, Way::ToNodeVxlan),
        after: [&a.host_mac[..], &a.mac, &wrapped[12..]].concat(),
        free,
    };
    // Identification, header checksum, source port; over IPv6 the port alone.
    let (free, free6) = (&[18..20, 24..26, 34..36][..], &[54..56, 0..0][..]);
    let mut all = Vec::new();
    for class in ECN.into_iter().flat_map(|ecn| [ecn, DSCP | ecn]) {
        let ip = |destination| Ip { class, ..Ip::new(a.address, destination) };
        let ip6 = |destination| Ip6 { class, ..Ip6::new(a.address6(), destination) };
        let (outer, outer6) =
            (Ip { class, ..Ip::new(NODE, FAR_NODE) }, Ip6 { class, ..Ip6::new(NODE6, FAR_NODE6) });
        let mac = |address| Mac::of(V4::new(address)).bytes();
        let inner = |destination| frame(mac(destination), a.host_mac, &ip(destination), &body());
        let inner6 = |destination, last| frame6(mac(last), a.host_mac, &ip6(destination), &body());
        let sent = |destination| frame(a.host_mac, a.mac, &ip(destination), &body());
        let sent6 = |destination| frame6(a.host_mac, a.mac, &ip6(destination), &body());
        all.push(case(
            format!("class {class:#04x} into a tunnel"),
            vec![
                wraps(sent(FAR), vxlan(&outer, vni(1), &inner(FAR)), free),
                wraps(sent6(FAR6), vxlan(&outer, vni(1), &inner6(FAR6, FAR)), free),
                wraps(sent(FARTHER), vxlan6(&outer6, vni(1), &inner(FARTHER)), free6),
                wraps(sent6(FARTHER6), vxlan6(&outer6, vni(1), &inner6(FARTHER6, FARTHER)), free6),
            ],
        ));
    }
    all
}

/// The inner header keeps its DSCP, and has both headers' congestion (RFC 6040 section 4.2); `None`: the packet is dropped.
const fn combined(inner: u8, outer: u8) -> Option<u8> {
    match (inner, outer) {
        (0, CE) => None,
        (0, _) => Some(0),
        (_, CE) => Some(CE),
        (2, 1) => Some(1),
        (inner, _) => Some(inner),
    }
}

fn inward(world: &World) -> Vec<Case> {
    let a = world.a;
    let mut all = Vec::new();
    for (inner, outer) in ECN.into_iter().flat_map(|inner| ECN.map(|outer| (inner, outer))) {
        let ip = |ecn| Ip { class: DSCP | ecn, ..Ip::new(FAR, a.address) };
        let far = |ecn| Ip { class: DSCP | ecn, ..Ip::new(FARTHER, a.address) };
        let ip6 = |ecn| Ip6 { class: DSCP | ecn, ..Ip6::new(FAR6, a.address6()) };
        let far6 = |ecn| Ip6 { class: DSCP | ecn, ..Ip6::new(FARTHER6, a.address6()) };
        let (over4, over6) = (
            Ip { class: outer, ..Ip::new(FAR_NODE, NODE) },
            Ip6 { class: outer, ..Ip6::new(FAR_NODE6, NODE6) },
        );
        let whole = |ip: &Ip| frame(a.mac, a.host_mac, ip, &body());
        let whole6 = |ip: &Ip6| frame6(a.mac, a.host_mac, ip, &body());
        let comes = |wrapped: Vec<u8>, after: &dyn Fn(u8) -> Vec<u8>| match combined(inner, outer) {
            Some(ecn) => Step {
                at: At::FromUplink,
                frame: wrapped,
                fate: Fate::Goes(To::Peer, Way::FromNodeVxlan),
                after: after(ecn),
                free: &[],
            },
            None => unchanged(At::FromUplink, wrapped, Fate::Dropped(Drop::OverlayCongested)),
        };
        all.push(case(
            format!("ECN {inner} out of a tunnel with {outer}"),
            vec![
                comes(vxlan(&over4, vni(1), &whole(&ip(inner))), &|ecn| whole(&ip(ecn))),
                comes(vxlan(&over4, vni(1), &whole6(&ip6(inner))), &|ecn| whole6(&ip6(ecn))),
                comes(vxlan6(&over6, vni(1), &whole(&far(inner))), &|ecn| whole(&far(ecn))),
                comes(vxlan6(&over6, vni(1), &whole6(&far6(inner))), &|ecn| whole6(&far6(ecn))),
            ],
        ));
    }
    all
}
