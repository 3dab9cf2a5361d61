//! The IPv6 side of the world of [`super::cases`]: each member's address goes with its IPv4 address.

use std::sync::Arc;

use super::{
    Memory,
    cases::{FAR_NODE, MTU, Member, NODE, Network, OVERLAY, PORTS, PublishedPort, QUOTA, World},
};
use crate::{
    Addr as _, V4, V6,
    abi::{Config, Endpoint, Interface, Port, PortKey, Route, UnansweredRing},
    wire::{Be16, Mac, MacPair, Vxlan},
};

/// The node's address on the uplink.
pub const NODE6: [u8; 16] = address([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10]);
/// Another address of the node's.
pub const OTHER6: [u8; 16] = address([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11]);
/// A node on the uplink's subnet: fd88::2000/120 of network 1 is its slice.
pub const NEAR_NODE6: [u8; 16] = address([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x20]);
/// A node that is reached over IPv6 alone: fd88::6000/120 and 10.88.96.0/24 of network 1 are its slices.
pub const FAR_NODE6: [u8; 16] = address([0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x30]);
/// A server in the world.
pub const SERVER6: [u8; 16] = address([0x2001, 0xdb8, 7, 0, 0, 0, 0, 7]);
/// A container of the near node.
pub const NEAR6: [u8; 16] = address([0xfd88, 0, 0, 0, 0, 0, 0, 0x2005]);
/// A container of the far node of [`super::cases`], which is reached over IPv4.
pub const FAR6: [u8; 16] = address([0xfd88, 0, 0, 0, 0, 0, 0, 0x4005]);
/// A container of the node that is reached over IPv6.
pub const FARTHER6: [u8; 16] = address([0xfd88, 0, 0, 0, 0, 0, 0, 0x6005]);
/// Its IPv4 address.
pub const FARTHER: [u8; 4] = [10, 88, 96, 5];

/// An address from its groups.
pub const fn address(groups: [u16; 8]) -> [u8; 16] {
    let mut bytes = [0; 16];
    let mut at = 0;
    while at < 8 {
        [bytes[at * 2], bytes[at * 2 + 1]] = groups[at].to_be_bytes();
        at += 1;
    }
    bytes
}

/// The mask of a prefix's length.
fn mask(bits: u8) -> V6 {
    V6::new((u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)).to_be_bytes())
}

impl Network {
    /// Its IPv6 subnet.
    pub const fn subnet6(&self) -> ([u8; 16], u8) {
        match self.number {
            1 => (address([0xfd88, 0, 0, 0, 0, 0, 0, 0]), 48),
            _ => (address([0xfd99, 0, 0, 0, 0, 0, 0, 0]), 64),
        }
    }

    /// The gateway's IPv6 address: the first.
    pub const fn gateway6(&self) -> [u8; 16] {
        let mut gateway = self.subnet6().0;
        gateway[15] = 1;
        gateway
    }
}

impl Member {
    /// Its IPv6 address: at the same offset in the subnet as its IPv4 address.
    pub const fn address6(&self) -> [u8; 16] {
        let mut address = self.network.subnet6().0;
        address[15] = self.address[3];
        address
    }

    /// Its link-local address.
    pub fn link_local(&self) -> [u8; 16] {
        V6::link_local(Mac::new(self.mac)).bytes()
    }

    /// The link-local address of the host's side.
    pub fn host_link_local(&self) -> [u8; 16] {
        V6::link_local(Mac::new(self.host_mac)).bytes()
    }
}

impl World {
    /// What the programs know of the node.
    pub fn config6(&self) -> Config<V6> {
        Config {
            uplink: self.uplink,
            address: V6::new(NODE6),
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
        }
    }

    /// The members' entries: interface index, interface, address, endpoint.
    pub fn members6(&self) -> [(u32, Interface<V6>, V6, Endpoint); 3] {
        [self.a, self.b, self.c].map(|member| {
            let network = member.network;
            let macs = MacPair::new(member.mac, member.host_mac);
            let interface = Interface {
                address: V6::new(member.address6()),
                subnet: V6::new(network.subnet6().0),
                mask: mask(network.subnet6().1),
                gateway: V6::new(network.gateway6()),
                subnet4: V4::new(network.subnet),
                mac: Mac::new(member.mac),
                flags: Interface::<V6>::PUBLISHED
                    | if network.masquerade { Interface::<V6>::MASQUERADE } else { 0 },
                macs,
                network: network.number,
                slot: member.slot,
            };
            let endpoint =
                Endpoint { ifindex: member.ifindex, macs, network: network.number, slot: member.slot };
            (member.ifindex, interface, interface.address, endpoint)
        })
    }

    /// The IPv6 routes, longest first: prefix, bits, route.
    pub fn routes6(&self) -> [(V6, u8, Route); 11] {
        let (one, two) = (self.a.network, self.c.network);
        let plain = |kind, network: u32| Route { kind, flags: 0, mtu: 0, network, node: V6::ZERO, slot: 0 };
        let slice = |last: u16| V6::new(address([0xfd88, 0, 0, 0, 0, 0, 0, last]));
        let far = V4::new(FAR_NODE).mapped();
        let node = |kind, network: u32, node: V6, slot| {
            let overhead = if kind == Route::VXLAN { Vxlan::overhead(!node.is_mapped()) } else { 0 };
            let flags = if network == two.number { Route::ROUTED } else { 0 };
            Route { kind, flags, mtu: (MTU - overhead) as u16, network, node, slot }
        };
        let farther = V6::new(FAR_NODE6);
        [
            (V6::new(NODE6), 128, plain(Route::HOST, 0)),
            (V6::new(OTHER6), 128, plain(Route::HOST, 0)),
            (farther, 128, node(Route::UPLINK, 0, farther, 0)),
            (V6::new(address([0xfd99, 0, 0, 0, 0, 0, 0, 0x80])), 121, node(Route::VXLAN, 2, far, 1)),
            (slice(0x6000), 120, node(Route::VXLAN, 1, farther, 2)),
            (slice(0x4000), 120, node(Route::VXLAN, 1, far, 1)),
            (slice(0x2000), 120, node(Route::DIRECT, 1, V6::new(NEAR_NODE6), 0)),
            (V6::new(two.subnet6().0), two.subnet6().1, plain(Route::NETWORK, two.number)),
            (V6::new(one.subnet6().0), one.subnet6().1, plain(Route::NETWORK, one.number)),
            // A prefix that leads nowhere.
            (V6::new(address([0x2001, 0xdb8, 0xdead, 0, 0, 0, 0, 0])), 48, plain(0, 0)),
            (V6::ZERO, 0, plain(Route::UPLINK, 0)),
        ]
    }

    /// The published ports: those of IPv4, at the addresses that go with theirs; and one that is of IPv6 alone.
    pub fn ports6(&self) -> Vec<(PortKey<V6>, Port<V6>)> {
        let alone = PublishedPort { host: NODE, host_port: 6060, ..self.ports()[0] };
        let all = self.ports().into_iter().chain([alone]);
        let entry = |port: PublishedPort| {
            let address = if port.host == NODE { V6::new(NODE6) } else { V6::ZERO };
            let key =
                PortKey { address, port: Be16::new(port.host_port), protocol: port.protocol, reserved: 0 };
            let (address, slot) = (V6::new(port.member.address6()), port.member.slot);
            (key, Port { address, port: Be16::new(port.port), reserved: 0, slot })
        };
        all.map(entry).collect()
    }

    /// The IPv4 route that leads over IPv6.
    pub fn route_over_ipv6(&self) -> ([u8; 4], u8, Route) {
        let node = V6::new(FAR_NODE6);
        let mtu = (MTU - Vxlan::OVERHEAD6) as u16;
        ([10, 88, 96, 0], 24, Route { kind: Route::VXLAN, flags: 0, mtu, network: 1, node, slot: 2 })
    }

    /// The tables of IPv6.
    pub(super) fn tables6(&self) -> Memory<V6> {
        let mut tables = Memory { config: Some(Arc::new(self.config6())), ..Memory::default() };
        for (ifindex, interface, address, endpoint) in self.members6() {
            tables.interfaces.insert(ifindex, Arc::new(interface));
            tables.endpoints.insert(address, Arc::new(endpoint));
        }
        for (prefix, bits, route) in self.routes6() {
            tables.routes.push((prefix, mask(bits), Arc::new(route)));
        }
        for (key, port) in self.ports6() {
            tables.ports.borrow_mut().insert(key, Arc::new(port));
        }
        tables
    }
}
