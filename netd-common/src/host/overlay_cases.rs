//! The table of [`super::cases`], between nodes.

use super::{
    build::{Body, Ip, arp, ethernet, frame},
    cases::{
        At, Case, FAR, FAR_NODE, Fate, NEAR, NEAR_NODE, NODE, SERVER, Step, UPLINK_MACS, World, case,
        unchanged,
    },
    icmp_cases::{TIME, answered},
};
use crate::{Drop, To, V4, Way, abi::vni, wire::Mac};

/// A VXLAN packet: outer addresses, VNI, inner frame.
pub(super) fn vxlan(ip: &Ip, vni: u32, inner: &[u8]) -> Vec<u8> {
    let header = [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes()].concat();
    let (node, router) = UPLINK_MACS;
    frame(node, router, ip, &Body::UdpUnchecked(50_000, 4789, [&header, inner].concat()))
}

pub(super) fn cases(world: &World) -> Vec<Case> {
    [outward(world), inward(world), forged(world), too_big(world)].concat()
}

fn outward(world: &World) -> Vec<Case> {
    let a = world.a;
    let at = At::FromContainer(a.ifindex);
    let body = Body::Udp(1000, 2000, b"hello".to_vec());
    let near = Ip::new(a.address, NEAR);
    let far = Ip::new(a.address, FAR);
    let inner = frame(Mac::of(V4::new(FAR)).bytes(), a.host_mac, &far, &body);
    let wrapped = vxlan(&Ip::new(NODE, FAR_NODE), vni(1), &inner);
    vec![
        case(
            "to a near node",
            vec![Step {
                at,
                frame: frame(a.host_mac, a.mac, &near, &body),
                fate: Fate::Goes(To::Neighbour, Way::ToNode),
                after: frame(a.host_mac, a.mac, &Ip { ttl: 63, ..near.clone() }, &body),
                free: &[],
            }],
        ),
        case(
            "to a far node",
            vec![Step {
                at,
                frame: frame(a.host_mac, a.mac, &far, &body),
                fate: Fate::Goes(To::Neighbour, Way::ToNodeVxlan),
                // The old Ethernet header stays in front until the kernel writes another.
                after: [&a.host_mac[..], &a.mac, &wrapped[12..]].concat(),
                // Identification, header checksum, source port.
                free: &[18..20, 24..26, 34..36],
            }],
        ),
        case(
            "to a near node, time up",
            vec![answered(
                a,
                frame(a.host_mac, a.mac, &Ip { ttl: 1, ..near }, &body),
                TIME,
                Fate::Answered(Drop::TtlExpired),
            )],
        ),
        case(
            "to a far node of another network",
            vec![unchanged(
                at,
                frame(a.host_mac, a.mac, &Ip::new(a.address, [10, 99, 0, 130]), &body),
                Fate::Dropped(Drop::Isolated),
            )],
        ),
    ]
}

fn inward(world: &World) -> Vec<Case> {
    let (a, c) = (world.a, world.c);
    let body = Body::Udp(1000, 2000, b"hello".to_vec());
    let (node, router) = UPLINK_MACS;
    let near = Ip::new(NEAR, a.address);
    let far = Ip::new(FAR, a.address);
    let inner = frame(a.mac, a.host_mac, &far, &body);
    let two = Ip::new([10, 99, 0, 130], c.address);
    let outer = Ip::new(FAR_NODE, NODE);
    let from_far = |inner: Vec<u8>, vni, after: Vec<u8>| Step {
        at: At::FromUplink,
        frame: vxlan(&outer, vni, &inner),
        fate: Fate::Goes(To::Peer, Way::FromNodeVxlan),
        after,
        free: &[],
    };
    vec![
        case(
            "from a near node",
            vec![Step {
                at: At::FromUplink,
                frame: frame(node, router, &near, &body),
                fate: Fate::Goes(To::Peer, Way::FromNode),
                after: frame(a.mac, a.host_mac, &near, &body),
                free: &[],
            }],
        ),
        case("from a far node", vec![from_far(inner.clone(), vni(1), inner.clone())]),
        case(
            "from a far node, to another MAC",
            vec![from_far(frame([2; 6], [4; 6], &far, &body), vni(1), inner.clone())],
        ),
        case(
            "from a far node of another network",
            vec![from_far(
                frame(c.mac, c.host_mac, &two, &body),
                vni(2),
                frame(c.mac, c.host_mac, &two, &body),
            )],
        ),
        case(
            "from a far node, by the kernel's device",
            vec![Step {
                at: At::FromOverlay(FAR_NODE, vni(1)),
                frame: frame([2; 6], [4; 6], &far, &body),
                fate: Fate::Goes(To::Peer, Way::FromNodeKernel),
                after: inner.clone(),
                free: &[],
            }],
        ),
        case(
            "from a stranger, unencapsulated",
            vec![unchanged(
                At::FromUplink,
                frame(node, router, &Ip::new(SERVER, a.address), &body),
                Fate::Passes,
            )],
        ),
        case(
            "from a far node, unencapsulated",
            vec![unchanged(At::FromUplink, frame(node, router, &far, &body), Fate::Passes)],
        ),
        case("another's VXLAN", vec![unchanged(At::FromUplink, vxlan(&outer, 42, &inner), Fate::Passes)]),
        case(
            "VXLAN without a VNI",
            vec![unchanged(
                At::FromUplink,
                {
                    let mut frame = vxlan(&outer, vni(1), &inner);
                    frame[42] = 0;
                    frame
                },
                Fate::Passes,
            )],
        ),
        case(
            "a fragment of VXLAN is the kernel's to put together",
            vec![unchanged(
                At::FromUplink,
                vxlan(&Ip { fragment: 0x2000, ..outer.clone() }, vni(1), &inner),
                Fate::Passes,
            )],
        ),
    ]
}

fn forged(world: &World) -> Vec<Case> {
    let (a, c) = (world.a, world.c);
    let body = Body::Udp(1000, 2000, b"hello".to_vec());
    let outer = Ip::new(FAR_NODE, NODE);
    let inner = |source, destination| frame(a.mac, a.host_mac, &Ip::new(source, destination), &body);
    let good = inner(FAR, a.address);
    let drop = |frame, reason| vec![unchanged(At::FromUplink, frame, Fate::Dropped(reason))];
    let device = |node, vni, frame: &Vec<u8>, reason| {
        vec![unchanged(At::FromOverlay(node, vni), frame.clone(), Fate::Dropped(reason))]
    };
    let asks = ethernet(a.mac, a.host_mac, 0x0806, &arp(1, (a.host_mac, FAR), (a.mac, a.address)));
    vec![
        case("overlay from no node", drop(vxlan(&Ip::new(SERVER, NODE), vni(1), &good), Drop::OverlayNode)),
        case(
            "overlay from another node",
            drop(vxlan(&Ip::new(NEAR_NODE, NODE), vni(1), &good), Drop::OverlayNode),
        ),
        case(
            "an inner source of no slice",
            drop(vxlan(&outer, vni(1), &inner(SERVER, a.address)), Drop::OverlayNode),
        ),
        case(
            "an inner source of ours",
            drop(vxlan(&outer, vni(1), &inner(world.b.address, a.address)), Drop::OverlayNode),
        ),
        case("another network's VNI", drop(vxlan(&outer, vni(2), &good), Drop::OverlayNetwork)),
        case(
            "into another network",
            drop(vxlan(&outer, vni(1), &inner(FAR, c.address)), Drop::OverlayNetwork),
        ),
        case("a VNI of no network", drop(vxlan(&outer, vni(77), &good), Drop::OverlayNetwork)),
        case(
            "overlay to nobody",
            drop(vxlan(&outer, vni(1), &inner(FAR, [10, 88, 0, 99])), Drop::NoEndpoint),
        ),
        case("overlay to the node itself", drop(vxlan(&outer, vni(1), &inner(FAR, NODE)), Drop::NoEndpoint)),
        case("overlay with ARP inside", drop(vxlan(&outer, vni(1), &asks), Drop::EtherType)),
        case("overlay cut in the inner header", drop(vxlan(&outer, vni(1), &good[..30]), Drop::Malformed)),
        case("the device: from no node", device(SERVER, vni(1), &good, Drop::OverlayNode)),
        case("the device: another network's VNI", device(FAR_NODE, vni(2), &good, Drop::OverlayNetwork)),
        case("the device: another's VNI", device(FAR_NODE, 42, &good, Drop::OverlayNetwork)),
        case("the device: ARP", device(FAR_NODE, vni(1), &asks, Drop::EtherType)),
    ]
}

/// Too big for the way to another node: the container is told what would fit.
fn too_big(world: &World) -> Vec<Case> {
    let a = world.a;
    let at = At::FromContainer(a.ifindex);
    // 28 bytes of headers.
    let packet = |destination, size: usize, fragment| {
        let ip = Ip { fragment, ..Ip::new(a.address, destination) };
        frame(a.host_mac, a.mac, &ip, &Body::Udp(1, 2, vec![7; size - 28]))
    };
    let told = |destination, size, fragment, mtu| {
        let fate = Fate::Goes(To::Link, Way::TooBigSent);
        answered(a, packet(destination, size, fragment), (3, 4, mtu), fate)
    };
    let dropped = |destination, size, fragment| {
        unchanged(at, packet(destination, size, fragment), Fate::Dropped(Drop::TooBig))
    };
    // An error that quotes a packet to the container: any other is refused before.
    let mut payload = vec![7; 1500];
    payload[16..20].copy_from_slice(&a.address);
    let error = {
        frame(
            a.host_mac,
            a.mac,
            &Ip { fragment: 0x4000, ..Ip::new(a.address, FAR) },
            &Body::Icmp(3, 0, 1, payload),
        )
    };
    vec![
        case("an ICMP error that is too big", vec![unchanged(at, error, Fate::Dropped(Drop::TooBig))]),
        case("too big for a far node", vec![told(FAR, 1451, 0x4000, 1450)]),
        case("too big for a near node", vec![told(NEAR, 1501, 0x4000, 1500)]),
        case("too big, though it might be cut", vec![told(FAR, 1451, 0, 1450)]),
        case("too big, and may not be answered", vec![dropped(FAR, 1451, 0x2000)]),
    ]
}
