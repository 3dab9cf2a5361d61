//! Endpoints that do not exist, for measurements of how a look-up's cost depends on how many there are.

use std::{net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use netd_common::{V4, abi};

use super::v4;

/// Adds endpoints to the maps of another process's datapath, with what `like`, which is there, has. Each gets an interface of
/// its own, numbered down from the largest number. Its daemon removes them when it starts the next time.
///
/// # Errors
/// There are no such maps, they have no such endpoint, or they are full.
pub fn add_crowd(directory: &Path, like: Ipv4Addr, addresses: impl Iterator<Item = Ipv4Addr>) -> Result<()> {
    let open = |name: &str| {
        let path = directory.join(format!("v{}/maps/{name}", abi::ABI_VERSION));
        MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))
    };
    let mut endpoints: HashMap<MapData, V4, abi::Endpoint> = Map::HashMap(open("ENDPOINTS4")?).try_into()?;
    let mut interfaces: HashMap<MapData, u32, abi::Interface<V4>> =
        Map::HashMap(open("INTERFACES4")?).try_into()?;
    let endpoint = endpoints.get(&v4(like), 0).with_context(|| format!("no endpoint {like} in the maps"))?;
    let interface = interfaces.get(&endpoint.ifindex, 0).context("the endpoint's interface")?;
    for (ifindex, address) in (0..u32::MAX).rev().zip(addresses) {
        endpoints.insert(v4(address), endpoint, 0).context("writing map ENDPOINTS4 (is it full?)")?;
        interfaces.insert(ifindex, interface, 0).context("writing map INTERFACES4 (is it full?)")?;
    }
    Ok(())
}
