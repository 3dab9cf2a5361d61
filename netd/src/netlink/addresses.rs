//! Addresses of links.

use anyhow::{Result, bail};
use ipnet::IpNet;

use super::Netlink;

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The link.
    pub ifindex: u32,
    /// The address and its prefix length.
    pub address: IpNet,
    /// Whether its scope is global, i.e. others can reach it.
    pub scope_global: bool,
}

impl Netlink {
    /// All addresses.
    pub async fn addresses(&self) -> Result<Vec<Address>> {
        bail!("not yet")
    }
    /// Adds an address; fine if it is there.
    pub async fn add_address(&self, ifindex: u32, address: IpNet) -> Result<()> {
        bail!("not yet: {ifindex} {address}")
    }
    /// Removes an address; false: it was gone.
    pub async fn del_address(&self, ifindex: u32, address: IpNet) -> Result<bool> {
        bail!("not yet: {ifindex} {address}")
    }
}
