//! The host's side of things: gateways, routes to endpoints, and what the datapath is told about the host.

use anyhow::{Context, Result, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netd_common::wire::Vxlan;
use std::{collections::BTreeMap, net::IpAddr};
use tracing::{debug, info, warn};

use super::{OVERLAY, Reconciler, delete_link};
use crate::{
    bpf::{self, NodeConfig, Uplink},
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
        for (address, gateway) in entry.addresses().collect::<Vec<_>>().into_iter().rev() {
            self.nl.add_neighbour(entry.ifindex, address, entry.mac.0).await?;
            self.nl.add_route(&host_route(address, gateway, entry.ifindex)).await?;
        }
        Ok(())
    }

    /// Puts routes to endpoints back that are not there: the kernel drops them when their link is set down, or when the
    /// gateway's address goes, and some network managers drop what they do not know.
    ///
    /// # Errors
    /// The kernel refuses one; the others are there then all the same.
    pub async fn restore_routes(&self, routes: &HostRoutes) -> Result<()> {
        let mut result = Ok(());
        for (name, entry) in &self.live {
            if has_routes(routes, entry) {
                continue;
            }
            match self.add_route(entry).await {
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
        let uplink = view.uplink.as_ref().map(|uplink| Uplink {
            ifindex: uplink.ifindex,
            address: uplink.address.addr(),
            address6: uplink.address6.map(|address| address.addr()),
        });
        self.datapath.configure(&NodeConfig {
            uplink,
            mtu: view.uplink.as_ref().map_or(0, |uplink| uplink.mtu),
            ports: self.nat.ports,
            max_flows_per_endpoint: self.nat.max_flows_per_endpoint,
        })?;
        if let Some(uplink) = uplink {
            self.datapath.attach_uplink(uplink.ifindex)?;
            self.translate_to(uplink.address.into())?;
            if let Some(address) = uplink.address6 {
                self.translate_to(address.into())?;
            }
        } else {
            self.datapath.detach_uplink()?;
        }
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
            delete_link(&self.nl, link.ifindex).await?;
        }
        let ifindex = match (found, wanted) {
            (None, false) => return self.datapath.forget_overlay(),
            (Some(link), _) if link.alias != Some(self.overlay_alias()) => {
                bail!("link {OVERLAY} is not of this netd: remove it")
            }
            (Some(link), false) => {
                self.datapath.forget_overlay()?;
                return delete_link(&self.nl, link.ifindex).await;
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
        let encapsulated = self.remotes.any_encapsulated(self.transport, view.uplink.as_ref(), ipv6);
        let overlay = view.overhead > 0 || encapsulated;
        self.ensure_overlay(overlay).await.context("cannot set up the overlay")?;
        let mut routes: BTreeMap<IpNet, bpf::Route> =
            state.subnets().map(|(subnet, number)| (subnet, bpf::Route::Network(number))).collect();
        for address in view.addresses.iter().copied().chain(gateways(state, view)) {
            routes.insert(address.into(), bpf::Route::Host);
        }
        if let Some(uplink) = &view.uplink {
            routes.insert(Ipv4Net::default().into(), bpf::Route::Uplink);
            if uplink.address6.is_some() {
                routes.insert(Ipv6Net::default().into(), bpf::Route::Uplink);
            }
            routes.extend(self.remotes.routes(self.transport, state, uplink));
        }
        let routes: Vec<_> = routes.into_iter().collect();
        self.datapath.set_routes(&routes).context("cannot set the datapath's routes")
    }

    /// Forgets the flows of any other address than the one that new flows get: no answer to them would be translated back, and as
    /// long as their containers talk they would not time out.
    fn translate_to(&mut self, address: IpAddr) -> Result<()> {
        let family = usize::from(address.is_ipv6());
        if self.translated[family] == Some(address) {
            return Ok(());
        }
        let gone =
            self.datapath.keep_flows_of(address).context("cannot remove the flows of another address")?;
        if gone > 0 {
            info!("the uplink's address is {address}: {gone} flows of another one are gone");
        }
        self.translated[family] = Some(address);
        Ok(())
    }

    /// Forgets the flows of an address that the host no longer has.
    pub fn forget_address(&mut self, address: IpAddr) {
        match self.datapath.flush_flows(address) {
            Ok(flows) => info!("{address} is gone from the uplink, and {flows} flows with it"),
            Err(error) => warn!("cannot remove the flows of {address}: {error:#}"),
        }
    }
}

/// The addresses that the host has in the networks.
fn gateways<'a>(state: &'a State, view: &HostView) -> impl Iterator<Item = IpAddr> + 'a {
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

/// Whether the host has its routes to an endpoint.
pub(super) fn has_routes(routes: &HostRoutes, entry: &bpf::Endpoint) -> bool {
    entry.addresses().all(|(address, _)| routes.contains(&(address, entry.ifindex)))
}

/// How the host itself reaches an endpoint: from the gateway's address, which the container always answers to.
fn host_route(address: IpAddr, gateway: IpAddr, ifindex: u32) -> Route {
    Route { destination: address.into(), gateway: None, ifindex, source: Some(gateway), onlink: false }
}
