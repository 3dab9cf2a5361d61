//! The table of [`super::cases`]: what a container may try to be another, to reach what is not for it, or to slip by. IPv4, ARP and
//! other EtherTypes; IPv6 is in [`super::attack6_cases`].

use super::{
    build::{Body, Ip, arp, ethernet, frame, icmp_error, ipv4_of},
    cases::{
        At, Case, FAR, FAR_NODE, Fate, NEAR, NEAR_NODE, NODE, OTHER, SERVER, Step, UPLINK_MACS, World, case,
        unchanged,
    },
    icmp_cases::{PROHIBITED, answered},
};
use crate::{Drop, To, Way, wire::tcp};

/// Addresses that cannot be anybody's on a network: this network, loopback, groups, reserved, everybody.
pub(super) const IMPOSSIBLE: [[u8; 4]; 8] = [
    [0; 4],
    [0, 1, 2, 3],
    [127, 0, 0, 1],
    [127, 1, 2, 3],
    [224, 0, 0, 1],
    [239, 1, 1, 1],
    [240, 0, 0, 1],
    [255; 4],
];
/// EtherTypes other than those of IPv4, IPv6 and ARP: the length of an 802.3 frame (LLC), RARP, VLAN tags of three kinds, IPX,
/// AppleTalk, bridged Ethernet, MPLS, PPPoE, EAPOL, LLDP, PTP, MACsec, loopback, nothing.
const ETHERTYPES: [u16; 17] = [
    0x0030, 0x8035, 0x8100, 0x88a8, 0x9100, 0x8137, 0x809b, 0x6558, 0x8847, 0x8863, 0x8864, 0x888e, 0x88cc,
    0x88f7, 0x88e5, 0x9000, 0x0000,
];
/// IP protocols that are not translated: hop-by-hop options, IGMP, IPIP, 6in4, GRE, ESP, AH, OSPF, PIM, VRRP, SCTP, UDP-Lite, an
/// experiment's, reserved.
pub(super) const PROTOCOLS: [u8; 14] = [0, 2, 4, 41, 47, 50, 51, 89, 103, 112, 132, 136, 253, 255];
/// Kinds of ICMP messages that quote a packet: type, code, second word. Of the last two, nothing is passed on to anybody.
pub(super) const ERRORS: [(u8, u8, u32); 8] =
    [(3, 1, 0), (3, 3, 0), (3, 4, 576), (3, 13, 0), (11, 0, 0), (12, 0, 0), (4, 0, 0), (5, 1, 0x0a58_0002)];

pub(super) fn cases(world: &World) -> Vec<Case> {
    [
        spoofed(world),
        strange_frames(world),
        forged_arp(world),
        destinations(world),
        protocols(world),
        options(world),
        errors(world),
        pieces(world),
    ]
    .concat()
}

/// IP options: those that name the next stations, loosely and strictly, those that ask for them and for times, router alert, a
/// label of what the packet holds.
pub(super) fn ip_options(station: [u8; 4]) -> [(&'static str, Vec<u8>); 6] {
    let route = |kind| [&[1, kind, 7, 4][..], &station].concat();
    [
        ("a loose source route", route(0x83)),
        ("a strict source route", route(0x89)),
        ("a record of the route", vec![1, 7, 15, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("timestamps", vec![0x44, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("a router alert", vec![0x94, 4, 0, 0]),
        ("a security label", vec![0x86, 6, 0, 0, 0, 1, 1, 1]),
    ]
}

/// With any address but its own, a container sends nothing to anybody.
fn spoofed(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let at = At::FromContainer(a.ifindex);
    let bodies = [
        Body::Udp(40_000, 9, b"x".to_vec()),
        Body::Tcp(80, 40_000, tcp::RST, vec![]),
        Body::Icmp(8, 0, 7, vec![]),
        Body::Other(17, vec![7; 16]),
    ];
    let unused = [10, 88, 7, 7];
    let others = [
        b.address,
        a.network.gateway,
        unused,
        c.address,
        NODE,
        OTHER,
        NEAR,
        FAR,
        FAR_NODE,
        SERVER,
        [169, 254, 1, 1],
    ];
    let receivers = [b.address, a.address, a.network.gateway, NODE, c.address, NEAR, FAR, FAR_NODE, SERVER];
    let addresses = others.into_iter().chain(IMPOSSIBLE).map(|source| {
        let mut steps = Vec::new();
        for destination in receivers {
            for (number, body) in bodies.iter().enumerate() {
                // The last one is a fragment that follows another.
                let fragment = if number == 3 { 0x0010 } else { 0 };
                let ip = Ip { fragment, ..Ip::new(source, destination) };
                let sent = frame(a.host_mac, a.mac, &ip, body);
                steps.push(unchanged(at, sent, Fate::Dropped(Drop::SpoofedAddress)));
            }
        }
        case(format!("as {source:?}, to everybody"), steps)
    });
    let macs = [b.mac, a.host_mac, c.mac, [0xff; 6], [0; 6], UPLINK_MACS.0].map(|mac| {
        let honest = frame(a.host_mac, mac, &Ip::new(a.address, b.address), &bodies[0]);
        let asks = ethernet([0xff; 6], mac, 0x0806, &arp(1, (a.mac, a.address), ([0; 6], b.address)));
        let other = ethernet(a.host_mac, mac, 0x88cc, &[0; 46]);
        let drop = |sent| unchanged(at, sent, Fate::Dropped(Drop::SpoofedMac));
        case(format!("with the MAC {mac:x?}"), vec![drop(honest), drop(asks), drop(other)])
    });
    addresses.chain(macs).collect()
}

/// What is no IPv4, IPv6 or ARP gets no further, whatever it carries.
fn strange_frames(world: &World) -> Vec<Case> {
    let a = world.a;
    let at = At::FromContainer(a.ifindex);
    let packet =
        ipv4_of(&Ip::new(a.address, world.b.address), &Body::Udp(40_000, 9, b"for a neighbour".to_vec()));
    // As after a tag, after an LLC and SNAP header, at once.
    let carried = [
        [&[0, 0, 8, 0][..], &packet].concat(),
        [&[0, 0, 0x81, 0, 0, 0, 8, 0][..], &packet].concat(),
        [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &packet].concat(),
        packet.clone(),
    ];
    let frames = ETHERTYPES.map(|kind| {
        let reason = if matches!(kind, 0x8100 | 0x88a8) { Drop::Vlan } else { Drop::EtherType };
        let steps = carried.iter().flat_map(|inner| {
            // To the host's side, to everybody, to bridges.
            [a.host_mac, [0xff; 6], [1, 0x80, 0xc2, 0, 0, 0]]
                .map(|to| unchanged(at, ethernet(to, a.mac, kind, inner), Fate::Dropped(reason)))
        });
        case(format!("EtherType {kind:#06x}"), steps.collect())
    });
    let longer = [&packet[..], &[0; 20]].concat();
    let lies = case(
        "a type that is another's",
        vec![
            unchanged(at, ethernet(a.host_mac, a.mac, 0x86dd, &longer), Fate::Dropped(Drop::Malformed)),
            unchanged(at, ethernet(a.host_mac, a.mac, 0x0806, &packet), Fate::Dropped(Drop::Malformed)),
        ],
    );
    frames.into_iter().chain([lies]).collect()
}

/// No ARP message but an honest question goes anywhere.
fn forged_arp(world: &World) -> Vec<Case> {
    let (a, b) = (world.a, world.b);
    let gateway = a.network.gateway;
    let message = |operation, sender, target, to| {
        let sent = ethernet(to, a.mac, 0x0806, &arp(operation, sender, target));
        move |reason| unchanged(At::FromContainer(a.ifindex), sent.clone(), Fate::Dropped(reason))
    };
    let targets = [([0; 6], gateway), (b.mac, b.address), ([0xff; 6], a.address), ([0; 6], SERVER)];
    let mut steps = Vec::new();
    for operation in [1, 2] {
        for sender in [(a.mac, b.address), (a.mac, gateway), (b.mac, a.address), (a.host_mac, gateway)] {
            for target in targets {
                for to in [[0xff; 6], b.mac, a.host_mac] {
                    steps.push(message(operation, sender, target, to)(Drop::SpoofedArp));
                }
            }
        }
    }
    let forged = case("ARP in another's name", steps);
    let own = (a.mac, a.address);
    let operations = [0, 2, 3, 4, 8, 9, 10, 25, 0xffff];
    let steps = operations
        .into_iter()
        .flat_map(|operation| targets.map(|target| message(operation, own, target, [0xff; 6])(Drop::Arp)));
    // Gratuitous ARP, and questions about what is not in the subnet.
    let gratuitous = message(1, own, ([0; 6], a.address), [0xff; 6])(Drop::Arp);
    let beyond = [SERVER, NODE, world.c.address, [0; 4], [255; 4], [127, 0, 0, 1]]
        .map(|target| message(1, own, ([0; 6], target), [0xff; 6])(Drop::Arp));
    let useless = case("ARP that asks nothing", steps.chain([gratuitous]).chain(beyond).collect());
    vec![forged, useless]
}

/// Where a container's packets go that are for nobody it may reach.
fn destinations(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let sends = |destination, fragment, body: &Body, reason| {
        let ip = Ip { fragment, ..Ip::new(a.address, destination) };
        let sent = frame(a.host_mac, a.mac, &ip, body);
        unchanged(At::FromContainer(a.ifindex), sent, Fate::Dropped(reason))
    };
    let everything = |destination, reason| -> Vec<Step> {
        vec![
            sends(destination, 0, &Body::Udp(40_000, 9, vec![1]), reason),
            sends(destination, 0, &Body::Tcp(40_000, 80, tcp::SYN, vec![]), reason),
            sends(destination, 0, &Body::Icmp(8, 0, 7, vec![]), reason),
            sends(destination, 0, &Body::Other(47, vec![0; 40]), reason),
            sends(destination, 0x2000, &Body::Udp(40_000, 9, vec![1; 8]), reason),
            sends(destination, 0x0064, &Body::Other(17, vec![1; 8]), reason),
        ]
    };
    let to = |what: &str, destination, reason| {
        case(format!("to {what} {destination:?}"), everything(destination, reason))
    };
    let mut all: Vec<Case> =
        IMPOSSIBLE.map(|destination| to("nobody's", destination, Drop::Destination)).to_vec();
    // Those of another network, here and on other nodes; of the own one, those that nobody has, its broadcast among them.
    let isolated = [c.address, [10, 99, 0, 77], [10, 99, 0, 0], [10, 99, 0, 127], [10, 99, 0, 130]];
    all.extend(isolated.map(|destination| to("another network's", destination, Drop::Isolated)));
    let nobody = [[10, 88, 0, 0], [10, 88, 255, 255], [10, 88, 0, 99]];
    all.extend(nobody.map(|destination| to("the own network's", destination, Drop::NoEndpoint)));
    all.push(to("the own address", a.address, Drop::Destination));
    // Sent to everybody on the link, a packet goes where its IP header says.
    let ip = Ip::new(a.address, b.address);
    let body = Body::Udp(40_000, 9, vec![1]);
    all.push(case(
        "a broadcast frame with a neighbour's packet",
        vec![Step {
            at: At::FromContainer(a.ifindex),
            frame: frame([0xff; 6], a.mac, &ip, &body),
            fate: Fate::Goes(To::Peer, Way::Local),
            after: frame(b.mac, b.host_mac, &ip, &body),
            free: &[],
        }],
    ));
    all
}

/// What is not translated does not leave, and its sender is told, where one tells.
fn protocols(world: &World) -> Vec<Case> {
    let (a, c) = (world.a, world.c);
    let at = At::FromContainer(a.ifindex);
    let inner = ipv4_of(&Ip::new(world.b.address, c.address), &Body::Udp(1, 2, vec![]));
    let sent = |destination, protocol| {
        let body = Body::Other(protocol, [&[0, 0, 8, 0][..], &inner].concat());
        frame(a.host_mac, a.mac, &Ip::new(a.address, destination), &body)
    };
    let told = PROTOCOLS
        .map(|protocol| answered(a, sent(SERVER, protocol), PROHIBITED, Fate::Answered(Drop::Protocol)));
    let isolated =
        PROTOCOLS.map(|protocol| unchanged(at, sent(c.address, protocol), Fate::Dropped(Drop::Isolated)));
    let message =
        |kind| frame(a.host_mac, a.mac, &Ip::new(a.address, SERVER), &Body::Icmp(kind, 0, 7, inner.clone()));
    // Neither asks nor tells about a packet: router discovery, times, addresses, masks, what has no meaning.
    let messages = [1, 2, 9, 10, 13, 14, 15, 16, 17, 18, 30, 42, 253, 255]
        .map(|kind| unchanged(at, message(kind), Fate::Dropped(Drop::Protocol)));
    let reply = answered(a, message(0), PROHIBITED, Fate::Answered(Drop::Protocol));
    vec![
        case("protocols that are not translated, to the world", told.to_vec()),
        case("protocols that are not translated, to another network", isolated.to_vec()),
        case("ICMP that is neither a question nor an error, to the world", messages.to_vec()),
        case("an echo reply to who has not asked", vec![reply]),
    ]
}

/// An option sends nothing to another network: what counts is the destination.
fn options(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let at = At::FromContainer(a.ifindex);
    let body = Body::Udp(50_000, 9, vec![1]);
    let sent = |ip: &Ip| frame(a.host_mac, a.mac, ip, &body);
    let attempts = ip_options(c.address).map(|(what, options)| {
        let ip = |destination| Ip { options: options.clone(), ..Ip::new(a.address, destination) };
        let (local, world_) = (ip(b.address), ip(SERVER));
        let steps = vec![
            unchanged(at, sent(&ip(c.address)), Fate::Dropped(Drop::Isolated)),
            unchanged(at, sent(&ip([127, 0, 0, 1])), Fate::Dropped(Drop::Destination)),
            // The host's stack refuses source routes.
            unchanged(at, sent(&ip(a.network.gateway)), Fate::Goes(To::Stack, Way::ToHost)),
            unchanged(at, sent(&ip(NODE)), Fate::Goes(To::Stack, Way::ToHost)),
            Step {
                at,
                frame: sent(&local),
                fate: Fate::Goes(To::Peer, Way::Local),
                after: frame(b.mac, b.host_mac, &local, &body),
                free: &[],
            },
            Step {
                at,
                frame: sent(&world_),
                fate: Fate::Goes(To::Neighbour, Way::Masquerade),
                after: sent(&Ip { source: NODE, ttl: 63, ..world_.clone() }),
                free: &[],
            },
        ];
        case(format!("{what} by way of another network"), steps)
    });
    attempts.to_vec()
}

/// ICMP errors about what others sent each other, to each of them, whole and cut.
fn errors(world: &World) -> Vec<Case> {
    let (a, b) = (world.a, world.b);
    let at = At::FromContainer(a.ifindex);
    let gateway = a.network.gateway;
    let sent = |ip: &Ip, body: &Body| frame(a.host_mac, a.mac, ip, body);
    let connection = Body::Tcp(40_000, 80, tcp::ACK, vec![]);
    let quote = |source, destination| ipv4_of(&Ip::new(source, destination), &connection);
    // To whom, about a packet from whom to whom.
    let about = [
        (b.address, b.address, SERVER),
        (b.address, b.address, world.c.address),
        (b.address, b.address, gateway),
        (b.address, SERVER, b.address),
        (gateway, NODE, SERVER),
        (gateway, gateway, b.address),
        (NODE, NODE, b.address),
        (NODE, NODE, NEAR_NODE),
        (SERVER, SERVER, NODE),
        (NEAR, NEAR, b.address),
        (FAR, FAR, b.address),
    ];
    let whole = ERRORS.map(|kind| {
        let steps = about.map(|(to, source, destination)| {
            let body = icmp_error(kind, &quote(source, destination));
            unchanged(at, sent(&Ip::new(a.address, to), &body), Fate::Dropped(Drop::SpoofedError))
        });
        case(format!("errors {}/{} about others' packets", kind.0, kind.1), steps.to_vec())
    });
    // What says too little in its first fragment does not pass: the rest would come in a later one.
    let message = {
        let Body::Other(_, bytes) = icmp_error((3, 4, 576), &quote(b.address, SERVER)) else {
            unreachable!()
        };
        bytes
    };
    let first = |length: usize| {
        let ip = Ip { fragment: 0x2000, ..Ip::new(a.address, b.address) };
        sent(&ip, &Body::Other(1, message[..length].to_vec()))
    };
    let cut = [8, 16, 24].map(|length| unchanged(at, first(length), Fate::Dropped(Drop::Malformed)));
    let told = unchanged(at, first(32), Fate::Dropped(Drop::SpoofedError));
    let cut = case("an error in fragments", cut.into_iter().chain([told]).collect());
    whole.into_iter().chain([cut]).collect()
}

/// Lengths and pieces that make no sense.
fn pieces(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let at = At::FromContainer(a.ifindex);
    let body = Body::Udp(50_000, 9, b"some data".to_vec());
    let sent = |destination| frame(a.host_mac, a.mac, &Ip::new(a.address, destination), &body);
    let receivers = [b.address, a.network.gateway, c.address, SERVER, FAR];
    // Of the IP header: version and length, length of the packet. Whoever it is for, it is not looked at any further.
    let changes: [(usize, &[u8]); 12] = [
        (14, &[0x05]),
        (14, &[0x15]),
        (14, &[0x55]),
        (14, &[0x65]),
        (14, &[0xf5]),
        (14, &[0x40]),
        (14, &[0x44]),
        (14, &[0x4f]),
        (16, &[0, 0]),
        (16, &[0, 19]),
        (16, &[5, 0xdc]),
        (16, &[0xff, 0xff]),
    ];
    let broken = changes.iter().flat_map(|(offset, bytes)| {
        receivers.map(|destination| {
            let mut frame = sent(destination);
            frame[*offset..offset + bytes.len()].copy_from_slice(bytes);
            unchanged(at, frame, Fate::Dropped(Drop::Malformed))
        })
    });
    // Down to the first byte of the IP header; the kernel itself refuses what has no Ethernet header.
    let runts = (14..sent(b.address).len() - 1).flat_map(|length| {
        receivers.map(|destination| {
            unchanged(at, sent(destination)[..length].to_vec(), Fate::Dropped(Drop::Malformed))
        })
    });
    let (whole, short): (Vec<Step>, Vec<Step>) = runts.partition(|step| step.frame.len() >= 34);
    let last = |ttl| {
        let ip = Ip { ttl, ..Ip::new(a.address, SERVER) };
        let sent = frame(a.host_mac, a.mac, &ip, &body);
        answered(a, sent, super::icmp_cases::TIME, Fate::Answered(Drop::TtlExpired))
    };
    vec![
        case("an IP header that contradicts itself", broken.collect()),
        case("a packet cut short", whole),
        case("a packet cut in its IP header", short),
        case("no hops left", vec![last(0), last(1)]),
    ]
}
