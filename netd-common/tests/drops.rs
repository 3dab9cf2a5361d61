//! Drop reasons that need more than a packet to be provoked.

use std::sync::Arc;

use netd_common::{
    Addr as _, Drop, Hook, Packet, To, V4, V6, Way,
    abi::{Config, vni},
    flow::When,
    from_container, from_overlay,
    host::{
        Frame, Memory,
        build::{Body, Ip, Ip6, frame, frame6},
        cases::{At, FAR, FAR_NODE, NODE, OTHER, PORTS, SERVER, UPLINK_MACS, World, run},
        ipv6::{NODE6, SERVER6},
    },
    wire::{Be16, Vxlan, Wire, tcp},
};

const WORLD: World = World::new([11, 12, 13, 20, 30]);

/// A packet of `a`'s to a server's port.
fn to_server(source: u16, server: [u8; 4], port: u16) -> Frame {
    let a = WORLD.a;
    Frame::new(frame(a.host_mac, a.mac, &Ip::new(a.address, server), &Body::Udp(source, port, vec![1])))
}

fn send(tables: &Memory<V4>, mut frame: Frame) -> To {
    run(&WORLD, tables, At::FromContainer(WORLD.a.ifindex), &mut frame).to
}

fn with_config(tables: &mut Memory<V4>, change: impl FnOnce(&mut Config<V4>)) {
    let mut config = **tables.config.as_ref().expect("the world has a node");
    change(&mut config);
    tables.config = Some(Arc::new(config));
}

#[test]
fn a_vlan_tag_beside_the_packet() {
    let tables = WORLD.tables();
    let hook = Hook { ifindex: WORLD.a.ifindex, vlan: true, ..Hook::default() };
    let verdict = from_container(&mut to_server(50_000, SERVER, 53), &tables, hook);
    assert_eq!((verdict.to, tables.dropped(Drop::Vlan)), (To::Drop, 1));
}

/// Taken off the inner frame by the kernel's device.
#[test]
fn a_vlan_tag_beside_a_packet_of_the_overlay() {
    let tables = WORLD.tables();
    let a = WORLD.a;
    let hook = |vlan| Hook {
        node: V4::new(FAR_NODE).mapped(),
        own: V4::new(NODE).mapped(),
        vni: vni(1),
        vlan,
        ..Hook::default()
    };
    let packet = || Frame::new(frame(a.mac, a.host_mac, &Ip::new(FAR, a.address), &Body::Udp(1, 2, vec![])));
    assert_eq!(from_overlay(&mut packet(), &tables, hook(false)).to, To::Peer);
    assert_eq!(from_overlay(&mut packet(), &tables, hook(true)).to, To::Drop);
    assert_eq!(tables.dropped(Drop::Vlan), 1);
}

#[test]
fn a_reply_to_an_endpoint_that_is_gone() {
    let mut tables = WORLD.tables();
    assert_eq!(send(&tables, to_server(50_000, SERVER, 53)), To::Neighbour);
    tables.endpoints.clear();
    let (node, router) = UPLINK_MACS;
    let mut reply = Frame::new(frame(node, router, &Ip::new(SERVER, NODE), &Body::Udp(53, 50_000, vec![2])));
    assert_eq!(run(&WORLD, &tables, At::FromUplink, &mut reply).to, To::Drop);
    assert_eq!(tables.dropped(Drop::NoEndpoint), 1);
}

#[test]
fn no_uplink() {
    let mut tables = WORLD.tables();
    with_config(&mut tables, |config| config.uplink = 0);
    assert_eq!(send(&tables, to_server(50_000, SERVER, 53)), To::Drop);
    assert_eq!(tables.dropped(Drop::NoRoute), 1);
    tables.config = None;
    assert_eq!(send(&tables, to_server(50_000, SERVER, 53)), To::Drop);
    assert_eq!(tables.dropped(Drop::NoRoute), 2);
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_old() {
    let mut tables = WORLD.tables();
    // One flow, and half of another.
    tables.max_flows = 3;
    assert_eq!(send(&tables, to_server(50_000, SERVER, 53)), To::Neighbour);
    assert_eq!(send(&tables, to_server(50_001, SERVER, 53)), To::Link);
    assert_eq!(tables.dropped(Drop::FlowTableFull), 1);
    assert_eq!(tables.flows.borrow().len(), 2, "a half-made flow was left behind");
    assert_eq!(send(&tables, to_server(50_000, SERVER, 53)), To::Neighbour);
}

#[test]
fn no_port_left_towards_one_destination() {
    let mut tables = WORLD.tables();
    with_config(&mut tables, |config| {
        (config.first_port, config.last_port, config.quota) = (PORTS.0, PORTS.0 + 1, 100);
    });
    // With one flow there, the last port of the range is for others.
    assert_eq!(send(&tables, to_server(1, SERVER, 53)), To::Neighbour);
    let second = send(&tables, to_server(2, SERVER, 53));
    assert_eq!(send(&tables, to_server(3, SERVER, 53)), To::Link);
    let expected = if matches!(second, To::Link) { 2 } else { 1 };
    assert_eq!(tables.dropped(Drop::PortsExhausted), expected);
    // Another destination has ports of its own, and the flows that there are go on.
    assert_eq!(send(&tables, to_server(3, SERVER, 54)), To::Neighbour);
    assert_eq!(send(&tables, to_server(1, SERVER, 53)), To::Neighbour);
    // With time, ports come free.
    tables.time.set(netd_common::flow::UDP + 1);
    assert_eq!(send(&tables, to_server(3, SERVER, 53)), To::Neighbour);
    assert!(tables.collect(When::TimedOut) > 0);
}

/// A port that comes free within seconds: who asks for it is not told that there is none, and tries again.
#[test]
fn ports_of_closed_connections_come_free() {
    let mut tables = WORLD.tables();
    with_config(&mut tables, |config| (config.first_port, config.last_port) = (PORTS.0, PORTS.0));
    let a = WORLD.a;
    let segment = |port, flags| {
        let body = Body::Tcp(port, 80, flags, vec![]);
        Frame::new(frame(a.host_mac, a.mac, &Ip::new(a.address, SERVER), &body))
    };
    assert_eq!(send(&tables, segment(1, tcp::SYN)), To::Neighbour);
    assert_eq!(send(&tables, segment(2, tcp::SYN)), To::Link, "told: the port is in use");
    assert_eq!(send(&tables, segment(1, tcp::RST)), To::Neighbour);
    assert_eq!(send(&tables, segment(2, tcp::SYN)), To::Drop);
    assert_eq!(tables.dropped(Drop::PortsExhausted), 2);
    tables.time.set(netd_common::flow::TCP_CLOSED_REUSE + 1);
    assert_eq!(send(&tables, segment(2, tcp::SYN)), To::Neighbour);
}

#[test]
fn an_empty_range_has_no_ports() {
    let mut tables = WORLD.tables();
    with_config(&mut tables, |config| (config.first_port, config.last_port) = (50_001, 50_000));
    assert_eq!(send(&tables, to_server(1, SERVER, 53)), To::Link);
    assert_eq!(tables.dropped(Drop::PortsExhausted), 1);
}

/// A packet that can be read but not written, as one whose headers the kernel cannot make writable.
struct ReadOnly(Frame);

impl Packet for ReadOnly {
    fn len(&self) -> u32 {
        self.0.len()
    }

    fn get<T: Wire>(&self, offset: u32) -> Option<T> {
        self.0.get(offset)
    }

    fn set<T: Wire>(&mut self, _: u32, _: T) -> Option<()> {
        None
    }

    fn hash(&mut self) -> u32 {
        0
    }

    fn encapsulate(&mut self, _: bool) -> Option<()> {
        None
    }

    fn tunnel(&mut self, _: &V6, _: &V6, _: u32, _: u8) -> Option<()> {
        None
    }

    fn decapsulate(&mut self, _: bool, _: bool) -> Option<()> {
        None
    }

    fn resize(&mut self, _: u32) -> Option<()> {
        None
    }

    fn l4_checksum(&mut self, _: u32, _: u32, _: u32, _: bool, _: bool) -> Option<()> {
        None
    }
}

#[test]
fn a_packet_that_cannot_be_written() {
    let tables = WORLD.tables();
    let hook = Hook { ifindex: WORLD.a.ifindex, ..Hook::default() };
    let verdict = from_container(&mut ReadOnly(to_server(50_000, SERVER, 53)), &tables, hook);
    assert_eq!((verdict.to, tables.dropped(Drop::Rewrite)), (To::Drop, 1));
}

#[test]
fn a_node_without_an_ipv6_address_masquerades_none_and_says_so() {
    let mut tables = WORLD.tables();
    let v6 = tables.v6.as_mut().expect("the world has IPv6");
    let config = Config { address: V6::ZERO, ..**v6.config.as_ref().expect("the world has a node") };
    v6.config = Some(Arc::new(config));
    let (a, b) = (WORLD.a, WORLD.b);
    let packet = |destination| {
        let ip = Ip6::new(a.address6(), destination);
        Frame::new(frame6(a.host_mac, a.mac, &ip, &Body::Udp(50_000, 53, vec![1])))
    };
    assert_eq!(send(&tables, packet(SERVER6)), To::Link);
    assert_eq!(tables.dropped(Drop::NoRoute), 1);
    assert!(v6_flows(&tables) == 0, "a flow from nowhere");
    assert_eq!(send(&tables, packet(b.address6())), To::Peer);
    assert_eq!(tables.went(Way::Local), 1);
}

fn v6_flows(tables: &Memory<V4>) -> usize {
    tables.v6.as_ref().map_or(0, |v6| v6.flows.borrow().len())
}

#[test]
fn ipv6_of_a_network_that_has_none() {
    let mut tables = WORLD.tables();
    tables.v6.as_mut().expect("the world has IPv6").interfaces.clear();
    let a = WORLD.a;
    let ip = Ip6::new(a.address6(), SERVER6);
    let packet = Frame::new(frame6(a.host_mac, a.mac, &ip, &Body::Udp(50_000, 53, vec![1])));
    assert_eq!(send(&tables, packet), To::Drop);
    assert_eq!(tables.dropped(Drop::EtherType), 1);
}

/// A node that is in no cluster has no overlay: its containers may have VXLAN of their own. Once it is in one, older flows end.
#[test]
fn a_flow_to_the_overlays_port_that_is_older_than_the_cluster() {
    let mut tables = WORLD.tables();
    with_config(&mut tables, |config| config.overlay_port = Be16::ZERO);
    let vxlan = || to_server(50_000, FAR_NODE, 4789);
    assert_eq!(send(&tables, vxlan()), To::Neighbour);
    // No port is not a port.
    assert_eq!(send(&tables, to_server(50_000, SERVER, 0)), To::Neighbour);
    with_config(&mut tables, |config| config.overlay_port = Vxlan::PORT);
    assert_eq!(send(&tables, vxlan()), To::Drop);
    assert_eq!(tables.dropped(Drop::OverlayContainer), 1);
    assert_eq!(send(&tables, to_server(50_000, FAR_NODE, 4790)), To::Neighbour);
}

/// What the kernel's own device has decapsulated counts as a node's only where it was sent to the address that the node is known by.
#[test]
fn an_overlay_packet_to_another_address_of_the_node() {
    let tables = WORLD.tables();
    let a = WORLD.a;
    let inner = frame(a.mac, a.host_mac, &Ip::new(FAR, a.address), &Body::Udp(1, 2, vec![3]));
    let deliver = |node: V6, own: V6| {
        let hook = Hook { node, own, vni: vni(1), ..Hook::default() };
        from_overlay(&mut Frame::new(inner.clone()), &tables, hook).to
    };
    let (node, mapped) = (V4::new(FAR_NODE).mapped(), |address| V4::new(address).mapped());
    assert_eq!(deliver(node, mapped(NODE)), To::Peer);
    assert_eq!(deliver(node, mapped(OTHER)), To::Drop);
    // Over IPv6, with an IPv4 node's address mapped.
    assert_eq!(deliver(node, V6::new(NODE6)), To::Drop);
    assert_eq!(deliver(node, V6::ZERO), To::Drop);
    assert_eq!(tables.dropped(Drop::OverlayNode), 3);
}
