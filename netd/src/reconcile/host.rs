//! The host's side of things: gateways, routes to endpoints, and what the datapath is told about the host.

use anyhow::{Context, Result, bail};
use ipnet::{IpNet, Ipv4Net};
use netd_common::wire::Vxlan;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};
use tracing::{debug, info, warn};

use super::{OVERLAY, Reconciler, delete_link};
use crate::{
    bpf::{self, NodeConfig, Uplink},
    endpoint::alias,
    netlink::{Link, Netlink, Route, is_gone},
    node::{HostRoutes, HostView, LOOPBACK},
    state::State,
};

impl Reconciler {
    /// Makes the host itself reach an endpoint.
    pub(super) async fn add_route(&self, entry: &bpf::Endpoint) -> Result<()> {
        self.nl.add_neighbour(entry.ifindex, entry.address.into(), entry.mac.0).await?;
        self.nl.add_route(&host_route(entry)).await
    }

    /// Puts routes to endpoints back that are not there: the kernel drops them when their link is set down, or when the
    /// gateway's address goes, and some network managers drop what they do not know.
    ///
    /// # Errors
    /// The kernel refuses one; the others are there then all the same.
    pub async fn restore_routes(&self, routes: &HostRoutes) -> Result<()> {
        let mut result = Ok(());
        for (name, entry) in &self.live {
            if routes.contains(&(entry.address, entry.ifindex)) {
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

    /// Tells the datapath about the host and the networks, and puts gateways back that are not there.
    ///
    /// # Errors
    /// The kernel refuses something.
    pub async fn apply_view(&mut self, state: &State, view: &HostView) -> Result<()> {
        for network in state.networks().map(|state| &state.network) {
            if !view.addresses.contains(&network.gateway()) {
                add_gateway(&self.nl, network.gateway()).await?;
            }
        }
        let uplink = view
            .uplink
            .as_ref()
            .map(|uplink| Uplink { ifindex: uplink.ifindex, address: uplink.address.addr() });
        self.datapath.configure(&NodeConfig {
            uplink,
            mtu: view.uplink.as_ref().map_or(0, |uplink| uplink.mtu),
            ports: self.nat.ports,
            max_flows_per_endpoint: self.nat.max_flows_per_endpoint,
        })?;
        if let Some(uplink) = uplink {
            self.datapath.attach_uplink(uplink.ifindex)?;
            self.translate_to(uplink.address)?;
        } else {
            self.datapath.detach_uplink()?;
        }
        self.set_routes(state, view).await
    }

    /// Makes the VXLAN device, or removes it where no node is reached by it. No packet is sent through it: it is there so
    /// that NICs aggregate what they receive (they do where a VXLAN socket exists), and decapsulates what the programs
    /// cannot (segmented UDP, and outer packets that came in fragments).
    async fn ensure_overlay(&mut self, wanted: bool) -> Result<()> {
        let mut found = self.nl.link_by_name(OVERLAY).await?;
        // Between the creation of a link and its alias there is a moment at which a crash can leave it without.
        let unfinished =
            |link: &Link| link.alias.is_none() && !link.up && link.kind.as_deref() == Some("vxlan");
        if let Some(link) = found.take_if(|link| unfinished(link)) {
            delete_link(&self.nl, link.ifindex).await?;
        }
        let ifindex = match (found, wanted) {
            (None, false) => return Ok(()),
            (Some(link), _) if link.alias != Some(self.overlay_alias()) => {
                bail!("link {OVERLAY} is not of this netd: remove it")
            }
            (Some(link), false) => return delete_link(&self.nl, link.ifindex).await,
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
        let overlay =
            view.overhead > 0 || self.remotes.any_encapsulated(self.transport, view.uplink.as_ref());
        self.ensure_overlay(overlay).await.context("cannot set up the overlay")?;
        let mut routes: BTreeMap<Ipv4Net, bpf::Route> =
            state.subnets().map(|(subnet, number)| (subnet, bpf::Route::Network(number))).collect();
        let gateways = state.networks().map(|state| state.network.gateway());
        for address in view.addresses.iter().copied().chain(gateways) {
            routes.insert(address.into(), bpf::Route::Host);
        }
        if let Some(uplink) = &view.uplink {
            routes.insert(Ipv4Net::default(), bpf::Route::Uplink);
            routes.extend(self.remotes.routes(self.transport, state, uplink));
        }
        let routes: Vec<_> = routes.into_iter().collect();
        self.datapath.set_routes(&routes).context("cannot set the datapath's routes")
    }

    /// Forgets the flows of any other address than the one that new flows get: no answer to them would be translated back, and as
    /// long as their containers talk they would not time out.
    fn translate_to(&mut self, address: Ipv4Addr) -> Result<()> {
        if self.translated != Some(address) {
            match self
                .datapath
                .keep_flows_of(address)
                .context("cannot remove the flows of another address")?
            {
                0 => {}
                flows => info!("the uplink's address is {address}: {flows} flows of another one are gone"),
            }
            self.translated = Some(address);
        }
        Ok(())
    }

    /// Forgets the flows of an address that the host no longer has.
    pub fn forget_address(&mut self, address: Ipv4Addr) {
        match self.datapath.flush_flows(address) {
            Ok(flows) => info!("{address} is gone from the uplink, and {flows} flows with it"),
            Err(error) => warn!("cannot remove the flows of {address}: {error:#}"),
        }
    }
}

/// Puts a network's gateway on the host.
///
/// # Errors
/// The kernel refuses.
pub async fn add_gateway(nl: &Netlink, gateway: Ipv4Addr) -> Result<()> {
    nl.add_address(LOOPBACK, IpNet::from(IpAddr::V4(gateway))).await
}

/// Takes a network's gateway from the host; fine if it is not there.
///
/// # Errors
/// The kernel refuses.
pub async fn remove_gateway(nl: &Netlink, gateway: Ipv4Addr) -> Result<()> {
    nl.del_address(LOOPBACK, IpNet::from(IpAddr::V4(gateway))).await.map(drop)
}

/// How the host itself reaches an endpoint: from the gateway's address, which the container always answers to.
fn host_route(entry: &bpf::Endpoint) -> Route {
    Route {
        destination: IpNet::from(IpAddr::V4(entry.address)),
        gateway: None,
        ifindex: entry.ifindex,
        source: Some(entry.gateway.into()),
        onlink: false,
    }
}
