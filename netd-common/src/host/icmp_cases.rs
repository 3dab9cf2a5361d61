//! The table of [`super::cases`]: ICMP errors about translated flows.

use super::{
    build::{Body, Ip, frame, icmp_error, ipv4_of},
    cases::{At, Case, Fate, MTU, Member, NODE, SERVER, Step, UPLINK_MACS, World, case, unchanged},
};
use crate::{Drop, To, Way, wire::tcp};

/// A router on the way to the server.
const ROUTER: [u8; 4] = [203, 0, 113, 77];
/// Within the range, so that the port is kept.
const KEPT: u16 = 50_000;
/// What an error can quote at least (RFC 792), and at most (RFC 1812 section 4.3.2.3).
const SHORT: usize = 28;
const LONG: usize = 548;

/// Kinds of errors: type, code, second word.
const PORT: (u8, u8, u32) = (3, 3, 0);
const TOO_BIG: (u8, u8, u32) = (3, 4, 1400);
pub(super) const TIME: (u8, u8, u32) = (11, 0, 0);
pub(super) const PROHIBITED: (u8, u8, u32) = (3, 13, 0);
const PARAMETER: (u8, u8, u32) = (12, 0, 0x0800_0000);
const REDIRECT: (u8, u8, u32) = (5, 1, 0x0a00_0001);

pub(super) fn cases(world: &World) -> Vec<Case> {
    [inward(world), outward(world), forged(world), own(world)].concat()
}

/// A packet that a container sends and that is answered by an error of its gateway's.
pub(super) fn answered(from: Member, frame: Vec<u8>, kind: (u8, u8, u32), fate: Fate) -> Step {
    Step { at: At::FromContainer(from.ifindex), after: about(from, &frame, kind), frame, fate, free: &[] }
}

/// The gateway's error about a frame.
fn about(from: Member, sent: &[u8], kind: (u8, u8, u32)) -> Vec<u8> {
    let ip = Ip { id: 0, ..Ip::new(from.network.gateway, from.address) };
    frame(from.mac, from.host_mac, &ip, &icmp_error(kind, &sent[14..42]))
}

/// A packet of `a`'s that opens a flow whose port is kept.
fn open(world: &World, body: &Body) -> Step {
    let a = world.a;
    let ip = Ip::new(a.address, SERVER);
    Step {
        at: At::FromContainer(a.ifindex),
        frame: frame(a.host_mac, a.mac, &ip, body),
        fate: Fate::Goes(To::Neighbour, Way::Masquerade),
        after: frame(a.host_mac, a.mac, &Ip { source: NODE, ttl: 63, ..ip }, body),
        free: &[],
    }
}

/// The first bytes of a packet from here to there, as routers see it after some hops.
fn quote(source: [u8; 4], destination: [u8; 4], body: &Body, length: usize) -> Vec<u8> {
    let mut packet = ipv4_of(&Ip { ttl: 1, ..Ip::new(source, destination) }, body);
    packet.truncate(length);
    packet
}

/// An error from the world about what the node sent, and as it reaches `a`.
fn told(world: &World, kind: (u8, u8, u32), from: [u8; 4], body: &Body, length: usize) -> Step {
    let a = world.a;
    let (node, router) = UPLINK_MACS;
    let error = |source| icmp_error(kind, &quote(source, SERVER, body, length));
    let ip = Ip::new(from, NODE);
    Step {
        at: At::FromUplink,
        frame: frame(node, router, &ip, &error(NODE)),
        fate: Fate::Goes(To::Peer, Way::Reply),
        after: frame(a.mac, a.host_mac, &Ip { destination: a.address, ttl: 63, ..ip }, &error(a.address)),
        free: &[],
    }
}

fn inward(world: &World) -> Vec<Case> {
    let data = vec![5; 600];
    let udp = Body::Udp(KEPT, 53, data.clone());
    let bare = Body::UdpUnchecked(KEPT, 53, data.clone());
    let segment = Body::Tcp(KEPT, 443, tcp::SYN, data.clone());
    let ping = Body::Icmp(8, 0, KEPT, data);
    let mut all = Vec::new();
    for (name, body) in [("UDP", &udp), ("UDP without checksum", &bare), ("TCP", &segment), ("ping", &ping)] {
        for length in [SHORT, LONG] {
            all.push(case(
                format!("errors about {name}, {length} bytes quoted"),
                vec![
                    open(world, body),
                    told(world, PORT, SERVER, body, length),
                    told(world, TOO_BIG, ROUTER, body, length),
                    told(world, TIME, ROUTER, body, length),
                    told(world, PARAMETER, ROUTER, body, length),
                ],
            ));
        }
    }
    let (node, router) = UPLINK_MACS;
    let arrives = |ip: &Ip, body: &Body| frame(node, router, ip, body);
    let pass = |ip: &Ip, body: &Body| unchanged(At::FromUplink, arrives(ip, body), Fate::Passes);
    let here = Ip::new(ROUTER, NODE);
    let about = |kind, source, body: &Body, length| icmp_error(kind, &quote(source, SERVER, body, length));
    let strangers = Body::Udp(KEPT + 1, 53, vec![5; 8]);
    let later = Ip { fragment: 0x0003, ..Ip::new(NODE, SERVER) };
    let options = Ip { options: vec![1; 12], ttl: 1, ..Ip::new(NODE, SERVER) };
    let (outside, inside) = (&options, Ip { source: world.a.address, ..options.clone() });
    let mut with_options = told(world, TIME, ROUTER, &udp, SHORT);
    with_options.frame = arrives(&here, &icmp_error(TIME, &ipv4_of(outside, &udp)[..40]));
    let a = world.a;
    with_options.after = frame(
        a.mac,
        a.host_mac,
        &Ip { destination: a.address, ttl: 63, ..here.clone() },
        &icmp_error(TIME, &ipv4_of(&inside, &udp)[..40]),
    );
    all.extend([
        case("an error that quotes options", vec![open(world, &udp), with_options]),
        case(
            "errors that are the host's",
            vec![
                open(world, &udp),
                pass(&here, &about(PORT, NODE, &strangers, SHORT)),
                pass(&here, &about(REDIRECT, NODE, &udp, SHORT)),
                pass(&here, &about((4, 0, 0), NODE, &udp, SHORT)),
                // About another's packet, about a reply, cut short, a fragment, about a later fragment.
                pass(&here, &about(PORT, ROUTER, &udp, SHORT)),
                pass(&here, &icmp_error(PORT, &quote(SERVER, NODE, &Body::Udp(53, KEPT, vec![]), SHORT))),
                pass(&here, &about(PORT, NODE, &udp, SHORT - 1)),
                pass(&here, &about(PORT, NODE, &udp, 0)),
                pass(&Ip { fragment: 0x2000, ..here.clone() }, &about(PORT, NODE, &udp, SHORT)),
                pass(&here, &icmp_error(PORT, &ipv4_of(&later, &udp)[..SHORT])),
                pass(&here, &icmp_error(PORT, &quote(NODE, SERVER, &Body::Icmp(13, 0, KEPT, vec![]), SHORT))),
                pass(&here, &icmp_error(PORT, &quote(NODE, SERVER, &Body::Other(132, vec![0; 12]), SHORT))),
            ],
        ),
        case(
            "an error whose time is up",
            vec![
                open(world, &udp),
                unchanged(
                    At::FromUplink,
                    arrives(&Ip { ttl: 1, ..here.clone() }, &about(PORT, NODE, &udp, SHORT)),
                    Fate::Dropped(Drop::TtlExpired),
                ),
            ],
        ),
    ]);
    all
}

/// Errors that a container sends about what came back to it.
fn outward(world: &World) -> Vec<Case> {
    let a = world.a;
    let data = vec![5; 40];
    let mut all = Vec::new();
    for (name, sent, back) in [
        ("UDP", Body::Udp(KEPT, 53, data.clone()), Body::Udp(53, KEPT, data.clone())),
        ("TCP", Body::Tcp(KEPT, 443, tcp::SYN, vec![]), Body::Tcp(443, KEPT, tcp::ACK, data.clone())),
        ("ping", Body::Icmp(8, 0, KEPT, data.clone()), Body::Icmp(0, 0, KEPT, data.clone())),
    ] {
        let error = |destination| icmp_error(PORT, &quote(SERVER, destination, &back, LONG));
        let ip = Ip::new(a.address, SERVER);
        let step = Step {
            at: At::FromContainer(a.ifindex),
            frame: frame(a.host_mac, a.mac, &ip, &error(a.address)),
            fate: Fate::Goes(To::Neighbour, Way::Masquerade),
            after: frame(a.host_mac, a.mac, &Ip { source: NODE, ttl: 63, ..ip.clone() }, &error(NODE)),
            free: &[],
        };
        let unrelated =
            Step { fate: Fate::Dropped(Drop::UnrelatedError), after: step.frame.clone(), ..step.clone() };
        all.push(case(
            format!("a container's error about {name}"),
            vec![unrelated, open(world, &sent), step],
        ));
    }
    all
}

/// Errors of a container's about traffic that is not its own.
fn forged(world: &World) -> Vec<Case> {
    let (a, b) = (world.a, world.b);
    let at = At::FromContainer(a.ifindex);
    let back = Body::Udp(53, KEPT, vec![5; 8]);
    let sends = |destination, body: &Body| frame(a.host_mac, a.mac, &Ip::new(a.address, destination), body);
    let drop =
        |destination, body: &Body, reason| unchanged(at, sends(destination, body), Fate::Dropped(reason));
    let about = |source, destination| icmp_error(PORT, &quote(source, destination, &back, SHORT));
    let honest = about(b.address, a.address);
    let cut = Ip { fragment: 0x2000, ..Ip::new(a.address, b.address) };
    vec![
        case(
            "errors about others' packets",
            vec![
                drop(SERVER, &about(SERVER, b.address), Drop::SpoofedError),
                drop(b.address, &about(SERVER, b.address), Drop::SpoofedError),
                drop(a.network.gateway, &about(SERVER, NODE), Drop::SpoofedError),
                drop(NODE, &about(SERVER, NODE), Drop::SpoofedError),
                // To another than the sender of what it is about; of a type that says nothing about a packet.
                drop([198, 51, 100, 8], &about(SERVER, a.address), Drop::UnrelatedError),
                drop(
                    SERVER,
                    &icmp_error(REDIRECT, &quote(SERVER, a.address, &back, SHORT)),
                    Drop::UnrelatedError,
                ),
            ],
        ),
        case(
            "errors that do not say what they are about",
            vec![
                drop(b.address, &icmp_error(PORT, &[]), Drop::Malformed),
                drop(SERVER, &icmp_error(PORT, &quote(SERVER, a.address, &back, 19)), Drop::Malformed),
                unchanged(
                    at,
                    frame(a.host_mac, a.mac, &cut, &icmp_error(PORT, &[])),
                    Fate::Dropped(Drop::Malformed),
                ),
            ],
        ),
        case(
            "an error about a neighbour's packet",
            vec![Step {
                at,
                frame: sends(b.address, &honest),
                fate: Fate::Goes(To::Peer, Way::Local),
                after: frame(b.mac, b.host_mac, &Ip::new(a.address, b.address), &honest),
                free: &[],
            }],
        ),
        case(
            "an error about the host's packet",
            vec![unchanged(at, sends(NODE, &about(NODE, a.address)), Fate::Goes(To::Stack, Way::ToHost))],
        ),
    ]
}

/// Errors of netd's own about what goes no further, and packets about which there may be none (RFC 1122 section 3.2.2).
fn own(world: &World) -> Vec<Case> {
    let (a, c) = (world.a, world.c);
    let data = vec![5; 40];
    let udp = Body::Udp(KEPT, 53, data.clone());
    let last = Ip { ttl: 1, ..Ip::new(a.address, SERVER) };
    let sent = |ip: &Ip, body: &Body| frame(a.host_mac, a.mac, ip, body);
    let expired = Fate::Answered(Drop::TtlExpired);
    let silent =
        |frame: Vec<u8>| unchanged(At::FromContainer(a.ifindex), frame, Fate::Dropped(Drop::TtlExpired));
    let answered = |ip: &Ip, body: &Body| answered(a, sent(ip, body), TIME, expired);
    let mut to_many = sent(&last, &udp);
    to_many[..6].fill(0xff);
    let back = Body::Udp(53, KEPT, data.clone());
    let mut fits = open(world, &Body::Udp(KEPT, 53, vec![5; MTU as usize - 28]));
    let mut large = Ip { fragment: 0x4000, ..Ip::new(a.address, SERVER) };
    let too_large = Body::Udp(KEPT, 53, vec![5; MTU as usize - 27]);
    let told = |from: Member, ip: &Ip| {
        let frame = frame(from.host_mac, from.mac, ip, &too_large);
        self::answered(from, frame, (3, 4, MTU), Fate::Goes(To::Link, Way::TooBigSent))
    };
    let too_big = told(a, &large);
    let routed = told(c, &Ip { source: c.address, ..large.clone() });
    large.fragment = 0;
    let may_be_cut = told(a, &large);
    fits.fate = Fate::Goes(To::Neighbour, Way::Masquerade);
    vec![
        case(
            "time up on the way to the world",
            vec![
                answered(&last, &udp),
                answered(&last, &Body::Tcp(KEPT, 443, tcp::SYN, vec![])),
                answered(&last, &Body::Icmp(8, 0, KEPT, data.clone())),
                answered(&Ip { fragment: 0x2000, ..last.clone() }, &udp),
                open(world, &udp),
                answered(&last, &udp),
                super::icmp_cases::answered(
                    c,
                    frame(c.host_mac, c.mac, &Ip { source: c.address, ..last.clone() }, &udp),
                    TIME,
                    expired,
                ),
            ],
        ),
        case(
            "time up, and nobody is told",
            vec![
                open(world, &udp),
                // About an error, options, what was sent to many.
                silent(sent(&last, &icmp_error(PORT, &quote(SERVER, a.address, &back, SHORT)))),
                silent(sent(&Ip { options: vec![1; 4], ..last.clone() }, &udp)),
                silent(to_many),
            ],
        ),
        case("too big for the uplink", vec![fits, too_big, routed, may_be_cut]),
    ]
}
