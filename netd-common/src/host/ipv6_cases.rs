//! The table of [`super::cases`] for IPv6: forwarding, neighbour discovery, translation, errors, fragments.

#![expect(clippy::single_range_in_vec_init, reason = "what may differ is one range of bytes")]

use super::{
    build::{Body, Ip6, ethernet, fragments6, frame6, ipv6_of},
    cases::{At, Case, Fate, MTU, Member, QUOTA, Step, UPLINK_MACS, World, case, unchanged},
    ipv6::{NODE6, SERVER6, address},
};
use crate::{Drop, To, Way, wire::tcp};

/// Within the range, so that the port is kept.
pub(super) const KEPT: u16 = 50_000;
/// A router on the way to the server.
const ROUTER6: [u8; 16] = address([0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x77]);
const ALL_NODES: [u8; 16] = address([0xff02, 0, 0, 0, 0, 0, 0, 1]);
const NOBODY: [u8; 16] = [0; 16];

/// Kinds of errors: type, code, second word.
const PORT: (u8, u8, u32) = (1, 4, 0);
const TOO_BIG: (u8, u8, u32) = (2, 0, 1400);
pub(super) const TIME: (u8, u8, u32) = (3, 0, 0);
const PARAMETER: (u8, u8, u32) = (4, 1, 40);
const PROHIBITED: (u8, u8, u32) = (1, 1, 0);
const NO_ROUTE: (u8, u8, u32) = (1, 0, 0);

pub(super) fn cases(world: &World) -> Vec<Case> {
    [
        forwarding(world),
        discovery(world),
        headers(world),
        refusals(world),
        translation(world),
        told(world),
        errors(world),
        own_errors(world),
        fragments(world),
        limits(world),
    ]
    .concat()
}

/// A packet of a member's as it leaves its container.
fn sent(from: Member, ip: &Ip6, body: &Body) -> Vec<u8> {
    frame6(from.host_mac, from.mac, ip, body)
}

fn from(member: Member) -> At {
    At::FromContainer(member.ifindex)
}

/// A member's packet that goes to a neighbour.
fn local(world: &World, ip: &Ip6, body: &Body) -> Step {
    let (a, b) = (world.a, world.b);
    let after = frame6(b.mac, b.host_mac, ip, body);
    Step { at: from(a), frame: sent(a, ip, body), fate: Fate::Goes(To::Peer, Way::Local), after, free: &[] }
}

/// A packet of `a`'s that leaves through the masquerade.
fn out(world: &World, ip: &Ip6, body: &Body) -> Step {
    let a = world.a;
    let after = sent(a, &Ip6 { source: NODE6, hops: ip.hops - 1, ..ip.clone() }, body);
    let fate = Fate::Goes(To::Neighbour, Way::Masquerade);
    Step { at: from(a), frame: sent(a, ip, body), fate, after, free: &[] }
}

/// An answer to `a`.
fn back(world: &World, ip: &Ip6, body: &Body) -> Step {
    let (a, (node, router)) = (world.a, UPLINK_MACS);
    let after_ip = Ip6 { destination: a.address6(), hops: ip.hops - 1, ..ip.clone() };
    Step {
        at: At::FromUplink,
        frame: frame6(node, router, ip, body),
        fate: Fate::Goes(To::Peer, Way::Reply),
        after: frame6(a.mac, a.host_mac, &after_ip, body),
        free: &[],
    }
}

fn pass(ip: &Ip6, body: &Body) -> Step {
    let (node, router) = UPLINK_MACS;
    unchanged(At::FromUplink, frame6(node, router, ip, body), Fate::Passes)
}

/// A packet that its sender gets an error about, from its gateway.
pub(super) fn answered(from_: Member, frame: Vec<u8>, (kind, code, word): (u8, u8, u32), fate: Fate) -> Step {
    let ip = Ip6::new(from_.network.gateway6(), from_.address6());
    let error = Body::Icmp6(kind, code, word, frame[14..62].to_vec());
    let after = frame6(from_.mac, from_.host_mac, &ip, &error);
    Step { at: from(from_), frame, fate, after, free: &[] }
}

fn forwarding(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let udp = Body::Udp(1000, 2000, b"hello".to_vec());
    let to_b = Ip6::new(a.address6(), b.address6());
    let host = |member: Member, destination| {
        let ip = Ip6::new(member.address6(), destination);
        unchanged(from(member), sent(member, &ip, &udp), Fate::Goes(To::Stack, Way::ToHost))
    };
    let routed = Ip6::new(c.address6(), SERVER6);
    let local = |ip: &Ip6, body: &Body| local(world, ip, body);
    vec![
        case("IPv6: udp to a neighbour", vec![local(&to_b, &udp)]),
        case("IPv6: tcp to a neighbour", vec![local(&to_b, &Body::Tcp(1, 2, tcp::SYN, vec![]))]),
        case("IPv6: ping to a neighbour", vec![local(&to_b, &Body::Icmp(128, 0, 9, vec![1, 2, 3]))]),
        case("IPv6: sctp to a neighbour", vec![local(&to_b, &Body::Other(132, vec![0; 12]))]),
        case("IPv6: nothing to a neighbour", vec![local(&to_b, &Body::Other(59, vec![]))]),
        case("IPv6: the last hop counts nothing down", vec![local(&Ip6 { hops: 1, ..to_b.clone() }, &udp)]),
        case("IPv6: to the gateway", vec![host(a, a.network.gateway6())]),
        case("IPv6: to the node's address", vec![host(a, NODE6), host(c, NODE6)]),
        case(
            "IPv6: a routed network to the world",
            vec![Step {
                at: from(c),
                frame: sent(c, &routed, &udp),
                fate: Fate::Goes(To::Neighbour, Way::Routed),
                after: sent(c, &Ip6 { hops: 63, ..routed.clone() }, &udp),
                free: &[],
            }],
        ),
        case(
            "IPv6: the host to a container",
            vec![unchanged(
                At::ToContainer(a.ifindex, 0),
                frame6(a.mac, a.host_mac, &Ip6::new(NODE6, a.address6()), &udp),
                Fate::Goes(To::Stack, Way::FromHost),
            )],
        ),
        case(
            "IPv6: forwarded by the host",
            vec![
                unchanged(
                    At::ToContainer(c.ifindex, world.uplink),
                    frame6(c.mac, c.host_mac, &Ip6::new(SERVER6, c.address6()), &udp),
                    Fate::Goes(To::Stack, Way::FromHost),
                ),
                unchanged(
                    At::ToContainer(a.ifindex, world.uplink),
                    frame6(a.mac, a.host_mac, &Ip6::new(SERVER6, a.address6()), &udp),
                    Fate::Dropped(Drop::Unsolicited),
                ),
            ],
        ),
    ]
}

/// A solicitation's message from the second word on, with a source link-layer address option or without.
fn question(target: [u8; 16], mac: Option<[u8; 6]>) -> Body {
    let option = mac.map_or_else(Vec::new, |mac| [&[1, 1][..], &mac].concat());
    Body::Icmp6(135, 0, 0, [&target[..], &option].concat())
}

fn solicited(target: [u8; 16]) -> [u8; 16] {
    let mut group = address([0xff02, 0, 0, 0, 0, 1, 0xff00, 0]);
    group[13..].copy_from_slice(&target[13..]);
    group
}

fn discovery(world: &World) -> Vec<Case> {
    let (a, b) = (world.a, world.b);
    let at = from(a);
    let ip = |source, destination| Ip6 { hops: 255, ..Ip6::new(source, destination) };
    let asks = |source, destination, body: &Body| sent(a, &ip(source, destination), body);
    let answers = |frame: Vec<u8>, asker: [u8; 16], target: [u8; 16], flags: u32| {
        let option = [&[2, 1][..], &a.host_mac].concat();
        let body = Body::Icmp6(136, 0, flags, [&target[..], &option].concat());
        let after = frame6(a.mac, a.host_mac, &ip(target, asker), &body);
        Step { at, frame, fate: Fate::Goes(To::Link, Way::Ndp), after, free: &[] }
    };
    let asked = |source, target, flags| {
        answers(asks(source, solicited(target), &question(target, Some(a.mac))), source, target, flags)
    };
    const PLAIN: u32 = 0x6000_0000;
    const ROUTER: u32 = 0xe000_0000;
    let gateway = a.network.gateway6();
    let drop = |frame: Vec<u8>, reason| unchanged(at, frame, Fate::Dropped(reason));
    let own = a.address6();
    let target = b.address6();
    let with_nonce = Body::Icmp6(135, 0, 0, [&target[..], &[14, 1, 1, 2, 3, 4, 5, 6]].concat());
    let group =
        |message: Body, destination| drop(asks(a.link_local(), destination, &message), Drop::Multicast);
    let all_routers = address([0xff02, 0, 0, 0, 0, 0, 0, 2]);
    let report = [&[58u8, 0, 5, 2, 0, 0, 1, 0][..]];
    let mld = Ip6 {
        hops: 1,
        extensions: vec![(0, report[0].to_vec())],
        ..ip(NOBODY, address([0xff02, 0, 0, 0, 0, 0, 0, 0x16]))
    };
    let cut = asks(own, target, &Body::Icmp6(135, 0, 0, target[..8].to_vec()));
    vec![
        case(
            "neighbours",
            vec![
                asked(own, gateway, ROUTER),
                asked(own, target, PLAIN),
                asked(a.link_local(), target, PLAIN),
                asked(own, a.host_link_local(), ROUTER),
                asked(own, address([0xfd88, 0, 0, 0, 0, 0, 0, 0x1234]), PLAIN),
                // A probe whether it is still there, with a MAC or without.
                answers(asks(own, target, &question(target, Some(a.mac))), own, target, PLAIN),
                answers(asks(own, target, &question(target, None)), own, target, PLAIN),
            ],
        ),
        case(
            "a probe for another's address finds the conflict",
            vec![
                answers(asks(NOBODY, solicited(target), &with_nonce), ALL_NODES, target, 0x2000_0000),
                answers(
                    asks(NOBODY, solicited(target), &question(target, None)),
                    ALL_NODES,
                    target,
                    0x2000_0000,
                ),
            ],
        ),
        case(
            "questions that get no answer",
            vec![
                drop(asks(NOBODY, solicited(own), &question(own, None)), Drop::Ndp),
                drop(asks(own, solicited(own), &question(own, Some(a.mac))), Drop::Ndp),
                drop(asks(NOBODY, solicited(a.link_local()), &question(a.link_local(), None)), Drop::Ndp),
                drop(asks(own, solicited(SERVER6), &question(SERVER6, Some(a.mac))), Drop::Ndp),
                // Of nobody: to no solicited-node group (RFC 4861 section 7.1.1), and from a MAC.
                drop(asks(NOBODY, target, &question(target, None)), Drop::Malformed),
                drop(asks(NOBODY, ALL_NODES, &question(target, None)), Drop::Malformed),
                drop(asks(NOBODY, solicited(target), &question(target, Some(a.mac))), Drop::Malformed),
            ],
        ),
        case(
            "neighbour discovery that is no question",
            vec![
                drop(asks(a.link_local(), all_routers, &Body::Icmp6(133, 0, 0, vec![])), Drop::Ndp),
                drop(asks(a.link_local(), ALL_NODES, &Body::Icmp6(134, 0, 0, vec![0; 8])), Drop::Ndp),
                drop(asks(own, ALL_NODES, &Body::Icmp6(136, 0, 0, own.to_vec())), Drop::Ndp),
                drop(asks(own, target, &Body::Icmp6(136, 0, 0x6000_0000, own.to_vec())), Drop::Ndp),
                drop(asks(own, target, &Body::Icmp6(137, 0, 0, vec![0; 32])), Drop::Ndp),
            ],
        ),
        case(
            "spoofed neighbour discovery",
            vec![
                drop(asks(own, solicited(target), &question(target, Some(b.mac))), Drop::SpoofedNdp),
                drop(
                    asks(b.address6(), solicited(gateway), &question(gateway, Some(a.mac))),
                    Drop::SpoofedNdp,
                ),
            ],
        ),
        case(
            "malformed neighbour discovery",
            vec![
                drop(sent(a, &Ip6::new(own, target), &question(target, Some(a.mac))), Drop::Malformed),
                drop(cut, Drop::Malformed),
                // RFC 6980.
                drop(
                    sent(
                        a,
                        &Ip6 { extensions: vec![(44, vec![0, 0, 0, 0, 0, 0, 0, 1])], ..ip(own, target) },
                        &question(target, Some(a.mac)),
                    ),
                    Drop::Malformed,
                ),
            ],
        ),
        case(
            "what every host sends to groups",
            vec![
                drop(sent(a, &mld, &Body::Icmp6(143, 0, 1, vec![0; 20])), Drop::Multicast),
                group(Body::Udp(546, 547, vec![1; 20]), address([0xff02, 0, 0, 0, 0, 0, 1, 2])),
                drop(
                    asks(own, address([0xff02, 0, 0, 0, 0, 0, 0, 0xfb]), &Body::Udp(5353, 5353, vec![])),
                    Drop::Multicast,
                ),
            ],
        ),
    ]
}

/// Extension headers.
fn headers(world: &World) -> Vec<Case> {
    let (a, b) = (world.a, world.b);
    let udp = Body::Udp(KEPT, 53, b"hello".to_vec());
    let to_b = Ip6::new(a.address6(), b.address6());
    let options = |kind| (kind, vec![0, 0, 1, 4, 0, 0, 0, 0]);
    let long = (60, [&[0, 1, 1, 12][..], &[0; 12]].concat());
    // What is left of its way: nothing.
    let arrived = (43, vec![0, 0, 4, 0, 0, 0, 0, 0]);
    let with = |extensions: &[(u8, Vec<u8>)], ip: &Ip6| Ip6 { extensions: extensions.to_vec(), ..ip.clone() };
    let all = [options(0), options(60), arrived.clone(), (44, vec![0, 0, 0, 1, 0, 0, 0, 9]), long.clone()];
    let refused = |extensions: &[(u8, Vec<u8>)], reason| {
        unchanged(from(a), sent(a, &with(extensions, &to_b), &udp), Fate::Dropped(reason))
    };
    let out =
        |extensions: &[(u8, Vec<u8>)]| out(world, &with(extensions, &Ip6::new(a.address6(), SERVER6)), &udp);
    let answer = Ip6::new(SERVER6, NODE6);
    vec![
        case(
            "extension headers to a neighbour",
            vec![
                local(world, &with(&[options(0)], &to_b), &udp),
                local(world, &with(&all, &to_b), &udp),
                local(world, &to_b, &Body::Other(51, vec![17, 4, 0, 0, 0, 0, 0, 1])),
            ],
        ),
        case(
            "extension headers through the masquerade",
            vec![
                out(&[options(60)]),
                out(&[options(0), long.clone()]),
                // A fragment that is all of its packet (RFC 6946).
                out(&[(44, vec![0, 0, 0, 0, 0, 0, 0, 9])]),
                back(world, &with(std::slice::from_ref(&long), &answer), &Body::Udp(53, KEPT, vec![1])),
            ],
        ),
        case(
            "extension headers that make no sense",
            vec![
                refused(&[(43, vec![0, 0, 0, 1, 0, 0, 0, 0])], Drop::ExtensionHeader),
                refused(&[(43, vec![0, 0, 0, 0, 0, 0, 0, 0])], Drop::ExtensionHeader),
                refused(&[(43, vec![0, 0, 4, 1, 0, 0, 0, 0])], Drop::ExtensionHeader),
                refused(&[options(60), options(0)], Drop::ExtensionHeader),
                refused(&vec![options(60); 7], Drop::ExtensionHeader),
                refused(&[(44, vec![0, 0, 0, 1, 0, 0, 0, 9]), (44, vec![0; 8])], Drop::ExtensionHeader),
                refused(&[(60, vec![0, 200, 1, 4, 0, 0, 0, 0])], Drop::Malformed),
            ],
        ),
    ]
}

fn refusals(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let udp = Body::Udp(KEPT, 2000, b"hello".to_vec());
    let own = a.address6();
    let good = Ip6::new(own, b.address6());
    let drop = |frame: Vec<u8>, reason| unchanged(from(a), frame, Fate::Dropped(reason));
    let to = |destination| sent(a, &Ip6::new(own, destination), &udp);
    let patched = |offset: usize, value: u8| {
        let mut frame = sent(a, &good, &udp);
        frame[offset] = value;
        frame
    };
    let prohibited = |body: &Body| {
        let frame = sent(a, &Ip6::new(own, SERVER6), body);
        answered(a, frame, PROHIBITED, Fate::Answered(Drop::Protocol))
    };
    vec![
        case(
            "IPv6: malformed",
            vec![
                drop(patched(14, 0x45), Drop::Malformed),
                drop(patched(18, 1), Drop::Malformed),
                drop(sent(a, &Ip6::new(own, SERVER6), &Body::Other(6, vec![1; 12])), Drop::Malformed),
            ],
        ),
        case(
            "IPv6: spoofed",
            vec![
                drop(sent(a, &Ip6::new(b.address6(), SERVER6), &udp), Drop::SpoofedAddress),
                drop(sent(a, &Ip6::new(NODE6, SERVER6), &udp), Drop::SpoofedAddress),
                drop(sent(a, &Ip6::new(a.link_local(), b.address6()), &udp), Drop::SpoofedAddress),
                drop(sent(a, &Ip6::new(NOBODY, SERVER6), &udp), Drop::SpoofedAddress),
                drop(frame6(a.host_mac, b.mac, &good, &udp), Drop::SpoofedMac),
            ],
        ),
        case(
            "IPv6: nowhere",
            vec![
                drop(to(c.address6()), Drop::Isolated),
                drop(to(address([0xfd88, 0, 0, 0, 0, 0, 7, 7])), Drop::NoEndpoint),
                drop(to(own), Drop::Destination),
                drop(to(address([0, 0, 0, 0, 0, 0, 0, 1])), Drop::Destination),
                drop(to(address([0, 0, 0, 0, 0, 0xffff, 0x0a58, 3])), Drop::Destination),
                drop(to(b.link_local()), Drop::Destination),
                answered(
                    a,
                    to(address([0x2001, 0xdb8, 0xdead, 0, 0, 0, 0, 1])),
                    NO_ROUTE,
                    Fate::Answered(Drop::NoRoute),
                ),
            ],
        ),
        case(
            "IPv6: protocols that are not translated",
            vec![
                prohibited(&Body::Other(132, vec![0; 12])),
                prohibited(&Body::Other(50, vec![0; 12])),
                drop(sent(a, &Ip6::new(own, SERVER6), &Body::Icmp6(129, 0, 0, vec![0; 8])), Drop::Protocol),
            ]
            .into_iter()
            .take(2)
            .collect(),
        ),
    ]
}

fn translation(world: &World) -> Vec<Case> {
    let a = world.a;
    let (there, here) = (Ip6::new(a.address6(), SERVER6), Ip6::new(SERVER6, NODE6));
    let data = b"some data, of an odd length".to_vec();
    let tcp = |flags| Body::Tcp(KEPT, 443, flags, vec![]);
    let answer = |flags| Body::Tcp(443, KEPT, flags, vec![7; 31]);
    let udp = Body::Udp(KEPT, 53, data.clone());
    let udp_answer = Body::Udp(53, KEPT, data.clone());
    let out = |body: &Body| out(world, &there, body);
    let back = |body: &Body| back(world, &here, body);
    let (node, router) = UPLINK_MACS;
    vec![
        case("IPv6: udp and its answer", vec![out(&udp), back(&udp_answer), out(&udp)]),
        case(
            "IPv6: a tcp connection from SYN to the last ACK",
            vec![
                out(&tcp(tcp::SYN)),
                back(&answer(tcp::SYN | tcp::ACK)),
                out(&tcp(tcp::ACK)),
                back(&answer(tcp::ACK)),
                out(&tcp(tcp::FIN | tcp::ACK)),
                back(&answer(tcp::FIN | tcp::ACK)),
                out(&tcp(tcp::ACK)),
                out(&tcp(tcp::SYN)),
            ],
        ),
        case(
            "IPv6: ping and its answer",
            vec![out(&Body::Icmp(128, 0, KEPT, data.clone())), back(&Body::Icmp(129, 0, KEPT, data.clone()))],
        ),
        case(
            "IPv6: what is the host's",
            vec![
                pass(&here, &udp_answer),
                out(&udp),
                pass(&here, &Body::Udp(54, KEPT, data.clone())),
                pass(&here, &Body::Icmp(128, 0, KEPT, data.clone())),
                pass(&Ip6::new(SERVER6, address([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99])), &udp_answer),
                pass(&Ip6::new(SERVER6, ALL_NODES), &Body::Icmp6(134, 0, 0, vec![0; 8])),
                pass(
                    &Ip6 { extensions: vec![(60, vec![0, 200, 0, 0, 0, 0, 0, 0])], ..here.clone() },
                    &udp_answer,
                ),
            ],
        ),
        case(
            "IPv6: an answer whose time is up",
            vec![
                out(&udp),
                unchanged(
                    At::FromUplink,
                    frame6(node, router, &Ip6 { hops: 1, ..here.clone() }, &udp_answer),
                    Fate::Dropped(Drop::TtlExpired),
                ),
            ],
        ),
    ]
}

/// The first bytes of a packet from here to there, as routers see it after some hops.
fn quote(source: [u8; 16], destination: [u8; 16], body: &Body, length: usize) -> Vec<u8> {
    let mut packet = ipv6_of(&Ip6 { hops: 1, ..Ip6::new(source, destination) }, body);
    packet.truncate(length);
    packet
}

fn error((kind, code, word): (u8, u8, u32), quote: Vec<u8>) -> Body {
    Body::Icmp6(kind, code, word, quote)
}

/// Errors from the world.
fn told(world: &World) -> Vec<Case> {
    let a = world.a;
    let data = vec![5; 600];
    let here = Ip6::new(ROUTER6, NODE6);
    let (node, router) = UPLINK_MACS;
    let mut all = Vec::new();
    let udp = Body::Udp(KEPT, 53, data.clone());
    for (name, body) in [
        ("UDP", udp.clone()),
        ("TCP", Body::Tcp(KEPT, 443, tcp::SYN, data.clone())),
        ("ping", Body::Icmp(128, 0, KEPT, data)),
    ] {
        let there = Ip6::new(a.address6(), SERVER6);
        let mut steps = vec![out(world, &there, &body)];
        for kind in [PORT, TOO_BIG, TIME, PARAMETER] {
            for length in [48, 600] {
                let about = |source| error(kind, quote(source, SERVER6, &body, length));
                let ip = Ip6 { destination: a.address6(), hops: 63, ..here.clone() };
                steps.push(Step {
                    at: At::FromUplink,
                    frame: frame6(node, router, &here, &about(NODE6)),
                    fate: Fate::Goes(To::Peer, Way::Reply),
                    after: frame6(a.mac, a.host_mac, &ip, &about(a.address6())),
                    free: &[],
                });
            }
        }
        all.push(case(format!("IPv6: errors about {name}"), steps));
    }
    let about = |kind, source, body: &Body, length| error(kind, quote(source, SERVER6, body, length));
    all.push(case(
        "IPv6: errors that are the host's",
        vec![
            out(world, &Ip6::new(a.address6(), SERVER6), &udp),
            pass(&here, &about(PORT, NODE6, &Body::Udp(KEPT + 1, 53, vec![5; 8]), 48)),
            pass(&here, &about((100, 0, 0), NODE6, &udp, 48)),
            pass(&here, &about(PORT, ROUTER6, &udp, 48)),
            pass(&here, &about(PORT, NODE6, &udp, 47)),
            pass(&here, &about(PORT, NODE6, &udp, 0)),
            pass(&here, &about(PORT, NODE6, &Body::Other(132, vec![0; 12]), 48)),
        ],
    ));
    all
}

/// Errors that a container sends.
fn errors(world: &World) -> Vec<Case> {
    let (a, b) = (world.a, world.b);
    let data = vec![5; 40];
    let ip = Ip6::new(a.address6(), SERVER6);
    let mut all = Vec::new();
    for (name, sent_, answer) in [
        ("UDP", Body::Udp(KEPT, 53, data.clone()), Body::Udp(53, KEPT, data.clone())),
        ("TCP", Body::Tcp(KEPT, 443, tcp::SYN, vec![]), Body::Tcp(443, KEPT, tcp::ACK, data.clone())),
        ("ping", Body::Icmp(128, 0, KEPT, data.clone()), Body::Icmp(129, 0, KEPT, data.clone())),
    ] {
        let about = |destination| error(PORT, quote(SERVER6, destination, &answer, 548));
        let step = Step {
            at: from(a),
            frame: sent(a, &ip, &about(a.address6())),
            fate: Fate::Goes(To::Neighbour, Way::Masquerade),
            after: sent(a, &Ip6 { source: NODE6, hops: 63, ..ip.clone() }, &about(NODE6)),
            free: &[],
        };
        let unrelated =
            Step { fate: Fate::Dropped(Drop::UnrelatedError), after: step.frame.clone(), ..step.clone() };
        all.push(case(
            format!("IPv6: a container's error about {name}"),
            vec![unrelated, out(world, &ip, &sent_), step],
        ));
    }
    let answer = Body::Udp(53, KEPT, vec![5; 8]);
    let about = |source, destination| error(PORT, quote(source, destination, &answer, 48));
    let drop = |destination, body: &Body, reason| {
        let ip = Ip6::new(a.address6(), destination);
        unchanged(from(a), sent(a, &ip, body), Fate::Dropped(reason))
    };
    let honest = about(b.address6(), a.address6());
    all.push(case(
        "IPv6: forged errors",
        vec![
            drop(SERVER6, &about(SERVER6, b.address6()), Drop::SpoofedError),
            drop(b.address6(), &about(SERVER6, b.address6()), Drop::SpoofedError),
            drop(NODE6, &about(SERVER6, NODE6), Drop::SpoofedError),
            drop(ROUTER6, &about(SERVER6, a.address6()), Drop::UnrelatedError),
            drop(b.address6(), &error(PORT, vec![]), Drop::Malformed),
            local(world, &Ip6::new(a.address6(), b.address6()), &honest),
        ],
    ));
    all
}

/// Errors of netd's own.
fn own_errors(world: &World) -> Vec<Case> {
    let (a, c) = (world.a, world.c);
    let udp = Body::Udp(KEPT, 53, vec![5; 40]);
    let last = Ip6 { hops: 1, ..Ip6::new(a.address6(), SERVER6) };
    let expired = Fate::Answered(Drop::TtlExpired);
    let tell = |body: &Body| answered(a, sent(a, &last, body), TIME, expired);
    let silent = |frame: Vec<u8>| unchanged(from(a), frame, Fate::Dropped(Drop::TtlExpired));
    let mut to_many = sent(a, &last, &udp);
    to_many[0] = 0x33;
    let large = Body::Udp(KEPT, 53, vec![5; MTU as usize - 47]);
    let too_big = |member: Member| {
        let frame = sent(member, &Ip6::new(member.address6(), SERVER6), &large);
        answered(member, frame, (2, 0, MTU), Fate::Goes(To::Link, Way::TooBigSent))
    };
    vec![
        case(
            "IPv6: time up on the way to the world",
            vec![
                tell(&udp),
                tell(&Body::Tcp(KEPT, 443, tcp::SYN, vec![])),
                tell(&Body::Icmp(128, 0, KEPT, vec![1; 8])),
                out(world, &Ip6::new(a.address6(), SERVER6), &udp),
                tell(&udp),
                answered(c, sent(c, &Ip6 { source: c.address6(), ..last.clone() }, &udp), TIME, expired),
                silent(to_many),
                silent(sent(a, &Ip6 { extensions: vec![(60, vec![0; 8])], ..last.clone() }, &udp)),
            ],
        ),
        case(
            "IPv6: too big for the uplink",
            vec![
                out(
                    world,
                    &Ip6::new(a.address6(), SERVER6),
                    &Body::Udp(KEPT, 53, vec![5; MTU as usize - 48]),
                ),
                too_big(a),
                too_big(c),
            ],
        ),
    ]
}

fn fragments(world: &World) -> Vec<Case> {
    let a = world.a;
    let data: Vec<u8> = (0..200).collect();
    let bodies = [
        ("UDP", Body::Udp(KEPT, 53, data.clone()), Body::Udp(53, KEPT, data.clone())),
        ("TCP", Body::Tcp(KEPT, 443, tcp::SYN, data.clone()), Body::Tcp(443, KEPT, tcp::ACK, data.clone())),
        ("ping", Body::Icmp(128, 0, KEPT, data.clone()), Body::Icmp(129, 0, KEPT, data)),
    ];
    let there = Ip6::new(a.address6(), SERVER6);
    let here = Ip6::new(SERVER6, NODE6);
    let pieces = |ip: &Ip6, body: &Body, id| fragments6(&ipv6_of(ip, body), id, 64);
    let outward = |body: &Body, id| -> Vec<Step> {
        let after = pieces(&Ip6 { source: NODE6, hops: 63, ..there.clone() }, body, id);
        let wrap = |bytes: &Vec<u8>| ethernet(a.host_mac, a.mac, 0x86dd, bytes);
        let step = |(before, after): (&Vec<u8>, &Vec<u8>)| Step {
            at: from(a),
            frame: wrap(before),
            fate: Fate::Goes(To::Neighbour, Way::Masquerade),
            after: wrap(after),
            // The identification.
            free: &[58..62],
        };
        pieces(&there, body, id).iter().zip(&after).map(step).collect()
    };
    let inward = |body: &Body, id| -> Vec<Step> {
        let (node, router) = UPLINK_MACS;
        let after = pieces(&Ip6 { destination: a.address6(), hops: 63, ..here.clone() }, body, id);
        let step = |(before, after): (&Vec<u8>, &Vec<u8>)| Step {
            at: At::FromUplink,
            frame: ethernet(node, router, 0x86dd, before),
            fate: Fate::Goes(To::Peer, Way::Reply),
            after: ethernet(a.mac, a.host_mac, 0x86dd, after),
            free: &[],
        };
        pieces(&here, body, id).iter().zip(&after).map(step).collect()
    };
    let mut all = Vec::new();
    for (id, (name, sent, answer)) in (0x6_0001..).zip(&bodies) {
        let steps = [outward(sent, id), inward(answer, id)].concat();
        all.push(case(format!("IPv6: {name} in fragments and its answer"), steps));
    }
    let refused = |step: &Step, fate| Step { fate, after: step.frame.clone(), free: &[], ..step.clone() };
    let (out_, back_) = (outward(&bodies[0].1, 0x7_0001), inward(&bodies[0].2, 0x7_0001));
    let tiny = |word: u16, length| {
        let extension = (44, [&[0, 0][..], &word.to_be_bytes(), &[0, 0, 0, 77]].concat());
        let ip = Ip6 { extensions: vec![extension], ..there.clone() };
        unchanged(
            from(a),
            sent(a, &ip, &Body::Other(6, vec![0xc3; length])),
            Fate::Dropped(Drop::FragmentTiny),
        )
    };
    all.push(case(
        "IPv6: fragments out of order, and crafted",
        vec![
            refused(&out_[1], Fate::Dropped(Drop::Fragment)),
            out_[0].clone(),
            out_[2].clone(),
            out_[1].clone(),
            refused(&back_[1], Fate::Passes),
            back_[0].clone(),
            back_[1].clone(),
            tiny(1, 16),
            tiny(17, 24),
        ],
    ));
    all
}

fn limits(world: &World) -> Vec<Case> {
    let (a, b) = (world.a, world.b);
    let body = |port| Body::Udp(port, 53, vec![1, 2, 3]);
    let ip = Ip6::new(a.address6(), SERVER6);
    let mut steps: Vec<_> = (0..QUOTA as u16).map(|n| out(world, &ip, &body(KEPT + n))).collect();
    steps.push(answered(a, sent(a, &ip, &body(51_000)), PROHIBITED, Fate::Answered(Drop::FlowQuota)));
    steps.push(out(world, &ip, &body(KEPT)));
    let of_b = Ip6 { source: b.address6(), ..ip };
    let after = sent(b, &Ip6 { source: NODE6, hops: 63, ..of_b.clone() }, &body(52_000));
    let fate = Fate::Goes(To::Neighbour, Way::Masquerade);
    steps.push(Step { at: from(b), frame: sent(b, &of_b, &body(52_000)), fate, after, free: &[] });
    vec![case("IPv6: a quota used up", steps)]
}
