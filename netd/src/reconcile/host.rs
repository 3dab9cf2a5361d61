//! The host's side of things: gateways, routes to endpoints, and what the datapath is told about the host.

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};
use tracing::{debug, info, warn};

use super::Reconciler;
use crate::{
    bpf::{self, NodeConfig, Uplink},
    netlink::{Netlink, Route, is_gone},
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
            ports: self.nat.ports,
            max_flows_per_endpoint: self.nat.max_flows_per_endpoint,
        })?;
        if let Some(uplink) = uplink {
            self.datapath.attach_uplink(uplink.ifindex)?;
        } else {
            self.datapath.detach_uplink()?;
        }
        self.set_routes(state, view)
    }

    /// Tells the datapath where packets go.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_routes(&mut self, state: &State, view: &HostView) -> Result<()> {
        let mut routes: BTreeMap<Ipv4Net, bpf::Route> =
            state.subnets().map(|(subnet, number)| (subnet, bpf::Route::Network(number))).collect();
        let gateways = state.networks().map(|state| state.network.gateway());
        for address in view.addresses.iter().copied().chain(gateways) {
            routes.insert(address.into(), bpf::Route::Host);
        }
        if view.uplink.is_some() {
            routes.insert(Ipv4Net::default(), bpf::Route::Uplink);
        }
        let routes: Vec<_> = routes.into_iter().collect();
        self.datapath.set_routes(&routes).context("cannot set the datapath's routes")
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
