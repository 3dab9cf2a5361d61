//! Neighbour entries.

use std::net::IpAddr;

use anyhow::{Result, bail};

use super::Netlink;

impl Netlink {
    /// Adds or replaces a permanent neighbour entry.
    pub async fn add_neighbour(&self, ifindex: u32, address: IpAddr, mac: [u8; 6]) -> Result<()> {
        bail!("not yet: {ifindex} {address} {mac:?}")
    }
}
