//! The host's side of things: gateways, routes to endpoints, and what the datapath is told about the host.

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use netd_common::wire::Vxlan;
use std::{collections::BTreeMap, net::IpAddr};
use tracing::debug;

use super::{OVERLAY, Reconciler, link::delete};
use crate::{
    bpf,
    endpoint::alias,
    netlink::{Link, Netlink, Route, is_gone},
    network::Network,
    node::{HostRoutes, HostView, LOOPBACK},
    state::State,
};

impl Reconciler {
    /// Makes the host itself reach an endpoint.
    pub(super) async fn add_route(&self, entry: &bpf::Endpoint) -> Result<()> {
        // IPv4 last: it is what says that all is there.
        for (address, gateway) in self.addresses_of(entry).collect::<Vec<_>>().into_iter().rev() {
            self.nl.add_neighbour(entry.ifindex, address, entry.mac.0).await?;
            self.nl.add_route(&host_route(address, gateway, entry.ifindex)).await?;
        }
        Ok(())
    }

    /// An endpoint's addresses that the host itself can have routes to, each with its gateway.
    fn addresses_of<'a>(&'a self, entry: &bpf::Endpoint) -> impl Iterator<Item = (IpAddr, IpAddr)> + use<'a> {
        let all: Vec<_> = entry.addresses().collect();
        all.into_iter().filter(|(address, _)| self.ipv6 || address.is_ipv4())
    }

    /// Whether the host has its routes to an endpoint.
    pub(super) fn has_routes(&self, routes: &HostRoutes, entry: &bpf::Endpoint) -> bool {
        self.addresses_of(entry).all(|(address, _)| routes.contains(&(address, entry.ifindex)))
    }

    /// Puts routes to endpoints back that are not there: the kernel drops them when their link is set down, or when the
    /// gateway's address goes, and some network managers drop what they do not know.
    ///
    /// # Errors
    /// The kernel refuses one; the others are there then all the same.
    pub async fn restore_routes(&self, routes: &HostRoutes) -> Result<()> {
        let mut result = Ok(());
        for (name, entry) in &self.live {
            if self.has_routes(routes, entry) {
                continue;
            }
            // Where the link was set down, it is to be up again.
            let restored = match self.nl.set_up(entry.ifindex).await {
                Ok(()) => self.add_route(entry).await,
                down => down,
            };
            match restored {
                Ok(()) => debug!("the host's route to endpoint {name} is there again"),
                // Its link has gone since the routes were read; that is announced on its own.
                Err(error) if is_gone(&error) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// Tells the datapath about the host and the networks, and puts gateways back that are not there. What is denied at the
    /// uplink is for [`Self::apply_denied`].
    ///
    /// # Errors
    /// The kernel refuses something.
    pub async fn apply_view(&mut self, state: &State, view: &HostView) -> Result<()> {
        self.ipv6 = view.ipv6;
        for gateway in gateways(state, view).filter(|gateway| !view.addresses.contains(gateway)) {
            self.nl.add_address(LOOPBACK, gateway.into()).await?;
        }
        self.apply_uplink(view)?;
        self.set_routes(state, view).await
    }

    /// Makes the VXLAN device, or removes it where no node is reached by it. Hardly a packet is sent through it: it is there so
    /// that NICs aggregate what they receive (they do where a VXLAN socket exists), decapsulates what the programs
    /// cannot (segmented UDP, and outer packets that came in fragments), and encapsulates what they cannot (more than an outer
    /// header can say the length of).
    async fn ensure_overlay(&mut self, wanted: bool) -> Result<()> {
        let mut found = self.nl.link_by_name(OVERLAY).await?;
        // Between the creation of a link and its alias there is a moment at which a crash can leave it without.
        let unfinished =
            |link: &Link| link.alias.is_none() && !link.up && link.kind.as_deref() == Some("vxlan");
        if let Some(link) = found.take_if(|link| unfinished(link)) {
            delete(&self.nl, link.ifindex).await?;
        }
        let ifindex = match (found, wanted) {
            (None, false) => return self.datapath.forget_overlay(),
            (Some(link), _) if link.alias != Some(self.overlay_alias()) => {
                bail!("link {OVERLAY} is not of this netd: remove it")
            }
            (Some(link), false) => {
                self.datapath.forget_overlay()?;
                return delete(&self.nl, link.ifindex).await;
            }
            (Some(link), true) => link.ifindex,
            (None, true) => {
                let port = Vxlan::PORT.host();
                self.nl.create_vxlan(OVERLAY, port, &self.overlay_alias()).await?
            }
        };
        self.datapath.attach_overlay(ifindex)?;
        self.nl.set_up(ifindex).await
    }

    /// The alias of the VXLAN device: that of no endpoint, whose names have no colon.
    pub(super) fn overlay_alias(&self) -> String {
        alias(&self.identity, ":overlay")
    }

    /// Tells the datapath where packets go, and makes sure of the device that some of them need.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn set_routes(&mut self, state: &State, view: &HostView) -> Result<()> {
        let ipv6 = view.ipv6 && state.networks().any(|state| state.network.subnet6.is_some());
        let uplink = view.uplink.as_ref().or(self.uplink.as_ref().map(|known| &known.info)).cloned();
        let encapsulated = self.remotes.any_encapsulated(self.transport, uplink.as_ref(), ipv6);
        let overlay = view.overhead > 0 || encapsulated;
        self.ensure_overlay(overlay).await.context("cannot set up the overlay")?;
        let mut routes: BTreeMap<IpNet, bpf::Route> =
            state.subnets().map(|(subnet, number)| (subnet, bpf::Route::Network(number))).collect();
        for address in view.addresses.iter().copied().chain(gateways(state, view)) {
            routes.insert(address.into(), bpf::Route::Host);
        }
        routes.extend(self.uplink_routes(view));
        if let Some(uplink) = &uplink {
            routes.extend(self.remotes.routes(self.transport, state, uplink));
        }
        let routes: Vec<_> = routes.into_iter().collect();
        self.datapath.set_routes(&routes).context("cannot set the datapath's routes")
    }
}

/// The addresses that the host has in the networks.
pub(super) fn gateways<'a>(state: &'a State, view: &HostView) -> impl Iterator<Item = IpAddr> + 'a {
    let ipv6 = view.ipv6;
    let all = state.networks().flat_map(|state| state.network.gateways());
    all.filter(move |gateway| ipv6 || gateway.is_ipv4())
}

/// Puts a network's gateways on the host.
///
/// # Errors
/// The kernel refuses.
pub async fn add_gateways(nl: &Netlink, network: &Network, view: &HostView) -> Result<()> {
    for gateway in network.gateways().filter(|gateway| view.ipv6 || gateway.is_ipv4()) {
        nl.add_address(LOOPBACK, gateway.into()).await?;
    }
    Ok(())
}

/// Takes a network's gateways from the host; fine if they are not there.
///
/// # Errors
/// The kernel refuses; the others are gone then all the same.
pub async fn remove_gateways(nl: &Netlink, network: &Network) -> Result<()> {
    let mut result = Ok(());
    for gateway in network.gateways() {
        result = result.and(remove_gateway(nl, gateway).await);
    }
    result
}

/// Takes one gateway from the host; fine if it is not there.
///
/// # Errors
/// The kernel refuses.
pub async fn remove_gateway(nl: &Netlink, gateway: IpAddr) -> Result<()> {
    nl.del_address(LOOPBACK, gateway.into()).await.map(drop)
}

/// How the host itself reaches an endpoint: from the gateway's address, which the container always answers to.
fn host_route(address: IpAddr, gateway: IpAddr, ifindex: u32) -> Route {
    Route { destination: address.into(), gateway: None, ifindex, source: Some(gateway), onlink: false }
}
