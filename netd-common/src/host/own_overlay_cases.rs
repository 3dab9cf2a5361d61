//! The table of [`super::cases`]: VXLAN that containers make themselves, on a node of a cluster. Under the node's address, it would pass
//! for the node's.

use super::{
    build::{Body, Ip, Ip6, ethernet, fragments, fragments6, frame, frame6, ipv4_of, ipv6_of},
    cases::{At, Case, FAR, FAR_NODE, Fate, NODE, SERVER, Step, UPLINK_MACS, World, case, unchanged},
    ipv6::{FAR_NODE6, NODE6, SERVER6, address},
    ipv6_node_cases::vxlan6,
    overlay_cases::vxlan,
};
use crate::{Drop, To, Way, abi::vni, wire::protocol};

/// A second address of a far node's, which no route names.
const SECOND: [u8; 4] = [203, 0, 113, 31];
/// The same of IPv6.
const SECOND6: [u8; 16] = address([0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x31]);
/// The overlay's port.
const PORT: u16 = 4789;

pub(super) fn cases(world: &World) -> Vec<Case> {
    [outward(world), outward6(world), answers(world), inward(world)].concat()
}

fn outward(world: &World) -> Vec<Case> {
    let a = world.a;
    let at = At::FromContainer(a.ifindex);
    let drop = |frame, reason| unchanged(at, frame, Fate::Dropped(reason));
    let body = |length| Body::Udp(50_000, PORT, vec![8; length]);
    let to = |name: &str, destination: [u8; 4]| {
        let ip = Ip { id: 77, ..Ip::new(a.address, destination) };
        let sent = |ip: &Ip| frame(a.host_mac, a.mac, ip, &body(60));
        let mut steps = vec![
            drop(sent(&ip), Drop::OverlayContainer),
            drop(sent(&Ip { options: vec![1; 8], ..ip.clone() }), Drop::OverlayContainer),
        ];
        for (number, piece) in fragments(&ipv4_of(&ip, &body(100)), 64).iter().enumerate() {
            // The later ones follow nothing.
            let reason = if number == 0 { Drop::OverlayContainer } else { Drop::Fragment };
            steps.push(drop(ethernet(a.host_mac, a.mac, 0x0800, piece), reason));
        }
        case(format!("a container's own VXLAN to {name}"), steps)
    };
    vec![to("a node", FAR_NODE), to("another address of a node", SECOND), to("the world", SERVER)]
}

fn outward6(world: &World) -> Vec<Case> {
    let a = world.a;
    let at = At::FromContainer(a.ifindex);
    let drop = |frame, reason| unchanged(at, frame, Fate::Dropped(reason));
    let body = |length| Body::Udp(50_000, PORT, vec![8; length]);
    let to = |name: &str, destination: [u8; 16]| {
        let ip = Ip6::new(a.address6(), destination);
        let options = vec![(protocol::DESTINATION_OPTIONS, vec![0, 0, 1, 4, 0, 0, 0, 0])];
        let sent = |ip: &Ip6| frame6(a.host_mac, a.mac, ip, &body(60));
        let mut steps = vec![
            drop(sent(&ip), Drop::OverlayContainer),
            drop(sent(&Ip6 { extensions: options, ..ip.clone() }), Drop::OverlayContainer),
        ];
        for (number, piece) in fragments6(&ipv6_of(&ip, &body(100)), 77, 64).iter().enumerate() {
            let reason = if number == 0 { Drop::OverlayContainer } else { Drop::Fragment };
            steps.push(drop(ethernet(a.host_mac, a.mac, 0x86dd, piece), reason));
        }
        case(format!("IPv6: a container's own VXLAN to {name}"), steps)
    };
    vec![to("a node", FAR_NODE6), to("another address of a node", SECOND6), to("the world", SERVER6)]
}

/// Of a published port, to who asks from the overlay's port.
fn answers(world: &World) -> Vec<Case> {
    let a = world.a;
    let (node, router) = UPLINK_MACS;
    let (question, asked) = (Body::Udp(PORT, 5353, vec![1; 9]), Body::Udp(PORT, 53, vec![1; 9]));
    let answer = Body::Udp(53, PORT, vec![8; 60]);
    let ip = Ip::new(FAR_NODE, NODE);
    let ip6 = Ip6::new(FAR_NODE6, NODE6);
    let long = Ip { id: 78, ..Ip::new(a.address, FAR_NODE) };
    let pieces = fragments(&ipv4_of(&long, &Body::Udp(53, PORT, vec![8; 100])), 64);
    let pieces = pieces.iter().zip([Drop::OverlayContainer, Drop::Fragment]).map(|(piece, reason)| {
        let frame = ethernet(a.host_mac, a.mac, 0x0800, piece);
        unchanged(At::FromContainer(a.ifindex), frame, Fate::Dropped(reason))
    });
    let comes = Step {
        at: At::FromUplink,
        frame: frame(node, router, &ip, &question),
        fate: Fate::Goes(To::Peer, Way::Published),
        after: frame(a.mac, a.host_mac, &Ip { destination: a.address, ttl: 63, ..ip }, &asked),
        free: &[],
    };
    let refused =
        |frame| unchanged(At::FromContainer(a.ifindex), frame, Fate::Dropped(Drop::OverlayContainer));
    vec![
        case(
            "the answer of a published port to a node's overlay",
            [
                vec![comes, refused(frame(a.host_mac, a.mac, &Ip::new(a.address, FAR_NODE), &answer))],
                pieces.collect(),
            ]
            .concat(),
        ),
        case(
            "IPv6: the answer of a published port to a node's overlay",
            vec![
                Step {
                    at: At::FromUplink,
                    frame: frame6(node, router, &ip6, &question),
                    fate: Fate::Goes(To::Peer, Way::Reply),
                    after: frame6(
                        a.mac,
                        a.host_mac,
                        &Ip6 { destination: a.address6(), hops: 63, ..ip6 },
                        &asked,
                    ),
                    free: &[],
                },
                refused(frame6(a.host_mac, a.mac, &Ip6::new(a.address6(), FAR_NODE6), &answer)),
            ],
        ),
    ]
}

/// What comes with an IPv4 node's address as an IPv6 source; and what its outer header does not reach to.
fn inward(world: &World) -> Vec<Case> {
    let a = world.a;
    let inner = frame(a.mac, a.host_mac, &Ip::new(FAR, a.address), &Body::Udp(1000, 2000, b"hello".to_vec()));
    let [n0, n1, n2, n3] = FAR_NODE;
    let mut mapped = [0; 16];
    mapped[10..].copy_from_slice(&[0xff, 0xff, n0, n1, n2, n3]);
    let drop = |frame, reason| unchanged(At::FromUplink, frame, Fate::Dropped(reason));
    let mut cut = vxlan(&Ip::new(FAR_NODE, NODE), vni(1), &inner);
    // All but the last byte of the inner packet.
    let length = (cut.len() - 15) as u16;
    cut[16..18].copy_from_slice(&length.to_be_bytes());
    vec![
        case(
            "overlay over IPv6 from an IPv4 node's address",
            vec![drop(vxlan6(&Ip6::new(mapped, NODE6), vni(1), &inner), Drop::OverlayNode)],
        ),
        case("overlay that is longer than its outer packet", vec![drop(cut, Drop::Malformed)]),
    ]
}
