//! The maps from user space: their shapes, their sizes, and handles to them.

use std::{
    collections::HashSet,
    path::Path,
    sync::atomic::{Ordering, fence},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{
        Array, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, MapType, PerCpuArray, PerCpuValues,
        lpm_trie::Key,
    },
    util::nr_cpus,
};
use netd_common::{
    V4, V6,
    abi::{
        Config, Configs, Counter, Denied, Endpoint, EndpointCounters, Flow, Fragment, FragmentKey, Interface,
        NodeCounters, Peer, PeerKey, Place, Port, PortKey, Route, Tuple, place_of,
    },
    quota::Account,
    reason,
};

use super::{Options, check, family::Family, pins::Pins, places::Places, ports::MAX_PORTS, types::MAX_NODES};

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

impl Shape {
    /// Looks at what is pinned in its place.
    fn check(&self, path: &Path) -> Result<MapInfo> {
        let found = MapInfo::from_pin(path).with_context(|| format!("opening {}", path.display()))?;
        let kind = found.map_type().context("a pinned map is of an unknown type")?;
        let (key, value) = (found.key_size() as usize, found.value_size() as usize);
        if (kind, key, value) != (self.kind, self.key, self.value) {
            bail!(
                "pinned map {} has another shape than this netd expects ({kind:?}, key {key}, value {value} bytes \
                 instead of {:?}, {}, {}): remove it with `netd run --purge`, which ends running connections",
                path.display(),
                self.kind,
                self.key,
                self.value
            );
        }
        Ok(found)
    }
}

/// Checks those maps of a directory that are there.
///
/// # Errors
/// One is not what this build expects.
pub(super) fn check_pins(options: &Options, maps: &Path) -> Result<()> {
    let pinned = shapes(options).into_iter().map(|shape| (maps.join(shape.name), shape));
    pinned.filter(|(path, _)| path.exists()).try_for_each(|(path, shape)| shape.check(&path).map(drop))
}

/// All maps, with the sizes that the options ask for.
fn shapes(options: &Options) -> Vec<Shape> {
    let endpoints = Some(options.max_endpoints);
    let mut all = vec![
        shape::<u32, Counter>("COUNTERS", MapType::PerCpuArray, None),
        shape::<u32, EndpointCounters>("ENDPOINT_COUNTERS", MapType::PerCpuArray, endpoints),
        shape::<u32, NodeCounters>("NODE_COUNTERS", MapType::PerCpuArray, Some(MAX_NODES)),
        shape::<u32, u32>("NODE_IDS", MapType::Array, Some(MAX_NODES)),
        shape::<u32, u32>("FLOW_COUNTS", MapType::Array, Some(options.max_endpoints * Account::COUNT)),
        shape::<u32, u32>("FLOW_TOTALS", MapType::Array, None),
        shape::<u32, u32>("DESTINATION_COUNTS", MapType::Array, None),
        shape::<u32, u32>("UNANSWERED_TURNS", MapType::Array, None),
        shape::<u32, u64>("PORT_BITS", MapType::Array, None),
        shape::<u32, u64>("HOST", MapType::Array, None),
        shape::<PeerKey, Peer>("HOST_PEERS", MapType::LruHash, None),
        shape::<u32, u32>("FRAGMENT_TURNS", MapType::Array, None),
        shape::<Key<V4>, Denied>("DENIED4", MapType::LpmTrie, None),
        shape::<Key<V6>, Denied>("DENIED6", MapType::LpmTrie, None),
        shape::<u32, u64>("DENIED_COUNTERS", MapType::PerCpuArray, None),
        shape::<u32, u32>("STEPS", MapType::ProgramArray, None),
    ];
    all.extend(shapes_of::<V4>(options));
    all.extend(shapes_of::<V6>(options));
    all
}

/// The maps of a family.
fn shapes_of<A: Family>(options: &Options) -> [Shape; 11] {
    let endpoints = Some(options.max_endpoints);
    let names = A::NAMES;
    [
        shape::<u32, Configs<A>>(names.config, MapType::Array, None),
        shape::<u32, Interface<A>>(names.interfaces, MapType::Hash, endpoints),
        shape::<u32, Place<u32, Interface<A>>>(names.interface_places, MapType::Array, None),
        shape::<A, Endpoint>(names.endpoints, MapType::Hash, endpoints),
        shape::<u32, Place<A, Endpoint>>(names.endpoint_places, MapType::Array, None),
        // A key of an LPM trie begins with the prefix's length.
        shape::<Key<A>, Route>(names.routes, MapType::LpmTrie, Some(MAX_ROUTES)),
        // A flow has two entries.
        shape::<Tuple<A>, Flow<A>>(names.flows, MapType::Hash, Some(options.max_flows * 2)),
        shape::<PortKey<A>, Port<A>>(names.ports, MapType::Hash, Some(MAX_PORTS)),
        shape::<FragmentKey<A>, Fragment<A>>(names.fragments, MapType::Hash, None),
        shape::<u32, FragmentKey<A>>(names.fragment_places, MapType::Array, None),
        shape::<u32, Tuple<A>>(names.unanswered, MapType::Array, None),
    ]
}

fn shape<K, V>(name: &'static str, kind: MapType, entries: Option<u32>) -> Shape {
    Shape { name, kind, key: size_of::<K>(), value: size_of::<V>(), entries }
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
            let found = shape.check(&path)?;
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
    pub(super) flow_totals: Array<MapData, u32>,
    pub(super) port_bits: Array<MapData, u64>,
    pub(super) host: Array<MapData, u64>,
    pub(super) v4: Tables<V4>,
    pub(super) v6: Tables<V6>,
    /// Entries that the map of endpoints has room for.
    pub(super) max_endpoints: u32,
}

/// Handles to the maps of a family.
pub(super) struct Tables<A: Family> {
    config: Array<MapData, Configs<A>>,
    pub(super) interfaces: HashMap<MapData, u32, Interface<A>>,
    interface_places: Places<u32, Interface<A>>,
    pub(super) endpoints: HashMap<MapData, A, Endpoint>,
    endpoint_places: Places<A, Endpoint>,
    pub(super) routes: LpmTrie<MapData, A, Route>,
    pub(super) ports: HashMap<MapData, PortKey<A>, Port<A>>,
    pub(super) flows: MapData,
    pub(super) fragments: MapData,
    /// Flows that there is room for.
    pub(super) max_flows: u32,
}

/// Takes a map out of the loaded object.
fn take(programs: &mut Ebpf, name: &str) -> Result<Map> {
    programs.take_map(name).with_context(|| format!("the eBPF object has no map {name}"))
}

impl<A: Family> Tables<A> {
    fn take(programs: &mut Ebpf) -> Result<Self> {
        let mut hash = |name: &str| match take(programs, name)? {
            Map::HashMap(map) => Ok(map),
            _ => bail!("map {name} is not a hash map"),
        };
        let (flows, fragments) = (hash(A::NAMES.flows)?, hash(A::NAMES.fragments)?);
        let max_flows = flows.info().with_context(|| format!("asking for map {}", A::NAMES.flows))?;
        Ok(Self {
            config: take(programs, A::NAMES.config)?.try_into()?,
            interfaces: take(programs, A::NAMES.interfaces)?.try_into()?,
            interface_places: Places::new(
                take(programs, A::NAMES.interface_places)?.try_into()?,
                A::NAMES.interface_places,
                0,
            ),
            endpoints: take(programs, A::NAMES.endpoints)?.try_into()?,
            endpoint_places: Places::new(
                take(programs, A::NAMES.endpoint_places)?.try_into()?,
                A::NAMES.endpoint_places,
                A::ZERO,
            ),
            routes: take(programs, A::NAMES.routes)?.try_into()?,
            ports: take(programs, A::NAMES.ports)?.try_into()?,
            flows,
            fragments,
            max_flows: max_flows.max_entries() / 2,
        })
    }

    /// What the programs know of the node.
    pub(super) fn config(&self) -> Result<Config<A>> {
        Ok(*self.configs()?.get())
    }

    fn configs(&self) -> Result<Configs<A>> {
        self.config.get(&0, 0).with_context(|| reading(A::NAMES.config))
    }

    /// Tells them something else. Each packet sees what was before or this, never some of both. No program may still be at work that
    /// began before the last change: see [`syscall::wait_for_programs`].
    pub(super) fn configure(&mut self, config: Config<A>) -> Result<()> {
        for configs in self.configs()?.change(config) {
            let written = self.config.set(0, configs, 0);
            written.with_context(|| format!("writing the node's entry to map {}", A::NAMES.config))?;
            fence(Ordering::SeqCst);
        }
        Ok(())
    }

    /// Writes who sends from an interface.
    pub(super) fn set_interface(&mut self, ifindex: u32, interface: Interface<A>) -> Result<()> {
        let written = self.interfaces.insert(ifindex, interface, 0);
        written.with_context(|| full(A::NAMES.interfaces, interface.address))?;
        self.interface_places.put(place_of(ifindex), ifindex, interface)
    }

    /// Writes where an address is.
    pub(super) fn set_endpoint(&mut self, address: A, endpoint: Endpoint) -> Result<()> {
        let written = self.endpoints.insert(address, endpoint, 0);
        written.with_context(|| full(A::NAMES.endpoints, address))?;
        self.endpoint_places.put(place_of(address.folded()), address, endpoint)
    }

    /// Removes what is known of an address at an interface. The address may have gone to another one meanwhile.
    pub(super) fn remove_endpoint(&mut self, address: A, ifindex: u32) -> Result<()> {
        match self.endpoints.get(&address, 0) {
            Ok(entry) if entry.ifindex & !Endpoint::SINGLE == ifindex => self.forget_endpoint(address),
            Ok(_) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(error).with_context(|| reading(A::NAMES.endpoints)),
        }
    }

    fn forget_endpoint(&mut self, address: A) -> Result<()> {
        self.endpoint_places.remove(place_of(address.folded()), address)?;
        gone(self.endpoints.remove(&address)).with_context(|| removing(A::NAMES.endpoints))
    }

    /// Removes who sends from an interface.
    pub(super) fn remove_interface(&mut self, ifindex: u32) -> Result<()> {
        self.interface_places.remove(place_of(ifindex), ifindex)?;
        gone(self.interfaces.remove(&ifindex)).with_context(|| removing(A::NAMES.interfaces))
    }

    /// Removes all interfaces and addresses but these.
    pub(super) fn retain(&mut self, links: &HashSet<u32>, addresses: &HashSet<A>) -> Result<()> {
        let all = keys(self.endpoints.keys()).with_context(|| reading(A::NAMES.endpoints))?;
        for address in all.iter().filter(|address| !addresses.contains(*address)) {
            self.forget_endpoint(*address)?;
        }
        let all = keys(self.interfaces.keys()).with_context(|| reading(A::NAMES.interfaces))?;
        for ifindex in all.iter().filter(|ifindex| !links.contains(*ifindex)) {
            self.remove_interface(*ifindex)?;
        }
        Ok(())
    }
}

pub(super) fn reading(map: &str) -> String {
    format!("reading map {map}")
}

pub(super) fn removing(map: &str) -> String {
    format!("removing from map {map}")
}

fn full<A: Family>(map: &str, address: A) -> String {
    format!("writing endpoint {} to map {map} (is it full?)", address.ip())
}

/// All keys, read before anything is removed: a removal under an iteration would start it over.
pub(super) fn keys<K>(keys: impl Iterator<Item = Result<K, MapError>>) -> Result<Vec<K>, MapError> {
    keys.collect()
}

/// A removal, for which it is fine that there was nothing.
pub(super) fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

impl Maps {
    /// Takes them out of the loaded object.
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self> {
        let endpoint_counters = PerCpuArray::try_from(take(programs, "ENDPOINT_COUNTERS")?)?;
        Ok(Self {
            counters: take(programs, "COUNTERS")?.try_into()?,
            max_endpoints: endpoint_counters.len(),
            endpoint_counters,
            node_counters: take(programs, "NODE_COUNTERS")?.try_into()?,
            flow_counts: take(programs, "FLOW_COUNTS")?.try_into()?,
            flow_totals: take(programs, "FLOW_TOTALS")?.try_into()?,
            port_bits: take(programs, "PORT_BITS")?.try_into()?,
            host: take(programs, "HOST")?.try_into()?,
            v4: Tables::take(programs)?,
            v6: Tables::take(programs)?,
        })
    }

    /// How many flows an endpoint has.
    pub(super) fn flows_of(&self, slot: u32) -> Result<u32> {
        let mut all = 0;
        for account in Account::ALL {
            let index = slot * Account::COUNT + account as u32;
            let count = self.flow_counts.get(&index, 0);
            all += count.with_context(|| format!("reading entry {index} of map FLOW_COUNTS"))?;
        }
        Ok(all)
    }

    /// Zeroes the counters of a slot, for its next owner; but not how many flows it has: those are counted by the programs alone.
    pub(super) fn reset_counters(&mut self, slot: u32) -> Result<()> {
        let zero = PerCpuValues::try_from(vec![EndpointCounters::default(); cpus()?])?;
        self.endpoint_counters
            .set(slot, zero, 0)
            .with_context(|| format!("zeroing the counters of slot {slot}"))
    }

    /// Zeroes the counters of all slots but these.
    pub(super) fn reset_other_counters(&mut self, slots: &HashSet<u32>) -> Result<()> {
        for slot in (0..self.max_endpoints).filter(|slot| !slots.contains(slot)) {
            let used = self
                .endpoint_counters
                .get(&slot, 0)?
                .iter()
                .any(|counters| *counters != EndpointCounters::default());
            if used {
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
