//! The route table: what is in it, so that a change of one route of thousands writes one entry.

use std::{collections::HashMap, net::IpAddr, path::Path};

use anyhow::{Context as _, Result};
use aya::maps::{LpmTrie, Map, MapData, MapError};
use ipnet::IpNet;
use netd_common::{V4, V6, abi};

use super::{
    Route,
    family::{Family, mapped, unmapped},
    maps::{gone, keys, reading, removing},
};

/// Entries by their prefixes.
type RouteTable = HashMap<IpNet, abi::Route>;

/// What the map of routes of a family holds. The daemon is its only writer.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// None: the map was not read yet, or a change of it failed half way.
    known: Option<RouteTable>,
}

impl Routes {
    /// Makes the map hold exactly those routes that are of its family. New routes are there before old ones go.
    pub(super) fn change<A: Family>(
        &mut self,
        map: &mut LpmTrie<MapData, A, abi::Route>,
        routes: &[(IpNet, Route)],
    ) -> Result<()> {
        let own = routes.iter().filter(|(prefix, _)| A::prefix(*prefix).is_some());
        let wanted: RouteTable = own.map(|(prefix, route)| (*prefix, entry(route))).collect();
        let known = match self.known.take() {
            Some(known) => known,
            None => read(map)?,
        };
        for (prefix, entry) in wanted.iter().filter(|(prefix, entry)| known.get(*prefix) != Some(*entry)) {
            let Some(key) = A::prefix(*prefix) else { continue };
            map.insert(&key, *entry, 0).with_context(|| {
                format!("writing route {prefix} to map {} (is it full?)", A::NAMES.routes)
            })?;
        }
        for prefix in known.keys().filter(|prefix| !wanted.contains_key(*prefix)) {
            let Some(key) = A::prefix(*prefix) else { continue };
            gone(map.remove(&key)).with_context(|| removing(A::NAMES.routes))?;
        }
        self.known = Some(wanted);
        Ok(())
    }
}

/// A route as the programs read it.
fn entry(route: &Route) -> abi::Route {
    let plain = |kind, network| abi::Route { kind, flags: 0, mtu: 0, network, node: V6([0; 4]), slot: 0 };
    match *route {
        Route::Host => plain(abi::Route::HOST, 0),
        Route::Network(number) => plain(abi::Route::NETWORK, number),
        Route::Uplink => plain(abi::Route::UPLINK, 0),
        Route::Peer(node) => abi::Route { node: mapped(node), ..plain(abi::Route::UPLINK, 0) },
        Route::Node { network, address, slot, vxlan, mtu, routed } => {
            let kind = if vxlan { abi::Route::VXLAN } else { abi::Route::DIRECT };
            let flags = if routed { abi::Route::ROUTED } else { 0 };
            abi::Route { kind, flags, mtu, network, node: mapped(address), slot }
        }
    }
}

/// The node behind which an address is, as the map of another process's datapath has it.
///
/// # Errors
/// There is no such map.
pub fn node_behind(directory: &Path, address: IpAddr) -> Result<Option<IpAddr>> {
    match address {
        IpAddr::V4(_) => node_behind_in::<V4>(directory, address),
        IpAddr::V6(_) => node_behind_in::<V6>(directory, address),
    }
}

fn node_behind_in<A: Family>(directory: &Path, address: IpAddr) -> Result<Option<IpAddr>> {
    let path = directory.join(format!("v{}/maps/{}", abi::ABI_VERSION, A::NAMES.routes));
    let pinned = MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
    let map: LpmTrie<MapData, A, abi::Route> = Map::LpmTrie(pinned).try_into()?;
    let Some(key) = A::prefix(address.into()) else { return Ok(None) };
    match map.get(&key, 0) {
        Ok(route) => {
            Ok(matches!(route.kind, abi::Route::DIRECT | abi::Route::VXLAN).then(|| unmapped(route.node)))
        }
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error).with_context(|| reading(A::NAMES.routes)),
    }
}

/// The subnets of networks in a map.
pub(super) fn networks<A: Family>(map: &LpmTrie<MapData, A, abi::Route>) -> Result<Vec<IpNet>> {
    Ok(numbers(map)?.into_iter().map(|(subnet, _)| subnet).collect())
}

/// The same, with the networks' numbers.
pub(super) fn numbers<A: Family>(map: &LpmTrie<MapData, A, abi::Route>) -> Result<Vec<(IpNet, u32)>> {
    let networks = read(map)?.into_iter().filter(|(_, route)| route.kind == abi::Route::NETWORK);
    Ok(networks.map(|(subnet, route)| (subnet, route.network)).collect())
}

/// What a daemon before this one left in the map.
fn read<A: Family>(map: &LpmTrie<MapData, A, abi::Route>) -> Result<RouteTable> {
    let what = || reading(A::NAMES.routes);
    let mut found = RouteTable::new();
    for key in keys(map.keys()).with_context(what)? {
        let entry = map.get(&key, 0).with_context(what)?;
        let length = u8::try_from(key.prefix_len()).with_context(what)?;
        found.insert(IpNet::new(key.data().ip(), length).with_context(what)?, entry);
    }
    Ok(found)
}
