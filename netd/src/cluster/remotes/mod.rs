//! The other nodes as this one knows them: by the configuration, or by the cluster's shared store and from before.
//!
//! A node whose lease has ended may be dead, or only its daemon is, or its way to the store; one that the store knows no more may
//! have left, or the store has lost its data. Its routes stay for as long as packets come from it: what works is not taken
//! away.

mod misplaced;
mod path;
mod said;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use self::path::Path;
pub use self::said::{Said, There, said_by_cluster, said_by_configuration, slices_of};
use super::{Transport, overhead};
use crate::{
    bpf::{self, MAX_NODES},
    netlink::UplinkInfo,
    network::Network,
    pair,
    slots::Slots,
    state::State,
    store::{Change, Kind, Record},
};

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// Its address on its uplink, of the family that packets in VXLAN travel by; none: it has slices, but was never there
    /// while this node was.
    pub address: Option<IpAddr>,
    /// Its IPv6 address besides, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// How it wants packets to travel.
    pub transport: Transport,
    /// Its uplink's MTU, in bytes, if it has told.
    pub mtu: Option<u32>,
    /// Its slices of the networks.
    pub slices: BTreeSet<Ipv4Net>,
    /// Index of its counters.
    pub slot: u32,
    /// Whether it is there.
    #[serde(skip)]
    pub presence: Presence,
    /// Slices that it had a moment ago, and nobody has now: of a store that has lost its data, a node gets its slices back
    /// one by one.
    #[serde(skip)]
    fading: BTreeMap<Ipv4Net, Instant>,
    /// The store knows it no more.
    #[serde(skip)]
    forgotten: bool,
    /// What routers say of the way to it.
    #[serde(skip)]
    path: Option<Path>,
    /// Packets that have come from it so far, and when that was last seen to have changed.
    #[serde(skip)]
    heard: Option<(u64, Instant, Option<SystemTime>)>,
}

/// What is known of a node's being there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// Nothing: it is in the configuration, or known from before.
    #[default]
    Known,
    /// Its lease is valid.
    Registered,
    /// Its lease has ended, while packets still come from it.
    Unregistered,
    /// Its lease has ended, and nothing comes from it: its routes are gone.
    Lost,
}

impl Remote {
    fn new(slot: u32) -> Self {
        Self {
            address: None,
            address6: None,
            transport: Transport::Auto,
            mtu: None,
            slices: BTreeSet::new(),
            slot,
            presence: Presence::Known,
            fading: BTreeMap::new(),
            forgotten: false,
            path: None,
            heard: None,
        }
    }

    /// When it was last known to be there, if ever.
    #[must_use]
    pub fn last_seen(&self) -> Option<SystemTime> {
        match self.presence {
            Presence::Registered => Some(SystemTime::now()),
            _ => self.heard.and_then(|(_, _, when)| when),
        }
    }

    /// How IPv4 packets between it and a node on this uplink, which wants `own`, travel; both sides come to the same.
    #[must_use]
    pub fn transport(&self, own: Transport, uplink: &UplinkInfo) -> Transport {
        match (own, self.transport) {
            (Transport::Vxlan, _) | (_, Transport::Vxlan) => Transport::Vxlan,
            (Transport::Direct, _) | (_, Transport::Direct) => Transport::Direct,
            _ if self.address.is_some_and(|address| uplink.is_near(address)) => Transport::Direct,
            _ => Transport::Vxlan,
        }
    }

    /// The same for IPv6 packets. As they are they can go to an IPv6 address only (`__bpf_redirect_neigh_v6` takes no other
    /// next hop), so both nodes need one for that. None: there is no way, as neither may encapsulate.
    #[must_use]
    pub fn transport6(&self, own: Transport, uplink: &UplinkInfo) -> Option<Transport> {
        let address = self.ipv6().filter(|_| uplink.address6.is_some());
        match (own, self.transport) {
            (Transport::Vxlan, _) | (_, Transport::Vxlan) => Some(Transport::Vxlan),
            (Transport::Direct, _) | (_, Transport::Direct) => address.map(|_| Transport::Direct),
            _ if address.is_some_and(|address| uplink.is_near(address.into())) => Some(Transport::Direct),
            _ => Some(Transport::Vxlan),
        }
    }

    /// Its IPv6 address.
    fn ipv6(&self) -> Option<Ipv6Addr> {
        match self.address {
            Some(IpAddr::V6(address)) => Some(address),
            _ => self.address6,
        }
    }

    /// All its addresses.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.address.into_iter().chain(self.address6.map(IpAddr::from))
    }

    /// What the store keeps of it.
    fn kept(&self) -> impl PartialEq + '_ {
        (self.address, self.address6, self.transport, self.mtu, &self.slices, self.slot)
    }

    fn is_routed(&self) -> bool {
        self.presence != Presence::Lost
    }
}

/// What a change of the other nodes comes to.
#[derive(Debug, Default)]
pub struct Update {
    /// Whether routes have to be set.
    pub changed: bool,
    /// What to commit.
    pub changes: Vec<Change>,
    /// Counters that have another owner now: they are to be zeroed.
    pub reused: Vec<u32>,
    /// What cannot be, in words.
    pub problems: Vec<String>,
}

/// All other nodes.
#[derive(Debug)]
pub struct Remotes {
    nodes: BTreeMap<String, Remote>,
    slots: Slots,
}

impl Default for Remotes {
    fn default() -> Self {
        Self { nodes: BTreeMap::new(), slots: Slots::new(MAX_NODES) }
    }
}

impl Remotes {
    /// Those that were known before. They count as there until something else is said.
    ///
    /// # Errors
    /// A record is not of a shape that this version knows.
    pub fn load(records: &[Record]) -> Result<Self> {
        let mut remotes = Self::default();
        for record in records.iter().filter(|record| record.kind == Kind::Peer) {
            let remote: Remote = record.read()?;
            remotes.slots.claim(remote.slot)?;
            remotes.nodes.insert(record.name.clone(), remote);
        }
        Ok(remotes)
    }

    /// All, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Remote)> {
        self.nodes.iter().map(|(name, remote)| (name.as_str(), remote))
    }

    /// One by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Remote> {
        self.nodes.get(name)
    }

    /// Takes in what is said of all nodes. `own` are this node's slices. `registers`: nodes are there for as long as they say
    /// so themselves; else they just are.
    ///
    /// # Errors
    /// A record cannot be written.
    pub fn hear(
        &mut self,
        said: BTreeMap<String, Said>,
        own: &BTreeSet<Ipv4Net>,
        registers: bool,
    ) -> Result<Update> {
        let mut update = Update::default();
        let taken: HashSet<Ipv4Net> =
            said.values().flat_map(|said| &said.slices).chain(own).copied().collect();
        let mut gone = Vec::new();
        for (name, remote) in self.nodes.iter_mut().filter(|(name, _)| !said.contains_key(*name)) {
            let before = remote.slices.len();
            remote.slices.retain(|slice| !taken.contains(slice));
            update.changed |= remote.slices.len() != before;
            if !registers || !remote.is_routed() || remote.slices.is_empty() {
                gone.push(name.clone());
            } else if !remote.forgotten {
                (remote.forgotten, remote.presence, remote.heard) = (true, Presence::Unregistered, None);
            }
        }
        for name in gone {
            self.forget(&name, &mut update);
        }
        for (name, said) in said {
            let known = self.nodes.get(&name);
            let mut remote = match known {
                Some(remote) => remote.clone(),
                None => {
                    let Some(slot) = self.slots.take() else {
                        update.problems.push(format!(
                            "node `{name}` is one too many: there is room for {MAX_NODES} others"
                        ));
                        continue;
                    };
                    update.reused.push(slot);
                    Remote::new(slot)
                }
            };
            if let Some(There { address, address6, transport, mtu }) = said.there {
                if remote.address != Some(address) {
                    remote.path = None;
                }
                (remote.address, remote.address6) = (Some(address), address6);
                (remote.transport, remote.mtu) = (transport, mtu);
                remote.presence = if registers { Presence::Registered } else { Presence::Known };
            } else if remote.is_routed() && remote.presence != Presence::Unregistered {
                remote.presence = match remote.address {
                    Some(_) => Presence::Unregistered,
                    None => Presence::Lost,
                };
                remote.heard = None;
            }
            if registers {
                let faded = remote.slices.difference(&said.slices).map(|slice| (*slice, Instant::now()));
                remote.fading.extend(faded);
                remote.fading.retain(|slice, _| !taken.contains(slice));
            }
            remote.slices = said.slices;
            remote.forgotten = false;
            if known == Some(&remote) {
                continue;
            }
            update.changed = true;
            if known.is_none_or(|known| known.kept() != remote.kept()) {
                update.changes.push(Change::put(Kind::Peer, &name, &remote)?);
            }
            self.nodes.insert(name, remote);
        }
        Ok(update)
    }

    fn forget(&mut self, name: &str, update: &mut Update) {
        if let Some(remote) = self.nodes.remove(name) {
            self.slots.free(remote.slot);
        }
        update.changed = true;
        update.changes.push(Change::delete(Kind::Peer, name));
    }

    /// Looks whether packets come from those of which nobody else says that they are there. `packets` tells how many have
    /// come by the index of the counters. The routes of one that has fallen silent go.
    ///
    /// # Errors
    /// Counters cannot be read.
    pub fn listen(&mut self, silence: Duration, packets: impl Fn(u32) -> Result<u64>) -> Result<Update> {
        let mut update = Update { changed: self.forget_paths(Instant::now()), ..Update::default() };
        let mut gone = Vec::new();
        for (name, remote) in &mut self.nodes {
            let before = remote.fading.len();
            remote.fading.retain(|_, since| since.elapsed() < silence);
            update.changed |= remote.fading.len() != before;
            if !matches!(remote.presence, Presence::Known | Presence::Unregistered) {
                continue;
            }
            let now = packets(remote.slot)?;
            match remote.heard {
                Some((before, since, _)) if before == now => {
                    if remote.presence == Presence::Unregistered && since.elapsed() >= silence {
                        remote.presence = Presence::Lost;
                        update.changed = true;
                        gone.extend(remote.forgotten.then(|| name.clone()));
                    }
                }
                // What came before the first look may be long ago.
                None => remote.heard = Some((now, Instant::now(), None)),
                Some(_) => remote.heard = Some((now, Instant::now(), Some(SystemTime::now()))),
            }
        }
        for name in gone {
            self.forget(&name, &mut update);
        }
        Ok(update)
    }

    /// Whether any of them is to be listened to closely.
    #[must_use]
    pub fn any_unsettled(&self) -> bool {
        let unsettled =
            |remote: &Remote| remote.presence == Presence::Unregistered || !remote.fading.is_empty();
        self.nodes.values().any(unsettled)
    }

    /// Whether packets to or from any of them are encapsulated; `ipv6`: there are IPv6 packets.
    #[must_use]
    pub fn any_encapsulated(&self, own: Transport, uplink: Option<&UplinkInfo>, ipv6: bool) -> bool {
        uplink.is_some_and(|uplink| {
            self.nodes.values().any(|remote| {
                remote.transport(own, uplink) == Transport::Vxlan
                    || ipv6 && remote.transport6(own, uplink) == Some(Transport::Vxlan)
            })
        })
    }

    /// The routes to the nodes that are there, and to their slices of the networks that this node has.
    pub fn routes<'a>(
        &'a self,
        own: Transport,
        state: &'a State,
        uplink: &'a UplinkInfo,
    ) -> impl Iterator<Item = (IpNet, bpf::Route)> + 'a {
        let there = self.nodes.values().filter(|remote| remote.is_routed());
        // IPv6 needs an address here too.
        let reached = there.filter(|remote| {
            remote.address.is_some_and(|address| address.is_ipv4() || uplink.address6.is_some())
        });
        reached.filter(move |remote| remote.misplaced(state, uplink).is_none()).flat_map(move |remote| {
            let node = |network: &Network, address: IpAddr, transport| bpf::Route::Node {
                network: network.number,
                routed: !network.masquerade,
                address,
                slot: remote.slot,
                vxlan: transport == Transport::Vxlan,
                mtu: mtu(uplink.mtu, remote, address, transport),
            };
            let slices = remote.slices.iter().chain(remote.fading.keys()).filter_map(move |slice| {
                let (network, address) = (state.network_around(*slice)?, remote.address?);
                let route = node(network, address, remote.transport(own, uplink));
                let ways = network.subnet6.zip(remote.transport6(own, uplink));
                let route6 = ways.map(|(subnet6, transport)| {
                    let direct = remote.ipv6().filter(|_| transport == Transport::Direct);
                    let slice = pair::slice6(network.subnet, subnet6, *slice);
                    (slice.into(), node(network, direct.map_or(address, IpAddr::from), transport))
                });
                Some([Some(((*slice).into(), route)), route6])
            });
            let peers = remote.addresses().map(|address| (address.into(), bpf::Route::Peer(address)));
            slices.flatten().flatten().chain(peers)
        })
    }
}

/// The largest packet of a container that reaches a node at an address, bytes.
fn mtu(own: u32, remote: &Remote, address: IpAddr, transport: Transport) -> u16 {
    let uplinks = own.min(remote.mtu.unwrap_or(own));
    let mtu = match transport {
        // Of what goes as it is, containers are told by the routers themselves.
        Transport::Direct => uplinks,
        _ => remote.path_mtu().map_or(uplinks, |path| uplinks.min(path)).saturating_sub(overhead(address)),
    };
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
