//! The table of [`super::cases`]: what somebody may try who can send as another node, or says that he is one.

use super::{
    build::{Body, Ip, Ip6, arp, ethernet, frame, frame6, ipv4_of},
    cases::{
        At, Case, FAR, FAR_NODE, Fate, NEAR, NEAR_NODE, NODE, OTHER, SERVER, Step, UPLINK_MACS, World, case,
        unchanged,
    },
    ipv6::{FAR6, FARTHER6, NEAR6, NODE6, SERVER6, address},
    overlay_cases::vxlan,
};
use crate::{Drop, abi::vni};

pub(super) fn cases(world: &World) -> Vec<Case> {
    [outer(world), inner(world), inner6(world), pieces(world), unencapsulated(world)].concat()
}

fn dropped(frame: Vec<u8>, reason: Drop) -> Step {
    unchanged(At::FromUplink, frame, Fate::Dropped(reason))
}

/// By the program at the uplink, and behind the kernel's device.
fn both(vni: u32, inner: &[u8], reason: Drop) -> [Step; 2] {
    let device = unchanged(At::FromOverlay(FAR_NODE, vni), inner.to_vec(), Fate::Dropped(reason));
    [dropped(vxlan(&Ip::new(FAR_NODE, NODE), vni, inner), reason), device]
}

/// What the kernel can run, and what the host alone can: the device's metadata are not to be had in a test run.
fn split(name: &str, steps: impl Iterator<Item = Step>) -> [Case; 2] {
    let (device, uplink): (Vec<Step>, Vec<Step>) =
        steps.partition(|step| matches!(step.at, At::FromOverlay(..)));
    [case(name.to_owned(), uplink), case(format!("the device: {name}"), device)]
}

fn outer(world: &World) -> Vec<Case> {
    let a = world.a;
    let body = Body::Udp(1000, 2000, b"hello".to_vec());
    let good = frame(a.mac, a.host_mac, &Ip::new(FAR, a.address), &body);
    // Neither a node nor the node whose slice it is.
    let sources =
        [SERVER, NEAR_NODE, NODE, OTHER, a.address, FAR, a.network.gateway, [127, 0, 0, 1], [0; 4], [255; 4]];
    let strangers = sources.into_iter().flat_map(|source| {
        let device =
            unchanged(At::FromOverlay(source, vni(1)), good.clone(), Fate::Dropped(Drop::OverlayNode));
        [dropped(vxlan(&Ip::new(source, NODE), vni(1), &good), Drop::OverlayNode), device]
    });
    let networks =
        [0, 2, 3, 77, 0xffff].into_iter().flat_map(|network| both(vni(network), &good, Drop::OverlayNetwork));
    // The VNI of others, which the host may have: theirs.
    let others = [0, 1, 2, 0x6d_0001, 0x6f_0001, 0xff_ffff]
        .map(|vni| unchanged(At::FromUplink, vxlan(&Ip::new(FAR_NODE, NODE), vni, &good), Fate::Passes));
    // Not understood here; behind the kernel's device, the same is asked of it.
    let options = Ip { options: vec![1; 16], ..Ip::new(SERVER, NODE) };
    let kernel = [
        vxlan(&options, vni(1), &good),
        vxlan(&Ip { fragment: 0x2000, ..Ip::new(SERVER, NODE) }, vni(1), &good),
        vxlan(&Ip { fragment: 0x0010, ..Ip::new(SERVER, NODE) }, vni(1), &good),
        // To no address of the host's.
        vxlan(&Ip::new(FAR_NODE, [192, 0, 2, 99]), vni(1), &good),
    ]
    .map(|frame| unchanged(At::FromUplink, frame, Fate::Passes));
    [
        split("overlay packets of who is not that node", strangers),
        split("overlay packets of other networks", networks),
        [case("VXLAN of others", others.to_vec()), case("VXLAN that is the kernel's", kernel.to_vec())],
    ]
    .concat()
}

/// A node, or who can send with its address, speaks for its own slices alone, and to endpoints of that network alone.
fn inner(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let body = Body::Udp(1000, 2000, b"hello".to_vec());
    let from = |source, destination| frame(a.mac, a.host_mac, &Ip::new(source, destination), &body);
    let impossible = [[0; 4], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]];
    let sources =
        [a.address, b.address, c.address, a.network.gateway, NEAR, NODE, NEAR_NODE, FAR_NODE, SERVER]
            .into_iter()
            .chain(impossible);
    let sources = sources.flat_map(|source| {
        [a.address, b.address]
            .into_iter()
            .flat_map(move |to| both(vni(1), &from(source, to), Drop::OverlayNode))
    });
    let nobody = [a.network.gateway, [10, 88, 255, 255], [10, 88, 0, 99], NEAR, FAR, NODE, OTHER, SERVER]
        .into_iter()
        // Zero is what the programs call an empty place among the endpoints: of no network, so nothing comes of it.
        .chain(impossible.into_iter().skip(1))
        .flat_map(|to| both(vni(1), &from(FAR, to), Drop::NoEndpoint));
    let two = [10, 99, 0, 130];
    let crossed = [
        (1, FAR, c.address),
        (2, FAR, c.address),
        (2, FAR, a.address),
        (1, two, a.address),
        (1, two, c.address),
        (2, two, a.address),
    ];
    let crossed = crossed
        .into_iter()
        .flat_map(|(network, source, to)| both(vni(network), &from(source, to), Drop::OverlayNetwork));
    // What is no packet: ARP for the gateway, tags, bridges, a frame in a frame; and VXLAN to the node in VXLAN.
    let gateway = arp(2, (a.host_mac, a.network.gateway), (a.mac, a.address));
    let packet = ipv4_of(&Ip::new(FAR, a.address), &body);
    let types = [0x0806, 0x8100, 0x88a8, 0x6558, 0x8847, 0x0027, 0x88cc]
        .into_iter()
        .flat_map(|kind| {
            [ethernet([0xff; 6], a.host_mac, kind, &gateway), ethernet(a.mac, a.host_mac, kind, &packet)]
        })
        .flat_map(|frame| both(vni(1), &frame, Drop::EtherType));
    let nested = Body::UdpUnchecked(50_000, 4789, vxlan(&Ip::new(FAR_NODE, NODE), vni(1), &packet));
    let nested = frame(a.mac, a.host_mac, &Ip::new(FAR, NODE), &nested);
    [
        split("inner sources of no slice of the node's", sources),
        split("inner destinations that are no endpoint's", nobody),
        split("networks crossed", crossed),
        split("inner frames that are no packets", types),
        split("VXLAN to the node in VXLAN", both(vni(1), &nested, Drop::NoEndpoint).into_iter()),
    ]
    .concat()
}

fn inner6(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let body = Body::Udp(1000, 2000, b"hello".to_vec());
    let from = |source, destination| frame6(a.mac, a.host_mac, &Ip6::new(source, destination), &body);
    let nobody = [0; 16];
    let loopback = address([0, 0, 0, 0, 0, 0, 0, 1]);
    let link_local = address([0xfe80, 0, 0, 0, 0, 0, 0, 1]);
    let mapped = address([0, 0, 0, 0, 0, 0xffff, 0x0a58, 0x4005]);
    let group = address([0xff02, 0, 0, 0, 0, 0, 0, 1]);
    let gateway = a.network.gateway6();
    let sources = [
        a.address6(),
        b.address6(),
        c.address6(),
        gateway,
        NEAR6,
        FARTHER6,
        NODE6,
        SERVER6,
        a.link_local(),
        nobody,
        loopback,
        link_local,
        mapped,
        group,
    ];
    let sources =
        sources.into_iter().flat_map(|source| both(vni(1), &from(source, a.address6()), Drop::OverlayNode));
    let nowhere = [gateway, NODE6, SERVER6, NEAR6, FAR6, a.link_local(), loopback, link_local, mapped, group];
    let nowhere = nowhere.into_iter().flat_map(|to| both(vni(1), &from(FAR6, to), Drop::NoEndpoint));
    // Router advertisements and redirects come from the link's routers, which have no slice.
    let discovers =
        [(134, group), (137, a.address6()), (136, a.address6()), (133, group), (135, a.address6())];
    let discovers = discovers.into_iter().flat_map(|(kind, to)| {
        let ip = Ip6 { hops: 255, ..Ip6::new(link_local, to) };
        let message = frame6(a.mac, a.host_mac, &ip, &Body::Icmp6(kind, 0, 0, vec![0; 32]));
        both(vni(1), &message, Drop::OverlayNode)
    });
    [
        split("IPv6: inner sources of no slice of the node's", sources),
        split("IPv6: inner destinations that are no endpoint's", nowhere),
        split("IPv6: neighbour discovery from another node", discovers),
    ]
    .concat()
}

/// Cut at each length, with outer headers that know and with such that do not.
fn pieces(world: &World) -> Vec<Case> {
    let a = world.a;
    let good = frame(a.mac, a.host_mac, &Ip::new(FAR, a.address), &Body::Udp(1000, 2000, b"hello".to_vec()));
    let outer = Ip::new(FAR_NODE, NODE);
    let whole = vxlan(&outer, vni(1), &good);
    let cut = (34..whole.len())
        .map(|length| unchanged(At::FromUplink, whole[..length].to_vec(), Fate::Passes))
        .collect();
    let short = (0..good.len())
        .map(|length| dropped(vxlan(&outer, vni(1), &good[..length]), Drop::Malformed))
        .collect();
    // VXLAN headers without a VNI, or none at all.
    let flags = [0x00, 0x04, 0x80, 0xf7].map(|flags| {
        let mut frame = whole.clone();
        frame[42] = flags;
        unchanged(At::FromUplink, frame, Fate::Passes)
    });
    vec![
        case("VXLAN cut on the way", cut),
        case("VXLAN that holds a part of a packet", short),
        case("VXLAN without a VNI, of all kinds", flags.to_vec()),
    ]
}

/// Not in VXLAN: only a node on the uplink's subnet sends so, and from its own slice to the same network.
fn unencapsulated(world: &World) -> Vec<Case> {
    let (a, c) = (world.a, world.c);
    let (node, router) = UPLINK_MACS;
    let body = Body::Udp(1000, 2000, b"hello".to_vec());
    let passes = |source, destination| {
        let packet = frame(node, router, &Ip::new(source, destination), &body);
        unchanged(At::FromUplink, packet, Fate::Passes)
    };
    let steps = vec![
        passes(FAR, a.address),
        passes([10, 99, 0, 130], c.address),
        passes([10, 99, 0, 130], a.address),
        passes(NEAR, c.address),
        passes(NEAR, a.network.gateway),
        passes(NEAR, [10, 88, 0, 99]),
        passes(NEAR_NODE, a.address),
        passes(FAR_NODE, a.address),
    ];
    vec![case("slices crossed, without VXLAN", steps)]
}
