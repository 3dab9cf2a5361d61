//! The route table: what is in it, so that a change of one route of thousands writes one entry.

use std::{collections::HashMap, net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result};
use aya::maps::{LpmTrie, Map, MapData, MapError, lpm_trie::Key};
use ipnet::Ipv4Net;
use netd_common::{Addr as _, V4, V6, abi};

use super::{Route, gone, keys, v4};

/// Entries by their prefixes.
pub(super) type RouteTable = HashMap<Ipv4Net, abi::Route>;

/// What map ROUTES4 holds. The daemon is its only writer.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// None: the map was not read yet, or a change of it failed half way.
    known: Option<RouteTable>,
}

impl Routes {
    /// Makes the map hold exactly what is wanted. New routes are there before old ones go.
    pub(super) fn change(
        &mut self,
        map: &mut LpmTrie<MapData, V4, abi::Route>,
        wanted: RouteTable,
    ) -> Result<()> {
        let known = match self.known.take() {
            Some(known) => known,
            None => read(map)?,
        };
        for (prefix, entry) in wanted.iter().filter(|(prefix, entry)| known.get(*prefix) != Some(*entry)) {
            map.insert(&key(*prefix), *entry, 0)
                .with_context(|| format!("writing route {prefix} to map ROUTES4 (is it full?)"))?;
        }
        for prefix in known.keys().filter(|prefix| !wanted.contains_key(*prefix)) {
            gone(map.remove(&key(*prefix)), "removing from map ROUTES4")?;
        }
        self.known = Some(wanted);
        Ok(())
    }
}

/// A route as the programs read it.
pub(super) fn entry(route: &Route) -> abi::Route {
    let plain = |kind, network| abi::Route { kind, mtu: 0, network, node: V6::ZERO, slot: 0 };
    match *route {
        Route::Host => plain(abi::Route::HOST, 0),
        Route::Network(number) => plain(abi::Route::NETWORK, number),
        Route::Uplink => plain(abi::Route::UPLINK, 0),
        Route::Peer(node) => abi::Route { node: v4(node).mapped(), ..plain(abi::Route::UPLINK, 0) },
        Route::Node { network, address, slot, vxlan, mtu } => {
            let kind = if vxlan { abi::Route::VXLAN } else { abi::Route::DIRECT };
            abi::Route { kind, mtu, network, node: v4(address).mapped(), slot }
        }
    }
}

/// The node behind which an address is, as the map of another process's datapath has it.
///
/// # Errors
/// There is no such map.
pub fn node_behind(directory: &Path, address: Ipv4Addr) -> Result<Option<Ipv4Addr>> {
    let path = directory.join(format!("v{}/maps/ROUTES4", abi::ABI_VERSION));
    let pinned = MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
    let map: LpmTrie<MapData, V4, abi::Route> = Map::LpmTrie(pinned).try_into()?;
    match map.get(&key(address.into()), 0) {
        Ok(route) => {
            let is_node = matches!(route.kind, abi::Route::DIRECT | abi::Route::VXLAN);
            Ok(route.node.unmapped().filter(|_| is_node).map(|node| node.bytes().into()))
        }
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error).context("reading map ROUTES4"),
    }
}

fn key(prefix: Ipv4Net) -> Key<V4> {
    Key::new(u32::from(prefix.prefix_len()), v4(prefix.network()))
}

/// What a daemon before this one left in the map.
fn read(map: &LpmTrie<MapData, V4, abi::Route>) -> Result<RouteTable> {
    let mut found = RouteTable::new();
    for key in keys(map.keys(), "reading map ROUTES4")? {
        let entry = map.get(&key, 0).context("reading map ROUTES4")?;
        let length = u8::try_from(key.prefix_len()).context("a prefix in map ROUTES4")?;
        found.insert(
            Ipv4Net::new(key.data().bytes().into(), length).context("a prefix in map ROUTES4")?,
            entry,
        );
    }
    Ok(found)
}
