//! A small world, and what is to become of packets in it: verdict, bytes, counters. The same table is run through the core
//! on the host and through the loaded programs in the kernel.

use std::{borrow::Cow, ops::Range, sync::Arc};

use super::{
    Frame, Memory,
    build::{Body, Ip, MacBytes, arp, ethernet, frame},
    icmp_cases::{PROHIBITED, answered},
    ipv6::NODE6,
};
use crate::{
    Addr as _, Drop, Hook, Packet as _, To, V4, V6, Verdict, Way,
    abi::{Config, Endpoint, Interface, Port, PortKey, Route, UnansweredRing},
    wire::{Be16, Ethernet, Mac, MacPair, Vxlan, protocol, tcp},
};

/// An endpoint of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its link.
    pub ifindex: u32,
    /// Its address.
    pub address: [u8; 4],
    /// Its MAC.
    pub mac: MacBytes,
    /// MAC of the host's side.
    pub host_mac: MacBytes,
    /// Its network: number, subnet, prefix length, gateway, masquerade.
    pub network: Network,
    /// Its slot.
    pub slot: u32,
}

/// A network of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its number.
    pub number: u32,
    /// First address of the subnet.
    pub subnet: [u8; 4],
    /// Length of its prefix, bits.
    pub prefix: u8,
    /// The gateway's address.
    pub gateway: [u8; 4],
    /// Whether it is masqueraded.
    pub masquerade: bool,
}

/// A published port of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// The host's address; zero: any of them.
    pub host: [u8; 4],
    /// The host's port.
    pub host_port: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Whose it is...
    pub member: Member,
    /// ... and the port there.
    pub port: u16,
}

/// A node with an uplink, a masqueraded network of two endpoints and a routed one of one.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// 10.88.0.2 of network 1.
    pub a: Member,
    /// 10.88.0.3 of network 1.
    pub b: Member,
    /// 10.99.0.2 of network 2, which is routed.
    pub c: Member,
    /// The uplink.
    pub uplink: u32,
    /// An interface that is no endpoint's.
    pub stranger: u32,
}

/// Ports of masqueraded flows.
pub const PORTS: (u16, u16) = (49152, 65535);
/// Flows that an endpoint may have: few, to reach the limit.
pub const QUOTA: u32 = 4;
/// The node's address on the uplink.
pub const NODE: [u8; 4] = [192, 0, 2, 10];
/// Another address of the node's.
pub const OTHER: [u8; 4] = [192, 0, 2, 11];
/// The uplink's MTU.
pub const MTU: u32 = 1500;
/// Interface index of the kernel's VXLAN device.
pub const OVERLAY: u32 = 77;
/// A node on the uplink's subnet: 10.88.32.0/24 of network 1 is its slice.
pub const NEAR_NODE: [u8; 4] = [192, 0, 2, 20];
/// A node behind routers: 10.88.64.0/24 of network 1 and 10.99.0.128/25 of network 2 are its slices.
pub const FAR_NODE: [u8; 4] = [203, 0, 113, 30];
/// A container of the near node.
pub const NEAR: [u8; 4] = [10, 88, 32, 5];
/// A container of the far node.
pub const FAR: [u8; 4] = [10, 88, 64, 5];
/// A server in the world.
pub const SERVER: [u8; 4] = [198, 51, 100, 7];
/// MACs on the uplink: the node's and the router's.
pub const UPLINK_MACS: (MacBytes, MacBytes) = ([2, 0, 0, 0, 0, 0x10], [2, 0, 0, 0, 0, 0xfe]);

impl World {
    /// The world with these interface indices: of a, b, c, the uplink, and of no endpoint.
    pub const fn new(ifindex: [u32; 5]) -> Self {
        const ONE: Network = Network {
            number: 1,
            subnet: [10, 88, 0, 0],
            prefix: 16,
            gateway: [10, 88, 0, 1],
            masquerade: true,
        };
        const TWO: Network = Network {
            number: 2,
            subnet: [10, 99, 0, 0],
            prefix: 24,
            gateway: [10, 99, 0, 1],
            masquerade: false,
        };
        const fn member(ifindex: u32, network: Network, last: u8, slot: u32) -> Member {
            let [n0, n1, n2, _] = network.subnet;
            let g = network.gateway;
            Member {
                ifindex,
                address: [n0, n1, n2, last],
                mac: [0x02, 0x6e, n0, n1, n2, last],
                host_mac: [0x02, 0x6e, g[0], g[1], g[2], g[3]],
                network,
                slot,
            }
        }
        Self {
            a: member(ifindex[0], ONE, 2, 0),
            b: member(ifindex[1], ONE, 3, 1),
            c: member(ifindex[2], TWO, 2, 2),
            uplink: ifindex[3],
            stranger: ifindex[4],
        }
    }

    /// The tables of the world.
    pub fn tables(&self) -> Memory<V4> {
        let mut tables = Memory {
            v6: Some(Box::new(self.tables6())),
            config: Some(Arc::new(Config {
                uplink: self.uplink,
                address: V4::new(NODE),
                underlay4: V4::new(NODE),
                underlay6: V6::new(NODE6),
                first_port: PORTS.0,
                last_port: PORTS.1,
                quota: QUOTA,
                flows: 1 << 20,
                ring: UnansweredRing::LEAST - 1,
                seed: 1,
                mtu: MTU,
                overlay: OVERLAY,
                overlay_port: Vxlan::PORT,
                reserved: 0,
            })),
            ..Memory::default()
        };
        for member in [self.a, self.b, self.c] {
            let macs = MacPair::new(member.mac, member.host_mac);
            let network = member.network;
            tables.interfaces.insert(
                member.ifindex,
                Arc::new(Interface {
                    address: V4::new(member.address),
                    subnet: V4::new(network.subnet),
                    mask: mask(network.prefix),
                    gateway: V4::new(network.gateway),
                    subnet4: V4::new(network.subnet),
                    mac: Mac::new(member.mac),
                    flags: Interface::<V4>::PUBLISHED
                        | if network.masquerade { Interface::<V4>::MASQUERADE } else { 0 },
                    macs,
                    network: network.number,
                    slot: member.slot,
                }),
            );
            tables.endpoints.insert(
                V4::new(member.address),
                Arc::new(Endpoint {
                    ifindex: member.ifindex,
                    macs,
                    network: network.number,
                    slot: member.slot,
                }),
            );
        }
        let (prefix, bits, route) = self.route_over_ipv6();
        tables.routes.push((V4::new(prefix), mask(bits), Arc::new(route)));
        for (prefix, bits, route) in self.routes() {
            tables.routes.push((V4::new(prefix), mask(bits), Arc::new(route)));
        }
        for port in self.ports() {
            let key = PortKey {
                address: V4::new(port.host),
                port: Be16::new(port.host_port),
                protocol: port.protocol,
                reserved: 0,
            };
            let Member { address, slot, .. } = port.member;
            let (address, port) = (V4::new(address), Be16::new(port.port));
            tables.ports.borrow_mut().insert(key, Arc::new(Port { address, port, reserved: 0, slot }));
        }
        tables
    }

    /// The published ports.
    pub fn ports(&self) -> [PublishedPort; 6] {
        let port = |host, host_port, protocol, member, port| PublishedPort {
            host,
            host_port,
            protocol,
            member,
            port,
        };
        let any = [0; 4];
        [
            port(any, 8080, protocol::TCP, self.a, 80),
            port(any, 8081, protocol::TCP, self.a, 80),
            port(any, 5353, protocol::UDP, self.a, 53),
            port(NODE, 9090, protocol::TCP, self.b, 90),
            port(any, 9090, protocol::TCP, self.a, 91),
            port(any, 8088, protocol::TCP, self.c, 80),
        ]
    }

    /// The routes, longest first: prefix, bits, route.
    pub fn routes(&self) -> [([u8; 4], u8, Route); 9] {
        let (one, two) = (self.a.network, self.c.network);
        let route = |kind, network: u32| Route { kind, flags: 0, mtu: 0, network, node: V6::ZERO, slot: 0 };
        let node = |kind, network: u32, node, slot| {
            let overhead = if kind == Route::VXLAN { Vxlan::OVERHEAD } else { 0 };
            let flags = if network == two.number { Route::ROUTED } else { 0 };
            Route { kind, flags, mtu: (MTU - overhead) as u16, network, node: V4::new(node).mapped(), slot }
        };
        [
            (NODE, 32, route(Route::HOST, 0)),
            (OTHER, 32, route(Route::HOST, 0)),
            (FAR_NODE, 32, node(Route::UPLINK, 0, FAR_NODE, 0)),
            ([10, 99, 0, 128], 25, node(Route::VXLAN, two.number, FAR_NODE, 1)),
            ([10, 88, 64, 0], 24, node(Route::VXLAN, one.number, FAR_NODE, 1)),
            ([10, 88, 32, 0], 24, node(Route::DIRECT, one.number, NEAR_NODE, 0)),
            (two.subnet, two.prefix, route(Route::NETWORK, two.number)),
            (one.subnet, one.prefix, route(Route::NETWORK, one.number)),
            ([0; 4], 0, route(Route::UPLINK, 0)),
        ]
    }
}

fn mask(bits: u8) -> V4 {
    V4::new((u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)).to_be_bytes())
}

/// Which program a packet meets, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// `from_container` of an interface.
    FromContainer(u32),
    /// `from_uplink`.
    FromUplink,
    /// `to_container` of an interface; forwarded from another one, or not (0).
    ToContainer(u32, u32),
    /// `from_overlay`, decapsulated from a node's packet to this node's address, with a VNI. TEST_RUN cannot say that of a packet.
    FromOverlay([u8; 4], u32),
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes there, counted for this way.
    Goes(To, Way),
    /// It goes to the host's stack and is counted nowhere.
    Passes,
    /// It is dropped for this reason.
    Dropped(Drop),
    /// It is dropped for this reason, and its sender gets an ICMP error.
    Answered(Drop),
}

/// A packet and its fate.
#[derive(Clone, Debug)]
pub struct Step {
    /// The program.
    pub at: At,
    /// The frame before.
    pub frame: Vec<u8>,
    /// What becomes of it.
    pub fate: Fate,
    /// The frame after.
    pub after: Vec<u8>,
    /// Bytes of it that may be others: random ones, and a checksum over them.
    pub free: &'static [Range<usize>],
}

impl Step {
    /// A frame with what may differ taken out.
    pub fn fixed(&self, frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        for range in self.free {
            if let Some(bytes) = frame.get_mut(range.clone()) {
                bytes.fill(0);
            }
        }
        frame
    }
}

/// Packets one after the other, from empty flow tables.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows.
    pub name: Cow<'static, str>,
    /// The packets.
    pub steps: Vec<Step>,
}

/// Runs a packet through the core on the host.
pub fn run(world: &World, tables: &Memory<V4>, at: At, frame: &mut Frame) -> Verdict {
    let hook = |ifindex, forwarded| Hook { ifindex, forwarded, ..Hook::default() };
    // What the programs do that are attached.
    let v6 = frame.get(Ethernet::ETHERTYPE) == Some(Ethernet::IPV6);
    match at {
        At::FromContainer(ifindex) if v6 => crate::from_container6(frame, tables, hook(ifindex, false)),
        At::FromContainer(ifindex) => crate::from_container(frame, tables, hook(ifindex, false)),
        At::FromUplink => {
            let foreign = frame.get(0) != Some(Mac::new(UPLINK_MACS.0));
            let hook = Hook { foreign, ..hook(world.uplink, false) };
            crate::from_uplink(frame, tables, hook)
                .unwrap_or_else(|| crate::from_uplink6(frame, tables, hook))
        }
        At::ToContainer(ifindex, from) => crate::to_container(frame, tables, hook(ifindex, from != 0)),
        At::FromOverlay(node, vni) => {
            let (node, own) = (V4::new(node).mapped(), V4::new(NODE).mapped());
            crate::from_overlay(frame, tables, Hook { node, own, vni, ..hook(0, false) })
        }
    }
}

/// The table.
pub fn cases(world: &World) -> Vec<Case> {
    [
        forwarding(world),
        translation(world),
        refusals(world),
        limits(world),
        super::overlay_cases::cases(world),
        super::icmp_cases::cases(world),
        super::fragment_cases::cases(world),
        super::published_cases::cases(world),
        super::published6_cases::cases(world),
        super::hairpin_error_cases::cases(world),
        super::ipv6_cases::cases(world),
        super::ipv6_node_cases::cases(world),
        super::attack_cases::cases(world),
        super::attack6_cases::cases(world),
        super::attack_uplink_cases::cases(world),
        super::attack_overlay_cases::cases(world),
        super::own_overlay_cases::cases(world),
        super::uplink_cases::cases(world),
        super::class_cases::cases(world),
    ]
    .concat()
}

pub(super) fn case(name: impl Into<Cow<'static, str>>, steps: Vec<Step>) -> Case {
    Case { name: name.into(), steps }
}

/// A packet that stays as it is.
pub(super) fn unchanged(at: At, frame: Vec<u8>, fate: Fate) -> Step {
    Step { at, after: frame.clone(), frame, fate, free: &[] }
}

fn forwarding(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let from_a = At::FromContainer(a.ifindex);
    let udp = Body::Udp(1000, 2000, b"hello".to_vec());
    let sent = |destination, body: &Body| frame(a.host_mac, a.mac, &Ip::new(a.address, destination), body);
    let local = |ip: &Ip, body: &Body| Step {
        at: from_a,
        frame: frame(a.host_mac, a.mac, ip, body),
        fate: Fate::Goes(To::Peer, Way::Local),
        after: frame(b.mac, b.host_mac, ip, body),
        free: &[],
    };
    let to_b = Ip::new(a.address, b.address);
    let request = |target| ethernet([0xff; 6], a.mac, 0x0806, &arp(1, (a.mac, a.address), ([0; 6], target)));
    let reply =
        |target, asker| ethernet(a.mac, a.host_mac, 0x0806, &arp(2, (a.host_mac, target), (a.mac, asker)));
    let arp_step = |target| Step {
        at: from_a,
        frame: request(target),
        fate: Fate::Goes(To::Out, Way::Arp),
        after: reply(target, a.address),
        free: &[],
    };
    let probe = ethernet([0xff; 6], a.mac, 0x0806, &arp(1, (a.mac, [0; 4]), ([0; 6], b.address)));
    let to_host =
        |destination| unchanged(from_a, sent(destination, &udp), Fate::Goes(To::Stack, Way::ToHost));
    let routed = Ip::new(c.address, SERVER);
    let from_c = At::FromContainer(c.ifindex);
    vec![
        case("udp to a neighbour", vec![local(&to_b, &udp)]),
        case("tcp to a neighbour", vec![local(&to_b, &Body::Tcp(1, 2, tcp::SYN, vec![]))]),
        case("ping to a neighbour", vec![local(&to_b, &Body::Icmp(8, 0, 9, vec![1, 2, 3]))]),
        case("sctp to a neighbour", vec![local(&to_b, &Body::Other(132, vec![0; 12]))]),
        case("options to a neighbour", vec![local(&Ip { options: vec![1; 8], ..to_b.clone() }, &udp)]),
        case("a fragment to a neighbour", vec![local(&Ip { fragment: 0x2000, ..to_b.clone() }, &udp)]),
        case("the last hop counts nothing down", vec![local(&Ip { ttl: 1, ..to_b.clone() }, &udp)]),
        case("arp for the gateway", vec![arp_step(a.network.gateway)]),
        case("arp for a neighbour", vec![arp_step(b.address)]),
        case("arp for nobody in the subnet", vec![arp_step([10, 88, 200, 200])]),
        case(
            "an arp probe for another's address finds the conflict",
            vec![Step {
                at: from_a,
                frame: probe,
                fate: Fate::Goes(To::Out, Way::Arp),
                after: reply(b.address, [0; 4]),
                free: &[],
            }],
        ),
        case("to the gateway", vec![to_host(a.network.gateway)]),
        case("to the node's address", vec![to_host(NODE)]),
        case(
            "a fragment to the node's address",
            vec![unchanged(
                from_a,
                frame(a.host_mac, a.mac, &Ip { fragment: 0x2000, ..Ip::new(a.address, NODE) }, &udp),
                Fate::Goes(To::Stack, Way::ToHost),
            )],
        ),
        case(
            "a routed network to the world",
            vec![Step {
                at: from_c,
                frame: frame(c.host_mac, c.mac, &routed, &udp),
                fate: Fate::Goes(To::Neighbour, Way::Routed),
                after: frame(c.host_mac, c.mac, &Ip { ttl: 63, ..routed.clone() }, &udp),
                free: &[],
            }],
        ),
        case(
            "a routed network to the node",
            vec![unchanged(
                from_c,
                frame(c.host_mac, c.mac, &Ip::new(c.address, NODE), &udp),
                Fate::Goes(To::Stack, Way::ToHost),
            )],
        ),
        case(
            "the host to a container",
            vec![unchanged(
                At::ToContainer(a.ifindex, 0),
                frame(a.mac, a.host_mac, &Ip::new(NODE, a.address), &udp),
                Fate::Goes(To::Stack, Way::FromHost),
            )],
        ),
        case(
            "forwarded by the host into a routed network",
            vec![unchanged(
                At::ToContainer(c.ifindex, world.uplink),
                frame(c.mac, c.host_mac, &Ip::new(SERVER, c.address), &udp),
                Fate::Goes(To::Stack, Way::FromHost),
            )],
        ),
        case(
            "arp to a container",
            vec![unchanged(At::ToContainer(a.ifindex, a.ifindex), reply(b.address, a.address), Fate::Passes)],
        ),
    ]
}

/// Out through the masquerade, and the answer back.
fn translation(world: &World) -> Vec<Case> {
    let a = world.a;
    // Within the range, so that the port is kept.
    const PORT: u16 = 50_000;
    let out = |ip: &Ip, body: &Body| Step {
        at: At::FromContainer(a.ifindex),
        frame: frame(a.host_mac, a.mac, ip, body),
        fate: Fate::Goes(To::Neighbour, Way::Masquerade),
        // The kernel writes the Ethernet header later.
        after: frame(a.host_mac, a.mac, &Ip { source: NODE, ttl: ip.ttl - 1, ..ip.clone() }, body),
        free: &[],
    };
    let (node, router) = UPLINK_MACS;
    let back = |ip: &Ip, body: &Body| Step {
        at: At::FromUplink,
        frame: frame(node, router, ip, body),
        fate: Fate::Goes(To::Peer, Way::Reply),
        after: frame(a.mac, a.host_mac, &Ip { destination: a.address, ttl: ip.ttl - 1, ..ip.clone() }, body),
        free: &[],
    };
    let pass = |ip: &Ip, body: &Body| unchanged(At::FromUplink, frame(node, router, ip, body), Fate::Passes);
    let (there, here) = (Ip::new(a.address, SERVER), Ip::new(SERVER, NODE));
    let data = b"some data, of an odd length".to_vec();
    let tcp = |flags| Body::Tcp(PORT, 443, flags, vec![]);
    let answer = |flags| Body::Tcp(443, PORT, flags, vec![7; 31]);
    let udp = Body::Udp(PORT, 53, data.clone());
    let udp_answer = Body::Udp(53, PORT, data.clone());
    vec![
        case("udp and its answer", vec![out(&there, &udp), back(&here, &udp_answer), out(&there, &udp)]),
        case(
            "udp without a checksum stays without",
            vec![
                out(&there, &Body::UdpUnchecked(PORT, 53, data.clone())),
                back(&here, &Body::UdpUnchecked(53, PORT, data.clone())),
            ],
        ),
        case(
            "a tcp connection from SYN to the last ACK",
            vec![
                out(&there, &tcp(tcp::SYN)),
                back(&here, &answer(tcp::SYN | tcp::ACK)),
                out(&there, &tcp(tcp::ACK)),
                back(&here, &answer(tcp::ACK)),
                out(&there, &tcp(tcp::FIN | tcp::ACK)),
                back(&here, &answer(tcp::FIN | tcp::ACK)),
                out(&there, &tcp(tcp::ACK)),
                out(&there, &tcp(tcp::SYN)),
            ],
        ),
        case(
            "ping and its answer",
            vec![
                out(&there, &Body::Icmp(8, 0, PORT, data.clone())),
                back(&here, &Body::Icmp(0, 0, PORT, data.clone())),
            ],
        ),
        case(
            "options move the transport header",
            vec![
                out(&Ip { options: vec![1; 40], ..there.clone() }, &tcp(tcp::SYN)),
                back(&Ip { options: vec![1; 4], ..here.clone() }, &answer(tcp::SYN | tcp::ACK)),
            ],
        ),
        case("an answer to no flow is the host's", vec![pass(&here, &udp_answer)]),
        case(
            "an answer from another port is the host's",
            vec![out(&there, &udp), pass(&here, &Body::Udp(54, PORT, data.clone()))],
        ),
        case("a ping to the node is the host's", vec![pass(&here, &Body::Icmp(8, 0, PORT, data.clone()))]),
        case(
            "a packet to another address is the host's",
            vec![out(&there, &udp), pass(&Ip::new(SERVER, [192, 0, 2, 99]), &udp_answer)],
        ),
        case(
            "arp on the uplink is the host's",
            vec![unchanged(
                At::FromUplink,
                ethernet([0xff; 6], router, 0x0806, &arp(1, (router, SERVER), ([0; 6], NODE))),
                Fate::Passes,
            )],
        ),
        case(
            "a truncated packet on the uplink is the host's",
            vec![unchanged(
                At::FromUplink,
                frame(node, router, &here, &udp_answer)[..30].to_vec(),
                Fate::Passes,
            )],
        ),
        case(
            "an answer whose time is up",
            vec![
                out(&there, &udp),
                unchanged(
                    At::FromUplink,
                    frame(node, router, &Ip { ttl: 1, ..here.clone() }, &udp_answer),
                    Fate::Dropped(Drop::TtlExpired),
                ),
            ],
        ),
    ]
}

fn refusals(world: &World) -> Vec<Case> {
    let (a, b, c) = (world.a, world.b, world.c);
    let at = At::FromContainer(a.ifindex);
    let udp = Body::Udp(50_000, 2000, b"hello".to_vec());
    let good = Ip::new(a.address, b.address);
    let drop = |frame: Vec<u8>, reason| vec![unchanged(at, frame, Fate::Dropped(reason))];
    let ip = |ip: &Ip| frame(a.host_mac, a.mac, ip, &udp);
    let to = |destination| ip(&Ip::new(a.address, destination));
    let patched = |offset: usize, value: u8| {
        let mut frame = ip(&good);
        frame[offset] = value;
        frame
    };
    let ask = |sender, target| ethernet([0xff; 6], a.mac, 0x0806, &arp(1, sender, ([0; 6], target)));
    let me = (a.mac, a.address);
    let tagged = [&ip(&good)[..12], &[0x81, 0, 0, 5], &ip(&good)[12..]].concat();
    let server = Ip::new(a.address, SERVER);
    vec![
        case("no version 4", drop(patched(14, 0x65), Drop::Malformed)),
        case("a header too short", drop(patched(14, 0x44), Drop::Malformed)),
        case("a header longer than the packet", drop(patched(14, 0x4f), Drop::Malformed)),
        case("a total length beyond the frame", drop(patched(17, 200), Drop::Malformed)),
        case("a total length of zero", drop(patched(17, 0), Drop::Malformed)),
        case("cut in the network header", drop(ip(&good)[..33].to_vec(), Drop::Malformed)),
        case(
            "cut in the transport header",
            drop(frame(a.host_mac, a.mac, &server, &Body::Other(6, vec![1; 12])), Drop::Malformed),
        ),
        case(
            "arp of another kind",
            drop(
                {
                    let mut frame = ask(me, b.address);
                    frame[15] = 6;
                    frame
                },
                Drop::Malformed,
            ),
        ),
        case("an unknown type", drop(ethernet(a.host_mac, a.mac, 0x88cc, &[0x60; 60]), Drop::EtherType)),
        case("a vlan tag in the frame", drop(tagged, Drop::Vlan)),
        case("another's mac", drop(frame(a.host_mac, b.mac, &good, &udp), Drop::SpoofedMac)),
        case("another's address", drop(ip(&Ip::new(b.address, SERVER)), Drop::SpoofedAddress)),
        case("the host's address", drop(ip(&Ip::new(NODE, SERVER)), Drop::SpoofedAddress)),
        case(
            "arp with another's address",
            drop(ask((a.mac, b.address), a.network.gateway), Drop::SpoofedArp),
        ),
        case("arp with another's mac", drop(ask((b.mac, a.address), a.network.gateway), Drop::SpoofedArp)),
        case("arp for the own address", drop(ask(me, a.address), Drop::Arp)),
        case("arp outside the subnet", drop(ask(me, SERVER), Drop::Arp)),
        case(
            "an arp reply",
            drop(
                ethernet(a.host_mac, a.mac, 0x0806, &arp(2, me, (a.host_mac, a.network.gateway))),
                Drop::Arp,
            ),
        ),
        case("another network", drop(to(c.address), Drop::Isolated)),
        case("nobody in the subnet", drop(to([10, 88, 7, 7]), Drop::NoEndpoint)),
        case("itself", drop(to(a.address), Drop::Destination)),
        case("loopback", drop(to([127, 0, 0, 1]), Drop::Destination)),
        case("multicast", drop(to([224, 0, 0, 251]), Drop::Destination)),
        case("broadcast", drop(to([255; 4]), Drop::Destination)),
        case(
            "a later fragment to the world",
            drop(ip(&Ip { fragment: 3, ..server.clone() }), Drop::Fragment),
        ),
        case(
            "sctp to the world",
            vec![answered(
                a,
                frame(a.host_mac, a.mac, &server, &Body::Other(132, vec![0; 12])),
                PROHIBITED,
                Fate::Answered(Drop::Protocol),
            )],
        ),
        case(
            "an icmp message that is neither echo nor error to the world",
            drop(frame(a.host_mac, a.mac, &server, &Body::Icmp(13, 0, 0, vec![0; 12])), Drop::Protocol),
        ),
        case(
            "forwarded by the host into a masqueraded network",
            vec![unchanged(
                At::ToContainer(a.ifindex, world.uplink),
                frame(a.mac, a.host_mac, &Ip::new(SERVER, a.address), &udp),
                Fate::Dropped(Drop::Unsolicited),
            )],
        ),
        case(
            "from an interface that is no endpoint's",
            vec![unchanged(
                At::FromContainer(world.stranger),
                ip(&good),
                Fate::Dropped(Drop::UnknownInterface),
            )],
        ),
        case(
            "to an interface that is no endpoint's",
            vec![unchanged(
                At::ToContainer(world.stranger, 0),
                ip(&good),
                Fate::Dropped(Drop::UnknownInterface),
            )],
        ),
    ]
}

/// More flows than an endpoint may have: its own new ones are refused, those that there are go on, and another's too.
fn limits(world: &World) -> Vec<Case> {
    let (a, b) = (world.a, world.b);
    let out = |from: Member, port, fate| {
        let ip = Ip::new(from.address, SERVER);
        let body = Body::Udp(port, 53, vec![1, 2, 3]);
        let before = frame(from.host_mac, from.mac, &ip, &body);
        if matches!(fate, Fate::Answered(_)) {
            return answered(from, before, PROHIBITED, fate);
        }
        let after = frame(from.host_mac, from.mac, &Ip { source: NODE, ttl: 63, ..ip }, &body);
        Step { at: At::FromContainer(from.ifindex), frame: before, fate, after, free: &[] }
    };
    let goes = Fate::Goes(To::Neighbour, Way::Masquerade);
    let mut steps: Vec<_> = (0..QUOTA as u16).map(|n| out(a, 50_000 + n, goes)).collect();
    steps.push(out(a, 51_000, Fate::Answered(Drop::FlowQuota)));
    steps.push(out(a, 50_000, goes));
    steps.push(out(b, 52_000, goes));
    vec![case("a quota used up", steps)]
}
