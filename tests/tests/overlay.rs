//! Containers of different hosts: routed on one layer-2 network, in VXLAN across routers.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    process::Output,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use netd::{
    cluster::Peer,
    lab::{Container, Namespace, cluster, echo, host::binary, http, icmp},
};
use netd_tests::{
    Cluster,
    cluster::{mac_of, with_cluster, with_stopped_cluster},
    frames::{Catcher, Frame},
    segments,
    site::{PATIENCE, eventually, reach, unreachable},
    snapshot::Snapshot,
    streams::{TcpFlood, UdpPulse},
};
use nix::sys::signal::Signal;

/// Far above any MTU: below it somebody has cut packets up on the way.
const LARGE: u64 = 10_000;
/// The VNI of the default network.
const VNI: u32 = 0x6e_0001;
const VXLAN_PORT: u16 = 4789;
const PORT: u16 = 4500;

fn at(container: &Container, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(container.address, port)
}

/// Ping, TCP and UDP both ways, with datagrams of 60,000 bytes, and HTTP checked by its hash.
fn talk(a: &Container, b: &Container) -> Result<()> {
    for (from, to) in [(a, b), (b, a)] {
        reach(&from.namespace, to.address, from.address)?;
        from.namespace
            .run(|| {
                icmp::ping(to.address, 60_000, PATIENCE)?;
                echo::udp(at(to, echo::PORT), &vec![9; 60_000], PATIENCE)?;
                http::download(at(to, http::PORT), 5_000_000, PATIENCE)
            })
            .with_context(|| format!("{} → {}", from.name, to.name))?;
    }
    Ok(())
}

/// All of [`talk`], and which ways packets have taken.
fn everybody_talks(test: &str, transport: &str, ways: &[&str], others: &[&str]) {
    with_cluster(test, transport, |cluster| {
        let (a, b) = cluster.pair()?;
        talk(&a, &b)?;
        for node in 0..2 {
            for way in ways {
                ensure!(cluster.counter(node, "forwarded", way)? > 0, "node {node}: nothing went {way}");
            }
            for way in others {
                ensure!(cluster.counter(node, "forwarded", way)? == 0, "node {node}: packets went {way}");
            }
            let shown = cluster.nodes[node].json(["nodes", "--json"])?;
            ensure!(shown["nodes"][0]["transport"] == transport, "{shown}");
            let links = cluster.nodes[node].namespace.ip_json("link show type vxlan")?;
            let device = links.as_array().into_iter().flatten().any(|link| link["ifname"] == "nd-vxlan");
            ensure!(device == (transport == "vxlan"), "{links}");
        }
        cluster.nothing_dropped()
    });
}

#[test]
fn hosts_on_one_switch() {
    let vxlan = ["to-node-vxlan", "from-node-vxlan", "from-node-kernel"];
    everybody_talks("hosts_on_one_switch", "direct", &["to-node", "from-node"], &vxlan);
}

#[test]
fn hosts_across_a_router() {
    let ways = ["to-node-vxlan", "from-node-vxlan"];
    everybody_talks("hosts_across_a_router", "vxlan", &ways, &["to-node", "from-node"]);
}

fn bulk_stays_whole(test: &str, transport: &str) {
    with_cluster(test, transport, |cluster| {
        let (a, b) = cluster.pair()?;
        for (index, (from, to)) in [(&a, &b), (&b, &a)].into_iter().enumerate() {
            let (sender, receiver) = (index, 1 - index);
            let _sink = TcpFlood::sink(&to.namespace, at(to, PORT))?;
            let before = (cluster.traffic(sender, "tx")?, cluster.traffic(receiver, "rx")?);
            let flood = TcpFlood::start(&from.namespace, at(to, PORT))?;
            thread::sleep(Duration::from_millis(400));
            let sent = flood.finish()?;
            let after = (cluster.traffic(sender, "tx")?, cluster.traffic(receiver, "rx")?);
            for (what, before, after) in [("sent", before.0, after.0), ("received", before.1, after.1)] {
                let (packets, bytes) = (after.0 - before.0, after.1 - before.1);
                ensure!(bytes >= sent, "{} {what}: {sent} bytes of data, {bytes} counted", from.name);
                let average = bytes / packets;
                ensure!(average > LARGE, "{} {what}: {average} bytes a packet", from.name);
            }
        }
        Ok(())
    });
}

#[test]
fn bulk_stays_whole_when_routed() {
    bulk_stays_whole("bulk_stays_whole_when_routed", "direct");
}

#[test]
fn bulk_stays_whole_in_vxlan() {
    bulk_stays_whole("bulk_stays_whole_in_vxlan", "vxlan");
}

/// A sender that cuts its own data, such as a virtual machine without offloads: each packet is encapsulated by itself, and
/// what receives them aggregates them all the same.
#[test]
fn packets_sent_one_by_one_are_aggregated() {
    with_cluster("packets_sent_one_by_one_are_aggregated", "vxlan", |cluster| {
        let (a, b) = cluster.pair()?;
        let set = |namespace: &Namespace, link: &str, settings: &str| {
            namespace.output("ethtool", ["-K", link].into_iter().chain(settings.split(' '))).map(drop)
        };
        let cut = "tso off gso off tx-udp-segmentation off";
        set(&a.namespace, "eth0", cut)?;
        // A veth aggregates only what comes from a device that cannot send large packets.
        set(&cluster.world.router, "host2", cut)?;
        set(&cluster.nodes[1].namespace, "eth0", "gro on")?;
        let _sink = TcpFlood::sink(&b.namespace, at(&b, PORT))?;
        let before = (cluster.traffic(0, "tx")?.0, cluster.traffic(1, "rx")?.0);
        let flood = TcpFlood::start(&a.namespace, at(&b, PORT))?;
        thread::sleep(Duration::from_millis(400));
        flood.finish()?;
        let after = (cluster.traffic(0, "tx")?.0, cluster.traffic(1, "rx")?.0);
        let (sent, received) = (after.0 - before.0, after.1 - before.1);
        ensure!(received < sent / 2, "{sent} packets arrive as {received}");
        cluster.nothing_dropped()
    });
}

/// Every offload that changes what a packet looks like at the hooks.
fn offloads(test: &str, transport: &str) {
    const SETTINGS: [&str; 7] = [
        "tx on tso on gso on gro on tx-udp-segmentation on",
        "tx on tso on gso on gro off tx-udp-segmentation on",
        "tx on tso off gso on gro on tx-udp-segmentation off",
        "tx on tso off gso off gro on tx-udp-segmentation off",
        "tx on tso off gso off gro off tx-udp-segmentation off",
        "tx off tso off gso on gro on tx-udp-segmentation off",
        "tx off tso off gso off gro off tx-udp-segmentation off",
    ];
    with_cluster(test, transport, |cluster| {
        let (a, b) = cluster.pair()?;
        for settings in SETTINGS {
            for node in &cluster.nodes {
                let words = ["-K", "eth0"].into_iter().chain(settings.split(' '));
                node.namespace.output("ethtool", words)?;
            }
            talk(&a, &b).with_context(|| settings.to_owned())?;
            for (from, to) in [(&a, &b), (&b, &a)] {
                segments::exchange(&from.namespace, &to.namespace, at(to, PORT), 3)
                    .with_context(|| format!("{settings}: UDP_SEGMENT to {}", to.name))?;
            }
        }
        cluster.nothing_dropped()
    });
}

#[test]
fn any_offload_setting_when_routed() {
    offloads("any_offload_setting_when_routed", "direct");
}

#[test]
fn any_offload_setting_in_vxlan() {
    offloads("any_offload_setting_in_vxlan", "vxlan");
}

#[test]
fn segmented_udp_arrives_complete() {
    with_cluster("segmented_udp_arrives_complete", "vxlan", |cluster| {
        let (a, b) = cluster.pair()?;
        for (from, to) in [(&a, &b), (&b, &a)] {
            segments::exchange(&from.namespace, &to.namespace, at(to, PORT), 50)?;
        }
        for node in 0..2 {
            let by_device = cluster.counter(node, "forwarded", "from-node-kernel")?;
            ensure!((50..1000).contains(&by_device), "node {node}: {by_device} packets by the device");
        }
        cluster.nothing_dropped()
    });
}

/// A host that has no netd, but the kernel's own VXLAN: its device and its address in the default network.
struct Foreign {
    namespace: Namespace,
    address: Ipv4Addr,
}

impl Foreign {
    /// Makes the host and lets the nodes know of it.
    fn new(cluster: &mut Cluster) -> Result<Self> {
        let namespace = cluster.lab.namespace("foreign")?;
        let uplink = cluster.world.plug(&cluster.lab, &namespace)?;
        let peer = Peer {
            name: "foreign".to_owned(),
            address: uplink.address.into(),
            address6: None,
            subnets: cluster::slices(9),
        };
        cluster.configure("vxlan", &[peer])?;
        cluster.start()?;
        let address = Ipv4Addr::new(10, 88, 9, 5);
        namespace.ip([
            format!(
                "link add vx address {} type vxlan id {VNI} dstport {VXLAN_PORT} remote {} local {}",
                mac_text(address),
                cluster.nodes[0].address,
                uplink.address
            ),
            format!("address add {address}/16 dev vx"),
        ])?;
        // What IPv6 would send by itself has no source of the network's.
        if let Err(error) = namespace.set_sysctl("net.ipv6.conf.vx.disable_ipv6", "1") {
            eprintln!("no IPv6: {error:#}");
        }
        namespace.ip(["link set vx mtu 1450 up"])?;
        Ok(Self { namespace, address })
    }

    fn knows(&self, container: &Container) -> Result<()> {
        self.namespace.ip([format!(
            "neighbour add {} lladdr {} dev vx nud permanent",
            container.address, container.mac
        )])
    }
}

fn mac_text(address: Ipv4Addr) -> String {
    let mut text = String::new();
    for byte in mac_of(address) {
        let _ = write!(text, "{byte:02x}:");
    }
    text.pop();
    text
}

#[test]
fn the_kernels_vxlan_on_the_other_side() {
    with_stopped_cluster("the_kernels_vxlan_on_the_other_side", "vxlan", |cluster| {
        let foreign = Foreign::new(cluster)?;
        let a = cluster.container(0, "a", "default")?;
        foreign.knows(&a)?;
        let there = foreign.namespace.clone();
        cluster.services.extend(echo::serve(&there, SocketAddrV4::new(foreign.address, echo::PORT))?);
        cluster.services.push(http::serve(&there, SocketAddrV4::new(foreign.address, http::PORT))?);
        for (from, own, to) in
            [(&there, foreign.address, a.address), (&a.namespace, a.address, foreign.address)]
        {
            reach(from, to, own)?;
            from.run(|| {
                icmp::ping(to, 60_000, PATIENCE)?;
                echo::udp(SocketAddrV4::new(to, echo::PORT), &vec![9; 60_000], PATIENCE)?;
                http::download(SocketAddrV4::new(to, http::PORT), 10_000_000, PATIENCE)
            })
            .with_context(|| format!("{own} → {to}"))?;
        }
        segments::exchange(&there, &a.namespace, at(&a, PORT), 20)?;
        segments::exchange(&a.namespace, &there, SocketAddrV4::new(foreign.address, PORT), 20)?;
        cluster.nothing_dropped()
    });
}

fn mtu(namespace: &Namespace, link: &str) -> Result<u64> {
    let links = namespace.ip_json(&format!("link show {link}"))?;
    links[0]["mtu"].as_u64().with_context(|| format!("no MTU in {links}"))
}

#[test]
fn the_mtu_leaves_room_for_the_overlay() {
    with_cluster("the_mtu_leaves_room_for_the_overlay", "vxlan", |cluster| {
        let (a, b) = cluster.pair()?;
        for (container, node) in [(&a, 0), (&b, 1)] {
            let uplink = mtu(&cluster.nodes[node].namespace, "eth0")?;
            let own = mtu(&container.namespace, "eth0")?;
            ensure!(own == uplink - 50, "the container has {own}, the uplink {uplink}");
        }
        // Containers that think otherwise are told.
        for container in [&a, &b] {
            container.namespace.ip(["link set eth0 mtu 1500"])?;
        }
        let ping = |size: &str| -> Result<Output> {
            let to = b.address.to_string();
            let mut command = a.namespace.command("ping")?;
            command.args(["-c", "1", "-W", "2", "-M", "do", "-s", size, &to]);
            command.output().context("cannot run ping")
        };
        let _sink = TcpFlood::sink(&b.namespace, at(&b, PORT))?;
        let flood = TcpFlood::start(&a.namespace, at(&b, PORT))?;
        thread::sleep(Duration::from_millis(300));
        ensure!(flood.finish()? > 100_000, "the stream does not go on");
        ensure!(cluster.counter(0, "forwarded", "too-big-sent")? > 0, "nobody was told");
        let routes = a.namespace.output("ip", ["route", "get", &b.address.to_string()])?;
        ensure!(routes.contains("mtu 1450"), "{routes}");
        let output = ping("1472")?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(!output.status.success() && said.contains("1450"), "{said}");
        ensure!(ping("1422")?.status.success(), "what fits does not arrive");
        for container in [&a, &b] {
            container.namespace.ip(["link set eth0 mtu 1450"])?;
        }
        talk(&a, &b)
    });
}

#[test]
fn the_first_ping_that_is_too_big_is_told() {
    with_cluster("the_first_ping_that_is_too_big_is_told", "vxlan", |cluster| {
        let (a, b) = cluster.pair()?;
        // Both ends: beyond the MTU of its own end, the kernel drops what is not segmented before a program sees it.
        a.namespace.ip(["link set eth0 mtu 1500"])?;
        cluster.nodes[0].namespace.ip([format!("link set {} mtu 1500", a.host_interface)])?;
        let to = b.address.to_string();
        let mut command = a.namespace.command("ping")?;
        command.args(["-c", "1", "-W", "2", "-M", "do", "-s", "1472", &to]);
        let output = command.output().context("cannot run ping")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(said.contains("mtu = 1450") && said.contains(&a.gateway.to_string()), "{said}");
        Ok(())
    });
}

#[test]
fn a_path_that_shrinks_midway() {
    with_cluster("a_path_that_shrinks_midway", "vxlan", |cluster| {
        let (a, b) = cluster.pair()?;
        let _sink = TcpFlood::sink(&a.namespace, at(&a, PORT))?;
        let flood = TcpFlood::start(&b.namespace, at(&a, PORT))?;
        thread::sleep(Duration::from_millis(200));
        // The router's link to the first node.
        cluster.world.router.ip(["link set host1 mtu 1400"])?;
        let before = flood.sent();
        eventually("the stream goes on", Duration::from_secs(10), || Ok(flood.sent() > before + 2_000_000))?;
        flood.finish()?;
        let pieces = cluster.counter(0, "forwarded", "from-node-kernel")?;
        ensure!(pieces > 0, "no outer packet was cut");
        a.namespace.run(|| http::download(at(&b, http::PORT), 5_000_000, PATIENCE))?;
        cluster.nothing_dropped()
    });
}

/// VXLAN by hand: an inner UDP packet, sent from a socket.
fn send_overlay(
    from: &Namespace,
    node: Ipv4Addr,
    vni: u32,
    source: Ipv4Addr,
    to: &Container,
    times: usize,
) -> Result<()> {
    let frame = Frame {
        source_mac: mac_of(source),
        destination_mac: mac_of(to.address),
        vlan: None,
        source,
        destination: to.address,
        port: PORT,
    };
    let mut packet = vec![8, 0, 0, 0];
    packet.extend((vni << 8).to_be_bytes());
    packet.extend(frame.bytes()?);
    let socket = from.run(|| UdpSocket::bind("0.0.0.0:0").context("cannot bind"))?;
    (0..times).try_for_each(|_| socket.send_to(&packet, (node, VXLAN_PORT)).map(drop))?;
    Ok(())
}

#[test]
fn forged_overlay_packets_are_dropped() {
    with_cluster("forged_overlay_packets_are_dropped", "vxlan", |cluster| {
        let (a, b) = cluster.pair()?;
        let guest = cluster.container(0, "guest", "other")?;
        let stranger = cluster.lab.namespace("stranger")?;
        cluster.world.plug(&cluster.lab, &stranger)?;
        let (node, friend) = (cluster.nodes[0].address, cluster.nodes[1].namespace.clone());
        let (at_a, at_guest) = (Catcher::new(&a.namespace, PORT)?, Catcher::new(&guest.namespace, PORT)?);

        // As a node sends it; so what follows is dropped for what is wrong with it.
        send_overlay(&friend, node, VNI, b.address, &a, 5)?;
        ensure!(at_a.count()? == 5, "the packet that must arrive does not");

        let elsewhere = Ipv4Addr::new(10, 88, 77, 1);
        let other = Ipv4Addr::new(10, 89, 2, 1);
        for (what, from, vni, source, to, reason) in [
            ("from no node", &stranger, VNI, b.address, &a, "overlay-node"),
            ("another node's container", &friend, VNI, elsewhere, &a, "overlay-node"),
            ("our own container", &friend, VNI, guest.address, &a, "overlay-node"),
            ("the VNI of another network", &friend, VNI + 1, b.address, &a, "overlay-network"),
            ("the VNI of no network", &friend, VNI + 77, b.address, &a, "overlay-network"),
            ("into another network", &friend, VNI, b.address, &guest, "overlay-network"),
            ("a source of another network", &friend, VNI, other, &a, "overlay-network"),
        ] {
            let before = cluster.counter(0, "drops", reason)?;
            send_overlay(from, node, vni, source, to, 10)?;
            eventually(what, PATIENCE, || Ok(cluster.counter(0, "drops", reason)? == before + 10))
                .with_context(|| format!("{what}: not counted as {reason}"))?;
        }
        ensure!(at_a.count()? == 0 && at_guest.count()? == 0, "a forged packet arrived");
        Ok(())
    });
}

#[test]
fn vxlan_of_others_is_the_hosts() {
    // Routed: the port is free for the host.
    with_cluster("vxlan_of_others_is_the_hosts", "direct", |cluster| {
        let (a, b) = cluster.pair()?;
        let (node, friend) = (cluster.nodes[0].address, cluster.nodes[1].namespace.clone());
        let port = Catcher::new(&cluster.nodes[0].namespace, VXLAN_PORT)?;
        let at_a = Catcher::new(&a.namespace, PORT)?;
        send_overlay(&friend, node, 42, b.address, &a, 10)?;
        ensure!(port.count()? == 10, "the host did not get it");
        ensure!(at_a.count()? == 0, "a container got it");
        cluster.nothing_dropped()
    });
}

fn networks_are_isolated(test: &str, transport: &str) {
    with_cluster(test, transport, |cluster| {
        let (a, b) = cluster.pair()?;
        let (c, d) = (cluster.container(0, "c", "other")?, cluster.container(1, "d", "other")?);
        reach(&c.namespace, d.address, c.address)?;
        for (from, node, to) in [(&a, 0, &d), (&c, 0, &b), (&b, 1, &c), (&d, 1, &a)] {
            let before = cluster.counter(node, "drops", "isolated")?;
            unreachable(&from.namespace, to.address)?;
            let dropped = cluster.counter(node, "drops", "isolated")? - before;
            ensure!(dropped >= 3, "{} → {}: {dropped} drops were counted", from.name, to.name);
        }
        Ok(())
    });
}

#[test]
fn networks_are_isolated_when_routed() {
    networks_are_isolated("networks_are_isolated_when_routed", "direct");
}

#[test]
fn networks_are_isolated_in_vxlan() {
    networks_are_isolated("networks_are_isolated_in_vxlan", "vxlan");
}

#[test]
fn masquerade_is_for_the_world_only() {
    for transport in ["direct", "vxlan"] {
        with_cluster("masquerade_is_for_the_world_only", transport, |cluster| {
            let (a, b) = cluster.pair()?;
            let server = cluster.world.address;
            for (from, node, to) in [(&a, 0, &b), (&b, 1, &a)] {
                reach(&from.namespace, server, cluster.nodes[node].address)?;
                reach(&from.namespace, to.address, from.address)?;
            }
            Ok(())
        });
    }
}

fn killed_daemons_lose_nothing(test: &str, transport: &str) {
    with_cluster(test, transport, |cluster| {
        let (a, b) = cluster.pair()?;
        let _sinks =
            [TcpFlood::sink(&b.namespace, at(&b, PORT))?, TcpFlood::sink(&a.namespace, at(&a, PORT))?];
        let floods =
            [TcpFlood::start(&a.namespace, at(&b, PORT))?, TcpFlood::start(&b.namespace, at(&a, PORT))?];
        let pulses = [
            UdpPulse::start(&a.namespace, &b.namespace, at(&b, PORT + 1))?,
            UdpPulse::start(&b.namespace, &a.namespace, at(&a, PORT + 1))?,
        ];
        let pause = || thread::sleep(Duration::from_millis(300));
        pause();
        for node in &mut cluster.nodes {
            node.stop(Signal::SIGKILL)?;
        }
        pause();
        cluster.start()?;
        pause();
        for flood in floods {
            flood.finish()?;
        }
        for pulse in pulses {
            ensure!(pulse.finish()? > 100, "hardly a datagram was sent");
        }
        Ok(())
    });
}

#[test]
fn killed_daemons_lose_nothing_when_routed() {
    killed_daemons_lose_nothing("killed_daemons_lose_nothing_when_routed", "direct");
}

#[test]
fn killed_daemons_lose_nothing_in_vxlan() {
    killed_daemons_lose_nothing("killed_daemons_lose_nothing_in_vxlan", "vxlan");
}

#[test]
fn purge_removes_the_device() {
    with_stopped_cluster("purge_removes_the_device", "vxlan", |cluster| {
        cluster.configure("vxlan", &[])?;
        let before = Snapshot::of(&cluster.nodes[0])?;
        cluster.start()?;
        let device = |cluster: &Cluster| cluster.nodes[0].namespace.ip_json("link show nd-vxlan");
        ensure!(device(cluster).is_ok(), "there is no nd-vxlan");
        cluster.nodes[0].stop(Signal::SIGKILL)?;
        ensure!(device(cluster).is_ok(), "nd-vxlan went with the daemon");
        let mut command = cluster.nodes[0].namespace.command(binary()?)?;
        command.args(cluster.nodes[0].run_arguments()).arg("--purge");
        let output = command.output().context("cannot run netd")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let after = Snapshot::of(&cluster.nodes[0])?;
        ensure!(after == before, "not as before: {}", before.difference(&after));
        Ok(())
    });
}

#[test]
fn a_half_made_device_is_made_anew() {
    with_stopped_cluster("a_half_made_device_is_made_anew", "vxlan", |cluster| {
        cluster.configure("vxlan", &[])?;
        // What a daemon leaves that was killed before it could give the device its alias.
        let host = cluster.nodes[0].namespace.clone();
        host.ip(["link add nd-vxlan type vxlan external dstport 4789 nolearning"])?;
        cluster.start()?;
        let (a, b) = cluster.pair()?;
        talk(&a, &b)
    });
}
