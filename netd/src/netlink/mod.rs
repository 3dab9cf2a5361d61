//! Links, addresses, routes and neighbours, over rtnetlink.

mod addresses;
mod links;
mod monitor;
mod neighbours;
mod netns;
mod routes;
mod sysctl;
mod uplink;

use anyhow::{Result, bail};

pub use self::{
    addresses::Address,
    links::{ContainerSide, Link, VethSpec},
    monitor::{Event, monitor},
    netns::{Netns, NetnsId, is_same},
    routes::Route,
    sysctl::{release_ports, reserve_ports},
    uplink::{UplinkInfo, find_uplink},
};

/// A connection to the kernel's routing netlink in one network namespace. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Netlink {}

impl Netlink {
    /// Connects in the calling thread's namespace.
    pub fn host() -> Result<Self> {
        bail!("not yet")
    }

    /// Connects in another namespace.
    pub async fn enter(netns: &Netns) -> Result<Self> {
        bail!("not yet: {netns:?}")
    }
}

/// Whether an error means that the link, the route or the namespace is gone.
pub fn is_gone(_error: &anyhow::Error) -> bool {
    false
}

/// Whether an error means that something of that name or address exists already.
pub fn exists(_error: &anyhow::Error) -> bool {
    false
}
