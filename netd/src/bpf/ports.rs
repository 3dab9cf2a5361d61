//! Published ports: which of the host's ports are whose.

use std::{collections::HashMap, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap as BpfMap, MapData};
use netd_common::{
    V4,
    abi::{Flow, Port, PortBits, PortKey},
    wire::Be16,
};

use super::{Datapath, gone, keys, v4};

/// Published ports that one node can have, each address, port and protocol one.
pub const MAX_PORTS: u32 = 65_536;

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// The host's address; none: any of them.
    pub host: Option<Ipv4Addr>,
    /// The host's port.
    pub host_port: u16,
    /// The IP protocol's number: TCP's or UDP's.
    pub protocol: u8,
    /// The endpoint's address...
    pub address: Ipv4Addr,
    /// ... and the port there.
    pub port: u16,
    /// The endpoint's slot.
    pub slot: u32,
}

impl PublishedPort {
    fn key(&self) -> PortKey<V4> {
        PortKey {
            address: self.host.map_or(V4(0), v4),
            port: Be16::new(self.host_port),
            protocol: self.protocol,
            reserved: 0,
        }
    }

    fn value(&self) -> Port<V4> {
        Port { address: v4(self.address), port: Be16::new(self.port), reserved: 0, slot: self.slot }
    }
}

/// What maps PORTS4 and PORT_BITS hold. The daemon is their only writer.
#[derive(Debug, Default)]
pub(super) struct Ports {
    entries: HashMap<PortKey<V4>, Port<V4>>,
    /// How many entries a port of a protocol has.
    users: HashMap<(u8, u16), u32>,
    words: HashMap<u32, u64>,
}

impl Ports {
    fn add(
        &mut self,
        map: &mut BpfMap<MapData, PortKey<V4>, Port<V4>>,
        bits: &mut Array<MapData, u64>,
        port: &PublishedPort,
    ) -> Result<()> {
        let (key, value) = (port.key(), port.value());
        if self.entries.get(&key) == Some(&value) {
            return Ok(());
        }
        map.insert(key, value, 0).context("writing to map PORTS4 (is it full?)")?;
        if self.entries.insert(key, value).is_some() {
            return Ok(());
        }
        let users = self.users.entry((port.protocol, port.host_port)).or_default();
        *users += 1;
        if *users > 1 {
            return Ok(());
        }
        let (word, bit) = PortBits::place(port.protocol, port.host_port);
        let value = self.words.get(&word).copied().unwrap_or(0) | 1 << bit;
        bits.set(word, value, 0).context("writing to map PORT_BITS")?;
        self.words.insert(word, value);
        Ok(())
    }

    fn remove(
        &mut self,
        map: &mut BpfMap<MapData, PortKey<V4>, Port<V4>>,
        bits: &mut Array<MapData, u64>,
        key: &PortKey<V4>,
    ) -> Result<()> {
        gone(map.remove(key), "removing from map PORTS4")?;
        if self.entries.remove(key).is_none() {
            return Ok(());
        }
        let port = (key.protocol, key.port.host());
        let left = self.users.get(&port).copied().unwrap_or(1) - 1;
        if left > 0 {
            self.users.insert(port, left);
            return Ok(());
        }
        self.users.remove(&port);
        let (word, bit) = PortBits::place(port.0, port.1);
        let value = self.words.get(&word).copied().unwrap_or(0) & !(1 << bit);
        bits.set(word, value, 0).context("writing to map PORT_BITS")?;
        if value == 0 {
            self.words.remove(&word)
        } else {
            self.words.insert(word, value)
        };
        Ok(())
    }
}

impl Datapath {
    /// Publishes ports. Idempotent.
    pub fn publish(&mut self, ports: &[PublishedPort]) -> Result<()> {
        let maps = &mut self.maps;
        ports.iter().try_for_each(|port| self.ports.add(&mut maps.ports, &mut maps.port_bits, port))
    }

    /// Takes ports back, and removes the flows that came by them, no others. Idempotent.
    pub fn unpublish(&mut self, ports: &[PublishedPort]) -> Result<()> {
        let maps = &mut self.maps;
        // One that is somebody else's by now stays.
        let mut flows = HashMap::new();
        for port in ports {
            let key = port.key();
            if self.ports.entries.get(&key).is_none_or(|entry| *entry == port.value()) {
                self.ports.remove(&mut maps.ports, &mut maps.port_bits, &key)?;
            }
            flows.insert(key, port.value());
        }
        // After the ports: a packet that has still found one removes its flow itself (`netd_common::published`).
        self.remove_flows_by(&flows)
    }

    /// Makes the maps hold exactly these ports, whatever a daemon before this one has left in them.
    pub fn retain_ports(&mut self, wanted: &[PublishedPort]) -> Result<()> {
        let found = keys(self.maps.ports.keys(), "reading map PORTS4")?;
        let wanted: HashMap<PortKey<V4>, &PublishedPort> =
            wanted.iter().map(|port| (port.key(), port)).collect();
        self.ports = Ports::default();
        let mut flows = HashMap::new();
        for key in found {
            let entry = self.maps.ports.get(&key, 0).context("reading map PORTS4")?;
            if wanted.get(&key).is_none_or(|port| port.value() != entry) {
                gone(self.maps.ports.remove(&key), "removing from map PORTS4")?;
                flows.insert(key, entry);
            } else {
                self.ports.entries.insert(key, entry);
                *self.ports.users.entry((key.protocol, key.port.host())).or_default() += 1;
                let (word, bit) = PortBits::place(key.protocol, key.port.host());
                *self.ports.words.entry(word).or_default() |= 1 << bit;
            }
        }
        for word in 0..PortBits::WORDS {
            let value = self.ports.words.get(&word).copied().unwrap_or(0);
            if self.maps.port_bits.get(&word, 0).context("reading map PORT_BITS")? != value {
                self.maps.port_bits.set(word, value, 0).context("writing to map PORT_BITS")?;
            }
        }
        self.remove_flows_by(&flows)?;
        let wanted: Vec<PublishedPort> = wanted.into_values().copied().collect();
        self.publish(&wanted)
    }

    /// Removes the flows that came by these ports.
    fn remove_flows_by(&mut self, ports: &HashMap<PortKey<V4>, Port<V4>>) -> Result<()> {
        let any = ports.values().any(|port| self.maps.flows_of(port.slot).is_ok_and(|flows| flows > 0));
        if !any {
            return Ok(());
        }
        self.remove_flows(|tuple, flow| {
            let by = |address| {
                let key =
                    PortKey { address, port: tuple.destination_port, protocol: tuple.protocol, reserved: 0 };
                ports.get(&key).is_some_and(|port| (port.address, port.port) == (flow.address, flow.port))
            };
            flow.flags & Flow::<V4>::PUBLISHED != 0 && (by(tuple.destination) || by(V4(0)))
        })
        .map(drop)
    }
}
