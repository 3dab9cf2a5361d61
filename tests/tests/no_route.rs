//! Destinations that no route of the host's leads to: nobody on the link is asked for them, and packets to them are not held back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use netd::lab::{Container, Namespace};
use netd_tests::{
    Site,
    site::{PATIENCE, eventually, reach},
    with_site,
};
use nix::sys::signal::Signal;

/// Destinations.
const MANY: u8 = 250;
/// Entries that a CPU may make before it has asked once.
const FEW: usize = 5;

/// Sends a datagram to many addresses that nobody has.
fn spray(from: &Container, to: fn(u8) -> IpAddr, any: IpAddr) -> Result<()> {
    from.namespace.run(|| {
        let socket = UdpSocket::bind((any, 0)).context("cannot bind")?;
        for number in 1..=MANY {
            // The first one may be told of by ICMP at the next.
            let _ = socket.send_to(b"anybody there?", SocketAddr::new(to(number), 9));
        }
        Ok(())
    })
}

fn v4(number: u8) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, number).into()
}

fn v6(number: u8) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xbeef, 0, 0, 0, 0, number.into()).into()
}

/// How many of those addresses a host has asked its link for.
fn asked(host: &Namespace) -> Result<usize> {
    let neighbours = host.ip_json("neigh show nud all")?;
    let all = neighbours.as_array().context("no list of neighbours")?;
    let addresses = all.iter().filter_map(|entry| entry["dst"].as_str());
    Ok(addresses.filter(|text| text.starts_with("198.51.100.") || text.starts_with("2001:db8:beef:")).count())
}

fn gap(site: &mut Site) -> Result<()> {
    let a = site.container("a")?;
    let host = site.host.namespace.clone();
    let (server, server6) = (site.world.address, site.world.address6.zip(site.host.address6));
    reach(&a.namespace, server, site.host.address)?;
    // Without the daemon, which would take the uplink away after a while.
    site.host.stop(Signal::SIGKILL)?;
    host.ip(["route del default"])?;
    spray(&a, v4, Ipv4Addr::UNSPECIFIED.into())?;
    if server6.is_some() && a.address6.is_some() {
        host.ip(["route del ::/0"])?;
        spray(&a, v6, Ipv6Addr::UNSPECIFIED.into())?;
    }
    let count = asked(&host)?;
    ensure!(count < FEW, "the host looks for {count} addresses on its link");

    host.ip(["route add default via 198.18.1.1"])?;
    if let Some((server6, own)) = server6 {
        host.ip(["route add ::/0 via 2001:db8:0:1::1"])?;
        eventually("IPv6 goes again", PATIENCE, || Ok(reach(&a.namespace, server6, own).is_ok()))?;
    }
    eventually("all goes again", PATIENCE, || Ok(reach(&a.namespace, server, site.host.address).is_ok()))?;
    site.host.start()?;
    let dropped = site.drops("no-route")?;
    ensure!(dropped >= u64::from(MANY) - FEW as u64, "{dropped} drops were counted");
    Ok(())
}

#[test]
fn a_gap_in_the_default_route() {
    with_site("a_gap_in_the_default_route", "", gap);
}

#[test]
fn a_route_that_leads_nowhere() {
    with_site("a_route_that_leads_nowhere", "", |site| {
        let a = site.container("a")?;
        let host = site.host.namespace.clone();
        for (number, kind) in (0..).zip(["blackhole", "unreachable", "prohibit"]) {
            let before = site.drops("no-route")?;
            let prefix = format!("198.51.100.{}/26", 64 * number);
            host.ip([format!("route add {kind} {prefix}")])?;
            spray(&a, v4, Ipv4Addr::UNSPECIFIED.into())?;
            eventually(kind, PATIENCE, || Ok(site.drops("no-route")? > before))?;
            let neighbours = host.output("ip", ["neigh", "show", "to", &prefix, "nud", "all"])?;
            ensure!(neighbours.lines().count() < FEW, "{kind}: {neighbours}");
            host.ip([format!("route del {kind} {prefix}")])?;
        }
        reach(&a.namespace, site.world.address, site.host.address)
    });
}
