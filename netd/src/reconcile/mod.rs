//! From the desired state to the kernel. The only writer of links, addresses, routes and of the datapath.
//!
//! All steps can be repeated: what is there already, and right, is left alone. So the same code attaches an endpoint,
//! completes one that a crash left half done, and rebuilds one whose link was deleted.

mod carrier;
mod deny;
mod host;
mod lan;
mod link;
mod nodes;
mod uplink;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use anyhow::{Context, Error, Result, bail, ensure};
use tracing::{debug, info, instrument};

use self::link::{Wanted, driver};
pub use self::{
    host::{add_gateways, remove_gateway, remove_gateways},
    lan::purge_lan_links,
    link::{delete as delete_link, remove as remove_link},
};

use crate::{
    bpf::{self, Datapath, Expired, FlowsOf},
    cluster::{ClusterConfig, Remotes, Transport},
    config::NatConfig,
    endpoint::{Endpoint, alias, socket_cookie},
    netlink::{Link, Netlink, Netns},
    network::{MTU6, Network},
    node::{HostView, LOOPBACK, host_routes, is_own},
    publish::Publish,
    state::State,
};

/// The name of the VXLAN device.
const OVERLAY: &str = "nd-vxlan";

/// The kernel's side of things.
pub struct Reconciler {
    nl: Netlink,
    datapath: Datapath,
    identity: String,
    nat: NatConfig,
    transport: Transport,
    in_cluster: bool,
    remotes: Remotes,
    /// Whether the host has IPv6: endpoints that have an address of it are brought up without, otherwise.
    ipv6: bool,
    /// What the datapath knows of each live endpoint.
    live: HashMap<String, bpf::Endpoint>,
    by_ifindex: HashMap<u32, String>,
    /// Links whose program may be moved to a faster hook.
    to_promote: Vec<u32>,
    /// The uplink as the programs know it.
    uplink: Option<uplink::Known>,
    /// The addresses that all masqueraded flows of each family are translated to; at the start, one does not know.
    translated: [Option<IpAddr>; 2],
    /// Flows that are to be removed, and why.
    stale: Vec<(FlowsOf, String)>,
}

/// How long an endpoint's link is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Until no packet is lost any more: seconds, if its container takes away at once what it is given.
    Carrier,
    /// Not at all.
    None,
}

/// An endpoint whose link and datapath entries are (about to be) removed.
#[derive(Debug)]
pub struct TornDown {
    /// The link that is left to delete. That takes the kernel tens of milliseconds, so it is for the caller to do it
    /// where nobody waits.
    pub link: Option<u32>,
    /// What went wrong.
    pub errors: Vec<Error>,
}

impl Reconciler {
    /// Takes charge of a datapath.
    #[must_use]
    pub fn new(
        nl: Netlink,
        datapath: Datapath,
        identity: &str,
        nat: NatConfig,
        cluster: &ClusterConfig,
        remotes: Remotes,
    ) -> Self {
        let identity = identity.to_owned();
        let (live, by_ifindex) = (HashMap::new(), HashMap::new());
        Self {
            nl,
            datapath,
            identity,
            nat,
            transport: cluster.transport,
            in_cluster: cluster.is_one(),
            remotes,
            ipv6: true,
            live,
            by_ifindex,
            to_promote: Vec::new(),
            uplink: None,
            translated: [None; 2],
            stale: Vec::new(),
        }
    }

    /// The datapath, for its counters.
    #[must_use]
    pub fn datapath(&self) -> &Datapath {
        &self.datapath
    }

    /// The connection to the kernel.
    #[must_use]
    pub fn netlink(&self) -> &Netlink {
        &self.nl
    }

    /// The endpoint whose link has an index.
    #[must_use]
    pub fn owner(&self, ifindex: u32) -> Option<&str> {
        self.by_ifindex.get(&ifindex).map(String::as_str)
    }

    /// Brings the whole kernel to the desired state. Endpoints that cannot be brought up are returned with the reason; that
    /// is no error here, the others must work. A link that is right is not touched: no packet of its endpoint is lost.
    ///
    /// # Errors
    /// Something that all endpoints need cannot be had.
    pub async fn converge(&mut self, state: &State, view: &HostView) -> Result<BTreeMap<String, Error>> {
        // In a fresh namespace lo is down, and no address on it answers.
        self.nl.set_up(LOOPBACK).await?;
        self.apply_view(state, view).await?;

        let links = self.nl.links().await?;
        let own: HashMap<&str, &Link> =
            links.iter().filter(|link| is_own(link, &self.identity)).map(|l| (l.name.as_str(), l)).collect();

        let routes = host_routes(&self.nl).await?;
        let mut broken = BTreeMap::new();
        let mut missing = Vec::new();
        let mut wanted = HashSet::new();
        for endpoint in state.endpoints() {
            let network = network_of(state, endpoint)?;
            if endpoint.link.is_lan() {
                missing.push((endpoint, network));
                continue;
            }
            wanted.insert((endpoint.host_interface.as_str(), alias(&self.identity, &endpoint.name)));
            let link = own.get(endpoint.host_interface.as_str());
            match link.filter(|link| self.is_of(link, endpoint)) {
                // The route is what comes last; with it, all is there.
                Some(link)
                    if link.up && self.has_routes(&routes, &self.entry(endpoint, network, link.ifindex)) =>
                {
                    if let Err(error) = self.enter(endpoint, network, link.ifindex) {
                        broken.insert(endpoint.name.clone(), error);
                    }
                }
                _ => missing.push((endpoint, network)),
            }
        }
        wanted.insert((OVERLAY, self.overlay_alias()));
        for link in own.values() {
            let alias = link.alias.clone().unwrap_or_default();
            if !wanted.contains(&(link.name.as_str(), alias)) && !self.is_shim(link) {
                info!("deleting link {}, which no endpoint owns", link.name);
                self.nl.delete_link(link.ifindex).await?;
            }
        }
        for (endpoint, network) in missing {
            if !endpoint.link.is_lan() {
                info!("repairing endpoint {}", endpoint.name);
            }
            let mtu = network.mtu.unwrap_or(view.mtu());
            if let Err(error) = self.bring_up(endpoint, network, mtu, Patience::Carrier).await {
                broken.insert(endpoint.name.clone(), error);
            }
        }
        self.clean_up_lans(state).await?;
        // Also those of endpoints that do not work yet: what comes to them is dropped until they do.
        let ports: Vec<_> =
            state.endpoints().flat_map(|endpoint| endpoint.ports(&endpoint.publish)).collect();
        self.datapath.retain_ports(&ports).context("cannot publish ports")?;
        let live: Vec<bpf::Endpoint> = self.live.values().cloned().collect();
        self.datapath.retain_endpoints(&live).context("cannot clean up the datapath")?;
        self.remove_stale_flows().context("cannot remove the flows of another address")?;
        Ok(broken)
    }

    /// Removes flows of addresses that the host has no longer, at the start.
    fn remove_stale_flows(&mut self) -> Result<()> {
        let (which, whys): (Vec<_>, Vec<_>) = self.take_stale().into_iter().unzip();
        if which.is_empty() {
            return Ok(());
        }
        let removed = self.datapath.flow_remover()?.remove(&which)?;
        for (why, removed) in whys.iter().zip(removed).filter(|(_, removed)| *removed > 0) {
            info!("{why}: {removed} flows are gone");
        }
        Ok(())
    }

    /// Makes an endpoint work: its link, the container's side of it, its datapath entries, the host's route to it.
    ///
    /// # Errors
    /// A step failed. What was done before stays, for [`Self::tear_down`] or another try.
    #[instrument(level = "debug", skip_all, fields(endpoint = endpoint.name))]
    pub async fn bring_up(
        &mut self,
        endpoint: &Endpoint,
        network: &Network,
        mtu: u32,
        patience: Patience,
    ) -> Result<()> {
        if let Some(lan) = &network.lan {
            return self.bring_up_lan(endpoint, network, lan, patience).await;
        }
        // One that has got an IPv6 address keeps it where the uplink has become too small for that meanwhile.
        let mtu = if endpoint.address6.is_some() { mtu.max(MTU6) } else { mtu };
        let netns = endpoint.netns.open()?;
        let ifindex = match &netns {
            Some(netns) => self.ensure_link(endpoint, network, mtu, netns).await?,
            // Its other end is where it was made, whatever became of the path to there.
            None => self.link_of(endpoint).await?.with_context(|| {
                let path = endpoint.netns.path.display();
                format!("network namespace {path} is gone: has its container ended?")
            })?,
        };
        debug!("link {} has index {ifindex}", endpoint.host_interface);

        // Programs before the first packet; and the host's end before the container's, so that it is only the host's end
        // that gets its carrier late: see `carrier`.
        self.enter(endpoint, network, ifindex)?;
        debug!("in the datapath");
        self.nl.set_up(ifindex).await?;
        if let Some(netns) = &netns {
            let addresses = endpoint.addresses_in(network);
            let addresses: Vec<_> =
                addresses.filter(|(address, _)| self.ipv6 || address.addr().is_ipv4()).collect();
            driver(endpoint.link).configure(netns, endpoint, &addresses, patience).await?;
            debug!("container's side configured");
        }
        self.add_route(&self.entry(endpoint, network, ifindex)).await?;
        debug!("host's side configured");
        self.datapath.publish(&endpoint.ports(&endpoint.publish))?;
        if patience == Patience::Carrier && driver(endpoint.link).has_carrier() {
            carrier::wait(&self.nl, ifindex).await?;
        }
        debug!("ready");
        Ok(())
    }

    /// The index of the endpoint's link, if it is there. With it, its container's namespace is there too: a veth goes with its
    /// other end.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn link_of(&self, endpoint: &Endpoint) -> Result<Option<u32>> {
        if endpoint.link.is_lan() {
            return Ok(self.lan_link(endpoint).await?.map(|(_, ifindex)| ifindex));
        }
        let mut link = None;
        if let Some(live) = self.live.get(&endpoint.name) {
            link = self.nl.link_by_index(live.ifindex).await?;
        }
        if link.is_none() {
            link = self.nl.link_by_name(&endpoint.host_interface).await?;
        }
        Ok(link.filter(|link| self.is_of(link, endpoint)).map(|link| link.ifindex))
    }

    /// The endpoint's link: as it is, or made.
    async fn ensure_link(
        &self,
        endpoint: &Endpoint,
        network: &Network,
        mtu: u32,
        netns: &Netns,
    ) -> Result<u32> {
        if let Some(ifindex) = self.link_of(endpoint).await? {
            return Ok(ifindex);
        }
        let name = &endpoint.host_interface;
        if let Some(link) = self.nl.link_by_name(name).await? {
            // Between the creation of a link and its alias there is a moment at which a crash can leave it without.
            let unfinished =
                link.alias.is_none() && link.mac == Some(endpoint.host_mac(network).0) && !link.up;
            ensure!(unfinished, "link {name} exists, and is not netd's: remove it or rename it");
            self.nl.delete_link(link.ifindex).await?;
        }
        let wanted = Wanted { endpoint, network, mtu, netns, alias: &alias(&self.identity, &endpoint.name) };
        driver(endpoint.link).make(&self.nl, &wanted).await
    }

    /// Whether a link is that endpoint's.
    fn is_of(&self, link: &Link, endpoint: &Endpoint) -> bool {
        link.alias.as_deref() == Some(&alias(&self.identity, &endpoint.name))
            && link.kind.as_deref() == Some(endpoint.link.kernel_kind())
    }

    /// What the datapath needs to know of an endpoint.
    fn entry(&self, endpoint: &Endpoint, network: &Network, ifindex: u32) -> bpf::Endpoint {
        let entry = endpoint.entry(network, ifindex);
        bpf::Endpoint { v6: entry.v6.filter(|_| self.ipv6), ..entry }
    }

    /// Makes the datapath know an endpoint.
    fn enter(&mut self, endpoint: &Endpoint, network: &Network, ifindex: u32) -> Result<()> {
        let entry = self.entry(endpoint, network, ifindex);
        if let Some(old) = self.live.get(&endpoint.name)
            && old.ifindex != ifindex
        {
            // The link is another one now; the old one's entries must not outlive it, as its index may come back.
            let old = old.clone();
            self.by_ifindex.remove(&old.ifindex);
            self.datapath.close_endpoint(&old)?;
            self.datapath.remove_programs(old.ifindex)?;
        }
        // Known before it is there, so that tearing down after a failure finds it.
        self.live.insert(endpoint.name.clone(), entry.clone());
        self.by_ifindex.insert(ifindex, endpoint.name.clone());
        self.to_promote.push(ifindex);
        self.datapath.attach_endpoint(&entry)
    }

    /// Lets the host's own sockets reach published ports.
    ///
    /// # Errors
    /// There is no cgroup2 hierarchy, or the kernel refuses a program.
    pub fn attach_sockets(&mut self) -> Result<()> {
        let cookie = socket_cookie().context("cannot tell which namespace this is")?;
        self.datapath.attach_sockets(cookie)
    }

    /// Publishes ports of an endpoint, which it has already.
    ///
    /// # Errors
    /// The maps cannot be written.
    pub fn publish(&mut self, endpoint: &Endpoint, ports: &[Publish]) -> Result<()> {
        self.mark(endpoint)?;
        self.datapath.publish(&endpoint.ports(ports))
    }

    /// Publishes ports of an endpoint no more, which it does not have any longer. Returns which of its flows are to be removed
    /// then: those that came by them, no others.
    ///
    /// # Errors
    /// The maps cannot be written.
    pub fn unpublish(&mut self, endpoint: &Endpoint, ports: &[Publish]) -> Result<FlowsOf> {
        let ports = endpoint.ports(ports);
        self.datapath.unpublish(&ports)?;
        self.mark(endpoint)?;
        Ok(FlowsOf::Ports(ports))
    }

    /// Tells the programs whether an endpoint has published ports.
    fn mark(&mut self, endpoint: &Endpoint) -> Result<()> {
        let published = !endpoint.publish.is_empty();
        match self.live.get_mut(&endpoint.name) {
            Some(entry) if entry.published != published => {
                entry.published = published;
                self.datapath.set_interface(entry)
            }
            _ => Ok(()),
        }
    }

    /// Takes an endpoint out of the datapath, past all errors. Its link is for the caller to delete; until then its programs
    /// stay on it, and drop all that comes by. What follows is [`Self::forget_link`], and then the removal of its flows: only
    /// after that its slot and its addresses may be another's.
    pub async fn tear_down(&mut self, endpoint: &Endpoint) -> TornDown {
        if endpoint.link.is_lan() {
            return self.tear_down_lan(endpoint).await;
        }
        let mut torn = TornDown { link: None, errors: Vec::new() };
        torn.errors.extend(self.datapath.unpublish(&endpoint.ports(&endpoint.publish)).err());
        match self.live.remove(&endpoint.name) {
            Some(entry) => {
                self.by_ifindex.remove(&entry.ifindex);
                torn.link = Some(entry.ifindex);
                torn.errors.extend(self.datapath.close_endpoint(&entry).err());
            }
            // It never got into the datapath, but its link may exist.
            None => match self.link_of(endpoint).await {
                Ok(link) => torn.link = link,
                Err(error) => torn.errors.push(error),
            },
        }
        torn
    }

    /// Removes what is pinned for a link that is deleted.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn forget_link(&mut self, ifindex: u32) -> Result<()> {
        self.datapath.remove_programs(ifindex)
    }

    /// Makes a slot one that another endpoint can have, once its flows are removed.
    ///
    /// # Errors
    /// A counter cannot be zeroed.
    pub fn reset_counters(&mut self, slot: u32) -> Result<()> {
        self.datapath.reset_counters(slot)
    }

    /// The names of a namespace's links: those that a new one cannot have.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub async fn interfaces_in(&self, netns: &Netns) -> Result<HashSet<String>> {
        let links = Netlink::enter(netns).await?.links().await?;
        Ok(links.into_iter().map(|link| link.name).collect())
    }

    /// The first of some names that a new link can have. A link of netd's that is left over from an endpoint of that name
    /// is deleted for it.
    ///
    /// # Errors
    /// The kernel does not answer, or others have all the names.
    pub async fn free_name(&self, endpoint: &str, names: impl Iterator<Item = String>) -> Result<String> {
        for name in names {
            match self.nl.link_by_name(&name).await? {
                None => return Ok(name),
                Some(link) if link.alias == Some(alias(&self.identity, endpoint)) => {
                    self.nl.delete_link(link.ifindex).await?;
                    return Ok(name);
                }
                Some(_) => {}
            }
        }
        bail!("all names that the link of endpoint `{endpoint}` could have are taken: choose another name")
    }

    /// Endpoints whose link is not there (any more).
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn without_link(&self) -> Result<Vec<String>> {
        let links: HashSet<u32> = self.nl.links().await?.iter().map(|link| link.ifindex).collect();
        Ok(self
            .by_ifindex
            .iter()
            .filter(|(ifindex, _)| !links.contains(ifindex))
            .map(|(_, e)| e.clone())
            .collect())
    }

    /// Endpoints with an IPv6 address that the programs do not know: the host had no IPv6 when they were brought up.
    #[must_use]
    pub fn without_ipv6(&self, state: &State) -> Vec<String> {
        let live = self.live.iter().filter(|(_, entry)| entry.v6.is_none());
        let names = live.map(|(name, _)| name).filter_map(|name| state.endpoint(name));
        names.filter(|endpoint| endpoint.address6.is_some()).map(|endpoint| endpoint.name.clone()).collect()
    }

    /// Puts filters back that somebody has removed from links: from these, or from any. Returns the names of the links'
    /// endpoints, or of what else they are.
    ///
    /// # Errors
    /// The kernel refuses one; the others are there then all the same.
    pub fn put_filters_back(&mut self, links: Option<&HashSet<u32>>) -> Result<Vec<String>> {
        let uplink = self.last_uplink();
        let owned = |ifindex| self.by_ifindex.contains_key(&ifindex) || uplink == Some(ifindex);
        let meant = |ifindex| links.is_none_or(|links| links.contains(&ifindex));
        if links.is_some_and(|links| !links.iter().any(|ifindex| owned(*ifindex))) {
            return Ok(Vec::new());
        }
        let had = self.datapath.put_back(|ifindex| meant(ifindex) && owned(ifindex))?;
        let name =
            |ifindex| self.owner(ifindex).map_or("uplink".to_owned(), |name| format!("endpoint {name}"));
        Ok(had.into_iter().map(name).collect())
    }

    /// Moves the next endpoint's programs to a faster hook, if there is one that has not been: see
    /// [`Datapath::promote_endpoint`]. Whether it did.
    ///
    /// # Errors
    /// The kernel refuses; the endpoint stays as it is.
    pub fn promote(&mut self) -> Result<bool> {
        while let Some(ifindex) = self.to_promote.pop() {
            if self.by_ifindex.contains_key(&ifindex) && self.datapath.promote_endpoint(ifindex)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes flows that have timed out.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn expire_flows(&mut self) -> Result<Expired> {
        self.datapath.expire_flows()
    }
}

/// The network of an endpoint of the state.
///
/// # Errors
/// It has none, which [`State`] does not let happen.
pub fn network_of<'a>(state: &'a State, endpoint: &Endpoint) -> Result<&'a Network> {
    state.network(&endpoint.network).with_context(|| format!("endpoint `{}`", endpoint.name))
}

/// The first free name for a container's side.
#[must_use]
pub fn free_interface(taken: &HashSet<String>) -> String {
    let names = (0u32..).map(|n| format!("eth{n}"));
    names.into_iter().find(|name| !taken.contains(name)).unwrap_or_default()
}
