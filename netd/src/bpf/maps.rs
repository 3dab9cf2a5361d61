//! The maps from user space: their shapes, their sizes, and handles to them.

use std::collections::HashSet;

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapInfo, MapType, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use netd_common::{
    V4,
    abi::{
        Config, Counter, Endpoint, EndpointCounters, Flow, Fragment, FragmentKey, Interface, NodeCounters,
        Peer, PeerKey, Port, PortKey, Route, Tuple,
    },
    reason,
};

use super::{Options, check, pins::Pins, ports::MAX_PORTS, types::MAX_NODES};

/// Prefixes that the route table can hold.
const MAX_ROUTES: u32 = 65_536;

/// A map as this build expects it.
struct Shape {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    /// `None`: as many as the object says.
    entries: Option<u32>,
}

/// All maps, with the sizes that the options ask for.
fn shapes(options: &Options) -> [Shape; 16] {
    const fn shape<K, V>(name: &'static str, kind: MapType, entries: Option<u32>) -> Shape {
        Shape { name, kind, key: size_of::<K>(), value: size_of::<V>(), entries }
    }
    let endpoints = Some(options.max_endpoints);
    // A key of an LPM trie begins with the prefix's length.
    type Prefix = [u32; 2];
    [
        shape::<u32, Counter>("COUNTERS", MapType::PerCpuArray, None),
        shape::<u32, EndpointCounters>("ENDPOINT_COUNTERS", MapType::PerCpuArray, endpoints),
        shape::<u32, NodeCounters>("NODE_COUNTERS", MapType::PerCpuArray, Some(MAX_NODES)),
        shape::<u32, u32>("FLOW_COUNTS", MapType::Array, endpoints),
        shape::<u32, Config<V4>>("CONFIG4", MapType::Array, None),
        shape::<u32, Interface<V4>>("INTERFACES4", MapType::Hash, endpoints),
        shape::<V4, Endpoint>("ENDPOINTS4", MapType::Hash, endpoints),
        shape::<Prefix, Route>("ROUTES4", MapType::LpmTrie, Some(MAX_ROUTES)),
        // A flow has two entries.
        shape::<Tuple<V4>, Flow<V4>>("FLOWS4", MapType::Hash, Some(options.max_flows * 2)),
        shape::<PortKey<V4>, Port<V4>>("PORTS4", MapType::Hash, Some(MAX_PORTS)),
        shape::<u32, u64>("PORT_BITS", MapType::Array, None),
        shape::<u32, u64>("HOST", MapType::Array, None),
        shape::<PeerKey, Peer>("HOST_PEERS", MapType::LruHash, None),
        shape::<FragmentKey<V4>, Fragment<V4>>("FRAGMENTS4", MapType::Hash, None),
        shape::<u32, FragmentKey<V4>>("FRAGMENT_PLACES4", MapType::Array, None),
        shape::<u32, u32>("FRAGMENT_TURNS", MapType::Array, None),
    ]
}

/// A loader that makes the maps, or takes over those that are pinned.
///
/// # Errors
/// A pinned map has another type, or keys or values of another size: aya would use it without a look. A pinned map of
/// another number of entries is kept as it is, with a warning: its contents are worth more than the new size.
pub(super) fn loader<'a>(options: &Options, pins: &'a Pins) -> Result<EbpfLoader<'a>> {
    check(options)?;
    let mut loader = EbpfLoader::new();
    for shape in shapes(options) {
        let path = pins.map(shape.name);
        if path.exists() {
            let found = MapInfo::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
            let kind = found.map_type().context("a pinned map is of an unknown type")?;
            let (key, value) = (found.key_size() as usize, found.value_size() as usize);
            if (kind, key, value) != (shape.kind, shape.key, shape.value) {
                bail!(
                    "pinned map {} has another shape than this netd expects ({kind:?}, key {key}, value {value} bytes \
                     instead of {:?}, {}, {}): remove it with `netd run --purge`, which ends running connections",
                    path.display(),
                    shape.kind,
                    shape.key,
                    shape.value
                );
            }
            if let Some(entries) = shape.entries
                && entries != found.max_entries()
            {
                tracing::warn!(
                    "pinned map {} keeps its {} entries instead of {entries}; `netd run --purge` would let it change",
                    shape.name,
                    found.max_entries()
                );
            }
        }
        if let Some(entries) = shape.entries {
            loader.map_max_entries(shape.name, entries);
        }
        loader.map_pin_path(shape.name, path);
    }
    Ok(loader)
}

/// Handles to the maps.
pub(super) struct Maps {
    pub(super) counters: PerCpuArray<MapData, Counter>,
    pub(super) endpoint_counters: PerCpuArray<MapData, EndpointCounters>,
    pub(super) node_counters: PerCpuArray<MapData, NodeCounters>,
    pub(super) flow_counts: Array<MapData, u32>,
    pub(super) config: Array<MapData, Config<V4>>,
    pub(super) interfaces: HashMap<MapData, u32, Interface<V4>>,
    pub(super) endpoints: HashMap<MapData, V4, Endpoint>,
    pub(super) routes: LpmTrie<MapData, V4, Route>,
    pub(super) ports: HashMap<MapData, PortKey<V4>, Port<V4>>,
    pub(super) port_bits: Array<MapData, u64>,
    pub(super) host: Array<MapData, u64>,
    pub(super) flows: MapData,
    pub(super) fragments: MapData,
    /// Entries that the maps of endpoints and of flows have room for.
    pub(super) max_endpoints: u32,
    pub(super) max_flows: u32,
}

impl Maps {
    /// Takes them out of the loaded object.
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self> {
        let mut take = |name: &str| {
            programs.take_map(name).with_context(|| format!("the eBPF object has no map {name}"))
        };
        let Map::HashMap(flows) = take("FLOWS4")? else { bail!("map FLOWS4 is not a hash map") };
        let Map::HashMap(fragments) = take("FRAGMENTS4")? else { bail!("map FRAGMENTS4 is not a hash map") };
        let max_flows = flows.info().context("asking for map FLOWS4")?.max_entries() / 2;
        let endpoint_counters = PerCpuArray::try_from(take("ENDPOINT_COUNTERS")?)?;
        Ok(Self {
            counters: take("COUNTERS")?.try_into()?,
            max_endpoints: endpoint_counters.len(),
            endpoint_counters,
            node_counters: take("NODE_COUNTERS")?.try_into()?,
            flow_counts: take("FLOW_COUNTS")?.try_into()?,
            config: take("CONFIG4")?.try_into()?,
            interfaces: take("INTERFACES4")?.try_into()?,
            endpoints: take("ENDPOINTS4")?.try_into()?,
            routes: take("ROUTES4")?.try_into()?,
            ports: take("PORTS4")?.try_into()?,
            port_bits: take("PORT_BITS")?.try_into()?,
            host: take("HOST")?.try_into()?,
            flows,
            fragments,
            max_flows,
        })
    }

    /// How many flows an endpoint has.
    pub(super) fn flows_of(&self, slot: u32) -> Result<u32> {
        self.flow_counts.get(&slot, 0).with_context(|| format!("reading entry {slot} of map FLOW_COUNTS"))
    }

    /// Zeroes the counters of a slot, for its next owner.
    pub(super) fn reset_counters(&mut self, slot: u32) -> Result<()> {
        let zero = PerCpuValues::try_from(vec![EndpointCounters::default(); cpus()?])?;
        self.endpoint_counters
            .set(slot, zero, 0)
            .with_context(|| format!("zeroing the counters of slot {slot}"))?;
        self.flow_counts.set(slot, 0, 0).with_context(|| format!("zeroing the flow count of slot {slot}"))
    }

    /// Zeroes the counters of all slots but these.
    pub(super) fn reset_other_counters(&mut self, slots: &HashSet<u32>) -> Result<()> {
        for slot in (0..self.max_endpoints).filter(|slot| !slots.contains(slot)) {
            let used = self
                .endpoint_counters
                .get(&slot, 0)?
                .iter()
                .any(|counters| *counters != EndpointCounters::default());
            if used || self.flows_of(slot)? != 0 {
                self.reset_counters(slot)?;
            }
        }
        Ok(())
    }
}

pub(super) fn cpus() -> Result<usize> {
    nr_cpus().map_err(|(file, error)| anyhow::anyhow!("reading {file}: {error}"))
}

/// Indices of the counters of drop reasons and ways.
pub(super) fn counter_index(reason: u32, way: bool) -> u32 {
    if way { reason::WAYS + reason } else { reason }
}
