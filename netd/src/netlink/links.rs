//! Links: veth pairs, listing, state, deletion.

use anyhow::{Result, bail};

use super::{Netlink, Netns};

/// A veth pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct VethSpec<'a> {
    /// Name of the end that stays in the daemon's namespace.
    pub host_name: &'a str,
    /// MAC address of that end.
    pub host_mac: [u8; 6],
    /// Name of the end that is born in `netns`.
    pub container_name: &'a str,
    /// MAC address of that end.
    pub container_mac: [u8; 6],
    /// Where the container's end goes.
    pub netns: &'a Netns,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
    /// `IFLA_IFALIAS` of the host's end.
    pub alias: &'a str,
}

/// A link as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, if it has one of Ethernet's length.
    pub mac: Option<[u8; 6]>,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its alias, if it has one.
    pub alias: Option<String>,
    /// What made it, e.g. `veth` or `bridge`; none for a physical device.
    pub kind: Option<String>,
    /// For a veth: the index of its other end, in the other end's namespace.
    pub peer_ifindex: Option<u32>,
}

/// The container's side of a link, to be configured from inside its namespace.
#[derive(Clone, Copy, Debug)]
pub struct ContainerSide<'a> {
    /// Name of the link, e.g. `eth0`.
    pub name: &'a str,
    /// Its address and prefix length.
    pub address: ipnet::IpNet,
    /// The gateway of its default route; need not be inside `address`'s subnet.
    pub gateway: std::net::IpAddr,
    /// Further addresses (e.g. IPv6), each with the gateway of its family's default route, if it is to get one.
    pub extra: &'a [(ipnet::IpNet, Option<std::net::IpAddr>)],
}

impl Netlink {
    /// Makes a veth pair in one message; returns the index of the host's end. Both ends are down.
    pub async fn create_veth(&self, spec: &VethSpec<'_>) -> Result<u32> {
        bail!("not yet: {spec:?}")
    }
    /// All links.
    pub async fn links(&self) -> Result<Vec<Link>> {
        bail!("not yet")
    }
    /// The link of that name, if there is one.
    pub async fn link_by_name(&self, name: &str) -> Result<Option<Link>> {
        bail!("not yet: {name}")
    }
    /// The link of that index, if there is one.
    pub async fn link_by_index(&self, ifindex: u32) -> Result<Option<Link>> {
        bail!("not yet: {ifindex}")
    }
    /// Sets a link up.
    pub async fn set_up(&self, ifindex: u32) -> Result<()> {
        bail!("not yet: {ifindex}")
    }
    /// Deletes a link; false: it was gone.
    pub async fn delete_link(&self, ifindex: u32) -> Result<bool> {
        bail!("not yet: {ifindex}")
    }
    /// Configures the container's side: loopback and link up, addresses, default routes.
    pub async fn configure_container(&self, spec: &ContainerSide<'_>) -> Result<()> {
        bail!("not yet: {spec:?}")
    }
}
