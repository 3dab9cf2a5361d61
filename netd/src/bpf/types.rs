//! What the daemon says to the datapath and hears from it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use anyhow::{Error, anyhow};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// A link-layer address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// That of links that have none.
    pub const ZERO: Self = Self([0; 6]);
}

/// What sizes the maps and says where they are pinned.
#[derive(Clone, Debug)]
pub struct Options {
    /// The pin directory, on a bpffs, e.g. `/sys/fs/bpf/netd`.
    pub directory: PathBuf,
    /// Flows of each family that can exist at once (`nat.max-flows`).
    pub max_flows: u32,
    /// Endpoints that can exist at once.
    pub max_endpoints: u32,
}

/// What the programs know of this node; may change while they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// The interface that leads to the world, if there is one.
    pub uplink: Option<Uplink>,
    /// Families, IPv4 first, whose address the host does not have for now: nothing is sent with it, and its flows stay.
    pub away: [bool; 2],
    /// The uplink's MTU, bytes.
    pub mtu: u32,
    /// The ports that masqueraded flows take, inclusive (`nat.ports`).
    pub ports: (u16, u16),
    /// `nat.max-flows-per-endpoint`.
    pub max_flows_per_endpoint: u32,
    /// Whether it is one of several: then containers must not speak VXLAN under its address.
    pub in_cluster: bool,
}

/// The node's uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its interface index in the daemon's network namespace.
    pub ifindex: u32,
    /// The address that masqueraded packets take.
    pub address: Ipv4Addr,
    /// The one that masqueraded IPv6 packets take; none: none are masqueraded.
    pub address6: Option<Ipv6Addr>,
}

/// An endpoint as the programs know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Index of its counters and quota; unique among live endpoints, below [`Options::max_endpoints`].
    pub slot: u32,
    /// The number of its network; endpoints of different networks do not reach each other.
    pub network: u32,
    /// Host side of its link, in the daemon's network namespace.
    pub ifindex: u32,
    /// Its address and the prefix of its network.
    pub address: Ipv4Addr,
    /// The network's subnet, all of which is on-link for the endpoint.
    pub subnet: Ipv4Net,
    /// The network's gateway address: the host, seen from the endpoint.
    pub gateway: Ipv4Addr,
    /// Its part in IPv6, if it has one.
    pub v6: Option<EndpointV6>,
    /// MAC of the container's side.
    pub mac: Mac,
    /// MAC of the host's side: what the endpoint sends every frame to.
    pub host_mac: Mac,
    /// Whether what it sends to the uplink takes the uplink's address. Without it the network is a routed one: its
    /// packets leave as they are, and packets that the host forwards may reach it.
    pub masquerade: bool,
    /// Whether it has published ports: what it sends may be an answer that takes the host's address.
    pub published: bool,
    /// How its link is.
    pub wiring: Wiring,
}

/// How programs get at what goes by a container's link, and how a packet gets into the container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wiring {
    /// A pair of devices, one of them here. What the container sends is received by that one, and packets can be put into the other.
    #[default]
    Pair,
    /// The same, but the program runs where the container sends: netkit.
    Netkit,
    /// One device, whose other side is no device of the kernel's: a tap. Packets are sent out of it.
    Single,
}

impl Endpoint {
    /// Its addresses, IPv4 first, each with its gateway.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        let v6 = self.v6.map(|v6| (v6.address.into(), v6.gateway.into()));
        [(self.address.into(), self.gateway.into())].into_iter().chain(v6)
    }
}

/// What an endpoint has of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointV6 {
    /// Its address; at the same offset in `subnet` as its IPv4 address in the IPv4 subnet.
    pub address: Ipv6Addr,
    /// The network's subnet.
    pub subnet: Ipv6Net,
    /// The network's gateway address.
    pub gateway: Ipv6Addr,
}

/// Where packets for a prefix go (longest prefix first).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The host itself: one of its addresses.
    Host,
    /// A network of netd's; reachable only for its own endpoints.
    Network(u32),
    /// Another node's slice of a network.
    Node {
        /// The network's number.
        network: u32,
        /// The node's address on its uplink, of either family whatever the slice's is.
        address: IpAddr,
        /// Index of the node's counters; unique among the nodes, below [`MAX_NODES`].
        slot: u32,
        /// Packets go there in VXLAN; otherwise as they are, the node being on the uplink's subnet.
        vxlan: bool,
        /// The largest packet that gets there, as a container sends it, bytes.
        mtu: u16,
        /// The network is not masqueraded: its containers come to published ports with their own addresses.
        routed: bool,
    },
    /// Another node itself; like [`Route::Uplink`] for all but what could pass for this node's.
    Peer(IpAddr),
    /// The world behind the uplink; masquerade is a property of the endpoint that sends.
    Uplink,
}

/// Packets and bytes of one endpoint, seen from the container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointCounters {
    /// Packets that the container sent and that were forwarded.
    pub tx_packets: u64,
    /// Bytes of them, Ethernet header included.
    pub tx_bytes: u64,
    /// Packets delivered to the container.
    pub rx_packets: u64,
    /// Bytes of them, Ethernet header included.
    pub rx_bytes: u64,
    /// Packets from the container that were dropped.
    pub dropped: u64,
}

/// Other nodes that there are counters for.
pub const MAX_NODES: u32 = 8192;

/// Packets and bytes between this node and another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCounters {
    /// Packets sent to it.
    pub tx_packets: u64,
    /// Bytes of them, as the containers sent them.
    pub tx_bytes: u64,
    /// Packets that came from it.
    pub rx_packets: u64,
    /// Bytes of them, as they came by the uplink.
    pub rx_bytes: u64,
}

/// A counter with its name, e.g. a drop reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// The number of the reason or path, stable over versions.
    pub number: u32,
    /// Its short name, e.g. `spoofed-address`.
    pub name: String,
    /// What it means, in a few words.
    pub meaning: String,
    /// Packets.
    pub packets: u64,
    /// Bytes, Ethernet header included.
    pub bytes: u64,
}

/// What a step of the search for flows that have timed out did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Flows removed.
    pub removed: usize,
    /// The table has not been walked through yet: there should be another step soon.
    pub more: bool,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapFill {
    /// The map's name.
    pub name: String,
    /// Entries in it.
    pub entries: u64,
    /// Entries it can hold.
    pub capacity: u64,
}

/// A program and where it is attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramStatus {
    /// The program's name.
    pub name: String,
    /// Its hook: `tcx` or `clsact`.
    pub hook: String,
    /// Its id in the kernel.
    pub id: u32,
    /// Links that run it.
    pub attached: u32,
}

/// What a program did with a frame that it was run on without any interface (`BPF_PROG_TEST_RUN`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// The program's return code: `TC_ACT_*`.
    pub verdict: i32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// Mean time of one run.
    pub duration: Duration,
}

/// How an uplink is to run the XDP program (`node.xdp`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpChoice {
    /// Native where the driver can, else generic.
    #[default]
    Auto,
    /// Native, or not at all.
    Native,
    /// Generic.
    Generic,
}

impl FromStr for XdpChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Native),
            "generic" => Ok(Self::Generic),
            _ => Err(anyhow!("{text:?} is not a way to run XDP: \"auto\", \"native\" or \"generic\"")),
        }
    }
}

/// How an interface runs an XDP program, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In its driver, before there is an `sk_buff`.
    Native,
    /// In the kernel's receive path, after there is one.
    Generic,
    /// On the device itself.
    Offloaded,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
        })
    }
}

/// Something that not every kernel, or not every device, has, and what comes of it here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// Its name, stable over versions.
    pub name: String,
    /// Whether it is in use here.
    pub on: bool,
    /// What it is for; where it is off, why, and what is done instead.
    pub detail: String,
}
