//! What can be asked of the daemon, what it answers, and why it refuses.
//!
//! These are the bodies of the API too: their field names are part of the contract.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::{
    bpf::{Counter, EndpointCounters, MapFill, NodeCounters, ProgramStatus},
    cluster::{Presence, Transport},
    held::NotHeld,
    link::{LinkChoice, LinkKind, Tap},
    names::Shown,
    network::{Lan, Origin, parse_subnet},
    publish::Publish,
};

/// Asks for an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// The endpoint's name.
    pub name: String,
    /// The container's network namespace: a path, or a name of `ip netns`; none: for a tap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// The network; none: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Chosen addresses, at most one of each family; one determines the other. None: the next free ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// The kind of link; none: the network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkChoice>,
    /// Who may open a tap, and how; none: root, with one queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<Tap>,
    /// Ports to publish, each as `[HOSTIP:]HOSTPORT:PORT[/tcp|udp]`, or a range of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<String>,
}

/// Asks for ports to be published, or to be published no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// Which, as in [`AttachRequest::publish`].
    pub publish: Vec<String>,
}

/// Asks for a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRequest {
    /// Its name.
    pub name: String,
    /// Its subnets: one of IPv4, and perhaps one of IPv6.
    pub subnets: Vec<String>,
    /// Whether packets to the world take the node's address.
    #[serde(default = "yes")]
    pub masquerade: bool,
    /// The kind of its links.
    #[serde(default)]
    pub link: LinkChoice,
    /// MTU of its links, in bytes; 0: the uplink's.
    #[serde(default)]
    pub mtu: i64,
    /// Whether its links take packets above 64 KiB (BIG TCP).
    #[serde(default)]
    pub big_tcp: bool,
    /// In a cluster: prefix length of the nodes' slices of it; none: as fits its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<u8>,
    /// Of a macvlan network: the host's interface on that LAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Of a macvlan network: what addresses are given out of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    /// Of a macvlan network: the LAN's router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

fn yes() -> bool {
    true
}

/// An endpoint, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Its name.
    pub name: String,
    /// Its network.
    pub network: String,
    /// Its addresses, with the prefix lengths of its network, IPv4 first.
    pub addresses: Vec<IpNet>,
    /// The gateway of its default route.
    pub gateway: Ipv4Addr,
    /// The same of IPv6; none: it has no IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<Ipv6Addr>,
    /// MAC address of the container's side; that of a tap is for the guest to have.
    pub mac: String,
    /// Name of the container's side; a tap's: its own.
    pub interface: String,
    /// Name of the host's side.
    pub host_interface: String,
    /// Path of the container's network namespace; empty: it is a tap.
    pub netns: String,
    /// The kind of its link.
    pub link: LinkKind,
    /// What is particular to a tap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<Tap>,
    /// Its published ports.
    #[serde(default)]
    pub ports: Vec<Publish>,
    /// Packets and bytes, seen from the container.
    pub counters: EndpointCounters,
    /// Why it does not work; none: it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A network, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkView {
    /// Its name.
    pub name: String,
    /// Its subnets, IPv4 first.
    pub subnets: Vec<IpNet>,
    /// The host's address in it.
    pub gateway: Ipv4Addr,
    /// The host's IPv6 address in it, if it has IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<Ipv6Addr>,
    /// Whether packets to the world take the node's address.
    pub masquerade: bool,
    /// The kind of its links.
    pub link: LinkChoice,
    /// MTU that new links get, in bytes.
    pub mtu: u32,
    /// Whether new links take packets above 64 KiB (BIG TCP).
    #[serde(default)]
    pub big_tcp: bool,
    /// Where it is defined.
    pub origin: Origin,
    /// How many endpoints it has.
    pub endpoints: usize,
    /// What it is as a LAN of the host's; none: it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lan: Option<Lan>,
}

/// All endpoints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointList {
    /// By name.
    pub endpoints: Vec<EndpointView>,
}

/// All networks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkList {
    /// By name.
    pub networks: Vec<NetworkView>,
}

/// The uplink, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkView {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// The node's address.
    pub address: Ipv4Net,
    /// The node's IPv6 address, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Net>,
}

/// How the daemon and the datapath are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// netd's version.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// Whether all is well.
    pub healthy: bool,
    /// What is not; one line each.
    pub problems: Vec<String>,
    /// The node's name.
    pub node: String,
    /// The uplink; none: there is no default route.
    pub uplink: Option<UplinkView>,
    /// Where the state is kept.
    pub store: String,
    /// The programs.
    pub programs: Vec<ProgramStatus>,
    /// How full the maps are.
    pub maps: Vec<MapFill>,
    /// Forwarded packets, by the way they took.
    pub forwarded: Vec<Counter>,
    /// Dropped packets, by the reason.
    pub drops: Vec<Counter>,
    /// How many networks there are.
    pub networks: usize,
    /// How many endpoints there are.
    pub endpoints: usize,
}

/// The other nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeList {
    /// Each of them.
    pub nodes: Vec<NodeView>,
}

/// Another node, as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its address on its uplink; none: it was never there while this node was.
    pub address: Option<IpAddr>,
    /// Its IPv6 address besides, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// How packets travel there; none: there is no uplink, or no address.
    pub transport: Option<Transport>,
    /// How IPv6 packets travel there; none: they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport6: Option<Transport>,
    /// Its uplink's MTU, in bytes, if it tells.
    pub mtu: Option<u32>,
    /// What the way there takes, in bytes, if a router says that it is less than the uplinks do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u32>,
    /// Its slices of the networks, of both families.
    pub subnets: Vec<IpNet>,
    /// What is known of its being there.
    pub presence: Presence,
    /// When it was last known to be there, in seconds since 1970 (UTC): now, while its lease is valid; otherwise when a
    /// packet of its containers was last seen to have come.
    pub last_seen: Option<u64>,
    /// Packets and bytes each way.
    #[serde(flatten)]
    pub counters: NodeCounters,
}

/// Asks for flows, or that they are removed; what is not said is any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// Those of an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Those of a protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<FlowProtocol>,
    /// Those with another party.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
    /// At most so many; none: 10,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// A protocol whose flows are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FlowProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo.
    Icmp,
}

/// Translated flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowList {
    /// Each of them, by endpoint.
    pub flows: Vec<FlowView>,
    /// How many fit the question; more than are listed, if there is a limit.
    pub total: usize,
}

/// How many flows were removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// That many.
    pub removed: usize,
}

/// A translated flow, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FlowView {
    /// The endpoint; none: it has just been detached.
    pub endpoint: Option<String>,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, or the protocol's number.
    pub protocol: String,
    /// The container's address...
    pub address: IpAddr,
    /// ... and its port, or echo identifier.
    pub port: u16,
    /// Whom it talks to...
    pub remote: IpAddr,
    /// ... and the port there.
    pub remote_port: u16,
    /// What stands for the container on the wire...
    pub translated: IpAddr,
    /// ... and the port or echo identifier of that.
    pub translated_port: u16,
    /// `unreplied`, `established`, `closing`, `closed` or `reset`.
    pub state: String,
    /// Seconds since its last packet.
    pub idle: u64,
    /// Seconds until it goes if no packet comes.
    pub expires_in: u64,
}

/// Asks for sources to be denied, or to be let through again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenyRequest {
    /// Addresses or prefixes.
    pub sources: Vec<String>,
}

/// The denied sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeniedList {
    /// Each of them.
    pub denied: Vec<DeniedView>,
}

/// A denied source, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeniedView {
    /// The prefix.
    pub source: IpNet,
    /// Packets that it has dropped, since it was added or netd's tables were made.
    pub packets: u64,
}

/// Reads a source to be denied: an address or a prefix.
///
/// # Errors
/// It is none, or one that nobody means.
pub fn parse_source(text: &str) -> Result<IpNet, String> {
    let no_prefix = || format!("`{}` is no address and no prefix such as 203.0.113.0/24", Shown(text));
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => parse_subnet(text).ok_or_else(no_prefix)?,
    };
    if net != net.trunc() {
        return Err(format!("{net} has host bits set: did you mean {}?", net.trunc()));
    }
    if net.prefix_len() == 0 {
        return Err(format!("{net} is everybody: that would cut this host off"));
    }
    if let IpNet::V6(mapped) = net
        && let Some(address) = mapped.network().to_ipv4_mapped()
        && let Some(length) = mapped.prefix_len().checked_sub(96)
        && let Ok(ipv4) = Ipv4Net::new(address, length)
    {
        // No packet has such a source. What is meant comes over IPv4.
        return Err(format!("{net} is an IPv4 source in IPv6's notation: did you mean {ipv4}?"));
    }
    Ok(net)
}

/// Why the daemon does not do what it was asked for: one line that names the thing and the mend.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It names something that does not exist.
    #[error("{0}")]
    NotFound(String),
    /// Something else is in the way.
    #[error("{0}")]
    Conflict(String),
    /// A port that is to be published cannot be had.
    #[error("{0}")]
    NotHeld(#[from] NotHeld),
    /// The kernel or the store did not do what they should.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}
