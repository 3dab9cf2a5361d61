//! Endpoints come and go.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use netd::lab::icmp;
use netd_tests::{
    Site,
    site::{PATIENCE, SILENCE, eventually, reach},
    snapshot, with_site,
};

#[test]
fn an_endpoint_goes_with_its_namespace() {
    with_site("an_endpoint_goes_with_its_namespace", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        // No socket of ours may keep it alive.
        site.services.clear();
        site.lab.remove_namespace(&a.namespace)?;
        eventually("netd ls forgets the endpoint", Duration::from_secs(10), || {
            Ok(site.endpoint("a")?.is_none())
        })?;
        ensure!(site.endpoint("b")?.is_some(), "the other endpoint went too");
        let host = &site.host.namespace;
        ensure!(snapshot::netd_links(host)? == BTreeSet::from([b.host_interface.clone()]));
        let routes = snapshot::netd_routes(host)?;
        ensure!(routes == BTreeSet::from([(b.address.to_string(), b.host_interface.clone())]), "{routes:?}");

        // The address is free, but not the next one to be given out: somebody may still talk to it.
        let c = site.container("c")?;
        ensure!(c.address != a.address, "{} was given out again at once", a.address);
        let d = site.container_with("d", &["--ip", &a.address.to_string()])?;
        ensure!(d.address == a.address);
        site.serve(&b.namespace, b.address)?;
        reach(&b.namespace, d.address, b.address)
    });
}

#[test]
fn a_namespace_without_a_name_is_as_good() {
    // What container runtimes have: a process, and no file below /run/netns.
    with_site("a_namespace_without_a_name_is_as_good", "", |site| {
        let namespace = site.lab.namespace("host-unnamed")?;
        let mut sleep = std::process::Command::new("sleep");
        sleep.arg("1000");
        let process = site.lab.spawn(&namespace, &sleep, &site.lab.directory().join("sleep.log"))?;
        site.lab.remove_namespace(&namespace)?;
        let path = format!("/proc/{}/ns/net", process.pid());
        let output = site.host.netd(["attach", "unnamed", "--netns", &path])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let host = site.host.namespace.clone();
        let address = Ipv4Addr::new(10, 88, 0, 2);
        host.run(|| icmp::ping(address, 56, PATIENCE))?;

        // A new daemon finds it again.
        site.host.stop(nix::sys::signal::Signal::SIGKILL)?;
        site.host.start()?;
        ensure!(site.endpoint("unnamed")?.is_some(), "the new daemon does not know it");
        host.run(|| icmp::ping(address, 56, PATIENCE))?;

        process.kill();
        eventually("the endpoint goes with its process", Duration::from_secs(10), || {
            Ok(site.endpoints()?.is_empty() && snapshot::netd_links(&host)?.is_empty())
        })
    });
}

#[test]
fn detached_is_gone() {
    with_site("detached_is_gone", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        reach(&b.namespace, a.address, b.address)?;
        site.services.clear();
        let output = site.host.netd(["detach", "a"])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ensure!(site.endpoint("a")?.is_none());
        ensure!(snapshot::netd_links(&site.host.namespace)? == BTreeSet::from([b.host_interface.clone()]));
        let before = site.drops("no-endpoint")?;
        let gone = b.namespace.run(|| icmp::ping(a.address, 56, Duration::from_millis(200)));
        ensure!(gone.is_err() && site.drops("no-endpoint")? > before, "{} still answers", a.address);

        // The same namespace, the same name, again.
        let again = site.host.attach("a", &a.namespace, &[])?;
        ensure!(again.interface == "eth0" && again.address != a.address, "{again:?}");
        site.serve(&again.namespace, again.address)?;
        reach(&b.namespace, again.address, b.address)
    });
}

/// What a container sends in another's name gets nowhere, up to the last moment that it has a link.
#[test]
fn nothing_slips_out_while_it_is_detached() {
    const ROUNDS: usize = 10;
    with_site("nothing_slips_out_while_it_is_detached", "", |site| {
        let host = site.host.namespace.clone();
        let sink = host.run(|| UdpSocket::bind("0.0.0.0:4711").context("cannot bind"))?;
        sink.set_read_timeout(Some(SILENCE))?;
        let stranger = Ipv4Addr::new(192, 0, 2, 77);
        let namespace = site.lab.namespace("host-liar")?;
        namespace.ip(["link set lo up".to_owned(), format!("address add {stranger}/32 dev lo")])?;
        for round in 0..ROUNDS {
            let liar = site.host.attach("liar", &namespace, &[])?;
            // It has flows, as containers have.
            namespace.run(|| icmp::ping(site.world.address, 56, PATIENCE))?;
            let before = site.endpoint_counter("liar", "dropped")?;
            let (stop, flood) = (AtomicBool::new(false), AtomicU64::new(0));
            let received = thread::scope(|scope| -> Result<bool> {
                let (stop, flood, namespace) = (&stop, &flood, &namespace);
                scope.spawn(move || {
                    namespace.run(|| {
                        let socket = UdpSocket::bind((stranger, 0))?;
                        while !stop.load(Ordering::Relaxed) {
                            // Refused as soon as there is no link.
                            let sent = socket.send_to(b"in another's name", (liar.gateway, 4711)).is_ok();
                            flood.fetch_add(u64::from(sent), Ordering::Relaxed);
                        }
                        Ok(())
                    })
                });
                let flows = || Ok(flood.load(Ordering::Relaxed) > 1000);
                let detached = eventually("it floods", PATIENCE, flows).and_then(|()| {
                    ensure!(site.endpoint_counter("liar", "dropped")? > before, "it is not dropped");
                    let output = site.host.netd(["detach", "liar"])?;
                    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                    Ok(())
                });
                stop.store(true, Ordering::Relaxed);
                detached?;
                Ok(sink.recv_from(&mut [0; 64]).is_ok())
            })?;
            ensure!(!received, "round {round}: the host's own stack has got a packet from {stranger}");
        }
        Ok(())
    });
}

#[test]
fn addresses_are_given_out_once_each() {
    // Thirteen addresses for endpoints: one is the gateway's.
    let config = "[networks.default]\nsubnets = [\"10.99.0.0/28\"]\n";
    with_site("addresses_are_given_out_once_each", config, |site| {
        let mut seen = BTreeSet::new();
        for number in 0..13 {
            let container = site.host.container(&format!("c{number}"), &[])?;
            ensure!(seen.insert(container.address), "{} was given out twice", container.address);
            ensure!(container.prefix == 28 && container.gateway == Ipv4Addr::new(10, 99, 0, 1));
        }
        let namespace = site.lab.namespace("late")?;
        let output = site.host.netd(["attach", "late", "--netns", namespace.name()])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1) && said.contains("10.99.0.0/28"), "{said}");
        // One leaves, one can come.
        ensure!(site.host.netd(["detach", "c5"])?.status.success());
        let late = site.host.attach("late", &namespace, &[])?;
        ensure!(late.address == Ipv4Addr::new(10, 99, 0, 7), "{late:?}");
        Ok(())
    });
}

/// Attaches `count` containers and returns how long each took, sorted.
fn attach_many(site: &Site, count: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for number in 0..count {
        let namespace = site.lab.namespace(&format!("host-m{number}"))?;
        let start = Instant::now();
        site.host
            .attach(&format!("m{number}"), &namespace, &[])
            .with_context(|| format!("number {number}"))?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

fn many(site: &mut Site, count: usize) -> Result<()> {
    let times = attach_many(site, count)?;
    let [median, worst] = [times[count / 2], times[count - 1]];
    eprintln!("{count} attachments, each by a command of its own: median {median:.1?}, worst {worst:.1?}");
    let endpoints = site.endpoints()?;
    ensure!(endpoints.len() == count, "netd ls has {}", endpoints.len());
    let addresses: BTreeSet<_> = endpoints.iter().map(|one| one["addresses"][0].to_string()).collect();
    ensure!(addresses.len() == count, "addresses were given out twice");
    // The last reaches the first, and the world.
    let first = netd::lab::Namespace::named(&format!("{}-host-m0", site.lab.prefix()));
    let last = netd::lab::Namespace::named(&format!("{}-host-m{}", site.lab.prefix(), count - 1));
    site.serve(&first, Ipv4Addr::new(10, 88, 0, 2))?;
    let own = site.endpoint(&format!("m{}", count - 1))?.context("the last one is missing")?;
    let own = own["addresses"][0].as_str().and_then(|text| text.split('/').next()).context("no address")?;
    reach(&last, Ipv4Addr::new(10, 88, 0, 2), own.parse::<Ipv4Addr>()?)?;
    reach(&last, site.world.address, site.host.address)?;

    let start = Instant::now();
    site.host.stop(nix::sys::signal::Signal::SIGKILL)?;
    site.host.start()?;
    eprintln!("{count} endpoints: taken over by a new daemon in {:.1?}", start.elapsed());
    ensure!(site.endpoints()?.len() == count);
    last.run(|| icmp::ping(Ipv4Addr::new(10, 88, 0, 2), 56, PATIENCE))?;
    Ok(())
}

#[test]
fn a_hundred_endpoints() {
    with_site("a_hundred_endpoints", "", |site| many(site, 100));
}

#[test]
#[ignore = "takes half a minute, and minutes with a debug build"]
fn a_thousand_endpoints() {
    with_site("a_thousand_endpoints", "", |site| many(site, 1000));
}
