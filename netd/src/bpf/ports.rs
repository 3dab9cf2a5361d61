//! Published ports: which of the host's ports are whose.

use std::{collections::HashMap, net::IpAddr};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap as BpfMap, MapData};
use netd_common::{
    V4, V6,
    abi::{Flow, Port, PortBits, PortKey, Tuple},
    wire::{Be16, protocol},
};

use super::{
    Datapath,
    family::Family,
    flows::{HasTables, Record},
    maps::{gone, keys, reading, removing},
};

/// Published ports that one node can have, each address, port and protocol one; as many of each family.
pub const MAX_PORTS: u32 = 65_536;

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// The host's address; the unspecified one: any of its family.
    pub host: IpAddr,
    /// The host's port.
    pub host_port: u16,
    /// The IP protocol's number: TCP's or UDP's.
    pub protocol: u8,
    /// The endpoint's address, of the same family...
    pub address: IpAddr,
    /// ... and the port there.
    pub port: u16,
    /// The endpoint's slot.
    pub slot: u32,
}

/// What a map of published ports holds.
pub(super) type Entries<A> = HashMap<PortKey<A>, Port<A>>;

/// The entries of those ports that are of a family.
pub(super) fn entries<A: Family>(ports: &[PublishedPort]) -> Result<Entries<A>> {
    let of_family = ports.iter().filter_map(|port| Some((port, A::of(port.host)?)));
    let entries = of_family.map(|(port, host)| {
        let address = A::of(port.address);
        let address =
            address.with_context(|| format!("{} is of another family than {}", port.host, port.address))?;
        let key =
            PortKey { address: host, port: Be16::new(port.host_port), protocol: port.protocol, reserved: 0 };
        Ok((key, Port { address, port: Be16::new(port.port), reserved: 0, slot: port.slot }))
    });
    entries.collect()
}

/// What maps PORTS4, PORTS6 and PORT_BITS hold. The daemon is their only writer.
#[derive(Debug, Default)]
pub(super) struct Ports {
    v4: Entries<V4>,
    v6: Entries<V6>,
    bits: Bits,
}

/// Which ports anybody has published.
#[derive(Debug, Default)]
struct Bits {
    /// How many entries a port of a protocol has, of both families.
    users: HashMap<(u8, u16), u32>,
    /// How many ports of UDP there are.
    of_udp: usize,
    words: HashMap<u32, u64>,
}

impl Bits {
    /// Counts an entry of a port. Whether it is the first.
    fn add(&mut self, protocol: u8, port: u16) -> bool {
        let users = self.users.entry((protocol, port)).or_default();
        *users += 1;
        let first = *users == 1;
        self.of_udp += usize::from(first && protocol == protocol::UDP);
        first
    }

    /// Counts one less. Whether it was the last.
    fn remove(&mut self, protocol: u8, port: u16) -> bool {
        let left = self.users.get(&(protocol, port)).copied().unwrap_or(1) - 1;
        if left > 0 {
            self.users.insert((protocol, port), left);
        } else {
            let removed = self.users.remove(&(protocol, port));
            self.of_udp -= usize::from(removed.is_some() && protocol == protocol::UDP);
        }
        left == 0
    }

    /// Sets or clears the bit of a port.
    fn write(
        &mut self,
        map: &mut Array<MapData, u64>,
        protocol: u8,
        port: u16,
        published: bool,
    ) -> Result<()> {
        let (word, bit) = PortBits::place(protocol, port);
        let old = self.words.get(&word).copied().unwrap_or(0);
        let value = if published { old | 1 << bit } else { old & !(1 << bit) };
        map.set(word, value, 0).context("writing to map PORT_BITS")?;
        if value == 0 {
            self.words.remove(&word)
        } else {
            self.words.insert(word, value)
        };
        Ok(())
    }
}

/// The ports of a family: in its map, and what is known of that.
struct Side<'a, A: Family> {
    map: &'a mut BpfMap<MapData, PortKey<A>, Port<A>>,
    bits_map: &'a mut Array<MapData, u64>,
    entries: &'a mut Entries<A>,
    bits: &'a mut Bits,
}

impl<A: Family> Side<'_, A> {
    fn add(&mut self, key: PortKey<A>, value: Port<A>) -> Result<()> {
        if self.entries.get(&key) == Some(&value) {
            return Ok(());
        }
        let written = self.map.insert(key, value, 0);
        written.with_context(|| format!("writing to map {} (is it full?)", A::NAMES.ports))?;
        if self.entries.insert(key, value).is_some() {
            return Ok(());
        }
        let port = key.port.host();
        if self.bits.add(key.protocol, port) {
            self.bits.write(self.bits_map, key.protocol, port, true)?;
        }
        Ok(())
    }

    fn remove(&mut self, key: &PortKey<A>) -> Result<()> {
        gone(self.map.remove(key)).with_context(|| removing(A::NAMES.ports))?;
        if self.entries.remove(key).is_none() {
            return Ok(());
        }
        let port = key.port.host();
        if self.bits.remove(key.protocol, port) {
            self.bits.write(self.bits_map, key.protocol, port, false)?;
        }
        Ok(())
    }

    /// Removes what is in the map and not wanted, and finds out what is in it. Returns what it removed. The bits are only counted.
    fn retain(&mut self, wanted: &Entries<A>) -> Result<Entries<A>> {
        let found = keys(self.map.keys()).with_context(|| reading(A::NAMES.ports))?;
        let mut removed = Entries::new();
        for key in found {
            let entry = self.map.get(&key, 0).with_context(|| reading(A::NAMES.ports))?;
            if wanted.get(&key) == Some(&entry) {
                self.entries.insert(key, entry);
                self.bits.add(key.protocol, key.port.host());
            } else {
                gone(self.map.remove(&key)).with_context(|| removing(A::NAMES.ports))?;
                removed.insert(key, entry);
            }
        }
        Ok(removed)
    }
}

/// What a family's ports are in.
trait HasPorts: Family {
    fn entries(ports: &mut Ports) -> (&mut Entries<Self>, &mut Bits);
}

impl HasPorts for V4 {
    fn entries(ports: &mut Ports) -> (&mut Entries<Self>, &mut Bits) {
        (&mut ports.v4, &mut ports.bits)
    }
}

impl HasPorts for V6 {
    fn entries(ports: &mut Ports) -> (&mut Entries<Self>, &mut Bits) {
        (&mut ports.v6, &mut ports.bits)
    }
}

impl Datapath {
    /// Publishes ports. Idempotent.
    ///
    /// # Errors
    /// A map cannot be written.
    pub fn publish(&mut self, ports: &[PublishedPort]) -> Result<()> {
        self.publish_of::<V4>(ports)?;
        self.publish_of::<V6>(ports)?;
        self.serve_the_host();
        Ok(())
    }

    /// What comes from outside does not depend on it.
    fn serve_the_host(&mut self) {
        if let Err(error) = self.follow_ports() {
            tracing::error!("published ports, for the host's own sockets: {error:#}");
        }
    }

    /// Takes ports back. The flows that came by them go on until they are removed ([`super::FlowsOf::Ports`]), which is to be
    /// done after this: a packet that has still found a port removes its flow itself (`netd_common::published`). Idempotent.
    ///
    /// # Errors
    /// A map cannot be written.
    pub fn unpublish(&mut self, ports: &[PublishedPort]) -> Result<()> {
        self.unpublish_of::<V4>(ports)?;
        self.unpublish_of::<V6>(ports)?;
        self.serve_the_host();
        Ok(())
    }

    /// Makes the maps hold exactly these ports, whatever a daemon before this one has left in them.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn retain_ports(&mut self, wanted: &[PublishedPort]) -> Result<()> {
        self.ports = Ports::default();
        let removed4 = self.side::<V4>().retain(&entries(wanted)?)?;
        let removed6 = self.side::<V6>().retain(&entries(wanted)?)?;
        let bits = &mut self.ports.bits;
        for (protocol, port) in bits.users.keys() {
            let (word, bit) = PortBits::place(*protocol, *port);
            *bits.words.entry(word).or_default() |= 1 << bit;
        }
        let map = &mut self.maps.port_bits;
        for word in 0..PortBits::WORDS {
            let value = bits.words.get(&word).copied().unwrap_or(0);
            if map.get(&word, 0).with_context(|| reading("PORT_BITS"))? != value {
                map.set(word, value, 0).context("writing to map PORT_BITS")?;
            }
        }
        self.remove_flows_by(&removed4)?;
        self.remove_flows_by(&removed6)?;
        self.publish(wanted)
    }

    /// How many there are, of both families.
    pub(super) fn published(&self) -> usize {
        self.ports.v4.len() + self.ports.v6.len()
    }

    /// Whether a port of UDP is.
    pub(super) fn is_udp_published(&self) -> bool {
        self.ports.bits.of_udp > 0
    }

    fn side<A: HasPorts>(&mut self) -> Side<'_, A> {
        let (entries, bits) = A::entries(&mut self.ports);
        let (tables, bits_map) = A::tables(&mut self.maps);
        Side { map: &mut tables.ports, bits_map, entries, bits }
    }

    fn publish_of<A: HasPorts>(&mut self, ports: &[PublishedPort]) -> Result<()> {
        let entries = entries::<A>(ports)?;
        let mut side = self.side::<A>();
        entries.into_iter().try_for_each(|(key, value)| side.add(key, value))
    }

    fn unpublish_of<A: HasPorts>(&mut self, ports: &[PublishedPort]) -> Result<()> {
        let entries = entries::<A>(ports)?;
        let mut side = self.side::<A>();
        for (key, value) in &entries {
            // One that is somebody else's by now stays.
            if side.entries.get(key).is_none_or(|entry| entry == value) {
                side.remove(key)?;
            }
        }
        Ok(())
    }

    /// Removes the flows that came by these ports.
    fn remove_flows_by<A: Family>(&mut self, ports: &Entries<A>) -> Result<()>
    where
        Datapath: HasTables<A>,
    {
        let any = ports.values().any(|port| self.maps.flows_of(port.slot).is_ok_and(|flows| flows > 0));
        if !any {
            return Ok(());
        }
        self.remove_flows::<A>(|tuple, flow| came_by(ports, tuple, flow)).map(drop)
    }
}

/// Whether a flow came by one of these ports.
pub(super) fn came_by<A: Family>(ports: &Entries<A>, tuple: &Tuple<A>, flow: &Record<A>) -> bool {
    let by = |address| {
        let key = PortKey { address, port: tuple.destination_port, protocol: tuple.protocol, reserved: 0 };
        ports.get(&key).is_some_and(|port| (port.address, port.port) == (flow.address, flow.port))
    };
    flow.flags & Flow::<A>::PUBLISHED != 0 && (by(tuple.destination) || by(A::ZERO))
}
