//! The uplink: several addresses, an address that changes, a cable that is pulled, another uplink.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use netd::{
    lab::{Container, End, Namespace, echo, socket},
    request::FlowList,
};
use netd_tests::{
    Site,
    site::{PATIENCE, SILENCE, eventually, reach},
    with_site,
};
use nix::sys::signal::Signal;

/// How long netd may take to see what has changed.
const SOON: Duration = Duration::from_secs(10);

fn flows(site: &Site) -> Result<FlowList> {
    Ok(serde_json::from_value(site.host.json(["flows", "--json"])?)?)
}

/// Waits until a container reaches the server, and is seen with this address there.
fn seen_as(site: &Site, from: &Container, address: Ipv4Addr) -> Result<()> {
    let mut last = None;
    let seen = eventually("the server is reached", SOON, || {
        let client = from.namespace.run(|| UdpSocket::bind("0.0.0.0:0").context("cannot bind"))?;
        let answer = echo::udp_on(&client, site.world.echo(), b"who", SILENCE);
        let right = answer.as_ref().is_ok_and(|answer| answer.seen.ip() == address);
        last = Some(format!("{answer:?}"));
        Ok(right)
    });
    seen.with_context(|| format!("as {address}: {}", last.unwrap_or_default()))?;
    reach(&from.namespace, site.world.address, address)
}

/// A socket that has talked to the server, seen there as `address`.
fn talker(site: &Site, from: &Container, address: Ipv4Addr) -> Result<UdpSocket> {
    let socket = from.namespace.run(|| UdpSocket::bind("0.0.0.0:0").context("cannot bind"))?;
    let seen = echo::udp_on(&socket, site.world.echo(), b"first", PATIENCE)?.seen;
    ensure!(seen.ip() == address, "seen as {seen}");
    Ok(socket)
}

/// The same socket is answered again, now seen as `address`.
fn goes_on(site: &Site, talker: &UdpSocket, address: Ipv4Addr) -> Result<()> {
    eventually("an old socket is answered with the new address", SOON, || {
        let answer = echo::udp_on(talker, site.world.echo(), b"again", SILENCE);
        Ok(answer.is_ok_and(|answer| answer.seen.ip() == address))
    })
}

/// A connection to the server's echo service, from a given port; the server's first line is read.
fn connect(site: &Site, from: &Container, port: u16) -> Result<TcpStream> {
    let local = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    let mut stream = from
        .namespace
        .run(|| socket::connect_from(local, site.world.echo(), PATIENCE).context("no TCP connection"))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte)?;
    }
    Ok(stream)
}

/// The connection is alive.
fn talk(stream: &mut TcpStream) -> Result<()> {
    let mut got = [0; 5];
    stream.write_all(b"hello")?;
    stream.read_exact(&mut got).context("no echo")?;
    ensure!(got == *b"hello");
    Ok(())
}

#[test]
fn several_addresses_on_the_uplink() {
    with_site("several_addresses_on_the_uplink", "", |site| {
        let a = site.container("a")?;
        let (first, second) = (site.host.address, Ipv4Addr::new(198, 18, 1, 9));
        let host = site.host.namespace.clone();
        host.ip([format!("address add {second}/24 dev eth0")])?;
        site.serve(&host, second)?;
        // Containers leave with the first; the others are the host's own, for them and for the world.
        seen_as(site, &a, first)?;
        eventually("the host's new address is reached", SOON, || {
            Ok(reach(&a.namespace, second, a.address).is_ok())
        })?;
        reach(&site.world.server, second, site.world.address)?;

        // Which one, is the configuration's to say. What goes on talking must not be kept by the old one, to which no answer would
        // be translated.
        let talker = talker(site, &a, first)?;
        site.host.stop(Signal::SIGTERM)?;
        site.host.configure(&format!("[node]\naddress = \"{second}\"\n"))?;
        site.host.start()?;
        goes_on(site, &talker, second)?;
        seen_as(site, &a, second)?;
        reach(&a.namespace, second, a.address)
    });
}

#[test]
fn the_uplinks_address_changes() {
    with_site("the_uplinks_address_changes", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let (old, new) = (site.host.address, Ipv4Addr::new(198, 18, 1, 77));
        seen_as(site, &a, old)?;
        let host = site.host.namespace.clone();
        // As a DHCP client does it: the default route goes with the address.
        host.ip([
            format!("address del {old}/24 dev eth0"),
            format!("address add {new}/24 dev eth0"),
            "route replace default via 198.18.1.1".to_owned(),
        ])?;
        seen_as(site, &a, new)?;
        seen_as(site, &b, new)?;
        // What had the old address cannot go on, and is gone.
        eventually("flows of the old address go", SOON, || {
            Ok(flows(site)?.flows.iter().all(|flow| flow.translated == new))
        })?;
        let status = site.host.json(["status", "--json"])?;
        ensure!(status["uplink"]["address"] == format!("{new}/24"), "{}", status["uplink"]);
        Ok(())
    });
}

#[test]
fn the_address_changes_while_the_daemon_is_away() {
    with_site("the_address_changes_while_the_daemon_is_away", "", |site| {
        let a = site.container("a")?;
        let (old, new) = (site.host.address, Ipv4Addr::new(198, 18, 1, 78));
        let talker = talker(site, &a, old)?;
        site.host.stop(Signal::SIGKILL)?;
        site.host.namespace.ip([
            format!("address del {old}/24 dev eth0"),
            format!("address add {new}/24 dev eth0"),
            "route replace default via 198.18.1.1".to_owned(),
        ])?;
        site.host.start()?;
        goes_on(site, &talker, new)?;
        ensure!(flows(site)?.flows.iter().all(|flow| flow.translated == new), "{:?}", flows(site)?);
        Ok(())
    });
}

#[test]
fn a_cable_is_pulled_and_put_back() {
    with_site("a_cable_is_pulled_and_put_back", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let address = site.host.address;
        let mut stream = connect(site, &a, 50_001)?;
        talk(&mut stream)?;
        for (what, at, down, up) in [
            ("at the other end", &site.world.router, "link set host1 down", vec!["link set host1 up"]),
            (
                "by the administrator",
                &site.host.namespace,
                "link set eth0 down",
                vec!["link set eth0 up", "route replace default via 198.18.1.1"],
            ),
        ] {
            at.ip([down])?;
            netd_tests::site::unreachable(&a.namespace, site.world.address).context(what)?;
            // Containers do not need it among each other.
            reach(&a.namespace, b.address, a.address).context(what)?;
            at.ip(up)?;
            if what == "at the other end" {
                site.world.router.ip(["route replace 198.18.1.0/24 dev host1"])?;
            }
            seen_as(site, &a, address).context(what)?;
            // The connection is still there, and still the same flow's.
            talk(&mut stream).with_context(|| format!("{what}: the connection is lost"))?;
        }
        let port =
            flows(site)?.flows.iter().find(|flow| flow.port == 50_001).map(|flow| flow.translated_port);
        ensure!(port == Some(50_001), "{port:?}");
        Ok(())
    });
}

#[test]
fn an_uplink_that_is_made_anew() {
    with_site("an_uplink_that_is_made_anew", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let (host, router) = (site.host.namespace.clone(), site.world.router.clone());
        seen_as(site, &a, site.host.address)?;
        host.ip(["link del eth0"])?;
        eventually("netd sees that there is no uplink", SOON, || {
            Ok(site.host.json(["status", "--json"])?["uplink"].is_null())
        })?;
        let status = site.host.json(["status", "--json"])?;
        ensure!(
            status["healthy"] == false && status["problems"].to_string().contains("no uplink"),
            "{status}"
        );
        reach(&a.namespace, b.address, a.address)?;
        let address = format!("{}/24", site.host.address);
        site.lab.cable(
            End { namespace: &router, interface: "host1", address: Some("198.18.1.1/24") },
            End { namespace: &host, interface: "eth0", address: Some(&address) },
        )?;
        host.ip(["route add default via 198.18.1.1"])?;
        seen_as(site, &a, site.host.address)
    });
}

/// Gives the host a second cable to the router, with a default route that is worse than the first one's.
fn second_uplink(site: &Site, metric: u32) -> Result<Ipv4Addr> {
    let address = Ipv4Addr::new(198, 18, 77, 2);
    site.lab.cable(
        End { namespace: &site.world.router, interface: "backup", address: Some("198.18.77.1/24") },
        End { namespace: &site.host.namespace, interface: "eth1", address: Some(&format!("{address}/24")) },
    )?;
    site.host.namespace.ip([format!("route add default via 198.18.77.1 dev eth1 metric {metric}")])?;
    Ok(address)
}

#[test]
fn another_default_route_takes_over() {
    with_site("another_default_route_takes_over", "", |site| {
        let a = site.container("a")?;
        let (first, host) = (site.host.address, site.host.namespace.clone());
        let second = second_uplink(site, 200)?;
        // One socket throughout: the flows of the other uplink's address could get no answer any more.
        let talker = talker(site, &a, first)?;
        host.ip(["route del default via 198.18.1.1"])?;
        goes_on(site, &talker, second)?;
        seen_as(site, &a, second)?;
        host.ip(["route add default via 198.18.1.1"])?;
        goes_on(site, &talker, first)?;
        seen_as(site, &a, first)
    });
}

/// Where the host reaches something by an interface that is not the uplink, containers do not: their packets leave by the uplink,
/// with its address, or not at all (docs/datapath.md).
#[test]
fn containers_leave_by_the_uplink_only() {
    with_site("containers_leave_by_the_uplink_only", "", |site| {
        let a = site.container("a")?;
        let host = site.host.namespace.clone();
        let beside = site.lab.namespace("beside")?;
        let lan = Ipv4Addr::new(192, 168, 77, 10);
        site.lab.cable(
            End { namespace: &host, interface: "lan", address: Some("192.168.77.1/24") },
            End { namespace: &beside, interface: "eth0", address: Some("192.168.77.10/24") },
        )?;
        beside.ip(["route add default via 192.168.77.1"])?;
        site.serve(&beside, lan)?;
        reach(&host, lan, Ipv4Addr::new(192, 168, 77, 1))?;
        netd_tests::site::unreachable(&a.namespace, lan)?;
        let before = received(&beside)?;
        netd_tests::site::unreachable(&a.namespace, lan)?;
        let after = received(&beside)?;
        ensure!(before == after, "{} packets went out by another interface", after - before);
        // A better route to a part of the world by another interface changes nothing for containers either.
        let second = second_uplink(site, 200)?;
        host.ip([format!("route add {}/32 via 198.18.77.1 dev eth1", site.world.address)])?;
        reach(&host, site.world.address, second)?;
        seen_as(site, &a, site.host.address)
    });
}

/// IPv4 packets that a namespace has got (RFC 4293 ipSystemStatsInReceives).
fn received(at: &Namespace) -> Result<u64> {
    let text = at.run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/snmp")?))?;
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:")).map(str::split_whitespace);
    let (names, values) = lines.next().zip(lines.next()).context("no counters of IPv4")?;
    let value = names.zip(values).find_map(|(name, value)| (name == "InReceives").then_some(value));
    value.context("no counter of what is received")?.parse().context("not a number")
}
