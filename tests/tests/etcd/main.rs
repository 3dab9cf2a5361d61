//! Nodes that find each other by etcd, and what goes wrong with it while packets flow.

mod records;

use std::{net::SocketAddrV4, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use netd::{
    cluster::{Presence, TlsFiles},
    lab::{Container, Etcd, Host, Service, World, echo, host::binary},
    request::{NetworkList, NodeList, NodeView},
};
use netd_tests::{
    certificates,
    cluster::{Cluster, with_etcd},
    site::{SILENCE, eventually, reach, unreachable},
    streams::{TcpFlood, UdpPulse},
};
use nix::sys::signal::Signal;

/// The lease of the nodes.
const LEASE: Duration = Duration::from_secs(5);
/// How long what must come may take on a busy machine.
const SOON: Duration = Duration::from_secs(15);
const PORT: u16 = 7000;

fn nodes(host: &Host) -> Result<Vec<NodeView>> {
    let list: NodeList = serde_json::from_value(host.json(["nodes", "--json"])?)?;
    Ok(list.nodes)
}

/// The only other node of a host.
fn other(host: &Host) -> Result<NodeView> {
    nodes(host)?.into_iter().next().context("no other node")
}

fn presence(host: &Host, wanted: Presence) -> Result<()> {
    eventually(&format!("{wanted:?}"), SOON + LEASE, || {
        Ok(nodes(host)?.first().is_some_and(|node| node.presence == wanted))
    })
}

fn networks(host: &Host) -> Result<Vec<String>> {
    let list: NetworkList = serde_json::from_value(host.json(["network", "ls", "--json"])?)?;
    Ok(list.networks.into_iter().map(|network| network.name).collect())
}

fn has_network(host: &Host, name: &str, wanted: bool) -> Result<()> {
    eventually(&format!("network {name}: {wanted}"), SOON, || {
        Ok(networks(host)?.iter().any(|network| network == name) == wanted)
    })
}

fn healthy(host: &Host, wanted: bool) -> Result<()> {
    eventually(&format!("healthy: {wanted}"), SOON + LEASE, || {
        let output = host.netd(["status", "--json"])?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        Ok(status["healthy"] == wanted)
    })
}

/// Both nodes, that know each other, with a container each.
fn pair(cluster: &mut Cluster) -> Result<(Container, Container)> {
    cluster.start()?;
    for node in &cluster.nodes {
        presence(node, Presence::Registered)?;
    }
    cluster.pair()
}

fn talk(a: &Container, b: &Container) -> Result<()> {
    reach(&a.namespace, b.address, a.address)?;
    reach(&b.namespace, a.address, b.address)
}

fn refused(host: &Host, words: &[&str], expected: &str) -> Result<()> {
    let output = host.netd(words.iter().copied())?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && text.contains(expected), "{words:?}: {text}");
    ensure!(text.lines().count() == 1, "{words:?}: more than a line: {text}");
    Ok(())
}

fn done(host: &Host, words: &[&str]) -> Result<()> {
    let output = host.netd(words.iter().copied())?;
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Traffic both ways that must lose nothing.
struct Traffic([UdpPulse; 2], TcpFlood, #[expect(dead_code, reason = "serves until it is dropped")] Service);

impl Traffic {
    fn start(a: &Container, b: &Container) -> Result<Self> {
        let at = |container: &Container, port| SocketAddrV4::new(container.address, port);
        let sink = TcpFlood::sink(&b.namespace, at(b, PORT))?;
        let pulses = [
            UdpPulse::start(&a.namespace, &b.namespace, at(b, PORT + 1))?,
            UdpPulse::start(&b.namespace, &a.namespace, at(a, PORT + 1))?,
        ];
        Ok(Self(pulses, TcpFlood::start(&a.namespace, at(b, PORT))?, sink))
    }

    fn lost_nothing(self) -> Result<()> {
        for pulse in self.0 {
            ensure!(pulse.finish()? > 100, "hardly a datagram was sent");
        }
        self.1.finish().map(drop)
    }
}

fn nodes_find_each_other(test: &str, transport: &str) {
    with_etcd(test, transport, 1, |cluster, _| {
        let (a, b) = pair(cluster)?;
        talk(&a, &b)?;
        let [one, two] = &cluster.nodes[..] else { unreachable!("two nodes") };
        let seen = other(one)?;
        ensure!((seen.name.as_str(), seen.address) == ("two", Some(two.address.into())), "{seen:?}");
        ensure!(seen.mtu == Some(1500) && seen.subnets.len() == 4 && seen.last_seen.is_some(), "{seen:?}");
        ensure!(format!("{:?}", seen.transport).to_lowercase().contains(transport), "{seen:?}");
        ensure!(
            seen.subnets.iter().any(|slice| slice.contains(&std::net::IpAddr::from(b.address))),
            "{seen:?} {}",
            b.address
        );
        ensure!(seen.counters.tx_packets > 0 && seen.counters.rx_packets > 0, "{seen:?}");

        // What one makes, both have; and it is of use at once where it was made.
        done(one, &["network", "create", "blue", "--subnet", "10.90.0.0/16", "--slice", "26"])?;
        let c = cluster.container(0, "c", "blue")?;
        has_network(&cluster.nodes[1], "blue", true)?;
        let [one, two] = &cluster.nodes[..] else { unreachable!("two nodes") };
        eventually("a slice of blue", SOON, || Ok(other(two)?.subnets.len() == 5))?;
        eventually("a slice of blue", SOON, || Ok(other(one)?.subnets.len() == 5))?;
        let taken = "network `blue` is used on node `one`";
        eventually("one says that it uses blue", SOON, || {
            let output = two.netd(["network", "rm", "blue"])?;
            Ok(String::from_utf8_lossy(&output.stderr).contains(taken))
        })?;
        let d = cluster.container(1, "d", "blue")?;
        talk(&c, &d)?;
        unreachable(&c.namespace, b.address)?;
        unreachable(&b.namespace, c.address)?;
        let [one, two] = &cluster.nodes[..] else { unreachable!("two nodes") };
        refused(one, &["network", "create", "blue", "--subnet", "10.91.0.0/16"], "exists already")?;
        refused(one, &["network", "create", "red", "--subnet", "10.90.8.0/24"], "overlaps")?;

        // And what goes on one, goes on both.
        done(one, &["detach", "c"])?;
        done(two, &["detach", "d"])?;
        eventually("blue can go", SOON, || Ok(one.netd(["network", "rm", "blue"])?.status.success()))?;
        has_network(one, "blue", false)?;
        has_network(two, "blue", false)?;
        eventually("its slices are gone", SOON, || Ok(other(one)?.subnets.len() == 4))?;
        talk(&a, &b)
    });
}

#[test]
fn nodes_find_each_other_on_one_switch() {
    nodes_find_each_other("nodes_find_each_other_on_one_switch", "direct");
}

#[test]
fn nodes_find_each_other_across_a_router() {
    nodes_find_each_other("nodes_find_each_other_across_a_router", "vxlan");
}

#[test]
fn etcd_stops_and_starts() {
    with_etcd("etcd_stops_and_starts", "direct", 3, |cluster, etcd| {
        let (a, b) = pair(cluster)?;
        let traffic = Traffic::start(&a, &b)?;
        (0..3).try_for_each(|index| etcd.stop(index, Signal::SIGKILL))?;
        healthy(&cluster.nodes[0], false)?;
        // What is this node's own business goes on; what all must agree on waits.
        let c = cluster.container(0, "c", "default")?;
        talk(&c, &b)?;
        let create = ["network", "create", "blue", "--subnet", "10.90.0.0/16"];
        refused(&cluster.nodes[0], &create, "etcd does not answer")?;
        // A daemon that starts meanwhile knows what it knew.
        cluster.nodes[1].stop(Signal::SIGKILL)?;
        cluster.nodes[1].start()?;
        talk(&c, &b)?;

        (0..3).try_for_each(|index| etcd.launch(&cluster.lab, index))?;
        for node in &cluster.nodes {
            healthy(node, true)?;
            presence(node, Presence::Registered)?;
        }
        done(&cluster.nodes[0], &create)?;
        has_network(&cluster.nodes[1], "blue", true)?;
        traffic.lost_nothing()
    });
}

#[test]
fn a_member_of_etcd_dies() {
    with_etcd("a_member_of_etcd_dies", "direct", 3, |cluster, etcd| {
        let (a, b) = pair(cluster)?;
        let traffic = Traffic::start(&a, &b)?;
        for (victim, name, subnet) in
            [(0, "red", "10.90.0.0/16"), (etcd.leader()?.max(1), "blue", "10.91.0.0/16")]
        {
            etcd.stop(victim, Signal::SIGKILL)?;
            let create = ["network", "create", name, "--subnet", subnet];
            eventually("the others answer", SOON, || {
                Ok(cluster.nodes[0].netd(create)?.status.success()
                    || networks(&cluster.nodes[0])?.contains(&name.to_owned()))
            })?;
            has_network(&cluster.nodes[1], name, true)?;
            etcd.restart(&cluster.lab, victim)?;
        }
        traffic.lost_nothing()
    });
}

#[test]
fn a_node_dies_and_comes_back() {
    with_etcd("a_node_dies_and_comes_back", "vxlan", 1, |cluster, _| {
        let (a, b) = pair(cluster)?;
        talk(&a, &b)?;
        let before = other(&cluster.nodes[0])?.subnets;
        // Dead: no daemon, no packets.
        cluster.nodes[1].stop(Signal::SIGKILL)?;
        let uplink = |state: &str| format!("link set eth0 {state}");
        cluster.nodes[1].namespace.ip([uplink("down")])?;
        presence(&cluster.nodes[0], Presence::Lost)?;
        let dropped = cluster.counter(0, "drops", "no-endpoint")?;
        unreachable(&a.namespace, b.address)?;
        ensure!(cluster.counter(0, "drops", "no-endpoint")? > dropped, "its routes are still there");
        // Its slices are kept for it.
        ensure!(other(&cluster.nodes[0])?.subnets == before, "its slices are gone");

        let router = cluster.world.router.clone();
        cluster.nodes[1].namespace.ip([uplink("up")])?;
        let gateway = router.ip_json("addr show host2")?[0]["addr_info"][0]["local"].clone();
        let gateway = gateway.as_str().context("the router's address")?.to_owned();
        cluster.nodes[1].namespace.ip([format!("route replace default via {gateway}")])?;
        cluster.nodes[1].start()?;
        presence(&cluster.nodes[0], Presence::Registered)?;
        ensure!(other(&cluster.nodes[0])?.subnets == before, "it has other slices");
        talk(&a, &b)
    });
}

#[test]
fn a_daemon_that_is_away_for_long_costs_nothing() {
    with_etcd("a_daemon_that_is_away_for_long_costs_nothing", "vxlan", 1, |cluster, _| {
        let (a, b) = pair(cluster)?;
        let traffic = Traffic::start(&a, &b)?;
        cluster.nodes[1].stop(Signal::SIGKILL)?;
        presence(&cluster.nodes[0], Presence::Unregistered)?;
        thread::sleep(LEASE);
        presence(&cluster.nodes[0], Presence::Unregistered)?;
        refused(&cluster.nodes[0], &["nodes", "rm", "two"], "still there")?;
        cluster.nodes[1].start()?;
        presence(&cluster.nodes[0], Presence::Registered)?;
        traffic.lost_nothing()
    });
}

/// Makes a host unable to reach etcd, while it reaches all else.
fn cut_off(host: &Host, etcd: &Etcd, cut: bool) -> Result<()> {
    let url = etcd.endpoints()[0].clone();
    let address = url.trim_start_matches("http://").split(':').next().context("an address")?.to_owned();
    let verb = if cut { "add" } else { "del" };
    host.namespace.ip([format!("route {verb} blackhole {address}/32")])
}

#[test]
fn a_node_without_etcd_keeps_its_routes() {
    with_etcd("a_node_without_etcd_keeps_its_routes", "direct", 1, |cluster, etcd| {
        let (a, b) = pair(cluster)?;
        let traffic = Traffic::start(&a, &b)?;
        cut_off(&cluster.nodes[0], etcd, true)?;
        healthy(&cluster.nodes[0], false)?;
        presence(&cluster.nodes[1], Presence::Unregistered)?;
        thread::sleep(LEASE);
        done(&cluster.nodes[1], &["network", "create", "blue", "--subnet", "10.90.0.0/16"])?;
        // More than etcd remembers one by one.
        etcd.compact()?;
        cut_off(&cluster.nodes[0], etcd, false)?;
        healthy(&cluster.nodes[0], true)?;
        has_network(&cluster.nodes[0], "blue", true)?;
        presence(&cluster.nodes[1], Presence::Registered)?;
        traffic.lost_nothing()
    });
}

/// What does not fit the other node's uplink is said to the sender, also one that would let it be cut.
#[test]
fn a_node_with_a_smaller_mtu() {
    with_etcd("a_node_with_a_smaller_mtu", "direct", 1, |cluster, _| {
        cluster.nodes[1].namespace.ip(["link set eth0 mtu 1400"])?;
        let (a, b) = pair(cluster)?;
        ensure!(other(&cluster.nodes[0])?.mtu == Some(1400), "{:?}", other(&cluster.nodes[0])?);
        let server = SocketAddrV4::new(b.address, echo::PORT);
        let large = vec![7; 1450];
        eventually("a large datagram arrives", SOON, || {
            Ok(a.namespace.run(|| echo::udp(server, &large, SILENCE).map(drop)).is_ok())
        })?;
        let told = cluster
            .counter(0, "forwarded", "too-big-sent")
            .or_else(|_| cluster.counter(0, "drops", "too-big"))?;
        ensure!(told > 0, "nothing was too big");
        let sink = TcpFlood::sink(&b.namespace, SocketAddrV4::new(b.address, PORT))?;
        let flood = TcpFlood::start(&a.namespace, SocketAddrV4::new(b.address, PORT))?;
        thread::sleep(Duration::from_millis(300));
        ensure!(flood.finish()? > 1 << 20, "hardly anything was sent");
        drop(sink);
        Ok(())
    });
}

#[test]
fn nodes_that_want_one_slice() {
    with_etcd("nodes_that_want_one_slice", "direct", 1, |cluster, etcd| {
        // Two slices, and one that only one can have.
        let networks = "[networks.default]\nsubnets = [\"10.88.0.0/24\"]\nslice = 25\n\n\
                        [networks.other]\nsubnets = [\"10.89.0.0/24\"]\nslice = 24\n";
        for node in &cluster.nodes {
            let endpoints = etcd.endpoints();
            let name = node.name();
            node.configure(&format!(
                "[node]\nname = {name:?}\n{networks}\n[cluster]\nstore = \"etcd\"\nendpoints = {endpoints:?}\n"
            ))?;
        }
        let [one, two] = &mut cluster.nodes[..] else { unreachable!("two nodes") };
        thread::scope(|scope| {
            let first = scope.spawn(|| one.start());
            two.start()?;
            first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        let (a, b) = cluster.pair()?;
        ensure!(a.address.octets()[3] / 128 != b.address.octets()[3] / 128, "{} {}", a.address, b.address);
        eventually("they reach each other", SOON, || Ok(talk(&a, &b).is_ok()))?;
        // The node without a slice says so, and works otherwise.
        let without = cluster.nodes.iter().position(|node| {
            let output = node.netd(["status", "--json"]).map(|output| output.stdout).unwrap_or_default();
            String::from_utf8_lossy(&output).contains("all 1 slices of network `other` are taken")
        });
        let without = without.context("both nodes have all")?;
        let error = cluster.container(without, "c", "other").err().context("it has an address")?;
        ensure!(format!("{error:#}").contains("no slice of 10.89.0.0/24"), "{error:#}");
        cluster.container(1 - without, "d", "other")?;
        Ok(())
    });
}

#[test]
fn a_purged_node_leaves() {
    with_etcd("a_purged_node_leaves", "direct", 1, |cluster, etcd| {
        let (_a, _b) = pair(cluster)?;
        cluster.nodes[1].stop(Signal::SIGKILL)?;
        let mut command = cluster.nodes[1].namespace.command(binary()?)?;
        command.args(cluster.nodes[1].run_arguments()).arg("--purge");
        let output = command.output().context("cannot run netd")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let left: Vec<_> = etcd
            .get("/netd")?
            .into_iter()
            .filter(|(key, value)| key.ends_with("/two") || value.contains("\"two\""))
            .collect();
        ensure!(left.is_empty(), "{left:?}");
        eventually("it is gone", SOON, || Ok(nodes(&cluster.nodes[0])?.is_empty()))
    });
}

/// Packets flow while etcd is there and says nothing.
#[test]
fn etcd_falls_silent() {
    with_etcd("etcd_falls_silent", "direct", 1, |cluster, etcd| {
        let (a, b) = pair(cluster)?;
        let traffic = Traffic::start(&a, &b)?;
        etcd.signal(0, Signal::SIGSTOP)?;
        healthy(&cluster.nodes[0], false)?;
        refused(
            &cluster.nodes[0],
            &["network", "create", "blue", "--subnet", "10.90.0.0/16"],
            "etcd does not answer",
        )?;
        thread::sleep(LEASE);
        etcd.signal(0, Signal::SIGCONT)?;
        for node in &cluster.nodes {
            healthy(node, true)?;
            presence(node, Presence::Registered)?;
        }
        traffic.lost_nothing()
    });
}

/// A member that is cut off from the others knows nothing new, and is left.
#[test]
fn a_member_without_a_leader() {
    with_etcd("a_member_without_a_leader", "direct", 3, |cluster, etcd| {
        let (a, b) = pair(cluster)?;
        let traffic = Traffic::start(&a, &b)?;
        for member in [0, 1] {
            etcd.signal(member, Signal::SIGSTOP)?;
        }
        healthy(&cluster.nodes[0], false)?;
        healthy(&cluster.nodes[1], false)?;
        for member in [0, 1] {
            etcd.signal(member, Signal::SIGCONT)?;
        }
        for node in &cluster.nodes {
            healthy(node, true)?;
            presence(node, Presence::Registered)?;
        }
        traffic.lost_nothing()
    });
}

/// The nodes' networks and slices are what they were, though nobody else remembers.
#[test]
fn etcd_loses_its_data() {
    with_etcd("etcd_loses_its_data", "vxlan", 1, |cluster, etcd| {
        let (a, b) = pair(cluster)?;
        let traffic = Traffic::start(&a, &b)?;
        let records = |etcd: &Etcd, what: &str| -> Result<Vec<(String, String)>> {
            etcd.get(&format!("/netd/v1/{what}/"))
        };
        let before = (records(etcd, "networks")?, records(etcd, "slices")?);
        ensure!((before.0.len(), before.1.len()) == (2, 4), "{before:?}");
        etcd.stop(0, Signal::SIGKILL)?;
        etcd.lose_data(0)?;
        etcd.restart(&cluster.lab, 0)?;
        eventually("all is there again", SOON, || {
            Ok((records(etcd, "networks")?, records(etcd, "slices")?) == before
                && records(etcd, "nodes")?.len() == 2)
        })?;
        for node in &cluster.nodes {
            healthy(node, true)?;
            presence(node, Presence::Registered)?;
        }
        traffic.lost_nothing()
    });
}

fn with_keys(cluster: &Cluster, etcd: &Etcd, keys: &str) -> Result<()> {
    for node in &cluster.nodes {
        let text = netd::lab::cluster::etcd_configuration(node.name(), &etcd.endpoints(), "direct");
        node.configure(&format!("{text}{keys}"))?;
    }
    Ok(())
}

#[test]
fn etcd_asks_for_a_password() {
    with_etcd("etcd_asks_for_a_password", "direct", 1, |cluster, etcd| {
        etcd.require_user("netd", "right")?;
        let file = cluster.lab.directory().join("password");
        let keys = format!("user = \"netd\"\npassword-file = {:?}\n", file.display().to_string());
        with_keys(cluster, etcd, &keys)?;
        std::fs::write(&file, "wrong\n")?;
        let error = cluster.nodes[0].start().err().context("it starts")?;
        ensure!(format!("{error:#}").contains("authentication failed"), "{error:#}");
        let warning = "cluster.user: the password goes to http://";
        ensure!(cluster.nodes[0].log().contains(warning), "{}", cluster.nodes[0].log());
        std::fs::write(&file, "right\n")?;
        let (a, b) = pair(cluster)?;
        talk(&a, &b)?;
        // Which makes all that etcd has given out to be recognised by worthless.
        etcd.stop(0, Signal::SIGTERM)?;
        etcd.restart(&cluster.lab, 0)?;
        eventually("a network is made", SOON, || {
            let create = ["network", "create", "blue", "--subnet", "10.90.0.0/16"];
            Ok(cluster.nodes[0].netd(create)?.status.success())
        })?;
        has_network(&cluster.nodes[1], "blue", true)
    });
}

#[test]
fn etcd_asks_for_a_certificate() {
    with_etcd("etcd_asks_for_a_certificate", "direct", 0, |cluster, _| {
        let World { server, address, .. } = &cluster.world;
        let good = certificates::make(&cluster.lab.directory().join("good"), *address)?;
        let bad = certificates::make(&cluster.lab.directory().join("bad"), *address)?;
        let etcd = Etcd::start_with(&cluster.lab, server, *address, 1, Some(good.clone()))?;
        let keys = |files: &TlsFiles, identity: bool| {
            let (certificate, key) = files.identity.clone().unwrap_or_default();
            let identity = match identity {
                true => format!("certificate = {certificate:?}\nkey = {key:?}\n"),
                false => String::new(),
            };
            format!("ca = {:?}\n{identity}", files.ca)
        };
        for (keys, expected) in [(keys(&bad, true), "certificate"), (keys(&good, false), "")] {
            with_keys(cluster, &etcd, &keys)?;
            let error = cluster.nodes[0].start().err().context("it starts")?;
            let text = format!("{error:#}").to_lowercase();
            ensure!(text.contains("etcd does not answer (https://") && text.contains(expected), "{text}");
        }
        with_keys(cluster, &etcd, &keys(&good, true))?;
        let (a, b) = pair(cluster)?;
        talk(&a, &b)
    });
}
