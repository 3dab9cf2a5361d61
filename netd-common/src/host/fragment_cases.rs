//! The table of [`super::cases`]: fragments through the masquerade.

use super::{
    build::{Body, Ip, ethernet, fragments, frame, ipv4_of},
    cases::{At, Case, Fate, NODE, SERVER, Step, UPLINK_MACS, World, case, unchanged},
};
use crate::{Drop, To, Way, wire::tcp};

/// Within the range, so that the port is kept.
const KEPT: u16 = 50_000;
/// Bytes of IP payload in each fragment but the last. Each case has an identification of its own: unlike flows, fragments are
/// not forgotten between cases.
const PIECE: usize = 64;

pub(super) fn cases(world: &World) -> Vec<Case> {
    [translated(world), out_of_order(world), crafted(world)].concat()
}

/// The fragments of a packet of `a`'s on its way out. They get another identification, which a table cannot name.
fn out(world: &World, id: u16, body: &Body) -> Vec<Step> {
    let a = world.a;
    let ip = Ip { id, ..Ip::new(a.address, SERVER) };
    let before = fragments(&ipv4_of(&ip, body), PIECE);
    let after = fragments(&ipv4_of(&Ip { source: NODE, ttl: 63, ..ip }, body), PIECE);
    before
        .iter()
        .zip(&after)
        .map(|(before, after)| Step {
            at: At::FromContainer(a.ifindex),
            frame: ethernet(a.host_mac, a.mac, 0x0800, before),
            fate: Fate::Goes(To::Neighbour, Way::Masquerade),
            after: ethernet(a.host_mac, a.mac, 0x0800, after),
            // Identification and header checksum.
            free: &[18..20, 24..26],
        })
        .collect()
}

/// The fragments of an answer.
fn back(world: &World, id: u16, body: &Body) -> Vec<Step> {
    let a = world.a;
    let (node, router) = UPLINK_MACS;
    let ip = Ip { id, ..Ip::new(SERVER, NODE) };
    let before = fragments(&ipv4_of(&ip, body), PIECE);
    let after = fragments(&ipv4_of(&Ip { destination: a.address, ttl: 63, ..ip }, body), PIECE);
    before
        .iter()
        .zip(&after)
        .map(|(before, after)| Step {
            at: At::FromUplink,
            frame: ethernet(node, router, 0x0800, before),
            fate: Fate::Goes(To::Peer, Way::Reply),
            after: ethernet(a.mac, a.host_mac, 0x0800, after),
            free: &[],
        })
        .collect()
}

fn refused(step: &Step, fate: Fate) -> Step {
    Step { fate, after: step.frame.clone(), free: &[], ..step.clone() }
}

fn bodies() -> [(&'static str, Body, Body); 4] {
    let data: Vec<u8> = (0..200).collect();
    [
        ("UDP", Body::Udp(KEPT, 53, data.clone()), Body::Udp(53, KEPT, data.clone())),
        (
            "UDP without checksum",
            Body::UdpUnchecked(KEPT, 53, data.clone()),
            Body::UdpUnchecked(53, KEPT, data.clone()),
        ),
        ("TCP", Body::Tcp(KEPT, 443, tcp::SYN, data.clone()), Body::Tcp(443, KEPT, tcp::ACK, data.clone())),
        ("ping", Body::Icmp(8, 0, KEPT, data.clone()), Body::Icmp(0, 0, KEPT, data)),
    ]
}

fn translated(world: &World) -> Vec<Case> {
    let there_and_back = |(id, (name, sent, answer)): (u16, (&str, Body, Body))| {
        let steps = [out(world, id, &sent), back(world, id, &answer)].concat();
        case(format!("{name} in fragments and its answer"), steps)
    };
    (1..).zip(bodies()).map(there_and_back).collect()
}

fn out_of_order(world: &World) -> Vec<Case> {
    let [(_, sent, answer), ..] = bodies();
    let (out, back) = (out(world, 11, &sent), back(world, 11, &answer));
    let strange = self::back(world, 12, &answer);
    let late = |step: &Step, fate| refused(step, fate);
    let (a, c) = (world.a, world.c);
    let other_id = |step: &Step| {
        let mut frame = step.frame.clone();
        frame[19] ^= 1;
        Step { frame, ..step.clone() }
    };
    // As it is seen by a routed network, the host, and a neighbour, none of which needs a translation.
    let pass = |destination, fate, after: Option<(Vec<u8>, _)>| {
        let later = Ip { fragment: 0x0003, ..Ip::new(a.address, destination) };
        let body = Body::Other(17, vec![7; 40]);
        let frame_before = frame(a.host_mac, a.mac, &later, &body);
        let after = after.map_or_else(
            || frame_before.clone(),
            |(mac, host)| frame(mac.try_into().expect("a MAC"), host, &later, &body),
        );
        Step { at: At::FromContainer(a.ifindex), frame: frame_before, fate, after, free: &[] }
    };
    let b = world.b;
    let routed = |ttl| {
        let later = Ip { fragment: 0x0003, ttl, ..Ip::new(c.address, SERVER) };
        frame(c.host_mac, c.mac, &later, &Body::Other(17, vec![7; 40]))
    };
    vec![
        case(
            "a later fragment before its first",
            vec![
                late(&out[1], Fate::Dropped(Drop::Fragment)),
                out[0].clone(),
                late(&other_id(&out[1]), Fate::Dropped(Drop::Fragment)),
                out[2].clone(),
                out[1].clone(),
                late(&back[1], Fate::Passes),
                back[0].clone(),
                late(&other_id(&back[2]), Fate::Passes),
                back[2].clone(),
                back[1].clone(),
            ],
        ),
        case(
            "fragments of an answer to no flow",
            strange.iter().map(|step| late(step, Fate::Passes)).collect(),
        ),
        case(
            "later fragments that need no translation",
            vec![
                pass(NODE, Fate::Goes(To::Stack, Way::ToHost), None),
                pass(a.network.gateway, Fate::Goes(To::Stack, Way::ToHost), None),
                pass(b.address, Fate::Goes(To::Peer, Way::Local), Some((b.mac.to_vec(), b.host_mac))),
                Step {
                    at: At::FromContainer(c.ifindex),
                    frame: routed(64),
                    fate: Fate::Goes(To::Neighbour, Way::Routed),
                    after: routed(63),
                    free: &[],
                },
            ],
        ),
    ]
}

/// Fragments that no stack makes (RFC 1858, RFC 3128).
fn crafted(world: &World) -> Vec<Case> {
    let a = world.a;
    let [_, _, (_, sent, answer), _] = bodies();
    let (out, back) = (out(world, 13, &sent), back(world, 13, &answer));
    let tiny = |fragment, length| {
        let ip = Ip { id: 13, fragment, ..Ip::new(a.address, SERVER) };
        let body = Body::Other(6, vec![0xc3; length]);
        unchanged(
            At::FromContainer(a.ifindex),
            frame(a.host_mac, a.mac, &ip, &body),
            Fate::Dropped(Drop::FragmentTiny),
        )
    };
    // Padding is no part of the packet.
    let mut padded = tiny(0x2000, 16);
    padded.frame.extend([0; 40]);
    padded.after = padded.frame.clone();
    // At an offset of 16 bytes, within the header.
    let mut overlapping = back[1].frame.clone();
    overlapping[20..22].copy_from_slice(&[0x20, 2]);
    let ip = &mut overlapping[14..34];
    ip[10..12].fill(0);
    let sum = super::build::internet_checksum(&[ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    vec![
        case("a TCP header in two fragments", vec![tiny(0x2000, 8), tiny(0x2000, 16), padded]),
        case(
            "a fragment that overlaps a TCP header",
            vec![
                out[0].clone(),
                tiny(0x2001, 24),
                tiny(0x0002, 24),
                back[0].clone(),
                unchanged(At::FromUplink, overlapping, Fate::Dropped(Drop::FragmentTiny)),
                back[1].clone(),
            ],
        ),
    ]
}
