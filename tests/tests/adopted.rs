//! A state that was lost, or is an older one, while containers live: what lives is taken in as it is, or the start is refused. In
//! both cases not a packet of theirs is lost.

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result, ensure};
use netd::lab::{Container, Service, icmp};
use netd_tests::{
    Site,
    ports::{at, echo_by, netd},
    site::{PATIENCE, eventually, reach},
    snapshot,
    streams::{TcpFlood, UdpPulse},
    with_site,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The port that streams of TCP come to.
const PORT: u16 = 4200;

/// The state's file.
fn file(site: &Site) -> PathBuf {
    site.host.state().join("netd.redb")
}

/// The state as it is, with the daemon stopped and started.
fn saved(site: &mut Site) -> Result<Vec<u8>> {
    site.host.stop(Signal::SIGTERM)?;
    let content = fs::read(file(site))?;
    site.host.start()?;
    Ok(content)
}

/// Packets that flow, each of which is missed if it is lost.
struct Traffic {
    _sinks: Vec<Service>,
    floods: Vec<(&'static str, TcpFlood)>,
    pulses: Vec<(&'static str, UdpPulse)>,
}

impl Traffic {
    /// Between two containers, with the host and with the world.
    fn start(site: &Site, a: &Container, b: &Container) -> Result<Self> {
        let (host, server) = (&site.host.namespace, &site.world.server);
        let outside = at(site.world.address, PORT);
        let sinks = vec![
            TcpFlood::sink(server, outside)?,
            TcpFlood::sink(&a.namespace, at(a.address, PORT))?,
            TcpFlood::sink(&b.namespace, at(b.address, PORT))?,
        ];
        let floods = vec![
            ("to the world", TcpFlood::start(&a.namespace, outside)?),
            ("between containers", TcpFlood::start(&a.namespace, at(b.address, PORT))?),
            ("back", TcpFlood::start(&b.namespace, at(a.address, PORT))?),
        ];
        let mut pulses = vec![
            ("from the host", UdpPulse::start(host, &a.namespace, at(a.address, 4300))?),
            ("to the host", UdpPulse::start(&b.namespace, host, at(b.gateway, 4301))?),
            ("to the world", UdpPulse::start(&b.namespace, server, at(site.world.address, 4302))?),
            ("between containers", UdpPulse::start(&a.namespace, &b.namespace, at(b.address, 4303))?),
        ];
        if let Some(address6) = b.address6 {
            pulses.push(("of IPv6", UdpPulse::start(&a.namespace, &b.namespace, at(address6, 4304))?));
        }
        Ok(Self { _sinks: sinks, floods, pulses })
    }

    /// Also a connection from the world to a published port.
    fn and_to(&mut self, site: &Site, port: u16) -> Result<()> {
        let to = SocketAddr::from((site.host.address, port));
        self.floods.push(("to a published port", TcpFlood::start(&site.world.server, to)?));
        Ok(())
    }

    /// That each goes on.
    fn goes_on(&self) -> Result<()> {
        let before: Vec<u64> = self.floods.iter().map(|(_, flood)| flood.sent()).collect();
        for ((what, flood), before) in self.floods.iter().zip(before) {
            eventually(what, PATIENCE, || Ok(flood.sent() > before))?;
        }
        Ok(())
    }

    /// Ends it: nothing was lost.
    fn finish(self) -> Result<()> {
        for (what, flood) in self.floods {
            flood.finish().with_context(|| format!("TCP {what}"))?;
        }
        for (what, pulse) in self.pulses {
            pulse.finish().with_context(|| format!("UDP {what}"))?;
        }
        Ok(())
    }
}

/// What `netd ls` says of endpoints, less what counts.
fn shown(site: &Site) -> Result<Vec<Value>> {
    let mut all = site.endpoints()?;
    for endpoint in &mut all {
        endpoint.as_object_mut().context("no object")?.remove("counters").context("no counters")?;
    }
    Ok(all)
}

/// That the daemon has said so.
fn says(site: &Site, what: &str) -> Result<()> {
    let log = site.host.log();
    ensure!(log.contains(what), "it does not say \"{what}\"");
    Ok(())
}

#[test]
fn what_lives_is_adopted_by_a_state_that_is_lost() {
    with_site("what_lives_is_adopted_by_a_state_that_is_lost", "", |site| {
        let host = site.host.namespace.clone();
        let reserved = || host.sysctl("net.ipv4.ip_local_reserved_ports");
        let ports = ["-p", "8042:4200", "-p", "9000-9003:10-13/udp"];
        let a = site.container_with("a", &ports)?;
        let older = saved(site)?;
        let b = site.container("b")?;
        netd(site, &["deny", "add", "192.0.2.0/24", "2001:db8:7::/48"])?;
        let (right, denied) = (shown(site)?, site.host.json(["deny", "ls", "--json"])?);
        let mut traffic = Traffic::start(site, &a, &b)?;
        traffic.and_to(site, 8042)?;
        for (what, content) in [("gone", None), ("empty", Some(Vec::new())), ("older", Some(older))] {
            for signal in [Signal::SIGTERM, Signal::SIGKILL] {
                site.host.stop(signal)?;
                match &content {
                    None => fs::remove_file(file(site))?,
                    Some(content) => fs::write(file(site), content)?,
                }
                site.host.start().context(what)?;
                ensure!(shown(site)? == right, "{what}: was {right:?}, is {:?}", shown(site)?);
                let now = site.host.json(["deny", "ls", "--json"])?;
                ensure!(now == denied, "{what}: {denied} was denied, now {now}");
                says(site, "endpoint b is not in the state, but lives: taken in")?;
                traffic.goes_on().context(what)?;
                // The next one has it in its state, and nobody else gets what they have.
                let c = site.container("c")?;
                ensure!(c.address != a.address && c.address != b.address, "{}", c.address);
                reach(&c.namespace, a.address, c.address)?;
                reach(&c.namespace, site.world.address, site.host.address)?;
                netd(site, &["detach", "c"])?;
                site.lab.remove_namespace(&c.namespace)?;
                site.host.stop(Signal::SIGKILL)?;
                site.host.start()?;
                ensure!(shown(site)? == right, "{what}, and again: {:?}", shown(site)?);
            }
        }
        traffic.finish()?;
        ensure!(site.host.netd(["status"])?.status.success(), "{}", site.status()?);
        // What netd has reserved is known, too.
        netd(site, &["detach", "a"])?;
        netd(site, &["detach", "b"])?;
        ensure!(!reserved()?.is_empty());
        site.host.stop(Signal::SIGTERM)?;
        let mut purge = site.host.command()?;
        let purged = purge.args(site.host.run_arguments()).arg("--purge").output()?;
        ensure!(purged.status.success(), "{}", String::from_utf8_lossy(&purged.stderr));
        ensure!(reserved()?.is_empty(), "{} is reserved still", reserved()?);
        ensure!(snapshot::netd_links(&site.host.namespace)?.is_empty());
        Ok(())
    });
}

#[test]
fn an_older_state_takes_nothing_from_what_lives() {
    with_site("an_older_state_takes_nothing_from_what_lives", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let (c, d) = (site.container("c")?, site.container("d")?);
        let older = saved(site)?;
        // a has another address now, which was b's; a's is d's now; b and c are detached and live without; e is new.
        for name in ["a", "b", "c", "d"] {
            netd(site, &["detach", name])?;
        }
        let attach = |site: &Site, name: &str, of: &Container, address: &Container| {
            site.host.attach(name, &of.namespace, &["--ip", &address.address.to_string()])
        };
        let d = attach(site, "d", &d, &a)?;
        let a = attach(site, "a", &a, &b)?;
        let e = site.container("e")?;
        for container in [&a, &d] {
            site.serve(&container.namespace, container.address)?;
        }
        let right = shown(site)?;
        ensure!(right.len() == 3, "{right:?}");
        let (x, y) = (
            Traffic::start(site, &a, &e)?,
            UdpPulse::start(&e.namespace, &d.namespace, at(d.address, 4400))?,
        );
        site.host.stop(Signal::SIGKILL)?;
        fs::write(file(site), &older)?;
        site.host.start()?;
        ensure!(shown(site)? == right, "was {right:?}, is {:?}", shown(site)?);
        says(site, "endpoint b of the state has no link: it is forgotten")?;
        says(site, "endpoint a is ")?;
        let without = |container: &Container| container.namespace.ip_json("link show");
        for container in [&b, &c] {
            let links = without(container)?;
            ensure!(links.as_array().is_some_and(|links| links.len() == 1), "{links}");
        }
        x.goes_on()?;
        x.finish()?;
        y.finish().context("UDP to d")?;
        let f = site.container("f")?;
        for container in [&a, &d, &e] {
            ensure!(f.address != container.address);
            reach(&f.namespace, container.address, f.address)?;
        }
        Ok(())
    });
}

#[test]
fn ports_that_an_older_state_does_not_know_stay_published() {
    with_site("ports_that_an_older_state_does_not_know_stay_published", "", |site| {
        let (a, b) = (site.container_with("a", &["-p", "8007:7", "-p", "8007:7/udp"])?, site.container("b")?);
        let older = saved(site)?;
        netd(site, &["publish", "a", "-p", "8042:4200", "-p", "8009:7", "-p", "8009:7/udp"])?;
        let right = shown(site)?;
        let mut traffic = Traffic::start(site, &a, &b)?;
        traffic.and_to(site, 8042)?;
        site.host.stop(Signal::SIGTERM)?;
        fs::write(file(site), &older)?;
        site.host.start()?;
        let ports =
            |all: &[Value]| all.iter().map(|one| one["ports"].as_array().map_or(0, Vec::len)).sum::<usize>();
        ensure!(ports(&shown(site)?) == ports(&right), "was {right:?}, is {:?}", shown(site)?);
        traffic.goes_on()?;
        traffic.finish()?;
        for port in [8007, 8009] {
            echo_by(&site.world.server, at(site.host.address, port))?;
        }
        netd(site, &["unpublish", "a", "-p", "8042:4200"])?;
        Ok(())
    });
}

#[test]
fn what_cannot_be_told_is_refused() {
    const BLUE: [&str; 4] = ["network", "create", "blue", "--subnet"];
    with_site("what_cannot_be_told_is_refused", "", |site| {
        let older = saved(site)?;
        for (name, subnet) in [("green", "10.92.0.0/24"), ("blue", "10.91.0.0/24")] {
            let words = [BLUE[0], BLUE[1], name, BLUE[3], subnet];
            netd(site, &words)?;
        }
        let a = site.container_with("a", &["--network", "blue"])?;
        let b = site.container_with("b", &["--network", "blue"])?;
        let right = shown(site)?;
        let traffic = Traffic::start(site, &a, &b)?;
        site.host.stop(Signal::SIGTERM)?;
        for content in [None, Some(older)] {
            match &content {
                None => fs::remove_file(file(site))?,
                Some(content) => fs::write(file(site), content)?,
            }
            // As often as it is tried.
            for _ in 0..2 {
                let error = site.host.start().err().context("the daemon starts")?;
                let said = format!("{error:#}");
                let line = said.lines().find(|line| line.contains("does not have endpoint `a`"));
                let line = line.with_context(|| format!("the start is refused otherwise: {said}"))?;
                for part in ["netd.redb", "subnets = [\"10.91.0.0/24\"]", &a.host_interface, "--purge"] {
                    ensure!(line.contains(part), "no {part}: {line}");
                }
                traffic.goes_on()?;
            }
        }
        // By the mend that it names.
        site.host.configure("[networks.default]\n[networks.blue]\nsubnets = [\"10.91.0.0/24\"]\n")?;
        site.host.start()?;
        ensure!(shown(site)? == right, "was {right:?}, is {:?}", shown(site)?);
        traffic.goes_on()?;
        traffic.finish()?;
        for container in [&a, &b] {
            site.host.namespace.run(|| icmp::ping(container.address, 56, PATIENCE))?;
        }
        // A network that comes now is none of those that live.
        site.container("c").map(drop)
    });
}

#[test]
fn a_namespace_without_a_path_is_refused() {
    with_site("a_namespace_without_a_path_is_refused", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let hold = fs::File::open(format!("/run/netns/{}", a.namespace.name()))?;
        site.host.stop(Signal::SIGTERM)?;
        site.services.clear();
        site.lab.remove_namespace(&a.namespace)?;
        fs::remove_file(file(site))?;
        let error = site.host.start().err().context("the daemon starts")?;
        let said = format!("{error:#}");
        ensure!(said.contains("does not have endpoint `a`") && said.contains("`ip netns attach`"), "{said}");
        for container in [&a, &b] {
            site.host.namespace.run(|| icmp::ping(container.address, 56, PATIENCE))?;
        }
        // It ends, and with it what is in the way.
        drop(hold);
        eventually("the daemon starts", PATIENCE, || Ok(site.host.start().is_ok()))?;
        let left: Vec<Value> = shown(site)?.iter().map(|endpoint| endpoint["name"].clone()).collect();
        ensure!(left == [json!("b")], "{left:?}");
        Ok(())
    });
}
