//! What a daemon before this one left in the pinned tables, for one that has lost its state, or has an older one.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap as BpfMap, LpmTrie, Map, MapData, MapError};
use ipnet::{IpNet, Ipv4Net};
use netd_common::{
    V4, V6,
    abi::{self, ABI_VERSION, Denied, Interface, Port, PortKey},
};

use super::{
    deny,
    family::Family,
    maps::{check_pins, reading},
    ports::PublishedPort,
    routes,
    types::Options,
};

/// An endpoint as the tables have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftEndpoint {
    /// Index of its counters.
    pub slot: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its network's subnet.
    pub subnet: Ipv4Net,
    /// The gateway that its container was told.
    pub gateway: Ipv4Addr,
    /// Its IPv6 address, if the programs know one.
    pub address6: Option<Ipv6Addr>,
    /// Its published ports, in their order.
    pub ports: Vec<PublishedPort>,
}

/// The tables, of both families.
#[derive(Debug)]
pub struct LeftTables {
    v4: Tables<V4>,
    v6: Tables<V6>,
    /// All published ports, by the slots of those whose they are.
    ports: HashMap<u32, Vec<PublishedPort>>,
}

/// Those of a family.
#[derive(Debug)]
struct Tables<A: Family> {
    interfaces: BpfMap<MapData, u32, Interface<A>>,
    endpoints: BpfMap<MapData, A, abi::Endpoint>,
    ports: BpfMap<MapData, PortKey<A>, Port<A>>,
    routes: LpmTrie<MapData, A, abi::Route>,
    denied: LpmTrie<MapData, A, Denied>,
}

impl LeftTables {
    /// Opens the tables of a pin directory; none: there are none of this version.
    ///
    /// # Errors
    /// They cannot be read, or are not what this build expects.
    pub fn open(options: &Options) -> Result<Option<Self>> {
        let maps = options.directory.join(format!("v{ABI_VERSION}/maps"));
        check_pins(options, &maps)?;
        let (Some(v4), Some(v6)) =
            (Tables::<V4>::open(&maps, "DENIED4")?, Tables::<V6>::open(&maps, "DENIED6")?)
        else {
            return Ok(None);
        };
        let mut ports: HashMap<u32, Vec<PublishedPort>> = HashMap::new();
        for port in v4.ports()?.into_iter().chain(v6.ports()?) {
            ports.entry(port.slot).or_default().push(port);
        }
        for ports in ports.values_mut() {
            ports.sort_unstable_by_key(|port| (port.host, port.protocol, port.host_port));
        }
        Ok(Some(Self { v4, v6, ports }))
    }

    /// The endpoint of the link with an index; none: there is none, or the tables do not agree about it, as one that is half made or
    /// half gone.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub fn endpoint(&self, ifindex: u32) -> Result<Option<LeftEndpoint>> {
        let Some(own) = self.v4.endpoint(ifindex)? else { return Ok(None) };
        let (IpAddr::V4(address), IpAddr::V4(gateway), IpAddr::V4(network), IpAddr::V4(mask)) =
            (own.address.ip(), own.gateway.ip(), own.subnet.ip(), own.mask.ip())
        else {
            return Ok(None);
        };
        let address6 = self.v6.endpoint(ifindex)?.filter(|own6| own6.slot == own.slot);
        let address6 = address6.and_then(|own6| match own6.address.ip() {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        });
        let Ok(subnet) = Ipv4Net::with_netmask(network, mask) else { return Ok(None) };
        let of_slot = self.ports.get(&own.slot).into_iter().flatten();
        let is_own = |port: &&PublishedPort| {
            port.address == IpAddr::from(address) || Some(port.address) == address6.map(IpAddr::from)
        };
        let ports = of_slot.filter(is_own).copied().collect();
        Ok(Some(LeftEndpoint { slot: own.slot, address, subnet, gateway, address6, ports }))
    }

    /// The numbers of networks, by their IPv4 subnets.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub fn networks(&self) -> Result<BTreeMap<Ipv4Net, u32>> {
        let all = routes::numbers(&self.v4.routes)?.into_iter();
        Ok(all
            .filter_map(|(subnet, number)| match subnet {
                IpNet::V4(subnet) => Some((subnet, number)),
                IpNet::V6(_) => None,
            })
            .collect())
    }

    /// The sources that are denied, with the numbers of their counters.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub fn denied(&self) -> Result<BTreeMap<IpNet, u32>> {
        let mut found = BTreeMap::new();
        deny::read(&self.v4.denied, &mut found)?;
        deny::read(&self.v6.denied, &mut found)?;
        Ok(found)
    }
}

impl<A: Family> Tables<A> {
    /// None: not all of them are there. A daemon that ended while it made them has served nobody.
    fn open(maps: &Path, denied: &str) -> Result<Option<Self>> {
        let names = A::NAMES;
        let all = [names.interfaces, names.endpoints, names.ports, names.routes, denied];
        if !all.iter().all(|name| maps.join(name).exists()) {
            return Ok(None);
        }
        let open = |name: &str| {
            let path = maps.join(name);
            MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))
        };
        Ok(Some(Self {
            interfaces: Map::HashMap(open(names.interfaces)?).try_into()?,
            endpoints: Map::HashMap(open(names.endpoints)?).try_into()?,
            ports: Map::HashMap(open(names.ports)?).try_into()?,
            routes: Map::LpmTrie(open(names.routes)?).try_into()?,
            denied: Map::LpmTrie(open(denied)?).try_into()?,
        }))
    }

    /// What they know of who sends from a link, if they lead to it, too.
    fn endpoint(&self, ifindex: u32) -> Result<Option<Interface<A>>> {
        let interface = found(self.interfaces.get(&ifindex, 0), A::NAMES.interfaces)?;
        let Some(interface) = interface else { return Ok(None) };
        let entry = found(self.endpoints.get(&interface.address, 0), A::NAMES.endpoints)?;
        let agrees = entry.is_some_and(|entry| {
            (entry.ifindex & !abi::Endpoint::SINGLE, entry.slot) == (ifindex, interface.slot)
        });
        Ok(agrees.then_some(interface))
    }

    fn ports(&self) -> Result<Vec<PublishedPort>> {
        let all = self.ports.iter().map(|entry| {
            let (key, port) = entry.with_context(|| reading(A::NAMES.ports))?;
            Ok(PublishedPort {
                host: key.address.ip(),
                host_port: key.port.host(),
                protocol: key.protocol,
                address: port.address.ip(),
                port: port.port.host(),
                slot: port.slot,
            })
        });
        all.collect()
    }
}

/// An entry, if there is one.
fn found<T>(entry: Result<T, MapError>, map: &str) -> Result<Option<T>> {
    match entry {
        Ok(entry) => Ok(Some(entry)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error).with_context(|| reading(map)),
    }
}
