//! Endpoints on a LAN of the host's. Their links are in their containers' namespaces only, and in no table: the namespace that the
//! state remembers leads to them. The host, whose own interface does not reach them, does so by a macvlan device of netd's.

use std::{collections::HashSet, fs, net::IpAddr};

use anyhow::{Context, Result};
use tracing::info;

use super::{
    Patience, Reconciler, TornDown,
    link::{configure_inside, delete},
    network_of,
};
use crate::{
    endpoint::{Endpoint, alias, alias_prefix},
    mac,
    netlink::{Link, MacvlanSpec, Netlink, Netns, Route, Which},
    network::{Lan, Network},
    node::HostRoutes,
    state::State,
};

/// What the aliases of the host's own devices on LANs have in place of an endpoint's name, before the parent's name.
const SHIM: &str = ":lan:";
const KIND: &str = "macvlan";

impl Reconciler {
    /// Makes an endpoint on a LAN work. Can be repeated: what is there stays.
    pub(super) async fn bring_up_lan(
        &self,
        endpoint: &Endpoint,
        network: &Network,
        lan: &Lan,
        patience: Patience,
    ) -> Result<()> {
        let gone = || {
            let path = endpoint.netns.path.display();
            format!("network namespace {path} is gone: has its container ended?")
        };
        let netns = endpoint.netns.open()?.with_context(gone)?;
        let parent = self.nl.link_by_name(&lan.parent).await?.with_context(|| {
            format!("this host has no interface {}, the parent of network `{}`", lan.parent, network.name)
        })?;
        let inside = Netlink::enter(&netns).await?;
        let name = self.ensure_lan_link(endpoint, network, &parent, &netns, &inside).await?;
        let addresses: Vec<_> = endpoint.addresses_in(network).collect();
        configure_inside(&inside, &name, &addresses, patience).await?;
        self.reach_lan_endpoint(endpoint, network, &parent).await
    }

    /// The link's name in the container: as it is, or made.
    async fn ensure_lan_link(
        &self,
        endpoint: &Endpoint,
        network: &Network,
        parent: &Link,
        netns: &Netns,
        inside: &Netlink,
    ) -> Result<String> {
        let alias = alias(&self.identity, &endpoint.name);
        let links = inside.links().await?;
        if let Some(link) = links.iter().find(|link| link.alias.as_deref() == Some(&alias)) {
            return Ok(link.name.clone());
        }
        // Between the creation of a link and its alias there is a moment at which a crash can leave it without.
        let unfinished = |link: &&Link| {
            link.alias.is_none()
                && !link.up
                && link.kind.as_deref() == Some(KIND)
                && link.mac == Some(endpoint.mac().0)
        };
        for link in links.iter().filter(unfinished) {
            delete(inside, link.ifindex).await?;
        }
        let spec = MacvlanSpec {
            parent: parent.ifindex,
            parent_name: &parent.name,
            name: &endpoint.interface,
            mac: endpoint.mac().0,
            mtu: network.mtu.map_or(parent.mtu, |mtu| mtu.min(parent.mtu)),
            netns: Some(netns),
        };
        self.nl.create_macvlan(&spec).await?;
        let made = inside.link_by_name(&endpoint.interface).await?.context("the new link is gone at once")?;
        inside.set_alias(made.ifindex, &alias).await?;
        Ok(made.name)
    }

    /// Makes the host itself reach an endpoint, from its own address on that LAN. Where it has none, it is as far as anybody else
    /// who is not on the LAN.
    async fn reach_lan_endpoint(&self, endpoint: &Endpoint, network: &Network, parent: &Link) -> Result<()> {
        let addresses = self.nl.addresses().await?.into_iter();
        let mut own = addresses.filter(|own| own.ifindex == parent.ifindex).map(|own| own.address.addr());
        let Some(IpAddr::V4(own)) =
            own.find(|own| matches!(own, IpAddr::V4(own) if network.subnet.contains(own)))
        else {
            return Ok(());
        };
        let alias = alias(&self.identity, &format!("{SHIM}{}", parent.name));
        let name = format!("nd-lan{}", parent.ifindex);
        let mut found = self.nl.link_by_name(&name).await?;
        if let Some(left) = found.take_if(|link| link.alias.as_deref() != Some(&alias)) {
            let unfinished = left.alias.is_none() && !left.up && left.kind.as_deref() == Some(KIND);
            anyhow::ensure!(unfinished, "link {name} exists, and is not of this netd: remove it");
            delete(&self.nl, left.ifindex).await?;
        }
        let ifindex = match found {
            Some(link) => link.ifindex,
            None => {
                let spec = MacvlanSpec {
                    parent: parent.ifindex,
                    parent_name: &parent.name,
                    name: &name,
                    // No endpoint has the host's address, so none has this.
                    mac: mac::of_address(own).0,
                    mtu: parent.mtu,
                    netns: None,
                };
                self.nl.create_macvlan(&spec).await?;
                let made = self.nl.link_by_name(&name).await?.context("the new link is gone at once")?;
                // Before it is up. It answers only those that it leads to: others would come to take it for the host's
                // interface. And what comes by it is for the host itself: it does not go on to other containers.
                for (key, value) in [("arp_filter", "1"), ("forwarding", "0")] {
                    let path = format!("/proc/sys/net/ipv4/conf/{name}/{key}");
                    fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))?;
                }
                self.nl.set_alias(made.ifindex, &alias).await?;
                made.ifindex
            }
        };
        self.nl.set_up(ifindex).await?;
        let address = IpAddr::from(endpoint.address);
        self.nl.add_neighbour(ifindex, address, endpoint.mac().0).await?;
        let source = Some(own.into());
        let route = Route { destination: address.into(), gateway: None, ifindex, source, onlink: false };
        self.nl.add_route(&route).await
    }

    /// The index of an endpoint's link in its container, if both are there.
    pub(super) async fn lan_link(&self, endpoint: &Endpoint) -> Result<Option<(Netlink, u32)>> {
        let Some(netns) = endpoint.netns.open()? else { return Ok(None) };
        let inside = Netlink::enter(&netns).await?;
        let alias = alias(&self.identity, &endpoint.name);
        let links = inside.links().await?;
        let link = links.into_iter().find(|link| link.alias.as_deref() == Some(&alias));
        Ok(link.map(|link| (inside, link.ifindex)))
    }

    /// Removes an endpoint's link and the host's way to it, with the device for that behind the last one.
    pub(super) async fn tear_down_lan(&self, endpoint: &Endpoint) -> TornDown {
        let mut errors = Vec::new();
        match self.lan_link(endpoint).await {
            Ok(Some((inside, ifindex))) => errors.extend(delete(&inside, ifindex).await.err()),
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
        errors
            .extend(self.retain_lan_routes(|address| address != IpAddr::from(endpoint.address)).await.err());
        TornDown { link: None, errors }
    }

    /// Removes the host's ways to endpoints on LANs but for those to `kept` addresses, and devices that none is left of.
    async fn retain_lan_routes(&self, kept: impl Fn(IpAddr) -> bool) -> Result<()> {
        let prefix = format!("{}{SHIM}", alias_prefix(&self.identity));
        let links = self.nl.links().await?.into_iter();
        let is_shim = |link: &Link| link.alias.as_deref().is_some_and(|alias| alias.starts_with(&prefix));
        let shims: Vec<Link> = links.filter(is_shim).collect();
        if shims.is_empty() {
            return Ok(());
        }
        let routes = self.nl.routes(Which::Single).await?;
        for shim in shims {
            let (keep, drop): (Vec<_>, Vec<_>) = routes
                .iter()
                .filter(|route| route.ifindex == shim.ifindex)
                .partition(|route| kept(route.destination.addr()));
            if keep.is_empty() {
                info!("deleting link {}, which no endpoint needs", shim.name);
                delete(&self.nl, shim.ifindex).await?;
                continue;
            }
            for route in drop {
                self.nl.del_route(route).await?;
            }
        }
        Ok(())
    }

    /// Removes what is left of endpoints on LANs that the state does not have.
    pub(super) async fn clean_up_lans(&self, state: &State) -> Result<()> {
        let lan = state.endpoints().filter(|endpoint| endpoint.link.is_lan());
        let addresses: HashSet<IpAddr> = lan.map(|endpoint| endpoint.address.into()).collect();
        self.retain_lan_routes(|address| addresses.contains(&address)).await
    }

    /// Endpoints on LANs that lack their link, or the host's way to them where that has an address there.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn without_lan_link(&self, state: &State, routes: &HostRoutes) -> Result<Vec<String>> {
        let own: Vec<_> = self.nl.addresses().await?.into_iter().map(|own| own.address.addr()).collect();
        let mut missing = Vec::new();
        for endpoint in state.endpoints().filter(|endpoint| endpoint.link.is_lan()) {
            let subnet = network_of(state, endpoint)?.subnet;
            let on_lan = |own: &IpAddr| matches!(own, IpAddr::V4(own) if subnet.contains(own));
            let reached = routes.iter().any(|(address, _)| *address == IpAddr::from(endpoint.address))
                || !own.iter().any(on_lan);
            if !reached || self.lan_link(endpoint).await?.is_none() {
                missing.push(endpoint.name.clone());
            }
        }
        Ok(missing)
    }

    /// Whether a link is the host's own device on a LAN.
    pub(super) fn is_shim(&self, link: &Link) -> bool {
        let prefix = format!("{}{SHIM}", alias_prefix(&self.identity));
        link.alias.as_deref().is_some_and(|alias| alias.starts_with(&prefix))
    }
}

/// Deletes the links that endpoints on LANs have in their containers: what a purge cannot find on the host.
///
/// # Errors
/// One cannot be deleted; the others are then deleted all the same.
pub async fn purge_lan_links(endpoints: impl Iterator<Item = Endpoint>, prefixes: &[String]) -> Result<()> {
    let mut result = Ok(());
    for endpoint in endpoints.filter(|endpoint| endpoint.link.is_lan()) {
        result = result.and(purge_lan_link(&endpoint, prefixes).await);
    }
    result
}

async fn purge_lan_link(endpoint: &Endpoint, prefixes: &[String]) -> Result<()> {
    let Some(netns) = endpoint.netns.open()? else { return Ok(()) };
    let inside = Netlink::enter(&netns).await?;
    for link in inside.links().await? {
        let own =
            |alias: &String| prefixes.iter().any(|prefix| *alias == format!("{prefix}{}", endpoint.name));
        if link.alias.as_ref().is_some_and(own) {
            delete(&inside, link.ifindex).await?;
        }
    }
    Ok(())
}
