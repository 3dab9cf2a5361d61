//! VXLAN that no node has sent: it must not leave a node under one of the node's own addresses, and must not be taken for a node's.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use anyhow::{Context, Result, ensure};
use netd::lab::{Container, Namespace, cluster, socket};
use netd_common::host::build::{Body, Ip, frame};
use netd_tests::{
    Cluster,
    cluster::{mac_of, with_cluster, with_stopped_cluster},
    frames::{self, Catcher},
    site::{PATIENCE, eventually},
};
use nix::sys::signal::Signal;

/// The VNI of the default network.
const VNI: u32 = 0x6e_0001;
const VXLAN_PORT: u16 = 4789;
const PORT: u16 = 4500;
/// How often each packet is sent.
const TIMES: usize = 10;
/// A payload that is longer than any link's MTU.
const LONG: usize = 3000;

/// VXLAN with a UDP packet in it, from the VXLAN header on.
fn overlay(vni: u32, source: Ipv4Addr, to: &Container, length: usize) -> Vec<u8> {
    let header = [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes()].concat();
    let ip = Ip::new(source.octets(), to.address.octets());
    let inner = frame(mac_of(to.address), mac_of(source), &ip, &Body::Udp(1000, PORT, vec![7; length]));
    [header, inner].concat()
}

/// What a packet has besides its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    Plain,
    /// IPv4 options, or an IPv6 extension header.
    Options,
}

/// Sends a payload from a socket to the VXLAN port of an address.
fn send(from: &Namespace, to: IpAddr, header: Header, payload: &[u8]) -> Result<()> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = from.run(|| UdpSocket::bind((any, 0)).context("cannot bind"))?;
    if header == Header::Options {
        let set: io::Result<()> = if to.is_ipv4() {
            socket::set_option(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &[1_u8; 4])
        } else {
            // Destination options: padding.
            let padding = [0_u8, 0, 1, 4, 0, 0, 0, 0];
            socket::set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &padding)
        };
        set.context("cannot set options")?;
    }
    (0..TIMES).try_for_each(|_| socket.send_to(payload, SocketAddr::new(to, VXLAN_PORT)).map(drop))?;
    Ok(())
}

/// Gives the second node another address; nobody is told of it.
fn second_address(cluster: &Cluster) -> Result<Ipv4Addr> {
    let [a, b, c, _] = cluster.nodes[1].address.octets();
    let second = Ipv4Addr::new(a, b, c, 77);
    cluster.nodes[1].namespace.ip([format!("address add {second}/24 dev eth0")])?;
    Ok(second)
}

/// Waits until a node has counted so many more drops for a reason.
fn drops_more(cluster: &Cluster, node: usize, reason: &str, before: u64, more: u64) -> Result<()> {
    eventually(reason, PATIENCE, || Ok(cluster.counter(node, "drops", reason)? >= before + more))
}

#[test]
fn a_container_cannot_speak_for_its_node() {
    with_cluster("a_container_cannot_speak_for_its_node", "vxlan", |cluster| {
        let (a, b) = cluster.pair()?;
        let guest = cluster.container(0, "guest", "other")?;
        let caught = Catcher::new(&b.namespace, PORT)?;
        let main = cluster.nodes[1].address;
        let second = second_address(cluster)?;
        let main6 = cluster.nodes[1].address6;

        // From the node itself, the same packets arrive.
        let node = cluster.nodes[0].namespace.clone();
        for length in [9, LONG] {
            send(&node, main.into(), Header::Plain, &overlay(VNI, a.address, &b, length))?;
            let mut count = 0;
            eventually("a node's own packets arrive", PATIENCE, || {
                count += caught.count()?;
                Ok(count == TIMES)
            })?;
        }

        // Masqueraded, they would come from the node's address.
        let addresses = [Some(IpAddr::from(main)), Some(second.into()), main6.map(IpAddr::from)];
        for address in addresses.into_iter().flatten() {
            for header in [Header::Plain, Header::Options] {
                for length in [9, LONG] {
                    let what = format!("to {address}, {header:?}, {length} bytes");
                    let before = cluster.counter(0, "drops", "overlay-container")?;
                    let packet = overlay(VNI, a.address, &b, length);
                    send(&guest.namespace, address, header, &packet).with_context(|| what.clone())?;
                    let counted = drops_more(cluster, 0, "overlay-container", before, TIMES as u64);
                    ensure!(caught.count()? == 0, "{what}: it got in");
                    counted.with_context(|| what.clone())?;
                }
            }
        }
        Ok(())
    });
}

/// A flow to the VXLAN port of what was nobody's address then, and is a node's now.
#[test]
fn nor_by_a_flow_that_is_older_than_the_node() {
    with_stopped_cluster("nor_by_a_flow_that_is_older_than_the_node", "vxlan", |cluster| {
        cluster.configure("vxlan", &[])?;
        let alone = cluster::node(&cluster.nodes[0], cluster::slices(1));
        let known = std::fs::read_to_string(cluster.nodes[0].config())?;
        cluster.nodes[0].configure(&cluster::configuration(&alone, &[], "vxlan"))?;
        cluster.start()?;
        let (a, b) = cluster.pair()?;
        let guest = cluster.container(0, "guest", "other")?;
        let caught = Catcher::new(&b.namespace, PORT)?;
        let to = SocketAddr::new(cluster.nodes[1].address.into(), VXLAN_PORT);
        let socket = guest.namespace.run(|| UdpSocket::bind("0.0.0.0:0").context("cannot bind"))?;
        let packet = overlay(VNI, a.address, &b, 9);
        // A node that is in no cluster lets containers have VXLAN of their own.
        let before = cluster.counter(0, "forwarded", "masquerade")?;
        socket.send_to(&packet, to)?;
        ensure!(cluster.counter(0, "forwarded", "masquerade")? == before + 1, "no flow was made");
        caught.count()?;

        cluster.nodes[0].stop(Signal::SIGTERM)?;
        cluster.nodes[0].configure(&known)?;
        cluster.nodes[0].start()?;
        let before = cluster.counter(0, "drops", "overlay-container")?;
        (0..TIMES).try_for_each(|_| socket.send_to(&packet, to).map(drop))?;
        let counted = drops_more(cluster, 0, "overlay-container", before, TIMES as u64);
        ensure!(caught.count()? == 0, "it got in by the flow of before");
        counted
    });
}

/// A datagram to a published port, with a source that makes the container answer to a node's VXLAN port.
#[test]
fn nor_as_the_answer_of_a_published_port() {
    with_cluster("nor_as_the_answer_of_a_published_port", "vxlan", |cluster| {
        let (a, b) = cluster.pair()?;
        let guest =
            cluster.nodes[0].container("guest", &["--network", "other", "--publish", "7000:9/udp"])?;
        let caught = Catcher::new(&b.namespace, PORT)?;
        let (host, node) = (cluster.nodes[0].address, cluster.nodes[1].address);
        let server = guest.namespace.run(|| UdpSocket::bind("0.0.0.0:9").context("cannot bind"))?;
        server.set_read_timeout(Some(PATIENCE))?;
        let links = cluster.nodes[0].namespace.ip_json("link show eth0")?;
        let mac = frames::mac(links[0]["address"].as_str().context("no MAC")?)?;
        let asked = frame(
            mac,
            [2; 6],
            &Ip::new(node.octets(), host.octets()),
            &Body::Udp(VXLAN_PORT, 7000, b"answer me".to_vec()),
        );
        frames::send(&cluster.world.router, "host1", &asked, 1)?;
        let (_, from) = server.recv_from(&mut [0; 100]).context("the question does not arrive")?;
        ensure!(from == SocketAddr::new(node.into(), VXLAN_PORT), "asked by {from}");

        let before = cluster.counter(0, "drops", "overlay-container")?;
        let packet = overlay(VNI, a.address, &b, 9);
        (0..TIMES).try_for_each(|_| server.send_to(&packet, from).map(drop))?;
        let counted = drops_more(cluster, 0, "overlay-container", before, TIMES as u64);
        ensure!(caught.count()? == 0, "an answer got in as a node's");
        counted
    });
}

/// A node's own packets, but to an address of the other that is not the one it is known by.
#[test]
fn only_the_nodes_own_address_is_the_overlays() {
    with_cluster("only_the_nodes_own_address_is_the_overlays", "vxlan", |cluster| {
        let (a, b) = cluster.pair()?;
        let caught = Catcher::new(&b.namespace, PORT)?;
        let second = second_address(cluster)?;
        let node = cluster.nodes[0].namespace.clone();
        for length in [9, LONG] {
            let before = cluster.counter(1, "drops", "overlay-node")?;
            send(&node, second.into(), Header::Plain, &overlay(VNI, a.address, &b, length))?;
            let counted = drops_more(cluster, 1, "overlay-node", before, TIMES as u64);
            ensure!(caught.count()? == 0, "{length} bytes to {second} got in");
            counted?;
        }
        Ok(())
    });
}
