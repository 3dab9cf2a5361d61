//! The table of [`super::cases`]: published ports over IPv6.
//!
//! The first packet of a flow from outside is looked at anew once the flow is made, and so counted as a reply.

#![expect(clippy::single_range_in_vec_init, reason = "what may differ is one range of bytes")]

use super::{
    build::{Body, Ip6, ethernet, fragments6, frame6, ipv6_of},
    cases::{At, Case, Fate, Member, QUOTA, Step, UPLINK_MACS, World, case, unchanged},
    ipv6::{NODE6, OTHER6, SERVER6, address},
    ipv6_cases::KEPT,
};
use crate::{
    Drop, To, Way,
    wire::tcp::{ACK, FIN, RST, SYN},
};

/// A client's port outside.
const CLIENT: u16 = 40_000;

type Address = [u8; 16];

pub(super) fn cases(world: &World) -> Vec<Case> {
    [from_outside(world), not_for_containers(world), routed(world), limits(world), hairpin(world)].concat()
}

fn segment(source: u16, destination: u16, flags: u8) -> Body {
    let data = if flags & SYN == 0 { b"some data".to_vec() } else { vec![] };
    Body::Tcp(source, destination, flags, data)
}

/// A packet of a client's outside to an address of the host; it comes to a container's port.
fn inward(host: Address, to: Member, before: &Body, after: &Body) -> Step {
    let (node, router) = UPLINK_MACS;
    let ip = Ip6::new(SERVER6, host);
    let delivered = Ip6 { destination: to.address6(), hops: 63, ..ip.clone() };
    Step {
        at: At::FromUplink,
        frame: frame6(node, router, &ip, before),
        fate: Fate::Goes(To::Peer, Way::Reply),
        after: frame6(to.mac, to.host_mac, &delivered, after),
        free: &[],
    }
}

/// What the container answers.
fn outward(host: Address, from: Member, before: &Body, after: &Body) -> Step {
    let ip = Ip6::new(from.address6(), SERVER6);
    let sent = Ip6 { source: host, hops: 63, ..ip.clone() };
    Step {
        at: At::FromContainer(from.ifindex),
        frame: frame6(from.host_mac, from.mac, &ip, before),
        fate: Fate::Goes(To::Neighbour, Way::Masquerade),
        after: frame6(from.host_mac, from.mac, &sent, after),
        free: &[],
    }
}

/// What comes from outside and stays as it is.
fn outside(ip: &Ip6, body: &Body, fate: Fate) -> Step {
    let (node, router) = UPLINK_MACS;
    unchanged(At::FromUplink, frame6(node, router, ip, body), fate)
}

fn there(host: Address, to: Member, ports: (u16, u16), flags: u8) -> Step {
    inward(host, to, &segment(CLIENT, ports.0, flags), &segment(CLIENT, ports.1, flags))
}

fn back(host: Address, from: Member, ports: (u16, u16), flags: u8) -> Step {
    outward(host, from, &segment(ports.1, CLIENT, flags), &segment(ports.0, CLIENT, flags))
}

fn from_outside(world: &World) -> Vec<Case> {
    let (a, b) = (world.a, world.b);
    let web = (8080, 80);
    let data = b"a question".to_vec();
    let question = |port| Body::Udp(CLIENT, port, data.clone());
    let answer = |port| Body::Udp(port, CLIENT, vec![9; 99]);
    let long: Vec<u8> = (0..200).collect();
    let whole = Ip6::new(SERVER6, NODE6);
    let before = fragments6(&ipv6_of(&whole, &Body::Udp(CLIENT, 5353, long.clone())), 501, 64);
    let delivered = Ip6 { destination: a.address6(), hops: 63, ..whole };
    let after = fragments6(&ipv6_of(&delivered, &Body::Udp(CLIENT, 53, long)), 501, 64);
    let (node, router) = UPLINK_MACS;
    let pieces = before.iter().zip(&after).map(|(before, after)| Step {
        at: At::FromUplink,
        frame: ethernet(node, router, 0x86dd, before),
        fate: Fate::Goes(To::Peer, Way::Reply),
        after: ethernet(a.mac, a.host_mac, 0x86dd, after),
        free: &[],
    });
    vec![
        case(
            "IPv6: a connection to a published port",
            vec![
                there(NODE6, a, web, SYN),
                back(NODE6, a, web, SYN | ACK),
                there(NODE6, a, web, ACK),
                back(NODE6, a, web, FIN | ACK),
                there(NODE6, a, web, FIN | ACK),
                back(NODE6, a, web, ACK),
                there(NODE6, a, web, SYN),
            ],
        ),
        case(
            "IPv6: a connection that the container refuses, and another try",
            vec![there(NODE6, a, web, SYN), back(NODE6, a, web, RST | ACK), there(NODE6, a, web, SYN)],
        ),
        case(
            "IPv6: udp to a published port",
            vec![
                inward(NODE6, a, &question(5353), &question(53)),
                outward(NODE6, a, &answer(53), &answer(5353)),
                inward(NODE6, a, &question(5353), &question(53)),
            ],
        ),
        case("IPv6: udp in fragments to a published port", pieces.collect()),
        case(
            "IPv6: to another address of the host",
            vec![there(OTHER6, a, web, SYN), back(OTHER6, a, web, SYN | ACK), there(OTHER6, a, web, ACK)],
        ),
        case(
            "IPv6: one address counts before any",
            vec![
                there(NODE6, b, (9090, 90), SYN),
                there(OTHER6, a, (9090, 91), SYN),
                back(NODE6, b, (9090, 90), SYN | ACK),
                back(OTHER6, a, (9090, 91), SYN | ACK),
            ],
        ),
    ]
}

fn not_for_containers(world: &World) -> Vec<Case> {
    const LOOPBACK: Address = address([0, 0, 0, 0, 0, 0, 0, 1]);
    const NOBODYS: Address = address([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99]);
    let a = world.a;
    let to = |host| Ip6::new(SERVER6, host);
    let pass = |ip: &Ip6, body: &Body| outside(ip, body, Fate::Passes);
    let syn = segment(CLIENT, 8080, SYN);
    vec![
        case(
            "IPv6: segments of no connection are the host's",
            [ACK, SYN | ACK, FIN | ACK, RST]
                .map(|flags| pass(&to(NODE6), &segment(CLIENT, 8080, flags)))
                .to_vec(),
        ),
        case(
            "IPv6: what is not published there is the host's",
            vec![
                pass(&to(NODE6), &Body::Udp(CLIENT, 8080, vec![1])),
                pass(&to(NODE6), &segment(CLIENT, 8079, SYN)),
                pass(&to(OTHER6), &segment(CLIENT, 6060, SYN)),
            ],
        ),
        case(
            "IPv6: to addresses that are not the host's, or its own alone",
            vec![pass(&to(NOBODYS), &syn), pass(&to(LOOPBACK), &syn)],
        ),
        case("IPv6: the last hop is not worth a flow", vec![pass(&Ip6 { hops: 1, ..to(NODE6) }, &syn)]),
        case(
            "IPv6: a container's segment of no connection to a published port is the host's",
            vec![unchanged(
                At::FromContainer(a.ifindex),
                frame6(a.host_mac, a.mac, &Ip6::new(a.address6(), NODE6), &segment(KEPT, 8080, ACK)),
                Fate::Goes(To::Stack, Way::ToHost),
            )],
        ),
    ]
}

/// A routed network: only answers to who came by a published port take the host's address.
fn routed(world: &World) -> Vec<Case> {
    let c = world.c;
    let web = (8088, 80);
    let as_it_is = |body: &Body| {
        let ip = Ip6::new(c.address6(), SERVER6);
        Step {
            at: At::FromContainer(c.ifindex),
            frame: frame6(c.host_mac, c.mac, &ip, body),
            fate: Fate::Goes(To::Neighbour, Way::Routed),
            after: frame6(c.host_mac, c.mac, &Ip6 { hops: 63, ..ip }, body),
            free: &[],
        }
    };
    vec![case(
        "IPv6: a routed network's published port",
        vec![
            there(NODE6, c, web, SYN),
            back(NODE6, c, web, SYN | ACK),
            there(NODE6, c, web, ACK),
            as_it_is(&segment(80, CLIENT + 1, ACK)),
            as_it_is(&Body::Other(132, vec![0; 12])),
        ],
    )]
}

fn limits(world: &World) -> Vec<Case> {
    let a = world.a;
    let ip = Ip6::new(SERVER6, NODE6);
    let syn = |from| Body::Tcp(from, 8080, SYN, vec![]);
    let quota = QUOTA as u16;
    let come = |from| inward(NODE6, a, &syn(from), &Body::Tcp(from, 80, SYN, vec![]));
    let mut many: Vec<Step> = (1..=quota).map(come).collect();
    many.push(outside(&ip, &syn(quota + 1), Fate::Dropped(Drop::FlowQuota)));
    vec![
        case("IPv6: more connections than an endpoint may have", many),
        case(
            "IPv6: one client's port to two of the host's that are one of the container's",
            vec![
                there(NODE6, a, (8080, 80), SYN),
                outside(&ip, &segment(CLIENT, 8081, SYN), Fate::Dropped(Drop::PublishedClash)),
                there(NODE6, a, (8080, 80), ACK),
            ],
        ),
        case(
            "IPv6: an answer whose time is up",
            vec![
                there(NODE6, a, (8080, 80), SYN),
                outside(&Ip6 { hops: 1, ..ip }, &segment(CLIENT, 8080, ACK), Fate::Dropped(Drop::TtlExpired)),
            ],
        ),
    ]
}

/// A packet from one container to another by an address of the host.
fn across(host: Address, (from, to): (Member, Member), before: &Body, after: &Body) -> Step {
    let ip = Ip6::new(from.address6(), host);
    let delivered = Ip6 { source: host, destination: to.address6(), hops: 63, ..ip.clone() };
    Step {
        at: At::FromContainer(from.ifindex),
        frame: frame6(from.host_mac, from.mac, &ip, before),
        fate: Fate::Goes(To::Peer, Way::Hairpin),
        after: frame6(to.mac, to.host_mac, &delivered, after),
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
        let ip = Ip6::new(from.address6(), NODE6);
        let before = fragments6(&ipv6_of(&ip, &before), id, 64);
        let delivered = Ip6 { source: NODE6, destination: to.address6(), hops: 63, ..ip };
        let after = fragments6(&ipv6_of(&delivered, &after), id, 64);
        let step = |(before, after): (&Vec<u8>, &Vec<u8>)| Step {
            at: At::FromContainer(from.ifindex),
            frame: ethernet(from.host_mac, from.mac, 0x86dd, before),
            fate: Fate::Goes(To::Peer, Way::Hairpin),
            after: ethernet(to.mac, to.host_mac, 0x86dd, after),
            // The identification.
            free: &[58..62],
        };
        before.iter().zip(&after).map(step).collect::<Vec<_>>()
    };
    let datagram = |source, destination| Body::Udp(source, destination, long.clone());
    let from_b = |body: &Body, fate| {
        let ip = Ip6::new(b.address6(), NODE6);
        unchanged(At::FromContainer(b.ifindex), frame6(b.host_mac, b.mac, &ip, body), fate)
    };
    let from_b_to = |host, body: &Body| {
        let frame = frame6(b.host_mac, b.mac, &Ip6::new(b.address6(), host), body);
        unchanged(At::FromContainer(b.ifindex), frame, Fate::Goes(To::Stack, Way::ToHost))
    };
    let ask =
        |host_port, flags| across(NODE6, (b, a), &segment(KEPT, host_port, flags), &segment(KEPT, 80, flags));
    vec![
        case("IPv6: from a neighbour by the node's address", conversation(NODE6, b, a, (8080, 80))),
        case("IPv6: from a neighbour by the gateway's", conversation(b.network.gateway6(), b, a, (8080, 80))),
        case("IPv6: from a neighbour by another address of the host", conversation(OTHER6, b, a, (8080, 80))),
        case("IPv6: from another network", conversation(NODE6, c, a, (8080, 80))),
        case("IPv6: to a routed network", conversation(NODE6, a, c, (8088, 80))),
        case("IPv6: to itself", conversation(NODE6, a, a, (8080, 80))),
        case(
            "IPv6: to itself by the gateway's address",
            conversation(a.network.gateway6(), a, a, (8080, 80)),
        ),
        case(
            "IPv6: udp from a neighbour",
            vec![
                across(NODE6, (b, a), &udp(KEPT, 5353), &udp(KEPT, 53)),
                across(NODE6, (a, b), &udp(53, KEPT), &udp(5353, KEPT)),
                across(NODE6, (b, a), &udp(KEPT, 5353), &udp(KEPT, 53)),
            ],
        ),
        case(
            "IPv6: udp from a neighbour in fragments, and the answer",
            [
                pieces(601, (b, a), datagram(KEPT, 5353), datagram(KEPT, 53)),
                pieces(602, (a, b), datagram(53, KEPT), datagram(5353, KEPT)),
            ]
            .concat(),
        ),
        case(
            "IPv6: one port of a neighbour's to two of the host's that are one of the container's",
            vec![
                ask(8080, SYN),
                // By another port of the range: source port and checksum.
                Step { free: &[54..56, 70..72], ..ask(8081, SYN) },
                ask(8080, ACK),
                Step { free: &[54..56, 70..72], ..ask(8081, ACK) },
            ],
        ),
        case(
            "IPv6: from a neighbour to a port that is published at another address, or for another protocol",
            vec![
                from_b_to(OTHER6, &segment(KEPT, 6060, SYN)),
                from_b_to(b.network.gateway6(), &segment(KEPT, 6060, SYN)),
                from_b_to(OTHER6, &udp(KEPT, 8080)),
            ],
        ),
        case(
            "IPv6: to a port of the range that stands for nobody",
            vec![from_b(&udp(KEPT, KEPT), Fate::Goes(To::Stack, Way::ToHost))],
        ),
    ]
}
