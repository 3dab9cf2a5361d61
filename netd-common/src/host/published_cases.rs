//! The table of [`super::cases`]: published ports, from outside and from other containers.

use super::{
    build::{Body, Ip, ethernet, fragments, frame, ipv4_of},
    cases::{At, Case, Fate, Member, NODE, OTHER, QUOTA, SERVER, Step, UPLINK_MACS, World, case, unchanged},
};
use crate::{
    Drop, To, Way,
    wire::tcp::{ACK, FIN, RST, SYN},
};

/// A client's port outside.
const CLIENT: u16 = 40_000;
/// A container's, within the range, so that it is kept.
const KEPT: u16 = 50_100;

pub(super) fn cases(world: &World) -> Vec<Case> {
    [from_outside(world), not_for_containers(world), routed(world), limits(world), hairpin(world)].concat()
}

/// A packet of a client's outside to an address of the host; it comes to a container's port.
fn inward(host: [u8; 4], to: Member, before: &Body, after: &Body, way: Way) -> Step {
    let (node, router) = UPLINK_MACS;
    let ip = Ip::new(SERVER, host);
    Step {
        at: At::FromUplink,
        frame: frame(node, router, &ip, before),
        fate: Fate::Goes(To::Peer, way),
        after: frame(to.mac, to.host_mac, &Ip { destination: to.address, ttl: 63, ..ip }, after),
        free: &[],
    }
}

/// What the container answers.
fn outward(host: [u8; 4], from: Member, before: &Body, after: &Body) -> Step {
    let ip = Ip::new(from.address, SERVER);
    Step {
        at: At::FromContainer(from.ifindex),
        frame: frame(from.host_mac, from.mac, &ip, before),
        fate: Fate::Goes(To::Neighbour, Way::Masquerade),
        after: frame(from.host_mac, from.mac, &Ip { source: host, ttl: 63, ..ip }, after),
        free: &[],
    }
}

/// What comes from outside and stays as it is.
fn outside(host: [u8; 4], body: &Body, fate: Fate) -> Step {
    let (node, router) = UPLINK_MACS;
    unchanged(At::FromUplink, frame(node, router, &Ip::new(SERVER, host), body), fate)
}

fn segment(source: u16, destination: u16, flags: u8) -> Body {
    let data = if flags & SYN == 0 { b"some data".to_vec() } else { vec![] };
    Body::Tcp(source, destination, flags, data)
}

fn there(host: [u8; 4], to: Member, ports: (u16, u16), flags: u8, way: Way) -> Step {
    inward(host, to, &segment(CLIENT, ports.0, flags), &segment(CLIENT, ports.1, flags), way)
}

fn back(host: [u8; 4], from: Member, ports: (u16, u16), flags: u8) -> Step {
    outward(host, from, &segment(ports.1, CLIENT, flags), &segment(ports.0, CLIENT, flags))
}

fn from_outside(world: &World) -> Vec<Case> {
    let (a, b) = (world.a, world.b);
    let web = (8080, 80);
    let data = b"a question".to_vec();
    let (question, answer) =
        (|port| Body::Udp(CLIENT, port, data.clone()), |port| Body::Udp(port, CLIENT, vec![9; 99]));
    let long: Vec<u8> = (0..200).collect();
    let whole = Ip { id: 501, ..Ip::new(SERVER, NODE) };
    let before = fragments(&ipv4_of(&whole, &Body::Udp(CLIENT, 5353, long.clone())), 64);
    let after = fragments(
        &ipv4_of(&Ip { destination: a.address, ttl: 63, ..whole }, &Body::Udp(CLIENT, 53, long)),
        64,
    );
    let (node, router) = UPLINK_MACS;
    let pieces = before.iter().zip(&after).enumerate().map(|(n, (before, after))| Step {
        at: At::FromUplink,
        frame: ethernet(node, router, 0x0800, before),
        fate: Fate::Goes(To::Peer, if n == 0 { Way::Published } else { Way::Reply }),
        after: ethernet(a.mac, a.host_mac, 0x0800, after),
        free: &[],
    });
    vec![
        case(
            "a connection to a published port",
            vec![
                there(NODE, a, web, SYN, Way::Published),
                back(NODE, a, web, SYN | ACK),
                there(NODE, a, web, ACK, Way::Reply),
                back(NODE, a, web, ACK),
                there(NODE, a, web, FIN | ACK, Way::Reply),
                back(NODE, a, web, FIN | ACK),
                there(NODE, a, web, ACK, Way::Reply),
                there(NODE, a, web, SYN, Way::Reply),
            ],
        ),
        case(
            "a connection that the container refuses, and another try",
            vec![
                there(NODE, a, web, SYN, Way::Published),
                back(NODE, a, web, RST | ACK),
                there(NODE, a, web, SYN, Way::Reply),
            ],
        ),
        case(
            "udp to a published port",
            vec![
                inward(NODE, a, &question(5353), &question(53), Way::Published),
                outward(NODE, a, &answer(53), &answer(5353)),
                inward(NODE, a, &question(5353), &question(53), Way::Reply),
            ],
        ),
        case("udp in fragments to a published port", pieces.collect()),
        case(
            "to another address of the host",
            vec![
                there(OTHER, a, web, SYN, Way::Published),
                back(OTHER, a, web, SYN | ACK),
                there(OTHER, a, web, ACK, Way::Reply),
            ],
        ),
        case(
            "one address counts before any",
            vec![
                there(NODE, b, (9090, 90), SYN, Way::Published),
                there(OTHER, a, (9090, 91), SYN, Way::Published),
                back(NODE, b, (9090, 90), SYN | ACK),
                back(OTHER, a, (9090, 91), SYN | ACK),
            ],
        ),
    ]
}

fn not_for_containers(world: &World) -> Vec<Case> {
    let a = world.a;
    let pass = |body: &Body| outside(NODE, body, Fate::Passes);
    let (node, router) = UPLINK_MACS;
    let last_hop = Ip { ttl: 1, ..Ip::new(SERVER, NODE) };
    vec![
        case(
            "segments of no connection are the host's",
            [ACK, SYN | ACK, FIN | ACK, RST].map(|flags| pass(&segment(CLIENT, 8080, flags))).to_vec(),
        ),
        case("a port of the other protocol is the host's", vec![pass(&Body::Udp(CLIENT, 8080, vec![1]))]),
        case("a port that nobody has published is the host's", vec![pass(&segment(CLIENT, 8079, SYN))]),
        case(
            "to an address that is not the host's",
            vec![outside([192, 0, 2, 99], &segment(CLIENT, 8080, SYN), Fate::Passes)],
        ),
        case(
            "the last hop is not worth a flow",
            vec![unchanged(
                At::FromUplink,
                frame(node, router, &last_hop, &segment(CLIENT, 8080, SYN)),
                Fate::Passes,
            )],
        ),
        case(
            "a container's segment of no connection to a published port is the host's",
            vec![unchanged(
                At::FromContainer(a.ifindex),
                frame(a.host_mac, a.mac, &Ip::new(a.address, NODE), &segment(KEPT, 8080, ACK)),
                Fate::Goes(To::Stack, Way::ToHost),
            )],
        ),
    ]
}

/// A routed network: only answers to who came by a published port take the host's address.
fn routed(world: &World) -> Vec<Case> {
    let c = world.c;
    let web = (8088, 80);
    let as_it_is = |body: &Body, fragment| {
        let ip = Ip { fragment, ..Ip::new(c.address, SERVER) };
        Step {
            at: At::FromContainer(c.ifindex),
            frame: frame(c.host_mac, c.mac, &ip, body),
            fate: Fate::Goes(To::Neighbour, Way::Routed),
            after: frame(c.host_mac, c.mac, &Ip { ttl: 63, ..ip }, body),
            free: &[],
        }
    };
    vec![
        case(
            "a routed network's published port",
            vec![
                there(NODE, c, web, SYN, Way::Published),
                back(NODE, c, web, SYN | ACK),
                there(NODE, c, web, ACK, Way::Reply),
                as_it_is(&segment(80, CLIENT + 1, ACK), 0),
            ],
        ),
        case(
            "what cannot be translated leaves a routed network all the same",
            vec![
                as_it_is(&Body::Other(132, vec![0; 12]), 0),
                as_it_is(&Body::Icmp(13, 0, 0, vec![0; 12]), 0),
                as_it_is(&Body::Other(17, vec![5; 64]), 0x0010),
            ],
        ),
    ]
}

fn limits(world: &World) -> Vec<Case> {
    let a = world.a;
    let syn = |from| Body::Tcp(from, 8080, SYN, vec![]);
    let come = |from| inward(NODE, a, &syn(from), &Body::Tcp(from, 80, SYN, vec![]), Way::Published);
    let quota = QUOTA as u16;
    let mut many: Vec<Step> = (1..=quota).map(come).collect();
    many.push(outside(NODE, &syn(quota + 1), Fate::Dropped(Drop::FlowQuota)));
    vec![
        case("more connections than an endpoint may have", many),
        case(
            "one client's port to two of the host's that are one of the container's",
            vec![
                there(NODE, a, (8080, 80), SYN, Way::Published),
                outside(NODE, &segment(CLIENT, 8081, SYN), Fate::Dropped(Drop::PublishedClash)),
                there(NODE, a, (8080, 80), ACK, Way::Reply),
            ],
        ),
        case(
            "an answer whose time is up",
            vec![
                there(NODE, a, (8080, 80), SYN, Way::Published),
                unchanged(
                    At::FromUplink,
                    frame(
                        UPLINK_MACS.0,
                        UPLINK_MACS.1,
                        &Ip { ttl: 1, ..Ip::new(SERVER, NODE) },
                        &segment(CLIENT, 8080, ACK),
                    ),
                    Fate::Dropped(Drop::TtlExpired),
                ),
            ],
        ),
    ]
}

/// A packet from one container to another by an address of the host.
fn across(host: [u8; 4], (from, to): (Member, Member), before: &Body, after: &Body) -> Step {
    Step {
        at: At::FromContainer(from.ifindex),
        frame: frame(from.host_mac, from.mac, &Ip::new(from.address, host), before),
        fate: Fate::Goes(To::Peer, Way::Hairpin),
        after: frame(
            to.mac,
            to.host_mac,
            &Ip { source: host, destination: to.address, ttl: 63, ..Ip::new(from.address, host) },
            after,
        ),
        free: &[],
    }
}

fn hairpin(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let conversation = |host, client: Member, server: Member, (host_port, port): (u16, u16)| {
        let ask = |flags| {
            across(host, (client, server), &segment(KEPT, host_port, flags), &segment(KEPT, port, flags))
        };
        let answer = |flags| {
            across(host, (server, client), &segment(port, KEPT, flags), &segment(host_port, KEPT, flags))
        };
        vec![
            ask(SYN),
            answer(SYN | ACK),
            ask(ACK),
            answer(ACK),
            ask(FIN | ACK),
            answer(FIN | ACK),
            ask(ACK),
            ask(SYN),
        ]
    };
    let udp = |source, destination| Body::Udp(source, destination, b"datagram".to_vec());
    let long: Vec<u8> = (0..200).collect();
    let pieces = |id, (from, to): (Member, Member), before: Body, after: Body| {
        let ip = Ip { id, ..Ip::new(from.address, NODE) };
        let before = fragments(&ipv4_of(&ip, &before), 64);
        let ip = Ip { source: NODE, destination: to.address, ttl: 63, ..ip };
        let after = fragments(&ipv4_of(&ip, &after), 64);
        let step = |(before, after): (&Vec<u8>, &Vec<u8>)| Step {
            at: At::FromContainer(from.ifindex),
            frame: ethernet(from.host_mac, from.mac, 0x0800, before),
            fate: Fate::Goes(To::Peer, Way::Hairpin),
            after: ethernet(to.mac, to.host_mac, 0x0800, after),
            // Identification and header checksum.
            free: &[18..20, 24..26],
        };
        before.iter().zip(&after).map(step).collect::<Vec<_>>()
    };
    let datagram = |source, destination| Body::Udp(source, destination, long.clone());
    let ask =
        |host_port, flags| across(NODE, (b, a), &segment(KEPT, host_port, flags), &segment(KEPT, 80, flags));
    vec![
        case("from a neighbour by the node's address", conversation(NODE, b, a, (8080, 80))),
        case("from a neighbour by the gateway's", conversation(b.network.gateway, b, a, (8080, 80))),
        case("from a neighbour by another address of the host", conversation(OTHER, b, a, (8080, 80))),
        case("from another network", conversation(NODE, c, a, (8080, 80))),
        case("to a routed network", conversation(NODE, a, c, (8088, 80))),
        case("to itself", conversation(NODE, a, a, (8080, 80))),
        case("to itself by the gateway's address", conversation(a.network.gateway, a, a, (8080, 80))),
        case(
            "udp from a neighbour",
            vec![
                across(NODE, (b, a), &udp(KEPT, 5353), &udp(KEPT, 53)),
                across(NODE, (a, b), &udp(53, KEPT), &udp(5353, KEPT)),
                across(NODE, (b, a), &udp(KEPT, 5353), &udp(KEPT, 53)),
            ],
        ),
        case(
            "udp from a neighbour in fragments, and the answer",
            [
                pieces(601, (b, a), datagram(KEPT, 5353), datagram(KEPT, 53)),
                pieces(602, (a, b), datagram(53, KEPT), datagram(5353, KEPT)),
            ]
            .concat(),
        ),
        case(
            "one port of a neighbour's to two of the host's that are one of the container's",
            vec![
                ask(8080, SYN),
                // By another port of the range: source port and checksum.
                Step { free: &[34..36, 50..52], ..ask(8081, SYN) },
                ask(8080, ACK),
                Step { free: &[34..36, 50..52], ..ask(8081, ACK) },
            ],
        ),
        case(
            "to a port of the range that stands for nobody",
            vec![unchanged(
                At::FromContainer(b.ifindex),
                frame(b.host_mac, b.mac, &Ip::new(b.address, NODE), &udp(KEPT, KEPT)),
                Fate::Goes(To::Stack, Way::ToHost),
            )],
        ),
    ]
}
