//! IPv6 beside IPv4: what each family does alone is in the other files; here is what IPv6 has of its own.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use netd::{
    cluster::Peer,
    lab::{Container, Host, Namespace, cluster, echo, http, icmp},
    request::{FlowList, FlowView},
};
use netd_tests::{
    Cluster, Site,
    cluster::{mac_of, with_stopped_cluster},
    segments,
    site::{PATIENCE, eventually, reach, unreachable, with_stopped_site},
    streams::{TcpFlood, UdpPulse},
    with_site,
};
use nix::sys::signal::Signal;

const PAUSE: Duration = Duration::from_millis(300);
const PORT: u16 = 4600;
/// How long flows of an address that is gone may stay: it may come back.
const AWAY: Duration = Duration::from_secs(60);

/// Two networks.
const DUAL: &str = "[networks.default]\n[networks.other]\nsubnets = [\"10.89.0.0/16\", \"fd89::/48\"]\n";
/// The default network as it was before there was IPv6.
const ONLY_IPV4: &str = "[networks.default]\nsubnets = [\"10.88.0.0/16\"]\n";

/// Whether the kernel has no IPv6; says so.
fn skipped(test: &str) -> bool {
    let missing = !std::path::Path::new("/proc/sys/net/ipv6").exists();
    if missing {
        eprintln!("SKIP {test}: this kernel has no IPv6");
    }
    missing
}

fn six(container: &Container) -> Result<Ipv6Addr> {
    container.address6.with_context(|| format!("{} has no IPv6 address", container.name))
}

fn at(address: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

/// A datagram and a ping of 60,000 bytes. In a second try if need be: a machine that is busy with other tests may lose one
/// of forty fragments.
fn large(to: impl Into<IpAddr>) -> Result<()> {
    let to = to.into();
    let twice = |what: &dyn Fn() -> Result<Duration>| what().or_else(|_| what());
    twice(&|| Ok(echo::udp(SocketAddr::new(to, echo::PORT), &vec![9; 60_000], PATIENCE)?.time))?;
    twice(&|| icmp::ping(to, 60_000, PATIENCE))?;
    Ok(())
}

/// The server's address, and the host's.
fn outside(site: &Site) -> Result<(Ipv6Addr, Ipv6Addr)> {
    Ok((site.world.address6.context("no server")?, site.host.address6.context("no uplink")?))
}

#[test]
fn everybody_reaches_everybody() {
    if skipped("ipv6::everybody_reaches_everybody") {
        return;
    }
    with_site("ipv6::everybody_reaches_everybody", DUAL, |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let guest = site.container_with("guest", &["--network", "other"])?;
        ensure!(six(&a)?.to_string() == "fd88::2" && six(&guest)?.to_string() == "fd89::2");
        let gateway = a.gateway6.context("no gateway6")?;
        let (server, uplink) = outside(site)?;
        let host = site.host.namespace.clone();
        for address in [gateway, uplink] {
            site.serve(&host, address)?;
        }
        for (from, to) in [(&a, &b), (&b, &a)] {
            reach(&from.namespace, six(to)?, six(from)?)?;
            for address in [gateway, uplink] {
                reach(&from.namespace, address, six(from)?)?;
            }
            reach(&from.namespace, server, uplink)?;
            reach(&host, six(from)?, gateway)?;
        }
        reach(&guest.namespace, server, uplink)?;
        reach(&host, server, uplink)?;
        for way in ["local", "to-host", "masquerade", "reply", "from-host", "ndp"] {
            ensure!(site.counter("forwarded", way)? > 0, "nothing was counted as {way}");
        }

        for (from, to) in [(&a, &guest), (&guest, &b)] {
            let before = site.drops("isolated")?;
            unreachable(&from.namespace, six(to)?)?;
            let dropped = site.drops("isolated")? - before;
            ensure!(dropped >= 3, "{} → {}: {dropped} drops were counted", from.name, to.name);
        }
        // The world does not get in by a container's address.
        site.world.router.ip([format!("route add fd88::/48 via {uplink}")])?;
        site.host.namespace.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
        unreachable(&site.world.server, six(&a)?)
    });
}

#[test]
fn large_packets_of_all_kinds() {
    if skipped("ipv6::large_packets_of_all_kinds") {
        return;
    }
    with_site("ipv6::large_packets_of_all_kinds", DUAL, |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let (server, _) = outside(site)?;
        let gateway = a.gateway6.context("no gateway6")?;
        let host = site.host.namespace.clone();
        site.serve(&host, gateway)?;
        for (from, to) in
            [(&a.namespace, six(&b)?), (&a.namespace, gateway), (&host, six(&a)?), (&a.namespace, server)]
        {
            from.run(|| {
                large(to)?;
                echo::tcp(at(to, echo::PORT), &vec![9; 2_000_000], PATIENCE)
            })
            .with_context(|| format!("{} → {to}", from.name()))?;
        }
        a.namespace.run(|| http::download(at(server, http::PORT), 20_000_000, PATIENCE))?;
        Ok(())
    });
}

#[test]
fn a_router_with_a_smaller_mtu() {
    if skipped("ipv6::a_router_with_a_smaller_mtu") {
        return;
    }
    with_site("ipv6::a_router_with_a_smaller_mtu", DUAL, |site| {
        let a = site.container("a")?;
        let (server, _) = outside(site)?;
        // Of the way only: the server's own packets say nothing of it.
        site.world.router.ip(["route add 2001:db8:0:ff::/64 dev servers mtu lock 1300 metric 1"])?;
        // The router says that it is too big, to the host's address; the container hears of it.
        a.namespace.run(|| {
            echo::tcp(at(server, echo::PORT), &vec![9; 1_000_000], PATIENCE)?;
            http::download(at(server, http::PORT), 5_000_000, PATIENCE)
        })?;
        let learnt = a.namespace.output("ip", ["-6", "route", "get", &server.to_string()])?;
        ensure!(learnt.contains("mtu 1300"), "{learnt}");
        a.namespace.run(|| echo::udp(at(server, echo::PORT), &vec![9; 20_000], PATIENCE))?;
        Ok(())
    });
}

#[test]
fn traceroute_sees_every_hop() {
    if skipped("ipv6::traceroute_sees_every_hop") {
        return;
    }
    with_site("ipv6::traceroute_sees_every_hop", DUAL, |site| {
        let a = site.container("a")?;
        let (server, _) = outside(site)?;
        let gateway = a.gateway6.context("no gateway6")?.to_string();
        let router = "2001:db8:0:1::1".to_owned();
        for kind in ["-U", "-I"] {
            let mut command = a.namespace.command("traceroute")?;
            command.args(["-6", "-n", "-q", "1", "-w", "2", "-m", "5", kind, &server.to_string()]);
            let output = command.output().context("cannot run traceroute (package traceroute)")?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let hops: Vec<&str> =
                said.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
            ensure!(hops == [gateway.as_str(), &router, &server.to_string()], "{kind}: {said}");
        }
        Ok(())
    });
}

#[test]
fn addresses_are_chosen_in_pairs() {
    if skipped("ipv6::addresses_are_chosen_in_pairs") {
        return;
    }
    with_site("ipv6::addresses_are_chosen_in_pairs", DUAL, |site| {
        let b = site.container_with("b", &["--ip", "fd88::109"])?;
        ensure!(b.address.to_string() == "10.88.1.9");
        let c = site.container_with("c", &["--ip", "fd88::10a", "--ip", "10.88.1.10"])?;
        ensure!(six(&c)?.to_string() == "fd88::10a");
        reach(&b.namespace, six(&c)?, six(&b)?)?;
        let namespace = site.lab.namespace("d")?;
        let attach = ["attach", "d", "--netns", namespace.name(), "--ip", "10.88.1.12", "--ip", "fd88::10b"];
        let output = site.host.netd(attach)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(said.contains("10.88.1.12 goes with fd88::10c") && said.lines().count() == 1, "{said}");
        let listed = site.endpoint("b")?.context("b is not listed")?;
        ensure!(listed["addresses"] == serde_json::json!(["10.88.1.9/16", "fd88::109/48"]), "{listed}");
        ensure!(listed["gateway"] == "10.88.0.1" && listed["gateway6"] == "fd88::1", "{listed}");
        Ok(())
    });
}

#[test]
fn a_container_without_ipv6() {
    if skipped("ipv6::a_container_without_ipv6") {
        return;
    }
    with_site("ipv6::a_container_without_ipv6", DUAL, |site| {
        let namespace = site.lab.namespace("plain")?;
        namespace.set_sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
        let refused = site.host.netd(["attach", "plain", "--netns", namespace.name(), "--ip", "fd88::9"])?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && said.contains("disable_ipv6"), "{said}");
        let plain = site.host.attach("plain", &namespace, &[])?;
        ensure!(plain.address6.is_none() && plain.gateway6.is_none());
        site.serve(&namespace, plain.address)?;
        let b = site.container("b")?;
        reach(&b.namespace, plain.address, b.address)?;
        reach(&namespace, site.world.address, site.host.address)?;
        unreachable(&b.namespace, "fd88::2".parse::<Ipv6Addr>()?)?;
        // Nor is there IPv6 on a link that is too small for it, as that of a small uplink is.
        site.host.namespace.ip(["link set eth0 mtu 1279"])?;
        eventually("links become as small as the uplink", PATIENCE, || {
            let networks = site.host.json(["network", "ls", "--json"])?;
            Ok(networks["networks"][0]["mtu"] == 1279)
        })?;
        let narrow = site.lab.namespace("narrow")?;
        let refused = site.host.netd(["attach", "narrow", "--netns", narrow.name(), "--ip", "fd88::9"])?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && said.contains("1280"), "{said}");
        let narrow = site.host.attach("narrow", &narrow, &[])?;
        ensure!(narrow.address6.is_none() && narrow.gateway6.is_none());
        site.serve(&narrow.namespace, narrow.address)?;
        reach(&plain.namespace, narrow.address, plain.address)?;
        // One that has IPv6 keeps it, also when its link is made anew.
        b.namespace.ip(["link delete eth0"])?;
        eventually("its link is there again", PATIENCE, || {
            let links = b.namespace.ip_json("link show")?;
            let eth0 = links.as_array().into_iter().flatten().find(|link| link["ifname"] == "eth0");
            Ok(eth0.is_some_and(|link| link["mtu"] == 1280))
        })?;
        eventually("it reaches the host by IPv6", PATIENCE, || {
            let gateway = b.gateway6.context("no IPv6 gateway")?;
            Ok(b.namespace.run(|| icmp::ping(gateway, 64, PATIENCE)).is_ok())
        })
    });
}

#[test]
fn an_uplinks_ipv6_comes_and_goes() {
    if skipped("ipv6::an_uplinks_ipv6_comes_and_goes") {
        return;
    }
    with_stopped_site("ipv6::an_uplinks_ipv6_comes_and_goes", DUAL, |site| {
        let (server, uplink) = outside(site)?;
        let host = site.host.namespace.clone();
        let gone = [format!("address del {uplink}/64 dev eth0")];
        host.ip(&gone)?;
        site.host.start()?;
        let (a, b) = (site.container("a")?, site.container("b")?);
        reach(&a.namespace, six(&b)?, six(&a)?)?;
        reach(&a.namespace, site.world.address, site.host.address)?;
        // Told at once that there is no way.
        let error = a.namespace.run(|| echo::tcp(at(server, echo::PORT), b"x", PATIENCE)).unwrap_err();
        ensure!(format!("{error:#}").contains("unreachable"), "{error:#}");

        host.ip([
            format!("address add {uplink}/64 dev eth0 nodad"),
            "route replace ::/0 via 2001:db8:0:1::1".to_owned(),
        ])?;
        eventually("the daemon sees the address", PATIENCE, || {
            let status = site.host.json(["status", "--json"])?;
            Ok(status["uplink"]["address6"] == format!("{uplink}/64"))
        })?;
        reach(&a.namespace, server, uplink)?;
        let flows = || -> Result<Vec<FlowView>> {
            let list: FlowList = serde_json::from_value(site.host.json(["flows", "--json"])?)?;
            Ok(list.flows.into_iter().filter(|flow| flow.remote == IpAddr::from(server)).collect())
        };
        let all = flows()?;
        let expected = |flow: &FlowView| {
            flow.endpoint.as_deref() == Some("a")
                && flow.address == IpAddr::V6(Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 2))
                && flow.translated == IpAddr::from(uplink)
        };
        let protocols: Vec<&str> = all.iter().map(|flow| flow.protocol.as_str()).collect();
        ensure!(all.iter().all(expected) && protocols == ["icmpv6", "tcp", "udp"], "{all:?}");
        site.host.netd(["flows", "--endpoint", "a", "--protocol", "icmp", "flush"])?;
        ensure!(flows()?.len() == 2, "ICMPv6 is not ICMP");

        host.ip(&gone)?;
        eventually("its flows go with it", AWAY, || Ok(flows()?.is_empty()))
    });
}

#[test]
fn killed_daemons_lose_nothing() {
    if skipped("ipv6::killed_daemons_lose_nothing") {
        return;
    }
    with_site("ipv6::killed_daemons_lose_nothing", DUAL, |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let (server, _) = outside(site)?;
        let there = site.world.server.clone();
        let sinks =
            [TcpFlood::sink(&there, at(server, PORT))?, TcpFlood::sink(&b.namespace, at(six(&b)?, PORT))?];
        let floods = [
            TcpFlood::start(&a.namespace, at(server, PORT))?,
            TcpFlood::start(&a.namespace, at(six(&b)?, PORT))?,
        ];
        let pulses = [
            UdpPulse::start(&a.namespace, &there, at(server, PORT + 1))?,
            UdpPulse::start(&site.host.namespace, &a.namespace, at(six(&a)?, PORT + 2))?,
        ];
        let download =
            a.namespace.spawn(move || http::download(at(server, http::PORT), 200_000_000, PATIENCE));
        for _ in 0..2 {
            thread::sleep(PAUSE);
            site.host.stop(Signal::SIGKILL)?;
            thread::sleep(PAUSE);
            site.host.start()?;
        }
        download.join().expect("the download does not panic")?;
        for flood in floods {
            ensure!(flood.finish()? > 100_000, "hardly a byte was sent");
        }
        for pulse in pulses {
            ensure!(pulse.finish()? > 100, "hardly a datagram was sent");
        }
        drop(sinks);
        Ok(())
    });
}

#[test]
fn ipv6_comes_to_a_host_that_had_none() {
    if skipped("ipv6::ipv6_comes_to_a_host_that_had_none") {
        return;
    }
    with_stopped_site("ipv6::ipv6_comes_to_a_host_that_had_none", ONLY_IPV4, |site| {
        site.host.start()?;
        let old = site.container("old")?;
        ensure!(old.address6.is_none() && old.gateway6.is_none());
        let server = SocketAddr::new(site.world.address.into(), PORT);
        let sink = TcpFlood::sink(&site.world.server, server)?;
        let flood = TcpFlood::start(&old.namespace, server)?;
        site.host.stop(Signal::SIGKILL)?;
        site.host.configure(DUAL)?;
        site.host.start()?;
        let new = site.container("new")?;
        reach(&old.namespace, new.address, old.address)?;
        let (there, uplink) = outside(site)?;
        reach(&new.namespace, there, uplink)?;
        ensure!(flood.finish()? > 0);
        drop(sink);
        // It gets it when it is attached anew; the network cannot lose it meanwhile.
        site.host.stop(Signal::SIGTERM)?;
        site.host.configure(ONLY_IPV4)?;
        let error = format!("{:#}", site.host.start().unwrap_err());
        ensure!(error.contains("leave networks.default.subnets at 10.88.0.0/16 fd88::/48"), "{error}");
        Ok(())
    });
}

/// Ping, TCP and UDP both ways over both families, with datagrams of 60,000 bytes, and HTTP checked by its hash.
fn talk(a: &Container, b: &Container) -> Result<()> {
    for (from, to) in [(a, b), (b, a)] {
        reach(&from.namespace, to.address, from.address)?;
        let address = six(to)?;
        reach(&from.namespace, address, six(from)?)?;
        let talk = from.namespace.run(|| {
            large(address)?;
            http::download(at(address, http::PORT), 5_000_000, PATIENCE)
        });
        talk.with_context(|| format!("{} → {address}", from.name))?;
    }
    Ok(())
}

/// Two hosts whose peers are as `peer` makes them: all talk, by these ways only.
fn two_hosts(
    test: &str,
    transport: &str,
    switched: bool,
    peer: impl Fn(&Host, u8) -> Peer,
    ways: [&[&str]; 2],
    mtu: u64,
) {
    if skipped(test) {
        return;
    }
    with_stopped_cluster(test, if switched { "direct" } else { "vxlan" }, |cluster| {
        let all: Vec<Peer> = (1..).zip(&cluster.nodes).map(|(number, host)| peer(host, number)).collect();
        for (host, own) in cluster.nodes.iter().zip(&all) {
            host.configure(&cluster::configuration(own, &all, transport))?;
        }
        cluster.start()?;
        let (a, b) = cluster.pair()?;
        talk(&a, &b)?;
        for node in 0..2 {
            for way in ways[0] {
                ensure!(cluster.counter(node, "forwarded", way)? > 0, "node {node}: nothing went {way}");
            }
            for way in ways[1] {
                ensure!(cluster.counter(node, "forwarded", way)? == 0, "node {node}: packets went {way}");
            }
            let shown = cluster.nodes[node].json(["nodes", "--json"])?;
            let slice = format!("fd88::{}00/120", 2 - node);
            let slices = shown["nodes"][0]["subnets"].as_array().into_iter().flatten();
            ensure!(slices.into_iter().any(|one| *one == slice), "no {slice} in {shown}");
        }
        let links = a.namespace.ip_json("link show eth0")?;
        ensure!(links[0]["mtu"] == mtu, "the MTU is not {mtu}: {links}");
        for (from, to) in [(&a, &b), (&b, &a)] {
            segments::exchange(&from.namespace, &to.namespace, at(six(to)?, PORT), 20)?;
            segments::exchange(&from.namespace, &to.namespace, (to.address, PORT), 20)?;
        }
        // Isolated, here and there.
        let guest = cluster.container(1, "guest", "other")?;
        unreachable(&a.namespace, six(&guest)?)?;
        ensure!(cluster.counter(0, "drops", "isolated")? >= 3);
        let (server, uplink) =
            (cluster.world.address6.context("no server")?, cluster.nodes[0].address6.context("no uplink")?);
        reach(&a.namespace, server, uplink)?;
        larger_than_the_way(cluster, &a, &b, mtu)
    });
}

/// A container that takes its link for larger than the way is told.
fn larger_than_the_way(cluster: &Cluster, a: &Container, b: &Container, mtu: u64) -> Result<()> {
    a.namespace.ip(["link set eth0 mtu 1500"])?;
    cluster.nodes[0].namespace.ip([format!("link set {} mtu 1500", a.host_interface)])?;
    let address = six(b)?;
    a.namespace.run(|| {
        // If it is too big for the way, it is answered by the way's MTU, and the next one goes in fragments.
        let fits = icmp::ping(address, 1440, Duration::from_millis(300)).is_ok();
        icmp::ping(address, 1440, PATIENCE)?;
        ensure!(fits == (mtu >= 1500), "the first ping of 1488 bytes: {fits}");
        echo::udp(at(address, echo::PORT), &vec![9; 20_000], PATIENCE)?;
        echo::tcp(at(address, echo::PORT), &vec![9; 500_000], PATIENCE)?;
        Ok(())
    })?;
    ensure!((cluster.counter(0, "forwarded", "too-big-sent")? > 0) == (mtu < 1500));
    Ok(())
}

/// A peer whose packets travel by its IPv6 address.
fn by_ipv6(host: &Host, number: u8) -> Peer {
    let address = host.address6.expect("an IPv6 address").into();
    Peer { address, address6: None, ..cluster::node(host, cluster::slices(number)) }
}

const DIRECT: &[&str] = &["to-node", "from-node"];
const VXLAN: &[&str] = &["to-node-vxlan", "from-node-vxlan"];

#[test]
fn two_hosts_on_a_switch() {
    let peer = |host: &Host, number| cluster::node(host, cluster::slices(number));
    two_hosts("ipv6::two_hosts_on_a_switch", "direct", true, peer, [DIRECT, VXLAN], 1500);
}

#[test]
fn two_hosts_on_a_switch_that_know_their_ipv6_addresses_only() {
    let test = "ipv6::two_hosts_on_a_switch_that_know_their_ipv6_addresses_only";
    two_hosts(test, "auto", true, by_ipv6, [DIRECT, VXLAN], 1500);
}

#[test]
fn two_hosts_across_a_router() {
    let peer = |host: &Host, number| cluster::node(host, cluster::slices(number));
    two_hosts("ipv6::two_hosts_across_a_router", "vxlan", false, peer, [VXLAN, DIRECT], 1450);
}

#[test]
fn two_hosts_across_an_ipv6_router() {
    two_hosts("ipv6::two_hosts_across_an_ipv6_router", "vxlan", false, by_ipv6, [VXLAN, DIRECT], 1430);
}

/// The kernel's own VXLAN on the other side, over an underlay of either family.
fn the_kernels_vxlan(test: &str, over_ipv6: bool) {
    if skipped(test) {
        return;
    }
    with_stopped_cluster(test, "vxlan", |cluster| {
        let there = cluster.lab.namespace("foreign")?;
        let uplink = cluster.world.plug(&cluster.lab, &there)?;
        let local: IpAddr = match over_ipv6 {
            true => uplink.address6.context("no IPv6")?.into(),
            false => uplink.address.into(),
        };
        let remote: IpAddr = match over_ipv6 {
            true => cluster.nodes[0].address6.context("no IPv6")?.into(),
            false => cluster.nodes[0].address.into(),
        };
        let foreign =
            Peer { name: "foreign".to_owned(), address: local, address6: None, subnets: cluster::slices(9) };
        cluster.configure("vxlan", &[foreign])?;
        cluster.start()?;
        let (own, own6) = ("10.88.9.5".parse()?, "fd88::905".parse::<Ipv6Addr>()?);
        let mac: Vec<String> = mac_of(own).iter().map(|byte| format!("{byte:02x}")).collect();
        let (mtu, checksums) = if over_ipv6 { (1430, "udp6zerocsumtx udp6zerocsumrx") } else { (1450, "") };
        let a = cluster.container(0, "a", "default")?;
        there.ip([
            format!(
                "link add vx address {} type vxlan id {} dstport 4789 remote {remote} local {local} {checksums}",
                mac.join(":"),
                0x6e_0001
            ),
            format!("link set vx mtu {mtu} addrgenmode none up"),
            format!("address add {own}/16 dev vx"),
            format!("address add {own6}/48 dev vx nodad"),
            format!("neighbour add {} lladdr {} dev vx nud permanent", a.address, a.mac),
            format!("neighbour add {} lladdr {} dev vx nud permanent", six(&a)?, a.mac),
        ])?;
        eventually("the other side's own address receives", PATIENCE, || {
            let local = there.output("ip", ["-6", "route", "show", "table", "local"])?;
            Ok(local.contains(&format!("local {own6} ")))
        })?;
        for address in [IpAddr::V4(own), IpAddr::V6(own6)] {
            let service = |port| SocketAddr::new(address, port);
            cluster.services.extend(echo::serve(&there, service(echo::PORT))?);
            cluster.services.push(http::serve(&there, service(http::PORT))?);
        }
        let both_ways = |theirs: IpAddr, ours: IpAddr| -> Result<()> {
            for (from, source, to) in [(&there, theirs, ours), (&a.namespace, ours, theirs)] {
                reach(from, to, source)?;
                let download = |from: &Namespace| {
                    from.run(|| {
                        large(to)?;
                        http::download(SocketAddr::new(to, http::PORT), 5_000_000, PATIENCE)
                    })
                };
                download(from).with_context(|| format!("{source} → {to}"))?;
            }
            Ok(())
        };
        both_ways(own6.into(), six(&a)?.into())?;
        both_ways(own.into(), a.address.into())?;
        // The other side's own packets to groups have no source of the network's: `overlay-node`.
        for reason in ["overlay-network", "too-big", "rewrite", "no-endpoint", "malformed"] {
            ensure!(cluster.counter(0, "drops", reason)? == 0, "packets were dropped: {reason}");
        }
        Ok(())
    });
}

#[test]
fn the_kernels_vxlan_on_the_other_side() {
    the_kernels_vxlan("ipv6::the_kernels_vxlan_on_the_other_side", false);
}

#[test]
fn the_kernels_vxlan_over_ipv6() {
    the_kernels_vxlan("ipv6::the_kernels_vxlan_over_ipv6", true);
}
