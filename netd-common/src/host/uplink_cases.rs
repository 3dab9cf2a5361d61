//! The table of [`super::cases`]: what may not come in at the uplink, and what is the host's alone.

use super::{
    build::{Body, Ip, Ip6, MacBytes, frame, frame6},
    cases::{
        At, Case, FAR, FAR_NODE, Fate, Member, NEAR, NODE, OTHER, SERVER, Step, UPLINK_MACS, World, case,
        unchanged,
    },
    ipv6::{FAR6, NEAR6, NODE6, SERVER6, address},
};
use crate::{
    Drop, To, Way,
    wire::tcp::{ACK, SYN},
};

/// A client's port.
const CLIENT: u16 = 40_000;
/// One of another network of another node, which is routed.
const ROUTED: [u8; 4] = [10, 99, 0, 130];
/// Its IPv6 address.
const ROUTED6: [u8; 16] = address([0xfd99, 0, 0, 0, 0, 0, 0, 0x82]);

pub(super) fn cases(world: &World) -> Vec<Case> {
    [martians(world), routed(world), foreign(world), cut(world)].concat()
}

fn come(source: [u8; 4], body: &Body) -> Vec<u8> {
    let (node, router) = UPLINK_MACS;
    frame(node, router, &Ip::new(source, NODE), body)
}

fn come6(source: [u8; 16], body: &Body) -> Vec<u8> {
    let (node, router) = UPLINK_MACS;
    frame6(node, router, &Ip6::new(source, NODE6), body)
}

/// To a published port, from sources that nobody outside has.
fn martians(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let sources = [
        ("this network", [0, 1, 2, 3]),
        ("no address", [0; 4]),
        ("loopback", [127, 0, 0, 1]),
        ("a group", [224, 0, 0, 251]),
        ("a reserved address", [240, 0, 0, 1]),
        ("all", [255; 4]),
        ("the receiver itself", a.address),
        ("its neighbour", b.address),
        ("nobody in its network", [10, 88, 7, 7]),
        ("its gateway", a.network.gateway),
        ("another network", c.address),
        ("a near node's container", NEAR),
        ("a far node's container", FAR),
        ("the node", NODE),
        ("another address of the node", OTHER),
    ];
    let sources6 = [
        ("no address", [0; 16]),
        ("loopback", address([0, 0, 0, 0, 0, 0, 0, 1])),
        ("a mapped address", address([0, 0, 0, 0, 0, 0xffff, 0xc633, 0x6407])),
        ("a group", address([0xff02, 0, 0, 0, 0, 0, 0, 1])),
        ("a link-local address", address([0xfe80, 0, 0, 0, 0, 0, 0, 1])),
        ("the receiver itself", a.address6()),
        ("its neighbour", b.address6()),
        ("another network", c.address6()),
        ("a near node's container", NEAR6),
        ("a far node's container", FAR6),
        ("the node", NODE6),
    ];
    let dropped = |frame| unchanged(At::FromUplink, frame, Fate::Dropped(Drop::Martian));
    let bodies = [Body::Tcp(CLIENT, 8080, SYN, vec![]), Body::Udp(CLIENT, 5353, vec![1])];
    let all4 = sources.into_iter().map(|(who, source)| {
        let steps = bodies.iter().map(|body| dropped(come(source, body))).collect();
        case(format!("a published port, from {who}"), steps)
    });
    let all6 = sources6.into_iter().map(|(who, source)| {
        let steps = bodies.iter().map(|body| dropped(come6(source, body))).collect();
        case(format!("IPv6: a published port, from {who}"), steps)
    });
    all4.chain(all6).collect()
}

/// From a node's container that comes with its own address, as its network is not masqueraded; and what it is answered.
fn routed(world: &World) -> Vec<Case> {
    let a = world.a;
    let (question, asked) = (Body::Tcp(CLIENT, 8080, SYN, vec![]), Body::Tcp(CLIENT, 80, SYN, vec![]));
    let (reply, answer) =
        (Body::Tcp(80, CLIENT, SYN | ACK, vec![]), Body::Tcp(8080, CLIENT, SYN | ACK, vec![]));
    let from = Ip::new(ROUTED, NODE);
    let back = Ip::new(a.address, ROUTED);
    let from6 = Ip6::new(ROUTED6, NODE6);
    vec![
        case(
            "a published port, from a routed network of another node",
            vec![
                Step {
                    at: At::FromUplink,
                    frame: come(ROUTED, &question),
                    fate: Fate::Goes(To::Peer, Way::Published),
                    after: frame(a.mac, a.host_mac, &Ip { destination: a.address, ttl: 63, ..from }, &asked),
                    free: &[],
                },
                Step {
                    at: At::FromContainer(a.ifindex),
                    frame: frame(a.host_mac, a.mac, &back, &reply),
                    fate: Fate::Goes(To::Neighbour, Way::Masquerade),
                    after: frame(a.host_mac, a.mac, &Ip { source: NODE, ttl: 63, ..back }, &answer),
                    free: &[],
                },
            ],
        ),
        case(
            "IPv6: a published port, from a routed network of another node",
            vec![Step {
                at: At::FromUplink,
                frame: come6(ROUTED6, &question),
                fate: Fate::Goes(To::Peer, Way::Reply),
                after: frame6(
                    a.mac,
                    a.host_mac,
                    &Ip6 { destination: a.address6(), hops: 63, ..from6 },
                    &asked,
                ),
                free: &[],
            }],
        ),
    ]
}

/// In frames that are not for the node's own MAC address.
fn foreign(world: &World) -> Vec<Case> {
    let a = world.a;
    let macs: [(&str, MacBytes); 3] = [
        ("another's MAC", [2, 0, 0, 0, 0, 0x99]),
        ("all on the link", [0xff; 6]),
        ("a group on the link", [1, 0, 0x5e, 0, 0, 1]),
    ];
    let router = UPLINK_MACS.1;
    let data = || b"data".to_vec();
    let all = macs.into_iter().map(|(who, mac)| {
        let pass = |frame| unchanged(At::FromUplink, frame, Fate::Passes);
        let ip = Ip::new(SERVER, NODE);
        let ip6 = Ip6::new(SERVER6, NODE6);
        let syn = Body::Tcp(CLIENT, 8080, SYN, vec![]);
        let question = Body::Udp(CLIENT, 5353, data());
        let near = Ip::new(NEAR, a.address);
        case(
            format!("to {who}"),
            vec![
                pass(frame(mac, router, &ip, &syn)),
                pass(frame(mac, router, &ip, &question)),
                pass(frame6(mac, router, &ip6, &syn)),
                pass(frame6(mac, router, &ip6, &question)),
                pass(frame(mac, router, &near, &Body::Udp(1, 2, data()))),
                pass(frame(mac, router, &Ip::new(FAR_NODE, NODE), &Body::Udp(50_000, 4789, vec![8; 80]))),
                // An answer, too: who asked does not hear it.
                out(a, &Body::Udp(50_000, 53, data())),
                pass(frame(mac, router, &ip, &Body::Udp(53, 50_000, data()))),
            ],
        )
    });
    all.collect()
}

/// A packet of a container's to the server, whose port is kept.
fn out(from: Member, body: &Body) -> Step {
    let ip = Ip::new(from.address, SERVER);
    Step {
        at: At::FromContainer(from.ifindex),
        frame: frame(from.host_mac, from.mac, &ip, body),
        fate: Fate::Goes(To::Neighbour, Way::Masquerade),
        after: frame(from.host_mac, from.mac, &Ip { source: NODE, ttl: 63, ..ip }, body),
        free: &[],
    }
}

/// Packets that end before their transport header does: what follows them in the frame is padding, whatever it looks like.
fn cut(world: &World) -> Vec<Case> {
    let a = world.a;
    // The length that the header says, bytes from the network header on; and more fragments follow.
    let cut4 = |mut frame: Vec<u8>, length: u8| {
        frame[16..18].copy_from_slice(&[0, length]);
        frame[24..26].fill(0);
        let sum = super::build::internet_checksum(&[&frame[14..34]]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    let cut6 = |mut frame: Vec<u8>, length: u8| {
        frame[18..20].copy_from_slice(&[0, length]);
        frame
    };
    let udp = |port| Body::Udp(CLIENT, port, vec![1; 32]);
    let sent = |fragment, body: &Body| {
        frame(a.host_mac, a.mac, &Ip { fragment, ..Ip::new(a.address, SERVER) }, body)
    };
    let sent6 = |body: &Body| frame6(a.host_mac, a.mac, &Ip6::new(a.address6(), SERVER6), body);
    let drop = |frame, reason| unchanged(At::FromContainer(a.ifindex), frame, Fate::Dropped(reason));
    let pass = |frame| unchanged(At::FromUplink, frame, Fate::Passes);
    let ping = Body::Icmp(8, 0, 50_000, vec![1; 32]);
    // It quotes a packet to the container; but not within its own end.
    let quoted = super::build::ipv4_of(&Ip::new(SERVER, a.address), &udp(7));
    let error = super::build::icmp_error((3, 3, 0), &quoted);
    vec![
        case(
            "cut in the transport header, and padded",
            vec![
                drop(cut4(sent(0, &udp(53)), 24), Drop::Malformed),
                drop(cut4(sent(0, &udp(53)), 20), Drop::Malformed),
                drop(cut4(sent(0, &ping), 22), Drop::Malformed),
                drop(cut4(sent(0, &ping), 27), Drop::Malformed),
                drop(cut4(sent(0x2000, &udp(53)), 20), Drop::FragmentTiny),
                drop(cut4(sent(0, &error), 24), Drop::Malformed),
                drop(cut6(sent6(&udp(53)), 4), Drop::Malformed),
                drop(cut6(sent6(&Body::Icmp(128, 0, 50_000, vec![1; 32])), 4), Drop::Malformed),
            ],
        ),
        case(
            "to a published port, cut in the transport header, and padded",
            vec![
                pass(cut4(come(SERVER, &udp(5353)), 24)),
                pass(cut4(come(SERVER, &udp(5353)), 27)),
                pass(cut6(come6(SERVER6, &udp(5353)), 4)),
            ],
        ),
    ]
}
