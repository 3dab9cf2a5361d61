//! The daemon ends, in whatever way, and comes back; packets do not notice.

use std::{collections::BTreeSet, net::SocketAddrV4, path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use netd::lab::Container;
use netd_tests::{
    Site,
    site::{eventually, reach},
    snapshot,
    streams::{TcpFlood, UdpPulse},
    with_site,
};
use nix::sys::signal::Signal;

const PAUSE: Duration = Duration::from_millis(400);

/// The ids of the loaded programs, by name.
fn programs(site: &Site) -> Result<BTreeSet<(String, u64)>> {
    let status = site.host.json(["status", "--json"])?;
    let programs = status["programs"].as_array().context("netd status has no programs")?;
    programs
        .iter()
        .map(|one| {
            let name = one["name"].as_str().context("a program has no name")?;
            Ok((name.to_owned(), one["id"].as_u64().context("a program has no id")?))
        })
        .collect()
}

/// What is pinned for each interface: paths, with the numbers of the kernel's objects.
fn links(site: &Site) -> BTreeSet<(PathBuf, u64)> {
    let all = snapshot::pin_identities(site.host.bpffs());
    all.into_iter().filter(|(path, _)| path.components().any(|part| part.as_os_str() == "links")).collect()
}

fn names(pins: &BTreeSet<(PathBuf, u64)>) -> BTreeSet<String> {
    pins.iter().filter_map(|(path, _)| Some(path.file_name()?.to_string_lossy().into_owned())).collect()
}

/// Whether a program is attached by `tcx` or `clsact`.
fn hook_of(site: &Site, program: &str) -> Result<String> {
    let status = site.host.json(["status", "--json"])?;
    let programs = status["programs"].as_array().into_iter().flatten();
    let hook =
        programs.filter(|one| one["name"] == program).find_map(|one| one["hook"].as_str().map(str::to_owned));
    hook.with_context(|| format!("netd status does not say how {program} is attached"))
}

fn streams_survive(test: &str, signal: Signal) {
    with_site(test, "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let (host, server) = (site.host.namespace.clone(), site.world.server.clone());
        let outside = SocketAddrV4::new(site.world.address, 4200);
        let beside = SocketAddrV4::new(b.address, 4200);
        let _sinks = [TcpFlood::sink(&server, outside)?, TcpFlood::sink(&b.namespace, beside)?];
        let floods = [
            ("SNAT", TcpFlood::start(&a.namespace, outside)?),
            ("local", TcpFlood::start(&a.namespace, beside)?),
        ];
        let pulses = [
            ("host to container", UdpPulse::start(&host, &a.namespace, SocketAddrV4::new(a.address, 4300))?),
            ("container to host", UdpPulse::start(&a.namespace, &host, SocketAddrV4::new(a.gateway, 4301))?),
            (
                "container to container",
                UdpPulse::start(&a.namespace, &b.namespace, SocketAddrV4::new(b.address, 4302))?,
            ),
            (
                "container to world",
                UdpPulse::start(&a.namespace, &server, SocketAddrV4::new(site.world.address, 4303))?,
            ),
        ];
        // While packets flow, what the containers send moves to the faster hook.
        site.host.settle()?;
        let (ids, pins) = (programs(site)?, links(site));
        ensure!(!ids.is_empty() && pins.len() >= 5, "programs {ids:?}, links {pins:?}");
        let endpoints = site.endpoints()?.len();
        for round in 0..2 {
            thread::sleep(PAUSE);
            let before: Vec<u64> = floods.iter().map(|(_, flood)| flood.sent()).collect();
            site.host.stop(signal)?;
            ensure!(!site.host.netd(["ls"])?.status.success(), "a daemon still answers");
            thread::sleep(PAUSE);
            for ((what, flood), before) in floods.iter().zip(before) {
                ensure!(flood.sent() > before, "{what}: nothing moves without the daemon");
            }
            site.host.start().with_context(|| format!("start after round {round}"))?;
        }
        thread::sleep(PAUSE);

        // Taken over: the same attachments, with other programs in them.
        let now = links(site);
        ensure!(names(&now) == names(&pins), "{pins:?} were pinned, now {now:?}");
        if hook_of(site, "from_uplink")? == "tcx" {
            // A TCX link stays when its program is replaced.
            let uplink = |(path, _): &&(PathBuf, u64)| path.to_string_lossy().ends_with("-uplink");
            ensure!(now.iter().find(uplink) == pins.iter().find(uplink), "the uplink's link was made anew");
        }
        let new = programs(site)?;
        ensure!(new.len() == ids.len() && new.is_disjoint(&ids), "programs were {ids:?}, are {new:?}");
        ensure!(site.endpoints()?.len() == endpoints, "endpoints are missing");
        for (what, flood) in floods {
            let bytes = flood.finish().with_context(|| format!("TCP, {what}"))?;
            ensure!(bytes > 100_000, "TCP, {what}: only {bytes} bytes were carried");
        }
        for (what, pulse) in pulses {
            let datagrams = pulse.finish().with_context(|| format!("UDP, {what}"))?;
            ensure!(datagrams > 500, "UDP, {what}: only {datagrams} datagrams were carried");
        }
        // And it works on.
        let c = site.container("c")?;
        reach(&c.namespace, a.address, c.address)?;
        reach(&c.namespace, site.world.address, site.host.address)
    });
}

#[test]
fn streams_survive_sigkill() {
    streams_survive("streams_survive_sigkill", Signal::SIGKILL);
}

#[test]
fn streams_survive_sigterm() {
    streams_survive("streams_survive_sigterm", Signal::SIGTERM);
}

#[test]
fn sigterm_and_sigint_end_it_in_order() {
    with_site("sigterm_and_sigint_end_it_in_order", "", |site| {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let status = site.host.stop(signal)?;
            ensure!(status.code() == Some(0), "{signal}: {status}");
            ensure!(!site.host.socket().exists(), "{signal}: the socket is left");
            site.host.start()?;
        }
        Ok(())
    });
}

#[test]
fn containers_that_went_while_it_was_away_are_forgotten() {
    with_site("containers_that_went_while_it_was_away_are_forgotten", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let c = site.container("c")?;
        site.host.stop(Signal::SIGKILL)?;
        // a is gone; b is another container now, at the same path.
        site.services.clear();
        site.lab.remove_namespace(&a.namespace)?;
        site.lab.remove_namespace(&b.namespace)?;
        let name = b.namespace.name().strip_prefix(&format!("{}-", site.lab.prefix())).context("a prefix")?;
        let again = site.lab.namespace(name)?;
        ensure!(again == b.namespace);
        let host = site.host.namespace.clone();
        eventually("the kernel has removed the links", Duration::from_secs(5), || {
            Ok(snapshot::netd_links(&host)?.len() == 1)
        })?;

        site.host.start()?;
        let names: Vec<_> = site.endpoints()?.iter().map(|one| one["name"].clone()).collect();
        ensure!(names == ["c"], "netd ls has {names:?}");
        consistent(site)?;
        site.serve(&c.namespace, c.address)?;
        let d = site.container("d")?;
        ensure!(d.address != a.address && d.address != b.address, "{} was given out again", d.address);
        reach(&d.namespace, c.address, d.address)
    });
}

#[test]
fn after_a_reboot_the_networks_are_there_and_the_containers_are_not() {
    with_site("after_a_reboot_the_networks_are_there_and_the_containers_are_not", "", |site| {
        let made = site.host.netd(["network", "create", "blue", "--subnet", "10.90.0.0/24"])?;
        ensure!(made.status.success());
        let containers: [Container; 2] =
            [site.container("a")?, site.container_with("b", &["--network", "blue"])?];
        site.services.clear();
        site.host.reboot(&site.lab, &site.world, &containers)?;
        site.host.start()?;
        ensure!(site.endpoints()?.is_empty(), "netd ls has {:?}", site.endpoints()?);
        consistent(site)?;
        let a = site.container("a")?;
        let b = site.container_with("b", &["--network", "blue"])?;
        for container in [&a, &b] {
            reach(&container.namespace, site.world.address, site.host.address)?;
        }
        Ok(())
    });
}

/// That `netd ls`, the links, the routes and the pins all tell the same.
fn consistent(site: &Site) -> Result<()> {
    let host = &site.host.namespace;
    let endpoints = site.endpoints()?;
    let text = |one: &serde_json::Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    for endpoint in &endpoints {
        ensure!(endpoint["problem"].is_null(), "{endpoint} does not work");
    }
    let links: BTreeSet<String> = endpoints.iter().map(|one| text(one, "host_interface")).collect();
    let found = snapshot::netd_links(host)?;
    ensure!(found == links, "the links are {found:?}, netd ls has {links:?}");
    ensure!(links.len() == endpoints.len(), "two endpoints have one link: {endpoints:?}");

    let routes: BTreeSet<(String, String)> = endpoints
        .iter()
        .map(|one| {
            let address = one["addresses"][0].as_str().unwrap_or_default();
            (address.split('/').next().unwrap_or_default().to_owned(), text(one, "host_interface"))
        })
        .collect();
    let found = snapshot::netd_routes(host)?;
    ensure!(found == routes, "the routes are {found:?}, netd ls has {routes:?}");

    let list = host.ip_json("link show")?;
    let index = |name: &str| {
        let link = list.as_array().into_iter().flatten().find(|link| link["ifname"] == name);
        link.and_then(|link| link["ifindex"].as_u64()).with_context(|| format!("no link {name}"))
    };
    let mut pins = BTreeSet::from([format!("{}-uplink", index("eth0")?)]);
    for link in &links {
        let index = index(link)?;
        pins.extend([format!("{index}-ingress"), format!("{index}-egress")]);
    }
    let found = names(&self::links(site));
    ensure!(found == pins, "the pinned links are {found:?}, should be {pins:?}");
    Ok(())
}

/// What is known of an endpoint when the daemon has been killed: what the last command that was answered did, or nothing
/// if one was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Attached,
    Detached,
    Unsure,
}

#[test]
fn killed_at_any_moment_it_leaves_nothing_half_done() {
    const ROUNDS: u64 = 14;
    const NAMES: [&str; 4] = ["e0", "e1", "e2", "e3"];
    with_site("killed_at_any_moment_it_leaves_nothing_half_done", "", |site| {
        let namespaces = NAMES
            .map(|name| site.lab.namespace(&format!("host-{name}")))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let mut known = [Known::Detached; NAMES.len()];
        // Another moment in each round, and other moments in each run.
        let mut random = u64::from(std::process::id());
        for round in 0..ROUNDS {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let delay = Duration::from_micros(2_000 + (random >> 33) % 120_000);
            let result = thread::scope(|scope| {
                let host = &site.host;
                let (namespaces, known) = (&namespaces, &mut known);
                let work = scope.spawn(move || -> Result<()> {
                    for step in 0.. {
                        let index = step % NAMES.len();
                        let name = NAMES[index];
                        let attach = match known[index] {
                            Known::Attached => false,
                            Known::Detached => true,
                            Known::Unsure => return Ok(()),
                        };
                        known[index] = Known::Unsure;
                        let output = if attach {
                            host.netd(["attach", name, "--netns", namespaces[index].name()])?
                        } else {
                            host.netd(["detach", name])?
                        };
                        if !output.status.success() {
                            // The daemon was killed.
                            return Ok(());
                        }
                        known[index] = if attach { Known::Attached } else { Known::Detached };
                    }
                    Ok(())
                });
                thread::sleep(delay);
                let pid = host.process().context("no daemon")?;
                pid.signal(Signal::SIGKILL)?;
                work.join().expect("the commands do not panic")
            });
            result?;
            site.host.stop(Signal::SIGKILL)?;
            let moment = format!("round {round}, killed after {delay:?}, known {known:?}");
            let context = || moment.clone();
            site.host.start().with_context(context)?;
            consistent(site).with_context(context)?;
            for (index, name) in NAMES.into_iter().enumerate() {
                let there = site.endpoint(name)?;
                match known[index] {
                    Known::Attached => ensure!(there.is_some(), "{name} is lost: {moment}"),
                    Known::Detached => ensure!(there.is_none(), "{name} is back: {moment}"),
                    Known::Unsure => {}
                }
                let namespace = &namespaces[index];
                if let Some(endpoint) = there {
                    let address = endpoint["addresses"][0].as_str().and_then(|text| text.split('/').next());
                    let address = address.context("no address")?.parse::<std::net::Ipv4Addr>()?;
                    // Works, in both directions.
                    site.serve(namespace, address)?;
                    reach(&site.host.namespace, address, std::net::Ipv4Addr::new(10, 88, 0, 1))
                        .with_context(context)?;
                    reach(namespace, site.world.address, site.host.address).with_context(context)?;
                    site.services.clear();
                } else {
                    let left = namespace.ip_json("link show type veth")?;
                    let left: Vec<_> =
                        left.as_array().into_iter().flatten().filter(|l| !l["ifname"].is_null()).collect();
                    ensure!(left.is_empty(), "{name} has {left:?}: {moment}");
                }
            }
            for (index, name) in NAMES.into_iter().enumerate() {
                let there = site.endpoint(name)?.is_some();
                known[index] = if there { Known::Attached } else { Known::Detached };
            }
        }
        Ok(())
    });
}
