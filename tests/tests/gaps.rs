//! Something of the host is away for a moment and comes back: its default route, its address, the uplink, the daemon. What is open
//! goes on, as it does on a host whose kernel routes and translates.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};
use netd::lab::{Container, End, Service};
use netd_tests::{
    Site,
    ports::{at, echo_by, published},
    site::{eventually, reach},
    streams::{TcpFetch, TcpFlood},
    with_site,
};
use nix::sys::signal::Signal;

/// How long netd may take to see what has changed, and a stream to go on: TCP waits longer with each try that fails.
const SOON: Duration = Duration::from_secs(20);
/// The second address of the host. Not on the uplink, whose address it would become while the first is away.
const SECOND: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 99);
/// Where the services are published.
const PORT: u16 = 4200;

/// Streams of all kinds that a host's address is in.
struct Streams {
    fetches: Vec<(&'static str, TcpFetch)>,
    floods: Vec<(&'static str, TcpFlood)>,
    _services: Vec<Service>,
}

impl Streams {
    fn open(site: &mut Site) -> Result<(Self, Container)> {
        let host = site.host.namespace.clone();
        host.ip([format!("address add {SECOND}/32 dev lo")])?;
        site.world.router.ip([format!("route add {SECOND}/32 via {}", site.host.address)])?;
        let web = site.container_with("web", &["-p", "4200:4200", "-p", "4201:4201"])?;
        let a = site.container("a")?;
        let services = vec![
            TcpFetch::source(&site.world.server, at(site.world.address, PORT))?,
            TcpFlood::sink(&web.namespace, at(web.address, PORT))?,
            TcpFetch::source(&web.namespace, at(web.address, 4201))?,
        ];
        let (server, router) = (site.world.server.clone(), site.world.router.clone());
        eventually("the second address is known", SOON, || {
            Ok(server
                .run(|| {
                    Ok(std::net::TcpStream::connect_timeout(&at(SECOND, PORT), Duration::from_millis(300))?)
                })
                .is_ok())
        })?;
        let first = site.host.address;
        let fetches = vec![
            ("masqueraded", TcpFetch::start(&a.namespace, at(site.world.address, PORT))?),
            ("from a published port, on the link", TcpFetch::start(&router, at(first, 4201))?),
            ("from a published port", TcpFetch::start(&server, at(first, 4201))?),
        ];
        let floods = vec![
            ("to a published port, on the link", TcpFlood::start(&router, at(first, PORT))?),
            ("to a published port", TcpFlood::start(&server, at(first, PORT))?),
            ("to a published port of the second address", TcpFlood::start(&server, at(SECOND, PORT))?),
            (
                "between containers, by the gateway's address",
                TcpFlood::start(&a.namespace, at(a.gateway, PORT))?,
            ),
            ("between containers, by the host's address", TcpFlood::start(&a.namespace, at(first, PORT))?),
        ];
        let streams = Self { fetches, floods, _services: services };
        streams.go_on()?;
        Ok((streams, a))
    }

    fn progress(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let fetches = self.fetches.iter().map(|(what, fetch)| (*what, fetch.got()));
        fetches.chain(self.floods.iter().map(|(what, flood)| (*what, flood.sent())))
    }

    /// Waits until much more has been carried by each than all the buffers on the way hold.
    fn go_on(&self) -> Result<()> {
        const MORE: u64 = 16 << 20;
        for (at, (what, before)) in self.progress().enumerate().collect::<Vec<_>>() {
            eventually(&format!("{what}: the stream goes on"), SOON, || {
                Ok(self.progress().nth(at).is_some_and(|(_, now)| now > before + MORE))
            })?;
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        for (what, fetch) in self.fetches {
            fetch.finish().context(what)?;
        }
        for (what, flood) in self.floods {
            flood.finish().context(what)?;
        }
        Ok(())
    }
}

/// Waits until the daemon says that there is an uplink, or none.
fn uplink_is(site: &Site, there: bool) -> Result<()> {
    eventually("netd sees the uplink come or go", SOON, || Ok(site.status()?["uplink"].is_null() != there))
}

#[test]
fn the_default_route_is_away_for_a_moment() {
    with_site("the_default_route_is_away_for_a_moment", "", |site| {
        let (streams, a) = Streams::open(site)?;
        let host = site.host.namespace.clone();
        for round in 0..3 {
            host.ip(["route del default"])?;
            uplink_is(site, false)?;
            // What is on the link needs no default route.
            echo_by_router(site).with_context(|| format!("round {round}, without a route"))?;
            host.ip(["route add default via 198.18.1.1"])?;
            streams.go_on().with_context(|| format!("round {round}"))?;
            uplink_is(site, true)?;
        }
        streams.finish()?;
        reach(&a.namespace, site.world.address, site.host.address)
    });
}

/// A new connection from the uplink's own subnet to a published port.
fn echo_by_router(site: &Site) -> Result<()> {
    let to = at(site.host.address, PORT);
    site.world.router.run(|| {
        std::net::TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
        Ok(())
    })
}

#[test]
fn the_address_is_away_for_a_moment() {
    with_site("the_address_is_away_for_a_moment", "", |site| {
        let (streams, a) = Streams::open(site)?;
        let (host, address) = (site.host.namespace.clone(), site.host.address);
        for round in 0..3 {
            host.ip([format!("address del {address}/24 dev eth0")])?;
            uplink_is(site, false)?;
            host.ip([
                format!("address add {address}/24 dev eth0"),
                "route replace default via 198.18.1.1".to_owned(),
            ])?;
            streams.go_on().with_context(|| format!("round {round}"))?;
            uplink_is(site, true)?;
        }
        streams.finish()?;
        reach(&a.namespace, site.world.address, address)
    });
}

#[test]
fn the_daemon_is_away_for_a_moment() {
    with_site("the_daemon_is_away_for_a_moment", "", |site| {
        let (streams, a) = Streams::open(site)?;
        let host = site.host.namespace.clone();
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            site.host.stop(signal)?;
            site.host.start()?;
            streams.go_on().with_context(|| format!("after {signal}"))?;
        }
        // It comes back while there is no route to the world.
        host.ip(["route del default"])?;
        site.host.stop(Signal::SIGKILL)?;
        site.host.start()?;
        uplink_is(site, false)?;
        echo_by_router(site).context("a new daemon, without a route")?;
        host.ip(["route add default via 198.18.1.1"])?;
        streams.go_on().context("after a start without a route")?;
        // And while there is no address.
        let address = site.host.address;
        host.ip([format!("address del {address}/24 dev eth0")])?;
        site.host.stop(Signal::SIGKILL)?;
        site.host.start()?;
        uplink_is(site, false)?;
        host.ip([
            format!("address add {address}/24 dev eth0"),
            "route replace default via 198.18.1.1".to_owned(),
        ])?;
        streams.go_on().context("after a start without an address")?;
        streams.finish()?;
        reach(&a.namespace, site.world.address, address)
    });
}

/// Flows of an address that does not come back go in the end: a datagram's sender would keep one for ever.
#[test]
fn an_address_that_stays_away_is_forgotten() {
    with_site("an_address_that_stays_away_is_forgotten", "", |site| {
        published(site, "web", 8007, &[])?;
        let a = site.container("a")?;
        let (host, address) = (site.host.namespace.clone(), site.host.address);
        reach(&a.namespace, site.world.address, address)?;
        echo_by(&site.world.server, at(address, 8007))?;
        host.ip([format!("address del {address}/24 dev eth0")])?;
        uplink_is(site, false)?;
        let datagrams = || -> Result<usize> {
            let list = site.host.json(["flows", "--json"])?;
            let flows = list["flows"].as_array().cloned().unwrap_or_default();
            let own = |flow: &&serde_json::Value| flow["translated"] == address.to_string();
            Ok(flows.iter().filter(own).filter(|flow| flow["protocol"] != "tcp").count())
        };
        ensure!(datagrams()? > 0, "the flows go at once");
        eventually("the flows go", Duration::from_secs(60), || Ok(datagrams()? == 0))
    });
}

#[test]
fn an_uplink_that_is_made_anew_keeps_connections() {
    with_site("an_uplink_that_is_made_anew_keeps_connections", "", |site| {
        let (streams, a) = Streams::open(site)?;
        let (host, router) = (site.host.namespace.clone(), site.world.router.clone());
        let address = site.host.address;
        host.ip(["link del eth0"])?;
        uplink_is(site, false)?;
        site.lab.cable(
            End { namespace: &router, interface: "host1", address: Some("198.18.1.1/24") },
            End { namespace: &host, interface: "eth0", address: None },
        )?;
        router.ip([format!("route add {SECOND}/32 via {address}")])?;
        host.ip([
            format!("address add {address}/24 dev eth0"),
            "route add default via 198.18.1.1".to_owned(),
        ])?;
        streams.go_on()?;
        streams.finish()?;
        reach(&a.namespace, site.world.address, address)
    });
}
