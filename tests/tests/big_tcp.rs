//! BIG TCP: packets above 64 KiB between containers, and wherever else they go.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use netd::{
    cluster::Peer,
    lab::{Container, Host, Namespace, cluster},
};
use netd_tests::{
    big_tcp::{Lengths, raise},
    cluster::with_stopped_cluster,
    site::Site,
    streams::TcpFlood,
    with_site,
};

const ON: &str = "[networks.default]\nbig-tcp = true\n";
const PORT: u16 = 4200;
/// As much as no header of IP can say.
const MOST: usize = 65_535;
/// Enough for a connection to have opened its window long before the end.
const BYTES: u64 = 48 << 20;

/// Sends a lot, checks that all of it arrives, and returns how long the longest packet was that came by an interface.
fn longest(from: &Namespace, to: (&Namespace, &str), address: SocketAddr, port: u16) -> Result<usize> {
    let (namespace, interface) = to;
    // A machine's own choice, such as BBR, may send slowly, and then little at a time.
    from.set_sysctl("net.ipv4.tcp_congestion_control", "reno")?;
    let _sink = TcpFlood::sink(namespace, SocketAddr::new(address.ip(), port))?;
    let watched = Lengths::watch(namespace, interface)?;
    TcpFlood::burst(from, address, BYTES)?;
    watched.longest()
}

/// The addresses of both families, with the port of these tests.
fn at(v4: impl Into<IpAddr>, v6: Option<impl Into<IpAddr>>) -> Vec<SocketAddr> {
    let both = [Some(v4.into()), v6.map(Into::into)];
    both.into_iter().flatten().map(|address| SocketAddr::new(address, PORT)).collect()
}

fn of(container: &Container) -> Vec<SocketAddr> {
    at(container.address, container.address6)
}

fn check(what: &str, address: SocketAddr, longest: usize, big: bool) -> Result<()> {
    let expected = if big { "more than 65,535" } else { "no more than 65,535" };
    ensure!((longest > MOST) == big, "{what}, {address}: {longest} bytes, {expected} expected");
    Ok(())
}

fn nothing_dropped(site: &Site) -> Result<()> {
    for reason in ["too-big", "malformed", "rewrite", "extension-header"] {
        let dropped = site.drops(reason)?;
        ensure!(dropped == 0, "{dropped} packets dropped: {reason}");
    }
    Ok(())
}

#[test]
fn on_one_host() {
    with_site("on_one_host", ON, |site| {
        let a = site.container("a")?;
        let b = site.container_with("b", &["-p", "8200:4200"])?;
        let host = site.host.namespace.clone();
        let shown = site.host.json(["network", "ls", "--json"])?;
        ensure!(shown["networks"][0]["big_tcp"] == true, "{shown}");
        for to in of(&b) {
            let seen = longest(&a.namespace, (&b.namespace, "eth0"), to, PORT)?;
            check("between containers", to, seen, true)?;
        }
        for to in at(a.gateway, a.gateway6) {
            let seen = longest(&a.namespace, (&host, &a.host_interface), to, PORT)?;
            check("to the host", to, seen, true)?;
        }
        for to in of(&a) {
            check("from the host", to, longest(&host, (&a.namespace, "eth0"), to, PORT)?, true)?;
        }
        ensure!(site.counter("forwarded", "hairpin")? == 0);
        for published in at(site.host.address, site.host.address6) {
            let sink = if published.is_ipv4() { of(&b)[0] } else { *of(&b).last().context("no address")? };
            let _sink = TcpFlood::sink(&b.namespace, sink)?;
            let watched = Lengths::watch(&b.namespace, "eth0")?;
            let to = SocketAddr::new(published.ip(), 8200);
            TcpFlood::burst(&a.namespace, to, BYTES)?;
            check("by a published port", to, watched.longest()?, true)?;
        }
        ensure!(site.counter("forwarded", "hairpin")? > 0);
        nothing_dropped(site)
    });
}

#[test]
fn off_unless_it_is_asked_for() {
    with_site("off_unless_it_is_asked_for", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        for to in of(&b) {
            let seen = longest(&a.namespace, (&b.namespace, "eth0"), to, PORT)?;
            check("between containers", to, seen, false)?;
        }
        // By a command, for a network of its own.
        let subnets = ["--subnet", "10.90.0.0/24", "--subnet", "fd90::/64"];
        site.host.netd(["network", "create", "fast", "--big-tcp"].into_iter().chain(subnets))?;
        let c = site.container_with("c", &["--network", "fast"])?;
        let d = site.container_with("d", &["--network", "fast"])?;
        for to in of(&d) {
            let seen = longest(&c.namespace, (&d.namespace, "eth0"), to, PORT)?;
            check("between containers of the other network", to, seen, true)?;
        }
        Ok(())
    });
}

/// The uplink takes no more than 64 KiB, as every interface does unless it is told otherwise; then it does.
#[test]
fn to_the_world() {
    with_site("to_the_world", ON, |site| {
        let a = site.container("a")?;
        for to in at(site.world.address, site.world.address6) {
            let seen = longest(&a.namespace, (&site.world.server, "eth0"), to, PORT)?;
            check("to the world", to, seen, false)?;
        }
        raise(&site.host.namespace, "eth0")?;
        // To the router itself: when it forwards, the kernel takes IPv6's jumbo payload option for a part of each segment, and
        // the segments for larger than the MTU (`skb_gso_network_seglen`).
        let router = at(Ipv4Addr::new(198, 18, 1, 1), Some("2001:db8:0:1::1".parse::<IpAddr>()?));
        for to in router {
            let seen = longest(&a.namespace, (&site.world.router, "host1"), to, PORT)?;
            check("to the world by a raised uplink", to, seen, true)?;
        }
        nothing_dropped(site)
    });
}

/// `by_ipv6`: the nodes know each other's IPv6 addresses only.
fn between_nodes(test: &str, transport: &str, by_ipv6: bool) {
    if by_ipv6 && !Path::new("/proc/sys/net/ipv6").exists() {
        eprintln!("SKIP {test}: this kernel has no IPv6");
        return;
    }
    with_stopped_cluster(test, transport, |cluster| {
        let peer = |number: u8, host: &Host| -> Peer {
            let peer = cluster::node(host, cluster::slices(number));
            match host.address6.filter(|_| by_ipv6) {
                Some(address6) => Peer { address: address6.into(), address6: None, ..peer },
                None => peer,
            }
        };
        let all: Vec<Peer> = (1..).zip(&cluster.nodes).map(|(number, host)| peer(number, host)).collect();
        for (node, own) in cluster.nodes.iter().zip(&all) {
            let text = cluster::configuration(own, &all, transport);
            node.configure(&text.replace("[networks.default]\n", ON))?;
        }
        cluster.start()?;
        let (a, b) = cluster.pair()?;
        let mut expected = false;
        loop {
            for (node, from, to) in [(0, &a, &b), (1, &b, &a)] {
                for address in of(to) {
                    let sent = Lengths::watch(&cluster.nodes[node].namespace, &from.host_interface)?;
                    let seen = longest(&from.namespace, (&to.namespace, "eth0"), address, PORT)?;
                    check("between nodes", address, seen, expected)?;
                    check("to another node", address, sent.longest()?, true)?;
                }
            }
            cluster.nothing_dropped()?;
            let (_, sent) = cluster.traffic(0, "tx")?;
            ensure!(sent >= 2 * BYTES, "{sent} bytes were counted");
            if expected {
                return Ok(());
            }
            let (Some(switch), "direct") = (&cluster.switch, transport) else { return Ok(()) };
            // All the way, where nothing is put around the packets.
            for node in &cluster.nodes {
                raise(&node.namespace, "eth0")?;
            }
            for interface in ["port2", "port3", "ports"] {
                raise(&switch.namespace, interface)?;
            }
            expected = true;
        }
    });
}

#[test]
fn between_nodes_directly() {
    between_nodes("between_nodes_directly", "direct", false);
}

#[test]
fn between_nodes_in_vxlan() {
    between_nodes("between_nodes_in_vxlan", "vxlan", false);
}

#[test]
fn between_nodes_in_vxlan_over_ipv6() {
    between_nodes("between_nodes_in_vxlan_over_ipv6", "vxlan", true);
}
