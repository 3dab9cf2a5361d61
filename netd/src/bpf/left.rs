//! What a daemon before this one left in the pinned tables, for one that has lost its state.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap as BpfMap, LpmTrie, Map, MapData, MapError};
use ipnet::{IpNet, Ipv4Net};
use netd_common::{
    V4, V6,
    abi::{ABI_VERSION, Denied, Endpoint, Interface, Port, PortKey},
};

use super::{
    family::Family,
    maps::{keys, reading},
    ports::PublishedPort,
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
    /// Its IPv6 address, if it has one.
    pub address6: Option<Ipv6Addr>,
    /// Its published ports, in their order.
    pub ports: Vec<PublishedPort>,
}

/// The tables, of both families.
#[derive(Debug)]
pub struct LeftTables {
    v4: Tables<V4>,
    v6: Tables<V6>,
}

/// Those of a family.
#[derive(Debug)]
struct Tables<A: Family> {
    interfaces: BpfMap<MapData, u32, Interface<A>>,
    endpoints: BpfMap<MapData, A, Endpoint>,
    ports: BpfMap<MapData, PortKey<A>, Port<A>>,
    denied: LpmTrie<MapData, A, Denied>,
}

impl LeftTables {
    /// Opens the tables of a pin directory.
    ///
    /// # Errors
    /// They are not there, or of another version of netd.
    pub fn open(directory: &Path) -> Result<Self> {
        Ok(Self { v4: Tables::open(directory, "DENIED4")?, v6: Tables::open(directory, "DENIED6")? })
    }

    /// The endpoint of the link with an index.
    ///
    /// # Errors
    /// The tables have none, or do not agree about it.
    pub fn endpoint(&self, ifindex: u32) -> Result<LeftEndpoint> {
        let (own, mut ports) = self.v4.endpoint(ifindex)?.context("the tables do not know its link")?;
        let (IpAddr::V4(address), IpAddr::V4(gateway), IpAddr::V4(network), IpAddr::V4(mask)) =
            (own.address.ip(), own.gateway.ip(), own.subnet.ip(), own.mask.ip())
        else {
            bail!("its addresses are of different families");
        };
        let address6 = match self.v6.endpoint(ifindex)? {
            Some((own6, ports6)) => {
                ensure!(own6.slot == own.slot, "the tables of IPv4 and IPv6 differ about it");
                ports.extend(ports6);
                Some(own6.address.ip())
            }
            None => None,
        };
        ports.sort_unstable_by_key(|port| (port.host, port.protocol, port.host_port));
        let address6 = match address6 {
            Some(IpAddr::V6(address)) => Some(address),
            _ => None,
        };
        let subnet = Ipv4Net::with_netmask(network, mask).context("its subnet is none")?;
        Ok(LeftEndpoint { slot: own.slot, address, subnet, gateway, address6, ports })
    }

    /// The sources that are denied.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub fn denied(&self) -> Result<BTreeSet<IpNet>> {
        let mut found = self.v4.denied()?;
        found.extend(self.v6.denied()?);
        Ok(found)
    }
}

impl<A: Family> Tables<A> {
    fn open(directory: &Path, denied: &str) -> Result<Self> {
        let open = |name: &str| {
            let path = directory.join(format!("v{ABI_VERSION}/maps/{name}"));
            MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))
        };
        let names = A::NAMES;
        Ok(Self {
            interfaces: Map::HashMap(open(names.interfaces)?).try_into()?,
            endpoints: Map::HashMap(open(names.endpoints)?).try_into()?,
            ports: Map::HashMap(open(names.ports)?).try_into()?,
            denied: Map::LpmTrie(open(denied)?).try_into()?,
        })
    }

    /// What they know of who sends from a link, and its ports.
    fn endpoint(&self, ifindex: u32) -> Result<Option<(Interface<A>, Vec<PublishedPort>)>> {
        let interface = match self.interfaces.get(&ifindex, 0) {
            Ok(interface) => interface,
            Err(MapError::KeyNotFound) => return Ok(None),
            Err(error) => return Err(error).with_context(|| reading(A::NAMES.interfaces)),
        };
        let found = self.endpoints.get(&interface.address, 0);
        let agrees = found.is_ok_and(|found| (found.ifindex, found.slot) == (ifindex, interface.slot));
        ensure!(agrees, "its address {} is another endpoint's, or nobody's", interface.address.ip());
        let mut ports = Vec::new();
        for entry in self.ports.iter() {
            let (key, port) = entry.with_context(|| reading(A::NAMES.ports))?;
            if port.slot == interface.slot {
                let address = port.address.ip();
                ensure!(port.address == interface.address, "a published port of its is for {address}");
                ports.push(PublishedPort {
                    host: key.address.ip(),
                    host_port: key.port.host(),
                    protocol: key.protocol,
                    address,
                    port: port.port.host(),
                    slot: port.slot,
                });
            }
        }
        Ok(Some((interface, ports)))
    }

    fn denied(&self) -> Result<BTreeSet<IpNet>> {
        let what = || "reading the map of denied sources";
        let all = keys(self.denied.keys()).with_context(what)?.into_iter();
        all.map(|key| {
            let length = u8::try_from(key.prefix_len()).with_context(what)?;
            IpNet::new(key.data().ip(), length).with_context(what)
        })
        .collect()
    }
}
