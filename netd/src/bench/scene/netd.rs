//! netd: hosts with a real daemon each, and two containers.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use ipnet::Ipv4Net;

use super::{Between, Hosts, Path, Scene, hosts::of_both, publish};
use crate::{
    bench::case::Route,
    bpf::{Counter, add_crowd},
    cluster::Peer,
    lab::{Host, Lab, World, cluster},
    link::LinkKind,
};

pub(super) fn one_host(lab: &Lab, world: &World) -> Result<Scene> {
    with_more(lab, world, "netd", More::Nothing)
}

/// With packets above 64 KiB between its containers.
pub(super) fn big_tcp(lab: &Lab, world: &World) -> Result<Scene> {
    with_more(lab, world, "netd-big-tcp", More::Length)
}

/// The server has published so many ports, real ones.
pub(super) fn with_many_ports(lab: &Lab, world: &World) -> Result<Scene> {
    with_more(lab, world, "netd-10000-ports", More::Ports)
}

/// The host has so many endpoints; but for the two they are entries in its maps, which is what a packet meets.
pub(super) fn with_many_endpoints(lab: &Lab, world: &World) -> Result<Scene> {
    with_more(lab, world, "netd-10000-endpoints", More::Endpoints)
}

/// With this kind of link.
pub(super) fn by_veth(lab: &Lab, world: &World) -> Result<Scene> {
    by(lab, world, LinkKind::Veth)
}

/// Likewise.
pub(super) fn by_netkit(lab: &Lab, world: &World) -> Result<Scene> {
    by(lab, world, LinkKind::Netkit)
}

/// Likewise.
pub(super) fn by_netkit_l3(lab: &Lab, world: &World) -> Result<Scene> {
    by(lab, world, LinkKind::NetkitL3)
}

fn by(lab: &Lab, world: &World, link: LinkKind) -> Result<Scene> {
    let config = format!("[networks.default]\nlink = \"{}\"\n", link.as_str());
    configured(lab, world, &format!("netd-{}", link.as_str()), More::Nothing, &config)
}

/// What a host has besides the two containers and the server's two published ports.
#[derive(Clone, Copy, PartialEq, Eq)]
enum More {
    Nothing,
    Ports,
    Endpoints,
    /// Longer packets.
    Length,
}

impl More {
    /// Which of the daemon's maps there is much in.
    fn map(self) -> Option<&'static str> {
        match self {
            Self::Nothing | Self::Length => None,
            Self::Ports => Some("ports"),
            Self::Endpoints => Some("endpoints"),
        }
    }
}

/// How much there is in a map, which must be much.
fn in_map(host: &Host, name: &str) -> Result<String> {
    let status = host.json(["status", "--json"])?;
    let map = status["maps"].as_array().into_iter().flatten().find(|map| map["name"] == name);
    let entries = map.and_then(|map| map["entries"].as_u64()).with_context(|| format!("no map {name}"))?;
    ensure!(entries >= u64::from(CROWD), "there are only {entries} {name}");
    Ok(format!("; {entries} {name}"))
}

/// Ports and endpoints of a host that has many, in all.
const CROWD: u16 = 10_000;

fn with_more(lab: &Lab, world: &World, name: &str, more: More) -> Result<Scene> {
    let config = if more == More::Length { "[networks.default]\nbig-tcp = true\n" } else { "" };
    configured(lab, world, name, more, config)
}

fn configured(lab: &Lab, world: &World, name: &str, more: More, config: &str) -> Result<Scene> {
    let host = Host::running(lab, world, name, config).context("cannot start the daemon")?;
    let client = host.container("client", &[]).context("cannot attach the client")?;
    let namespace = lab.namespace(&format!("{name}-server"))?;
    let attach = |options: &[&str]| host.attach("server", &namespace, options);
    let mut missing = Vec::new();
    let mut ports: Vec<String> = publish("-p").into();
    if more == More::Ports {
        // Outside and inside; two are there already. IPv4 only: the daemon holds each port with a socket, and one for each family
        // would be more than many may open.
        let (outside, inside, last) = (20_000, 10_000, CROWD - 2 - 1);
        let range = format!("0.0.0.0:{outside}-{}:{inside}-{}", outside + last, inside + last);
        ports.extend(["-p".to_owned(), range]);
    }
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let (server, publishes) = match attach(&ports) {
        Ok(server) => (server, true),
        Err(error) => {
            if more == More::Ports {
                return Err(error.context("cannot publish the ports"));
            }
            missing.push((Route::Published, "netd's published port", format!("{error:#}")));
            (attach(&[]).context("cannot attach the server")?, false)
        }
    };
    host.settle()?;
    if more == More::Endpoints {
        // Addresses of the network that the daemon has given to nobody.
        let first = Ipv4Addr::new(10, 88, 128, 0).to_bits();
        let addresses = (0..u32::from(CROWD) - 2).map(|number| Ipv4Addr::from_bits(first + number));
        add_crowd(host.bpffs(), client.address, addresses)?;
    }
    let published = Path::published(&world.router, &server.namespace, host.address);
    // The next host beyond the uplink: nothing but the uplink's cable is between it and the host.
    let [a, b, c, _] = host.address.octets();
    let router = Ipv4Addr::new(a, b, c, 1);
    let local = Path::new(&client.namespace, &server.namespace, server.address);
    let egress = Path::new(&client.namespace, &world.router, router);
    let mut paths = vec![(Route::SameHost, local), (Route::Egress, egress)];
    paths.extend(publishes.then_some((Route::Published, published)));
    Ok(Scene {
        paths,
        evidence: Some(Box::new(move || {
            let moved = evidence(&host, &["local", "masquerade", "reply"])?;
            let crowd = more.map().map(|map| in_map(&host, map)).transpose()?;
            Ok(moved + &crowd.unwrap_or_default())
        })),
        hosts: None,
        missing,
    })
}

pub(super) fn direct(lab: &Lab, hosts: &Hosts) -> Result<Between> {
    direct_among(lab, hosts, 0)
}

pub(super) fn direct_among_many(lab: &Lab, hosts: &Hosts) -> Result<Between> {
    direct_among(lab, hosts, MANY)
}

/// Routed, and the daemons know so many more nodes.
pub(super) fn direct_among(lab: &Lab, hosts: &Hosts, others: u32) -> Result<Between> {
    two_hosts(lab, hosts, "direct", &["to-node", "from-node"], others)
}

pub(super) fn vxlan(lab: &Lab, hosts: &Hosts) -> Result<Between> {
    two_hosts(lab, hosts, "vxlan", &["to-node-vxlan", "from-node-vxlan"], 0)
}

pub(super) fn vxlan_among_many(lab: &Lab, hosts: &Hosts) -> Result<Between> {
    two_hosts(lab, hosts, "vxlan", &["to-node-vxlan", "from-node-vxlan"], MANY)
}

/// The nodes that there are besides.
const MANY: u32 = 5000;

/// Nodes that do not exist, with a slice each.
fn others(count: u32) -> impl Iterator<Item = Peer> {
    (0..count).map(|number| {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 0, 1).to_bits() + number);
        let slice = Ipv4Addr::from_bits(Ipv4Addr::new(10, 88, 128, 0).to_bits() + (number << 2));
        Peer {
            name: format!("other-{number}"),
            address: address.into(),
            address6: None,
            subnets: vec![Ipv4Net::new_assert(slice, 30)],
        }
    })
}

fn two_hosts(
    lab: &Lab,
    hosts: &Hosts,
    transport: &str,
    ways: &'static [&'static str],
    more: u32,
) -> Result<Between> {
    let mut nodes = Vec::new();
    for side in &hosts.0 {
        nodes.push(Host::in_namespace(lab, side.namespace.clone(), side.address, &side.name, "")?);
    }
    let known: Vec<Peer> = hosts
        .0
        .iter()
        .zip(&nodes)
        .map(|(side, node)| cluster::node(node, cluster::slices(side.number)))
        .chain(others(more))
        .collect();
    for (node, own) in nodes.iter_mut().zip(&known) {
        node.configure(&cluster::configuration(own, &known, transport))?;
        node.start().context("cannot start a daemon")?;
    }
    let client =
        nodes[0].container("client", &["--network", "default"]).context("cannot attach the client")?;
    let server =
        nodes[1].container("server", &["--network", "default"]).context("cannot attach the server")?;
    nodes.iter().try_for_each(Host::settle)?;
    Ok(Between {
        path: Path::new(&client.namespace, &server.namespace, server.address),
        evidence: Box::new(move || {
            let [client, server] = &nodes[..] else { bail!("not two hosts") };
            Ok(of_both(evidence(client, ways)?, evidence(server, ways)?))
        }),
    })
}

/// The daemon's counters of forwarded packets, largest first. Something must have gone each of these ways.
fn evidence(host: &Host, ways: &[&str]) -> Result<String> {
    let mut moved = host.counters("forwarded")?;
    moved.retain(|counter| counter.packets > 0);
    moved.sort_by_key(|counter| std::cmp::Reverse(counter.packets));
    for way in ways {
        let went = moved.iter().any(|counter| counter.name == *way);
        ensure!(went, "netd of {} has forwarded no packet {way}; {}", host.name(), list(&moved));
    }
    Ok(format!("packets forwarded by netd: {}", list(&moved)))
}

fn list(counters: &[Counter]) -> String {
    let parts: Vec<String> =
        counters.iter().map(|counter| format!("{} {}", counter.packets, counter.name)).collect();
    parts.join(", ")
}
