//! The kinds of containers' links: how each is made, configured and removed. A kind more is a [`Driver`] more.

mod pair;
mod tap;

use std::{net::IpAddr, pin::Pin};

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::Patience;
use crate::{
    endpoint::Endpoint,
    link::LinkKind,
    netlink::{ContainerSide, Netlink, Netns, Route, Which, is_gone},
    network::Network,
};

/// What a driver does, once that is done.
pub(super) type Doing<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A link that is to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// Whose it is.
    pub(super) endpoint: &'a Endpoint,
    /// The endpoint's network.
    pub(super) network: &'a Network,
    /// Its MTU, bytes.
    pub(super) mtu: u32,
    /// The container's namespace.
    pub(super) netns: &'a Netns,
    /// The alias of its host side.
    pub(super) alias: &'a str,
}

/// A kind of link.
pub(super) trait Driver: Sync {
    /// Makes a link, down, so that programs can be attached before the first packet; returns the index of its host side. Nothing is left
    /// of one that cannot be made.
    fn make<'a>(&'a self, nl: &'a Netlink, wanted: &'a Wanted<'a>) -> Doing<'a, u32>;

    /// Configures the container's side: addresses, each with its gateway. Can be repeated.
    fn configure<'a>(
        &'a self,
        netns: &'a Netns,
        endpoint: &'a Endpoint,
        addresses: &'a [(IpNet, IpAddr)],
        patience: Patience,
    ) -> Doing<'a, ()> {
        Box::pin(async move {
            let inside = Netlink::enter(netns).await?;
            configure_inside(&inside, &endpoint.interface, addresses, patience).await
        })
    }

    /// Whether the host's side has its carrier as soon as both ends are up.
    fn has_carrier(&self) -> bool {
        true
    }

    /// Removes the link with this index; one that is gone is fine.
    fn remove<'a>(&'a self, nl: &'a Netlink, endpoint: &'a Endpoint, ifindex: u32) -> Doing<'a, ()> {
        let _ = endpoint;
        Box::pin(delete(nl, ifindex))
    }
}

/// The driver of a kind.
pub(super) fn driver(kind: LinkKind) -> &'static dyn Driver {
    match kind {
        LinkKind::Veth | LinkKind::Netkit | LinkKind::NetkitL3 => &pair::Pair,
        // Not made as links of the host's: see `reconcile::lan`.
        LinkKind::Macvlan => &pair::Pair,
        LinkKind::Tap => &tap::Tap,
    }
}

/// Removes an endpoint's link; one that is gone is fine.
///
/// # Errors
/// The kernel refuses.
pub async fn remove(nl: &Netlink, endpoint: &Endpoint, ifindex: u32) -> Result<()> {
    driver(endpoint.link).remove(nl, endpoint, ifindex).await
}

/// Deletes a link; one that is gone is fine.
pub async fn delete(nl: &Netlink, ifindex: u32) -> Result<()> {
    match nl.delete_link(ifindex).await {
        Err(error) if !is_gone(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Configures the container's side: addresses, each with its gateway. A container that has a default route of a family by
/// another link keeps that: with endpoints in several networks, it is the first one's.
pub(super) async fn configure_inside(
    inside: &Netlink,
    name: &str,
    addresses: &[(IpNet, IpAddr)],
    patience: Patience,
) -> Result<()> {
    let what = || format!("no link {name} in the container");
    let link = inside.link_by_name(name).await?.with_context(what)?;
    let routes = inside.routes(Which::Default).await?;
    let elsewhere = |gateway: &IpAddr| {
        let same_family = |route: &&Route| route.destination.addr().is_ipv4() == gateway.is_ipv4();
        routes.iter().filter(same_family).any(|route| route.ifindex != link.ifindex)
    };
    let wanted = |gateway: &IpAddr| !gateway.is_unspecified() && !elsewhere(gateway);
    let addresses: Vec<_> =
        addresses.iter().map(|(address, gateway)| (*address, Some(*gateway).filter(wanted))).collect();
    let wait = patience == Patience::Carrier;
    inside.configure_container(&ContainerSide { name, addresses: &addresses, wait }).await
}
