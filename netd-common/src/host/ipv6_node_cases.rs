//! The table of [`super::cases`] between nodes, with IPv6 inside, outside, or both.

#![expect(clippy::single_range_in_vec_init, reason = "what may differ is one range of bytes")]

use super::{
    build::{Body, Ip, Ip6, frame, frame6},
    cases::{At, Case, FAR_NODE, Fate, NODE, SERVER, Step, UPLINK_MACS, World, case, unchanged},
    ipv6::{FAR_NODE6, FAR6, FARTHER, FARTHER6, NEAR6, NODE6, SERVER6, address},
    ipv6_cases::{TIME, answered},
    overlay_cases::vxlan,
};
use crate::{Drop, To, V4, Way, abi::vni, wire::Mac};

pub(super) fn cases(world: &World) -> Vec<Case> {
    [outward(world), inward(world), forged(world)].concat()
}

/// A VXLAN packet over IPv6: outer addresses, VNI, inner frame.
pub(super) fn vxlan6(ip: &Ip6, vni: u32, inner: &[u8]) -> Vec<u8> {
    let header = [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes()].concat();
    let (node, router) = UPLINK_MACS;
    frame6(node, router, ip, &Body::UdpUnchecked(50_000, 4789, [&header, inner].concat()))
}

fn outward(world: &World) -> Vec<Case> {
    let a = world.a;
    let at = At::FromContainer(a.ifindex);
    let body = Body::Udp(1000, 2000, b"hello".to_vec());
    let near = Ip6::new(a.address6(), NEAR6);
    let sent = |ip: &Ip6| frame6(a.host_mac, a.mac, ip, &body);
    let wraps = |frame: Vec<u8>, wrapped: Vec<u8>, free| Step {
        at,
        frame,
        fate: Fate::Goes(To::Neighbour, Way::ToNodeVxlan),
        // The old Ethernet header stays in front until the kernel writes another.
        after: [&a.host_mac[..], &a.mac, &wrapped[12..]].concat(),
        free,
    };
    let inner = |destination: [u8; 16], last: [u8; 4]| {
        let ip = Ip6::new(a.address6(), destination);
        frame6(Mac::of(V4::new(last)).bytes(), a.host_mac, &ip, &body)
    };
    let inner4 = frame(Mac::of(V4::new(FARTHER)).bytes(), a.host_mac, &Ip::new(a.address, FARTHER), &body);
    let over4 = vxlan(&Ip::new(NODE, FAR_NODE), vni(1), &inner(FAR6, [10, 88, 64, 5]));
    let outer6 = Ip6::new(NODE6, FAR_NODE6);
    let over6 = vxlan6(&outer6, vni(1), &inner(FARTHER6, FARTHER));
    let four_over6 = vxlan6(&outer6, vni(1), &inner4);
    let big = |destination, length: usize| {
        frame6(
            a.host_mac,
            a.mac,
            &Ip6::new(a.address6(), destination),
            &Body::Udp(1, 2, vec![7; length - 48]),
        )
    };
    let too_big = |destination, length, mtu| {
        answered(a, big(destination, length), (2, 0, mtu), Fate::Goes(To::Link, Way::TooBigSent))
    };
    vec![
        case(
            "IPv6: to a near node",
            vec![
                Step {
                    at,
                    frame: sent(&near),
                    fate: Fate::Goes(To::Neighbour, Way::ToNode),
                    after: sent(&Ip6 { hops: 63, ..near.clone() }),
                    free: &[],
                },
                answered(a, sent(&Ip6 { hops: 1, ..near }), TIME, Fate::Answered(Drop::TtlExpired)),
            ],
        ),
        case(
            "IPv6 over IPv4 to a far node",
            // Identification, header checksum, source port.
            vec![wraps(sent(&Ip6::new(a.address6(), FAR6)), over4, &[18..20, 24..26, 34..36])],
        ),
        case(
            "IPv6 over IPv6 to a far node",
            vec![wraps(sent(&Ip6::new(a.address6(), FARTHER6)), over6, &[54..56])],
        ),
        case(
            "IPv4 over IPv6 to a far node",
            vec![wraps(frame(a.host_mac, a.mac, &Ip::new(a.address, FARTHER), &body), four_over6, &[54..56])],
        ),
        case(
            "IPv6: too big for another node",
            vec![too_big(FAR6, 1451, 1450), too_big(FARTHER6, 1431, 1430), too_big(NEAR6, 1501, 1500)],
        ),
        case(
            "IPv6: to a far node of another network",
            vec![unchanged(
                at,
                sent(&Ip6::new(a.address6(), address([0xfd99, 0, 0, 0, 0, 0, 0, 0x82]))),
                Fate::Dropped(Drop::Isolated),
            )],
        ),
    ]
}

fn inward(world: &World) -> Vec<Case> {
    let a = world.a;
    let body = Body::Udp(1000, 2000, b"hello".to_vec());
    let (node, router) = UPLINK_MACS;
    let near = Ip6::new(NEAR6, a.address6());
    let inner = |source| frame6(a.mac, a.host_mac, &Ip6::new(source, a.address6()), &body);
    let inner4 = frame(a.mac, a.host_mac, &Ip::new(FARTHER, a.address), &body);
    let comes = |frame: Vec<u8>, after: &[u8]| Step {
        at: At::FromUplink,
        frame,
        fate: Fate::Goes(To::Peer, Way::FromNodeVxlan),
        after: after.to_vec(),
        free: &[],
    };
    let (outer, outer6) = (Ip::new(FAR_NODE, NODE), Ip6::new(FAR_NODE6, NODE6));
    let device = |node, inner: Vec<u8>| Step {
        at: At::FromOverlay(node, vni(1)),
        frame: inner.clone(),
        fate: Fate::Goes(To::Peer, Way::FromNodeKernel),
        after: inner,
        free: &[],
    };
    let pass = |frame| unchanged(At::FromUplink, frame, Fate::Passes);
    vec![
        case(
            "IPv6: from a near node",
            vec![Step {
                at: At::FromUplink,
                frame: frame6(node, router, &near, &body),
                fate: Fate::Goes(To::Peer, Way::FromNode),
                after: frame6(a.mac, a.host_mac, &near, &body),
                free: &[],
            }],
        ),
        case(
            "IPv6 over IPv4 from a far node",
            vec![comes(vxlan(&outer, vni(1), &inner(FAR6)), &inner(FAR6))],
        ),
        case(
            "IPv6 over IPv6 from a far node",
            vec![comes(vxlan6(&outer6, vni(1), &inner(FARTHER6)), &inner(FARTHER6))],
        ),
        case("IPv4 over IPv6 from a far node", vec![comes(vxlan6(&outer6, vni(1), &inner4), &inner4)]),
        case("IPv6: from a far node, by the kernel's device", vec![device(FAR_NODE, inner(FAR6))]),
        case(
            "IPv6: what is the host's",
            vec![
                pass(frame6(node, router, &Ip6::new(SERVER6, a.address6()), &body)),
                pass(frame6(node, router, &Ip6::new(FAR6, a.address6()), &body)),
                pass(vxlan6(&outer6, 42, &inner(FARTHER6))),
                pass(vxlan6(
                    &Ip6 { extensions: vec![(60, vec![0; 8])], ..outer6.clone() },
                    vni(1),
                    &inner(FARTHER6),
                )),
            ],
        ),
    ]
}

fn forged(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let body = Body::Udp(1000, 2000, b"hello".to_vec());
    let inner = |source, destination| frame6(a.mac, a.host_mac, &Ip6::new(source, destination), &body);
    let good = inner(FAR6, a.address6());
    let outer = Ip::new(FAR_NODE, NODE);
    let drop = |frame, reason| unchanged(At::FromUplink, frame, Fate::Dropped(reason));
    vec![
        case(
            "IPv6: an overlay that is not a node's",
            vec![
                drop(vxlan(&Ip::new(SERVER, NODE), vni(1), &good), Drop::OverlayNode),
                drop(vxlan6(&Ip6::new(FAR_NODE6, NODE6), vni(1), &good), Drop::OverlayNode),
                drop(vxlan(&outer, vni(1), &inner(FARTHER6, a.address6())), Drop::OverlayNode),
                drop(vxlan(&outer, vni(1), &inner(b.address6(), a.address6())), Drop::OverlayNode),
                drop(vxlan(&outer, vni(2), &good), Drop::OverlayNetwork),
                drop(vxlan(&outer, vni(1), &inner(FAR6, c.address6())), Drop::OverlayNetwork),
                drop(
                    vxlan(&outer, vni(1), &inner(FAR6, address([0xfd88, 0, 0, 0, 0, 0, 0, 0x99]))),
                    Drop::NoEndpoint,
                ),
                drop(vxlan(&outer, vni(1), &good[..40]), Drop::Malformed),
            ],
        ),
        case(
            "IPv6: the device: from no node",
            vec![unchanged(At::FromOverlay(SERVER, vni(1)), good, Fate::Dropped(Drop::OverlayNode))],
        ),
    ]
}
