//! The configuration file: what it may say, and what netd makes of it.
//!
//! Reading has two steps: the [`file`] as it is written, then its validation into a [`Config`] in which everything is
//! known to be right. All errors are one line that names the key.

mod cluster;
mod etcd;
mod explain;
mod file;
mod peers;

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netd_common::wire::Vxlan;

pub use self::peers::check_beside;
use crate::{
    cluster::{ClusterConfig, Transport},
    ipam,
    link::LinkChoice,
    names::{self, Shown},
    network::{Definition, Lan, Written, check_mtu, check_mtu6, check_subnets, overlapping, parse_subnet},
    pair,
};

/// Where the file is if nothing else is said. It need not exist.
pub const DEFAULT_PATH: &str = "/etc/netd/netd.toml";
/// The network that exists without any configuration, and that `netd attach` takes if none is named.
pub const DEFAULT_NETWORK: &str = "default";
/// Its subnets.
const DEFAULT_SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 88, 0, 0), 16);
const DEFAULT_SUBNET6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 0), 48);

/// Sizes of the flow table that are accepted: below, not even one busy container works; above, the kernel refuses.
const MAX_FLOWS: std::ops::RangeInclusive<u32> = 1024..=16_777_216;
/// Fewer ports than this would make masquerading fail under any load.
const MIN_PORTS: u16 = 256;

/// The configuration, with all defaults filled in, and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file that it is from; none: there is no file, and all is by default.
    pub path: Option<PathBuf>,
    /// `[node]`.
    pub node: NodeConfig,
    /// `[networks.*]`, by name.
    pub networks: BTreeMap<String, Definition>,
    /// `[nat]`.
    pub nat: NatConfig,
    /// `[cluster]`.
    pub cluster: ClusterConfig,
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// The node's name.
    pub name: String,
    /// The uplink; none: the interface of the default route.
    pub uplink: Option<String>,
    /// The node's address; none: the uplink's first global one.
    pub address: Option<Ipv4Addr>,
    /// The node's IPv6 address; none: the uplink's first global one that is to stay, if there is one.
    pub address6: Option<Ipv6Addr>,
    /// This node's slices of the networks; a network without one is this node's as a whole.
    pub subnets: Vec<Ipv4Net>,
}

/// `[nat]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatConfig {
    /// The ports that masqueraded flows take, inclusive.
    pub ports: (u16, u16),
    /// Flows of each family that can exist at once.
    pub max_flows: u32,
    /// Flows that one endpoint can have opened at once, and that others can have opened to it.
    pub max_flows_per_endpoint: u32,
}

impl Default for NatConfig {
    fn default() -> Self {
        Self { ports: (49152, 65535), max_flows: 262_144, max_flows_per_endpoint: 65_536 }
    }
}

impl Config {
    /// Reads the file at `path`, or at [`DEFAULT_PATH`], where it need not exist.
    ///
    /// # Errors
    /// The file cannot be read, or says something that netd does not understand or cannot do.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        let (file, required) = (path.unwrap_or(Path::new(DEFAULT_PATH)), path.is_some());
        match fs::read_to_string(file) {
            Ok(text) => {
                let mut config = Self::parse(&text).with_context(|| file.display().to_string())?;
                config.path = Some(file.to_owned());
                Ok(config)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => Self::parse(""),
            Err(error) => {
                Err(error).with_context(|| format!("cannot read the configuration file {}", file.display()))
            }
        }
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(text: &str) -> Result<Self> {
        let mut file: file::File = toml::from_str(text).map_err(|error| explain::explain(&error, text))?;
        let written = file.node.subnets.take();
        let is_named = file.node.name.is_some();
        let mut node = node(file.node)?;
        let nat = nat(&file.nat)?;
        let networks = networks(file.networks)?;
        node.subnets = cluster::slices(written, &networks)?;
        let cluster = cluster::cluster(file.cluster, &node, &networks)?;
        if cluster.is_one() && !is_named {
            hostname()?;
        }
        if cluster.is_one()
            && let Some(network) = networks.values().find(|network| network.lan.is_some())
        {
            bail!(
                "networks.{}.link: a macvlan network is for a node without a cluster: take it out",
                network.name
            );
        }
        if cluster.etcd.is_none()
            && let Some(network) = networks.values().find(|network| network.slice.is_some())
        {
            bail!("networks.{}.slice is for cluster.store = \"etcd\"", network.name);
        }
        check_ports(nat.ports, &cluster)?;
        Ok(Self { path: None, node, networks, nat, cluster })
    }
}

fn node(node: file::Node) -> Result<NodeConfig> {
    let name = match node.name {
        Some(name) => names::check(&name).map(|()| name).context("node.name")?,
        // Only other nodes ask for it: see `Config::parse`.
        None => hostname().unwrap_or_else(|_| LONE.to_owned()),
    };
    if let Some(uplink) = &node.uplink {
        // The kernel's rule for a link's name (dev_valid_name).
        let valid = !uplink.is_empty()
            && uplink.len() < libc::IFNAMSIZ
            && !uplink.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
        if !valid {
            bail!("node.uplink: {uplink:?} is not the name of an interface, such as \"eth0\"");
        }
    }
    let address = match node.address.as_deref().map(|text| address("node.address", text)).transpose()? {
        Some(IpAddr::V6(address)) => {
            bail!("node.address: {address} is an IPv6 address: that is for node.address6")
        }
        Some(IpAddr::V4(address)) => Some(address),
        None => None,
    };
    let address6 = node.address6.as_deref().map(|text| address6("node.address6", text)).transpose()?;
    Ok(NodeConfig { name, uplink: node.uplink, address, address6, subnets: Vec::new() })
}

fn address(key: &str, text: &str) -> Result<IpAddr> {
    let address: IpAddr =
        text.parse().map_err(|_| anyhow!("{key}: {text:?} is not an address, such as \"192.0.2.1\""))?;
    if !pair::is_node_address(address) {
        bail!("{key}: {address} is not an address that a node can have");
    }
    Ok(address)
}

fn address6(key: &str, text: &str) -> Result<Ipv6Addr> {
    match address(key, text)? {
        IpAddr::V6(address) => Ok(address),
        IpAddr::V4(address) => {
            bail!("{key}: {address} is an IPv4 address: that is for {}", key.trim_end_matches('6'))
        }
    }
}

fn nat(nat: &file::Nat) -> Result<NatConfig> {
    let default = NatConfig::default();
    let ports =
        nat.ports.as_deref().map_or(Ok(default.ports), |text| port_range(text).context("nat.ports"))?;
    let size = |value: Option<i64>, key: &str, default: u32, lowest: u32, highest: u32| match value {
        None => Ok(default.min(highest)),
        Some(value) => u32::try_from(value)
            .ok()
            .filter(|size| (lowest..=highest).contains(size))
            .ok_or_else(|| anyhow!("{key}: {value} is not between {lowest} and {highest}")),
    };
    let max_flows =
        size(nat.max_flows, "nat.max-flows", default.max_flows, *MAX_FLOWS.start(), *MAX_FLOWS.end())?;
    // No endpoint can have more than there are; and where nothing is said, four leave room for others in a small table as well.
    let max_flows_per_endpoint = size(
        nat.max_flows_per_endpoint,
        "nat.max-flows-per-endpoint",
        default.max_flows_per_endpoint.min(max_flows / 4),
        1,
        max_flows,
    )?;
    Ok(NatConfig { ports, max_flows, max_flows_per_endpoint })
}

fn port_range(text: &str) -> Result<(u16, u16)> {
    let parsed =
        text.split_once('-').and_then(|(lo, hi)| Some((lo.trim().parse().ok()?, hi.trim().parse().ok()?)));
    let Some((lo, hi)) = parsed else {
        bail!("{text:?} is not a range of ports, such as \"49152-65535\"");
    };
    if lo < 1024 {
        bail!("{text} begins below 1024: those ports are for the host's own services");
    }
    if hi < lo {
        bail!("{text} ends before it begins");
    }
    if hi - lo < MIN_PORTS - 1 {
        bail!("{text} is only {} ports: at least {MIN_PORTS} are needed", hi - lo + 1);
    }
    Ok((lo, hi))
}

/// Translated flows must not take the port that other nodes send VXLAN to.
fn check_ports((lo, hi): (u16, u16), cluster: &ClusterConfig) -> Result<()> {
    let port = Vxlan::PORT.host();
    let has_nodes = cluster.etcd.is_some() || !cluster.peers.is_empty();
    if has_nodes && cluster.transport != Transport::Direct && (lo..=hi).contains(&port) {
        bail!(
            "nat.ports: {lo}-{hi} holds {port}, the port of VXLAN between nodes: leave it out, or set cluster.transport to \
             \"direct\""
        );
    }
    Ok(())
}

fn networks(written: Option<BTreeMap<String, file::Network>>) -> Result<BTreeMap<String, Definition>> {
    let written =
        written.unwrap_or_else(|| BTreeMap::from([(DEFAULT_NETWORK.to_owned(), file::Network::default())]));
    let mut networks: BTreeMap<String, Definition> = BTreeMap::new();
    for (name, network) in written {
        let definition = definition(&name, &network)?;
        for other in networks.values() {
            if let Some((own, its)) = overlapping(&definition.subnets(), &other.subnets()) {
                bail!("networks.{name}.subnets: {own} overlaps {its} of network `{}`", other.name);
            }
        }
        networks.insert(name, definition);
    }
    Ok(networks)
}

fn definition(name: &str, network: &file::Network) -> Result<Definition> {
    names::check(name).with_context(|| format!("networks.{}", Shown(name)))?;
    let key = |key: &str| format!("networks.{name}.{key}");
    let (subnet, subnet6) = match network.subnets.as_deref() {
        None if name == DEFAULT_NETWORK => (DEFAULT_SUBNET, Some(DEFAULT_SUBNET6)),
        None | Some([]) => bail!("{}: a network needs a subnet, such as [\"10.89.0.0/16\"]", key("subnets")),
        Some(subnets) => parse_subnets(subnets).with_context(|| key("subnets"))?,
    };
    let link = network.link.as_deref().map_or(Ok(LinkChoice::Auto), str::parse);
    let link = link.map_err(|why: String| anyhow!("{}: {why}", key("link")))?;
    let mtu = network.mtu.map(check_mtu).transpose().with_context(|| key("mtu"))?.flatten();
    check_mtu6(mtu, subnet6).with_context(|| key("mtu"))?;
    let big_tcp = network.big_tcp.unwrap_or(false);
    let slice = network.slice.map(|length| slice_length(length, subnet)).transpose();
    let slice = slice.with_context(|| key("slice"))?;
    let [parent, range, gateway] = [&network.parent, &network.range, &network.gateway].map(Option::as_deref);
    let written = Written { link, subnet, subnet6, big_tcp, slice, parent, range, gateway };
    let lan = Lan::read(&written).with_context(|| format!("networks.{name}"))?;
    if lan.is_some() && network.masquerade == Some(true) {
        bail!("{}: a macvlan network's packets are past netd: leave it out", key("masquerade"));
    }
    Ok(Definition {
        name: name.to_owned(),
        subnet,
        subnet6,
        masquerade: network.masquerade.unwrap_or(lan.is_none()),
        link,
        mtu,
        big_tcp,
        slice,
        lan,
    })
}

/// Reads the prefix length of the nodes' slices of a subnet.
fn slice_length(length: i64, subnet: Ipv4Net) -> Result<u8> {
    let lengths = subnet.prefix_len()..=ipam::MAX_PREFIX;
    let found = u8::try_from(length).ok().filter(|length| lengths.contains(length));
    found.ok_or_else(|| anyhow!("{length} is not between {} and {}", lengths.start(), lengths.end()))
}

/// Reads the subnets of a network, one of IPv4 and perhaps one of IPv6, and checks that they can be that.
///
/// # Errors
/// Says what is wrong with them.
pub fn parse_subnets<S: AsRef<str>>(written: &[S]) -> Result<(Ipv4Net, Option<Ipv6Net>)> {
    let (mut subnet, mut subnet6) = (None, None);
    for text in written.iter().map(AsRef::as_ref) {
        let before = match parse_subnet(text) {
            Some(IpNet::V4(net)) => subnet.replace(net).map(IpNet::from),
            Some(IpNet::V6(net)) => subnet6.replace(net).map(IpNet::from),
            None => {
                bail!(
                    "\"{}\" is not a subnet, such as \"10.88.0.0/16\" (prefix at most /{})",
                    Shown(text),
                    ipam::MAX_PREFIX
                )
            }
        };
        if let Some(before) = before {
            bail!(
                "{before} and {text} are of one family: a network has one IPv4 subnet and at most one IPv6 subnet"
            );
        }
    }
    let Some(subnet) = subnet else {
        let beside = subnet6.map(|subnet6: Ipv6Net| format!(" beside {subnet6}")).unwrap_or_default();
        bail!("a network needs an IPv4 subnet{beside}, such as \"10.89.0.0/16\"");
    };
    check_subnets(subnet, subnet6)?;
    Ok((subnet, subnet6))
}

/// The name of a node whose host has none that can be a node's, as long as there are no others.
const LONE: &str = "localhost";

fn hostname() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/hostname";
    let name = fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?;
    let name = name.trim().to_owned();
    names::check(&name).context("the hostname cannot be the node's name: set node.name")?;
    Ok(name)
}

#[cfg(test)]
mod tests;
