//! The table of [`super::cases`]: what somebody outside may try at the uplink. Other nodes' packets are in
//! [`super::attack_overlay_cases`].

use super::{
    attack_cases::{ERRORS, IMPOSSIBLE, PROTOCOLS, ip_options},
    attack6_cases::IMPOSSIBLE6,
    build::{Body, Ip, Ip6, frame, frame6, icmp_error, ipv4_of, ipv6_of},
    cases::{
        At, Case, FAR, FAR_NODE, Fate, NEAR_NODE, NODE, OTHER, SERVER, UPLINK_MACS, World, case, unchanged,
    },
    ipv6::{FAR6, FARTHER6, NEAR_NODE6, NODE6, OTHER6, SERVER6},
};
use crate::{Drop, To, Way, wire::tcp};

pub(super) fn cases(world: &World) -> Vec<Case> {
    [uninvited(world), tunnels(world), uninvited6(world)].concat()
}

/// From the uplink nothing gets to a container unasked, wherever it says that it comes from.
fn uninvited(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let (node, router) = UPLINK_MACS;
    let bodies = [
        Body::Udp(53, 50_000, b"x".to_vec()),
        Body::Tcp(80, 50_000, tcp::SYN, vec![]),
        Body::Tcp(80, 50_000, tcp::ACK, vec![]),
        Body::Icmp(8, 0, 7, vec![]),
        Body::Icmp(0, 0, 7, vec![]),
        Body::Other(17, vec![7; 16]),
    ];
    let unused = [10, 88, 7, 7];
    // A near node's containers come this way: they are in the table of overlays.
    let sources = [
        a.address,
        b.address,
        c.address,
        a.network.gateway,
        unused,
        NODE,
        OTHER,
        NEAR_NODE,
        FAR,
        FAR_NODE,
        SERVER,
    ];
    let all = sources.into_iter().chain(IMPOSSIBLE);
    all.map(|source| {
        let mut steps = Vec::new();
        for (member, fate) in [
            (a, Fate::Dropped(Drop::Unsolicited)),
            (b, Fate::Dropped(Drop::Unsolicited)),
            // A routed network is open to what the host forwards.
            (c, Fate::Goes(To::Stack, Way::FromHost)),
        ] {
            for body in &bodies {
                let ip = Ip::new(source, member.address);
                steps.push(unchanged(At::FromUplink, frame(node, router, &ip, body), Fate::Passes));
                // Where the host forwards: from the uplink, from an interface of its own.
                let forwarded = frame(member.mac, member.host_mac, &ip, body);
                for from in [world.uplink, world.stranger] {
                    steps.push(unchanged(At::ToContainer(member.ifindex, from), forwarded.clone(), fate));
                }
            }
        }
        case(format!("unasked from outside, as {source:?}"), steps)
    })
    .collect()
}

/// Tunnels, routes of the sender's choice, ports of the range that stand for nobody: the host's, and to no container.
fn tunnels(world: &World) -> Vec<Case> {
    let a = world.a;
    let (node, router) = UPLINK_MACS;
    let passes =
        |ip: &Ip, body: &Body| unchanged(At::FromUplink, frame(node, router, ip, body), Fate::Passes);
    let inner = ipv4_of(&Ip::new(SERVER, a.address), &Body::Udp(1, 2, vec![]));
    let tunnels = PROTOCOLS.into_iter().flat_map(|protocol| {
        let body = Body::Other(protocol, [&[0, 0, 8, 0][..], &inner].concat());
        [NODE, OTHER].map(|host| passes(&Ip::new(SERVER, host), &body))
    });
    let routes = ip_options(a.address).map(|(_, options)| {
        passes(&Ip { options, ..Ip::new(SERVER, NODE) }, &Body::Udp(53, 50_000, vec![1]))
    });
    let ports = [0, 1, 49_151, 49_152, 50_000, 65_535].into_iter().flat_map(|port| {
        [
            Body::Udp(53, port, vec![1]),
            Body::Tcp(80, port, tcp::SYN, vec![]),
            Body::Tcp(80, port, tcp::SYN | tcp::ACK, vec![]),
            Body::Icmp(0, 0, port, vec![1]),
        ]
        .map(|body| passes(&Ip::new(SERVER, NODE), &body))
    });
    let about = ipv4_of(&Ip::new(NODE, SERVER), &Body::Udp(50_000, 53, vec![]));
    let errors = ERRORS.map(|kind| passes(&Ip::new(SERVER, NODE), &icmp_error(kind, &about)));
    vec![
        case("tunnels to the host", tunnels.collect()),
        case("source routes by way of the host", routes.to_vec()),
        case("ports of the range that nobody has", ports.collect()),
        case("errors about nobody's packets", errors.to_vec()),
    ]
}

/// The same in IPv6, with neighbour discovery.
fn uninvited6(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let (node, router) = UPLINK_MACS;
    let advertises = Body::Icmp6(136, 0, 0x2000_0000, [&a.network.gateway6()[..], &[2, 1], &router].concat());
    let bodies = [
        Body::Udp(53, 50_000, b"x".to_vec()),
        Body::Tcp(80, 50_000, tcp::SYN, vec![]),
        Body::Tcp(80, 50_000, tcp::ACK, vec![]),
        Body::Icmp(128, 0, 7, vec![]),
        Body::Icmp(129, 0, 7, vec![]),
        advertises,
        Body::Icmp6(134, 0, 0x4000_0708, vec![0; 8]),
        Body::Other(59, vec![]),
    ];
    let gateway = a.network.gateway6();
    let sources = [
        a.address6(),
        b.address6(),
        c.address6(),
        gateway,
        NODE6,
        OTHER6,
        NEAR_NODE6,
        FAR6,
        FARTHER6,
        SERVER6,
    ];
    let all = sources.into_iter().chain(IMPOSSIBLE6).map(|source| {
        let mut steps = Vec::new();
        for (member, fate) in [
            (a, Fate::Dropped(Drop::Unsolicited)),
            (b, Fate::Dropped(Drop::Unsolicited)),
            (c, Fate::Goes(To::Stack, Way::FromHost)),
        ] {
            for body in &bodies {
                let ip = Ip6 { hops: 255, ..Ip6::new(source, member.address6()) };
                steps.push(unchanged(At::FromUplink, frame6(node, router, &ip, body), Fate::Passes));
                let forwarded = frame6(member.mac, member.host_mac, &ip, body);
                steps.push(unchanged(At::ToContainer(member.ifindex, world.uplink), forwarded, fate));
            }
        }
        case(format!("IPv6: unasked from outside, as {source:x?}"), steps)
    });
    let tunnels = PROTOCOLS.into_iter().filter(|protocol| *protocol != 0).map(|protocol| {
        let inner = ipv6_of(&Ip6::new(SERVER6, a.address6()), &Body::Udp(1, 2, vec![]));
        let packet = frame6(node, router, &Ip6::new(SERVER6, NODE6), &Body::Other(protocol, inner));
        unchanged(At::FromUplink, packet, Fate::Passes)
    });
    let tunnels = case("IPv6: tunnels to the host", tunnels.collect());
    let routes = [0, 2, 3, 4].map(|kind| {
        let header = (43, [&[0, 2, kind, 1, 0, 0, 0, 0][..], &a.address6()].concat());
        let ip = Ip6 { extensions: vec![header], ..Ip6::new(SERVER6, NODE6) };
        unchanged(At::FromUplink, frame6(node, router, &ip, &Body::Udp(53, 50_000, vec![1])), Fate::Passes)
    });
    let routes = case("routing headers by way of the host", routes.to_vec());
    all.chain([tunnels, routes]).collect()
}
