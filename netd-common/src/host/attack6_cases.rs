//! The table of [`super::cases`]: what [`super::attack_cases`] shows, in IPv6.

use super::{
    attack_cases::PROTOCOLS,
    build::{Body, Ip6, ethernet, frame6, ipv6_of},
    cases::{At, Case, Fate, Step, World, case, unchanged},
    ipv6::{FAR_NODE6, FAR6, FARTHER6, NEAR_NODE6, NEAR6, NODE6, OTHER6, SERVER6, address},
    ipv6_cases::answered,
};
use crate::{Drop, wire::tcp};

const PROHIBITED: (u8, u8, u32) = (1, 1, 0);
const TIME: (u8, u8, u32) = (3, 0, 0);
const ALL_NODES: [u8; 16] = address([0xff02, 0, 0, 0, 0, 0, 0, 1]);
const LINK_LOCAL: [u8; 16] = address([0xfe80, 0, 0, 0, 0, 0, 0, 1]);
/// Addresses that are nobody's on a network: none, loopback, IPv4 ones, mapped and compatible, and of the link.
pub(super) const IMPOSSIBLE6: [[u8; 16]; 7] = [
    [0; 16],
    address([0, 0, 0, 0, 0, 0, 0, 1]),
    address([0, 0, 0, 0, 0, 0xffff, 0x7f00, 1]),
    address([0, 0, 0, 0, 0, 0xffff, 0x0a58, 3]),
    address([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x020a]),
    address([0, 0, 0, 0, 0, 0, 0x7f00, 1]),
    LINK_LOCAL,
];
/// Groups: of the interface, the link, the site, everybody; of one prefix, of who listens to the group of a solicited node.
const GROUPS: [[u8; 16]; 6] = [
    address([0xff01, 0, 0, 0, 0, 0, 0, 1]),
    ALL_NODES,
    address([0xff05, 0, 0, 0, 0, 0, 0, 1]),
    address([0xff0e, 0, 0, 0, 0, 0, 0, 1]),
    address([0xff32, 0x40, 0xfd88, 0, 0, 0, 0, 1]),
    address([0xff02, 0, 0, 0, 0, 1, 0xff00, 3]),
];

pub(super) fn cases(world: &World) -> Vec<Case> {
    [
        spoofed(world),
        discovery(world),
        destinations(world),
        routing_headers(world),
        headers(world),
        protocols(world),
        errors(world),
        pieces(world),
    ]
    .concat()
}

/// A packet of `a`'s.
fn sent(world: &World, ip: &Ip6, body: &Body) -> Vec<u8> {
    frame6(world.a.host_mac, world.a.mac, ip, body)
}

/// That it is dropped.
fn dropped(world: &World, ip: &Ip6, body: &Body, reason: Drop) -> Step {
    unchanged(At::FromContainer(world.a.ifindex), sent(world, ip, body), Fate::Dropped(reason))
}

fn spoofed(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let bodies = [
        Body::Udp(40_000, 9, b"x".to_vec()),
        Body::Tcp(80, 40_000, tcp::RST, vec![]),
        Body::Icmp(128, 0, 7, vec![]),
        Body::Icmp(129, 0, 7, vec![]),
        Body::Other(59, vec![]),
    ];
    let gateway = a.network.gateway6();
    let others = [
        b.address6(),
        gateway,
        address([0xfd88, 0, 0, 0, 0, 0, 7, 7]),
        c.address6(),
        NODE6,
        OTHER6,
        NEAR6,
        FAR6,
        FARTHER6,
        FAR_NODE6,
        SERVER6,
        a.link_local(),
        b.link_local(),
        a.host_link_local(),
        ALL_NODES,
    ];
    let receivers =
        [b.address6(), a.address6(), gateway, NODE6, c.address6(), NEAR6, FAR6, FARTHER6, SERVER6];
    let all = others.into_iter().chain(IMPOSSIBLE6).map(|source| {
        let mut steps = Vec::new();
        for destination in receivers {
            for body in &bodies {
                steps.push(dropped(world, &Ip6::new(source, destination), body, Drop::SpoofedAddress));
            }
            // A fragment that follows another.
            let fragment = (44, vec![0, 0, 0, 64, 0, 0, 0, 9]);
            let ip = Ip6 { extensions: vec![fragment], ..Ip6::new(source, destination) };
            steps.push(dropped(world, &ip, &Body::Other(17, vec![7; 16]), Drop::SpoofedAddress));
        }
        case(format!("IPv6: as {source:x?}, to everybody"), steps)
    });
    all.collect()
}

/// Neighbour discovery that would make the container a router, its neighbour or the gateway.
fn discovery(world: &World) -> Vec<Case> {
    let (a, b) = (world.a, world.b);
    let (own, gateway, target) = (a.address6(), a.network.gateway6(), b.address6());
    let ip = |source, destination| Ip6 { hops: 255, ..Ip6::new(source, destination) };
    let option = |kind, mac: [u8; 6]| [&[kind, 1][..], &mac].concat();
    let advertises =
        |about: [u8; 16], flags| Body::Icmp6(136, 0, flags, [&about[..], &option(2, a.mac)].concat());
    let asks = |about: [u8; 16], mac| Body::Icmp6(135, 0, 0, [&about[..], &option(1, mac)].concat());
    // A lifetime, a prefix for addresses of one's own.
    let prefix = [&[3, 4, 64, 0xc0, 0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0][..], &NODE6].concat();
    let router = Body::Icmp6(134, 0, 0x4000_0708, [&[0; 8][..], &prefix].concat());
    let redirect = Body::Icmp6(137, 0, 0, [own, SERVER6].concat());
    let solicits = Body::Icmp6(133, 0, 0, option(1, a.mac));
    let sources = [own, a.link_local(), gateway, target, a.host_link_local(), LINK_LOCAL, [0; 16], ALL_NODES];
    let receivers = [target, gateway, NODE6, b.link_local(), a.host_link_local(), ALL_NODES, SERVER6];
    let mut unasked = Vec::new();
    for source in sources {
        for destination in receivers {
            for body in [
                advertises(gateway, 0xe000_0000),
                advertises(gateway, 0x2000_0000),
                advertises(target, 0x6000_0000),
                advertises(own, 0x2000_0000),
                router.clone(),
                redirect.clone(),
                solicits.clone(),
            ] {
                unasked.push(dropped(world, &ip(source, destination), &body, Drop::Ndp));
            }
        }
    }
    // Behind options, in a first fragment, with padding behind a fragment that ends before the message's type.
    let options = (60, vec![0, 0, 1, 4, 0, 0, 0, 0]);
    let first = (44, vec![0, 0, 0, 1, 0, 0, 0, 9]);
    let hidden = |extensions: &[(u8, Vec<u8>)], body: &Body, reason| {
        let ip = Ip6 { extensions: extensions.to_vec(), ..ip(own, target) };
        dropped(world, &ip, body, reason)
    };
    let advertises_gateway = advertises(gateway, 0x2000_0000);
    let extensions =
        [vec![options.clone()], vec![first.clone()], vec![options.clone(), first], vec![options; 3]];
    let hidden = extensions.iter().flat_map(|list| {
        [
            hidden(list, &advertises_gateway, Drop::Ndp),
            hidden(list, &router, Drop::Ndp),
            hidden(list, &redirect, Drop::Ndp),
            hidden(list, &asks(target, a.mac), Drop::Malformed),
        ]
    });
    let mut lies = Vec::new();
    for destination in [target, gateway, ALL_NODES] {
        for mac in [b.mac, a.host_mac, [0; 6], [0xff; 6]] {
            lies.push(dropped(world, &ip(own, destination), &asks(target, mac), Drop::SpoofedNdp));
        }
        for source in [target, gateway, NODE6, SERVER6, ALL_NODES] {
            lies.push(dropped(world, &ip(source, destination), &asks(target, a.mac), Drop::SpoofedNdp));
        }
        // From beyond the link.
        for hops in [0, 1, 64, 254] {
            let ip = Ip6 { hops, ..ip(own, destination) };
            lies.push(dropped(world, &ip, &asks(target, a.mac), Drop::Malformed));
        }
    }
    vec![
        case("advertisements, redirects and solicitations of routers", unasked),
        case("neighbour discovery that hides", hidden.collect()),
        case("questions that lie", lies),
    ]
}

fn destinations(world: &World) -> Vec<Case> {
    let (a, c) = (world.a, world.c);
    let everything = |destination, reason| {
        let ip = Ip6::new(a.address6(), destination);
        let first = Ip6 { extensions: vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 9])], ..ip.clone() };
        let later = Ip6 { extensions: vec![(44, vec![0, 0, 0, 64, 0, 0, 0, 9])], ..ip.clone() };
        vec![
            dropped(world, &ip, &Body::Udp(40_000, 9, vec![1]), reason),
            dropped(world, &ip, &Body::Tcp(40_000, 80, tcp::SYN, vec![]), reason),
            dropped(world, &ip, &Body::Icmp(128, 0, 7, vec![]), reason),
            dropped(world, &ip, &Body::Other(47, vec![0; 40]), reason),
            dropped(world, &first, &Body::Udp(40_000, 9, vec![1; 8]), reason),
            dropped(world, &later, &Body::Other(17, vec![1; 8]), reason),
        ]
    };
    let to = |what: &str, destination: [u8; 16], reason| {
        case(format!("IPv6: to {what} {destination:x?}"), everything(destination, reason))
    };
    let mut all: Vec<Case> =
        IMPOSSIBLE6.map(|destination| to("nobody's", destination, Drop::Destination)).to_vec();
    all.extend(GROUPS.map(|group| to("the group", group, Drop::Multicast)));
    let two = |last| address([0xfd99, 0, 0, 0, 0, 0, 0, last]);
    let isolated = [c.address6(), two(0), two(1), two(0x77), two(0x82)];
    all.extend(isolated.map(|destination| to("another network's", destination, Drop::Isolated)));
    let one = |last| address([0xfd88, 0, 0, 0, 0, 0, 0, last]);
    all.extend(
        [one(0), one(0x99), address([0xfd88, 0, 0, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff])]
            .map(|destination| to("the own network's", destination, Drop::NoEndpoint)),
    );
    all.push(to("the own address", a.address6(), Drop::Destination));
    all
}

/// A routing header that still has a way to go sends the packet to another than its destination; type 0 is dead (RFC 5095).
fn routing_headers(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let receivers = [a.network.gateway6(), NODE6, b.address6(), c.address6(), SERVER6, NEAR6, FAR6, FARTHER6];
    // Type and what is left: source routes, mobility, low-power networks, segments, compact ones, experiments.
    let kinds =
        [(0, 0), (0, 1), (1, 1), (2, 1), (3, 1), (3, 255), (4, 1), (4, 2), (5, 1), (253, 1), (255, 255)];
    let attempts = kinds.map(|(kind, left)| {
        let header = [&[0, 2, kind, left, 0, 0, 0, 0][..], &c.address6()].concat();
        let options = (60, vec![0, 0, 1, 4, 0, 0, 0, 0]);
        let steps = receivers.iter().flat_map(|destination| {
            [vec![(43, header.clone())], vec![options.clone(), (43, header.clone())]].map(|extensions| {
                let ip = Ip6 { extensions, ..Ip6::new(a.address6(), *destination) };
                dropped(world, &ip, &Body::Udp(40_000, 9, vec![1]), Drop::ExtensionHeader)
            })
        });
        case(format!("a routing header of type {kind} with {left} to go"), steps.collect())
    });
    attempts.to_vec()
}

/// Extension headers in no order, without an end, or with lengths that lie, to anybody.
fn headers(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let receivers = [b.address6(), a.network.gateway6(), c.address6(), SERVER6, FAR6];
    let options = |kind| (kind, vec![0, 0, 1, 4, 0, 0, 0, 0]);
    let fragment = |offset: u8| (44, vec![0, 0, 0, offset, 0, 0, 0, 9]);
    let body = Body::Udp(50_000, 9, vec![1; 16]);
    let mut steps = Vec::new();
    for destination in receivers {
        let mut refuse = |extensions: Vec<(u8, Vec<u8>)>, reason| {
            let ip = Ip6 { extensions, ..Ip6::new(a.address6(), destination) };
            steps.push(dropped(world, &ip, &body, reason));
        };
        for list in [
            vec![options(60), options(0)],
            vec![options(0), options(0)],
            vec![fragment(1), options(0)],
            vec![options(60); 7],
            vec![fragment(1), fragment(1)],
            vec![fragment(0), options(60), fragment(0)],
        ] {
            refuse(list, Drop::ExtensionHeader);
        }
        for length in [4, 32, 255] {
            refuse(vec![(60, vec![0, length, 1, 4, 0, 0, 0, 0])], Drop::Malformed);
            refuse(vec![options(0), (43, vec![0, length, 4, 0, 0, 0, 0, 0])], Drop::Malformed);
        }
    }
    // A length of its own for what is longer than lengths can say, though it is not (RFC 2675).
    let mut jumbo = {
        let option = (0, vec![0, 0, 0xc2, 4, 0, 0, 0, 24]);
        let ip = Ip6 { extensions: vec![option], ..Ip6::new(a.address6(), b.address6()) };
        sent(world, &ip, &body)
    };
    jumbo[18..20].fill(0);
    let jumbo = unchanged(At::FromContainer(a.ifindex), jumbo, Fate::Dropped(Drop::Malformed));
    vec![case("extension headers of no sense", steps), case("a jumbo payload that is none", vec![jumbo])]
}

fn protocols(world: &World) -> Vec<Case> {
    let (a, c) = (world.a, world.c);
    // What is an extension header in IPv6 is none of these; mobility, host identity, shim6, nothing at all.
    let all = PROTOCOLS.into_iter().filter(|protocol| *protocol != 0).chain([1, 59, 135, 139, 140]);
    let inner = ipv6_of(&Ip6::new(world.b.address6(), c.address6()), &Body::Udp(1, 2, vec![]));
    let (mut told, mut isolated) = (Vec::new(), Vec::new());
    for protocol in all {
        let body = Body::Other(protocol, inner.clone());
        let packet = sent(world, &Ip6::new(a.address6(), SERVER6), &body);
        told.push(answered(a, packet, PROHIBITED, Fate::Answered(Drop::Protocol)));
        isolated.push(dropped(world, &Ip6::new(a.address6(), c.address6()), &body, Drop::Isolated));
    }
    let reply = sent(world, &Ip6::new(a.address6(), SERVER6), &Body::Icmp(129, 0, 7, inner.clone()));
    let reply = answered(a, reply, PROHIBITED, Fate::Answered(Drop::Protocol));
    let messages = [130, 131, 132, 138, 139, 140, 141, 143, 151, 160, 200, 255].map(|kind| {
        let body = Body::Icmp6(kind, 0, 0, inner.clone());
        dropped(world, &Ip6::new(a.address6(), SERVER6), &body, Drop::Protocol)
    });
    vec![
        case("IPv6: protocols that are not translated, to the world", told),
        case("IPv6: protocols that are not translated, to another network", isolated),
        case("ICMPv6 that is neither a question nor an error, to the world", messages.to_vec()),
        case("IPv6: an echo reply to who has not asked", vec![reply]),
    ]
}

fn errors(world: &World) -> Vec<Case> {
    let (a, b) = (world.a, world.b);
    let gateway = a.network.gateway6();
    let connection = Body::Tcp(40_000, 80, tcp::ACK, vec![]);
    let about = [
        (b.address6(), b.address6(), SERVER6),
        (b.address6(), b.address6(), gateway),
        (b.address6(), SERVER6, b.address6()),
        (gateway, NODE6, SERVER6),
        (NODE6, NODE6, b.address6()),
        (NODE6, NODE6, NEAR_NODE6),
        (SERVER6, SERVER6, NODE6),
        (NEAR6, NEAR6, b.address6()),
        (FAR6, FAR6, b.address6()),
        (FARTHER6, FARTHER6, b.address6()),
    ];
    // Unreachable, too big, time, parameter; and types that nobody has given a meaning.
    let kinds = [
        (1, 0, 0),
        (1, 4, 0),
        (2, 0, 1280),
        (3, 0, 0),
        (4, 1, 40),
        (0, 0, 0),
        (5, 0, 0),
        (100, 0, 0),
        (127, 0, 0),
    ];
    let whole = kinds.map(|(kind, code, word)| {
        let steps = about.iter().flat_map(|(to, source, destination)| {
            let body = Body::Icmp6(kind, code, word, ipv6_of(&Ip6::new(*source, *destination), &connection));
            // Also behind options.
            [vec![], vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])]].map(|extensions| {
                let ip = Ip6 { extensions, ..Ip6::new(a.address6(), *to) };
                dropped(world, &ip, &body, Drop::SpoofedError)
            })
        });
        case(format!("ICMPv6 errors {kind}/{code} about others' packets"), steps.collect())
    });
    let message = {
        let quote = ipv6_of(&Ip6::new(b.address6(), SERVER6), &connection);
        [&[2, 0, 0, 0, 0, 0, 5, 0][..], &quote].concat()
    };
    let first = |length: usize, reason| {
        let extensions = vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 9])];
        let ip = Ip6 { extensions, ..Ip6::new(a.address6(), b.address6()) };
        dropped(world, &ip, &Body::Other(58, message[..length].to_vec()), reason)
    };
    let cut = [8, 16, 32, 40].map(|length| first(length, Drop::Malformed)).to_vec();
    let cut = case("an ICMPv6 error in fragments", [cut, vec![first(48, Drop::SpoofedError)]].concat());
    whole.into_iter().chain([cut]).collect()
}

fn pieces(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let body = Body::Udp(50_000, 9, b"some data".to_vec());
    let whole = |destination| sent(world, &Ip6::new(a.address6(), destination), &body);
    let receivers = [b.address6(), a.network.gateway6(), c.address6(), SERVER6, FAR6];
    let drop = |frame| unchanged(At::FromContainer(a.ifindex), frame, Fate::Dropped(Drop::Malformed));
    let changes: [(usize, &[u8]); 7] = [
        (14, &[0x00]),
        (14, &[0x45]),
        (14, &[0x50]),
        (14, &[0xf0]),
        (18, &[0, 18]),
        (18, &[5, 0xdc]),
        (18, &[0xff, 0xff]),
    ];
    let broken = changes.iter().flat_map(|(offset, bytes)| {
        receivers.map(|destination| {
            let mut frame = whole(destination);
            frame[*offset..offset + bytes.len()].copy_from_slice(bytes);
            drop(frame)
        })
    });
    let runts = (14..whole(b.address6()).len() - 1)
        .flat_map(|length| receivers.map(|destination| drop(whole(destination)[..length].to_vec())));
    let (cut, short): (Vec<Step>, Vec<Step>) = runts.partition(|step| step.frame.len() >= 54);
    let last = |hops| {
        let ip = Ip6 { hops, ..Ip6::new(a.address6(), SERVER6) };
        answered(a, sent(world, &ip, &body), TIME, Fate::Answered(Drop::TtlExpired))
    };
    // The other family's header.
    let other = ethernet(a.host_mac, a.mac, 0x0800, &ipv6_of(&Ip6::new(b.address6(), b.address6()), &body));
    vec![
        case("an IPv6 header that contradicts itself", broken.collect()),
        case("IPv6: a packet cut short", cut),
        case("IPv6: a packet cut in its header", short),
        case("IPv6: no hops left", vec![last(0), last(1)]),
        case("an IPv6 header behind IPv4's type", vec![drop(other)]),
    ]
}
