//! What is compared: networks between the same two ends, each built in another way.

mod bridge;
mod cni;
mod denied;
mod docker;
mod dockerd;
mod flannel;
mod hosts;
mod metadata;
mod netd;
mod plain;
mod redirect;

use std::{fmt, net::Ipv4Addr, rc::Rc};

use anyhow::{Context, Result, bail};

use self::{denied::Denied, hosts::Hosts};

pub(super) use self::{
    bridge::BridgeHost,
    docker::{BRIDGE, RULES},
    hosts::{Direction, VXLAN_PORT, counted},
};
use super::case::{Frames, Link, Route, Transport};
use crate::lab::{Lab, Namespace, World};

/// A way to build the network.
#[derive(Debug)]
pub struct Variant {
    /// Its name on the command line and in the JSON.
    pub name: &'static str,
    /// What it is, for people.
    pub what: &'static str,
    one_host: Option<fn(&Lab, &World) -> Result<Scene>>,
    direct: Option<TwoHosts>,
    vxlan: Option<TwoHosts>,
    denied: Option<fn(&Lab) -> Result<Scene>>,
    /// Only for those who ask for it by name.
    pub if_named: bool,
}

type TwoHosts = fn(&Lab, &Hosts) -> Result<Between>;

/// The variant that all others are compared with.
pub const OURS: &str = "netd";

/// Every variant, in the order of the report.
pub const VARIANTS: &[Variant] = &[
    Variant {
        name: OURS,
        what: "containers of a netd daemon, network default; between hosts, a daemon on each",
        one_host: Some(netd::one_host),
        direct: Some(netd::direct),
        vxlan: Some(netd::vxlan),
        denied: Some(denied::netd),
        ..NOWHERE
    },
    Variant {
        name: "netd-5000-nodes",
        what: "between hosts: netd whose daemons know 5,000 more nodes (not measured unless it is named)",
        direct: Some(netd::direct_among_many),
        vxlan: Some(netd::vxlan_among_many),
        if_named: true,
        ..NOWHERE
    },
    Variant {
        name: "netd-10000-ports",
        what: "netd with 10,000 published ports (not measured unless it is named)",
        one_host: Some(netd::with_many_ports),
        if_named: true,
        ..NOWHERE
    },
    Variant {
        name: "netd-10000-endpoints",
        what: "netd with 10,000 endpoints, most of them only in its maps (not measured unless it is named)",
        one_host: Some(netd::with_many_endpoints),
        if_named: true,
        ..NOWHERE
    },
    Variant {
        name: "netd-10000-denied",
        what: "netd that denies 10,000 sources (not measured unless it is named)",
        denied: Some(denied::netd_among_many),
        if_named: true,
        ..NOWHERE
    },
    Variant {
        name: "netd-big-tcp",
        what: "netd, its network with big-tcp = true (not measured unless it is named)",
        one_host: Some(netd::big_tcp),
        if_named: true,
        ..NOWHERE
    },
    Variant {
        name: "netd-veth",
        what: "netd, its containers' links veth (not measured unless it is named)",
        one_host: Some(netd::by_veth),
        if_named: true,
        ..NOWHERE
    },
    Variant {
        name: "netd-netkit",
        what: "the same with netkit",
        one_host: Some(netd::by_netkit),
        if_named: true,
        ..NOWHERE
    },
    Variant {
        name: "netd-netkit-l3",
        what: "the same with netkit without MAC addresses",
        one_host: Some(netd::by_netkit_l3),
        if_named: true,
        ..NOWHERE
    },
    Variant {
        name: "bridge",
        what: "containers on a Linux bridge with Docker's rules; between hosts, connected as flannel does it (vxlan, host-gw); to deny, a rule \
               in raw PREROUTING",
        one_host: Some(bridge::build),
        direct: Some(flannel::direct),
        vxlan: Some(flannel::vxlan),
        denied: Some(denied::iptables),
        ..NOWHERE
    },
    Variant {
        name: "docker",
        what: "containers of a real dockerd on its default bridge",
        one_host: Some(dockerd::build),
        ..NOWHERE
    },
    Variant {
        name: "cni-bridge",
        what: "containers that the CNI plugins bridge and host-local made, with the plugin's masquerade",
        one_host: Some(cni::build),
        ..NOWHERE
    },
    Variant {
        name: "bridge-plain",
        what: "two namespaces on a Linux bridge, without any rule",
        one_host: Some(plain::bridge),
        ..NOWHERE
    },
    Variant {
        name: "macvlan",
        what: "two macvlan links in bridge mode",
        one_host: Some(plain::macvlan),
        ..NOWHERE
    },
    Variant { name: "ipvlan", what: "two ipvlan links in mode L2", one_host: Some(plain::ipvlan), ..NOWHERE },
    Variant {
        name: "netkit",
        what: "two namespaces and a pair of netkit devices, without a program",
        one_host: Some(plain::netkit),
        ..NOWHERE
    },
    Variant {
        name: "metadata",
        what: "between hosts: a vxlan device in collect-metadata mode, driven by two small eBPF programs",
        vxlan: Some(metadata::vxlan),
        ..NOWHERE
    },
    Variant {
        name: "redirect",
        what: "two namespaces, and a TC program that does nothing but redirect: what a datapath of such programs can reach at best",
        one_host: Some(redirect::build),
        if_named: true,
        ..NOWHERE
    },
    Variant {
        name: "veth",
        what: "two namespaces and a veth cable: what a datapath over veth can reach at best",
        one_host: Some(plain::veth),
        ..NOWHERE
    },
    Variant {
        name: "xdp-drop",
        what: "an XDP program that drops all there is: what is left is what sending costs",
        denied: Some(denied::program),
        ..NOWHERE
    },
    Variant {
        name: "loopback",
        what: "both ends in one namespace",
        one_host: Some(plain::loopback),
        ..NOWHERE
    },
];

/// What a variant is where nothing else is said.
const NOWHERE: Variant =
    Variant { name: "", what: "", one_host: None, direct: None, vxlan: None, denied: None, if_named: false };

impl PartialEq for Variant {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// Where a variant is built: cases whose routes have this in common are measured there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Site {
    /// One host, and the world beyond its uplink.
    OneHost,
    /// One host, and a sender beyond its uplink that it takes nothing from. Not the one above: dropping early changes the uplink
    /// for everything else.
    Denied,
    /// Two hosts.
    TwoHosts(Link),
}

impl Site {
    /// The one that has this route.
    pub(super) fn of(route: Route) -> Self {
        match route {
            Route::SameHost | Route::Egress | Route::Published => Self::OneHost,
            Route::Denied => Self::Denied,
            Route::Hosts(link) => Self::TwoHosts(link),
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::OneHost => "one host",
            Self::Denied => "denied",
            Self::TwoHosts(link) => link.name(),
        })
    }
}

impl Variant {
    /// Whether it is something on this site.
    pub(super) fn is_for(&self, site: Site) -> bool {
        match site {
            Site::OneHost => self.one_host.is_some(),
            Site::Denied => self.denied.is_some(),
            Site::TwoHosts(link) => self.two_hosts(link).is_some(),
        }
    }

    fn two_hosts(&self, link: Link) -> Option<TwoHosts> {
        match link.transport {
            Transport::Direct => self.direct,
            Transport::Vxlan => self.vxlan,
        }
    }

    /// Builds it. An error says why this machine cannot have it.
    pub(super) fn build(&self, site: Site, lab: &Lab, world: &World) -> Result<Scene> {
        let scene = match site {
            Site::OneHost => self.one_host.map(|build| build(lab, world)),
            Site::Denied => self.denied.map(|build| build(lab)),
            Site::TwoHosts(link) => self.two_hosts(link).map(|build| {
                let hosts = Hosts::new(lab, &format!("{}-{}", self.name, link.name()), link.frames)?;
                let Between { path, evidence } = build(lab, &hosts)?;
                Ok(Scene {
                    paths: vec![(Route::Hosts(link), path)],
                    evidence: Some(evidence),
                    hosts: Some(hosts),
                    missing: Vec::new(),
                })
            }),
        };
        let Some(scene) = scene else { bail!("{} is nothing on {site}", self.name) };
        let scene = scene?;
        scene.paths.iter().try_for_each(|(_, path)| path.prepare())?;
        Ok(scene)
    }
}

/// A variant that is up.
pub(super) struct Scene {
    paths: Vec<(Route, Path)>,
    evidence: Option<Evidence>,
    hosts: Option<Hosts>,
    /// A way that it should have and has not, its name, and why.
    missing: Vec<(Route, &'static str, String)>,
}

/// Says, after some traffic, what carried it. An error: it is not what should have.
type Evidence = Box<dyn Fn() -> Result<String>>;

/// What a variant makes of two hosts.
struct Between {
    path: Path,
    evidence: Evidence,
}

impl fmt::Debug for Scene {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Scene").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl Scene {
    /// The way that a case goes; `None` where this variant has no such way.
    pub(super) fn path(&self, route: Route) -> Option<&Path> {
        self.paths.iter().find(|(own, _)| *own == route).map(|(_, path)| path)
    }

    /// All ways.
    pub(super) fn paths(&self) -> impl Iterator<Item = &(Route, Path)> {
        self.paths.iter()
    }

    /// Ways that this variant should have on this machine and has not: their names, and why.
    pub(super) fn missing(&self) -> &[(Route, &'static str, String)] {
        &self.missing
    }

    /// The host of the client, where there are two: what goes between them leaves by its uplink.
    pub(super) fn sender(&self) -> Option<&Namespace> {
        self.hosts.as_ref().map(|hosts| &hosts.0[0].namespace)
    }

    /// What carried the traffic so far, counted by the kernel.
    pub(super) fn evidence(&self) -> Option<Result<String>> {
        self.evidence.as_ref().map(|evidence| evidence())
    }
}

/// The port of the host that a variant's server has published, and the server's own: those in Docker's rules.
const PUBLISHED: (u16, u16) = (8080, 80);

/// What publishes that port, for TCP and for UDP, as arguments of `option`s.
fn publish(option: &str) -> [String; 4] {
    let (outside, inside) = PUBLISHED;
    let port = |protocol| format!("{outside}:{inside}/{protocol}");
    [option.to_owned(), port("tcp"), option.to_owned(), port("udp")]
}

/// Two routed hosts that know so many more nodes, of netd or in the classic way; the path between two of their containers.
pub(super) fn among(ours: bool, lab: &Lab, others: u32) -> Result<Path> {
    let name = if ours { OURS } else { "bridge" };
    let hosts = Hosts::new(lab, &format!("{name}-among-{others}"), Frames::Whole)?;
    let build = if ours { netd::direct_among } else { flannel::direct_among };
    let path = build(lab, &hosts, others)?.path;
    path.prepare()?;
    Ok(path)
}

/// Two ends, and how the client reaches the server.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) client: Namespace,
    pub(super) server: Namespace,
    pub(super) address: Ipv4Addr,
    /// Where the server is reached by a published port: that port, and the server's own.
    pub(super) published: Option<(u16, u16)>,
    /// Where the server's host takes nothing from the client: what is known of that.
    pub(super) denied: Option<Rc<Denied>>,
}

impl Path {
    /// To an address of the server's own.
    pub(super) fn new(client: &Namespace, server: &Namespace, address: Ipv4Addr) -> Self {
        Self { client: client.clone(), server: server.clone(), address, published: None, denied: None }
    }

    /// To a host's address, and the port there that the server has published.
    fn published(client: &Namespace, server: &Namespace, address: Ipv4Addr) -> Self {
        Self { published: Some(PUBLISHED), ..Self::new(client, server, address) }
    }

    /// Sets what both ends have in common in every variant.
    ///
    /// # Errors
    /// There is no such setting.
    pub(super) fn prepare(&self) -> Result<()> {
        [&self.client, &self.server].into_iter().try_for_each(choose_congestion_control)
    }
}

/// The one that is the kernel's default where nobody has chosen another, or else the one that every kernel has. A machine's
/// own choice, such as BBR, which paces its packets by timers, measures its clocks as much as the path.
fn choose_congestion_control(end: &Namespace) -> Result<()> {
    const SYSCTL: &str = "net.ipv4.tcp_congestion_control";
    // Refused where it is not built in.
    if end.set_sysctl(SYSCTL, "cubic").is_ok() {
        return Ok(());
    }
    end.set_sysctl(SYSCTL, "reno").context("neither cubic nor reno can be chosen")
}
