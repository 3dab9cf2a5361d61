//! Containers that come and go, and commands that are killed half way: nothing of one is another's, and nothing is left over.

use std::{
    fs,
    net::{SocketAddr, SocketAddrV4, UdpSocket},
    process::Stdio,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use netd::lab::{Container, Namespace, host::binary};
use netd_tests::{
    Site,
    site::{PATIENCE, eventually, reach, with_stopped_site},
    snapshot::{self, Snapshot},
    watch::Watch,
    with_site,
};
use nix::sys::signal::Signal;

/// What is in all datagrams that are for the one that was there before.
const MARK: &[u8] = b"for who was there before";
/// Datagrams that have to be on their way before a silence means something.
const ENOUGH: u64 = 40;

/// How a container ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Detached,
    NamespaceGone,
    LinkDeletedThenDetached,
    WhileTheDaemonIsAway,
    KilledInDetach,
}

/// Sends to an address until it is told to stop, and counts.
fn keep_sending(socket: &UdpSocket, to: SocketAddr, stop: &AtomicBool, sent: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        // Refusals that others send back are errors here, and what is to be expected.
        if socket.send_to(MARK, to).is_ok() {
            sent.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn bound(namespace: &Namespace, address: SocketAddr) -> Result<UdpSocket> {
    namespace.run(|| UdpSocket::bind(address).with_context(|| format!("cannot bind {address}")))
}

/// Ends a container, and brings the daemon back where that has ended with it.
fn end(site: &mut Site, a: &Container, how: End) -> Result<()> {
    let detach = |site: &Site| -> Result<()> {
        let output = site.host.netd(["detach", &a.name])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    match how {
        End::Detached => detach(site),
        End::NamespaceGone => site.lab.remove_namespace(&a.namespace),
        End::LinkDeletedThenDetached => {
            a.namespace.ip(["link del eth0"])?;
            detach(site)
        }
        End::WhileTheDaemonIsAway => {
            site.host.stop(Signal::SIGKILL)?;
            site.lab.remove_namespace(&a.namespace)?;
            site.host.start()
        }
        End::KilledInDetach => {
            let mut command = site.host.command()?;
            command.args(["detach", &a.name]).stdout(Stdio::null()).stderr(Stdio::null());
            let mut command = command.spawn()?;
            // Somewhere in the middle; when, is another moment each time.
            thread::sleep(Duration::from_micros(3000 + u64::from(std::process::id()) % 20_000));
            site.host.stop(Signal::SIGKILL)?;
            command.wait()?;
            site.host.start()?;
            if site.endpoint(&a.name)?.is_some() { detach(site) } else { Ok(()) }
        }
    }
}

/// Who gets an address gets nothing that was for the one that had it before: no answers to its questions, nothing to its ports.
#[test]
fn an_address_brings_nothing_with_it() {
    with_site("an_address_brings_nothing_with_it", "", |site| {
        let ways = [
            End::Detached,
            End::NamespaceGone,
            End::LinkDeletedThenDetached,
            End::WhileTheDaemonIsAway,
            End::KilledInDetach,
        ];
        for (number, how) in ways.into_iter().enumerate() {
            println!("{how:?}");
            let name = format!("a{number}");
            let a = site.host.container(&name, &["-p", "5353:9/udp"])?;
            // Its socket ends with its process; here, before the namespace goes.
            let client = bound(&a.namespace, "0.0.0.0:9".parse()?)?;
            client.set_read_timeout(Some(PATIENCE))?;
            let server = bound(&site.world.server, SocketAddr::from(([0, 0, 0, 0], 4400)))?;
            server.set_read_timeout(Some(PATIENCE))?;
            client.send_to(b"question", (site.world.address, 4400))?;
            let (_, asker) = server.recv_from(&mut [0; 64]).context("the question has not arrived")?;
            // The same port in every round: the flow of one round must not lead to the next one's container.
            let other_port = 4401;
            let stranger = bound(&site.world.server, SocketAddr::from(([0, 0, 0, 0], other_port)))?;
            let published = SocketAddr::from(SocketAddrV4::new(site.host.address, 5353));
            let (stop, answers, others) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
            thread::scope(|scope| {
                scope.spawn(|| keep_sending(&server, asker, &stop, &answers));
                scope.spawn(|| keep_sending(&stranger, published, &stop, &others));
                let checked = (|| -> Result<()> {
                    // It gets both while it lives: answers, and what is for its port.
                    let mut from = [false; 2];
                    for _ in 0..20 * ENOUGH {
                        let (_, sender) = client.recv_from(&mut [0; 64]).context("nothing arrives")?;
                        from[usize::from(sender.port() == other_port)] = true;
                        if from == [true; 2] {
                            break;
                        }
                    }
                    ensure!(from == [true; 2], "[answers, to its port] arrive: {from:?}");
                    drop(client);
                    end(site, &a, how)?;
                    eventually("the endpoint is gone", PATIENCE * 3, || Ok(site.endpoint(&name)?.is_none()))?;
                    let address = a.address.to_string();
                    let b = site.host.container(&format!("b{number}"), &["--ip", &address])?;
                    let watch = Watch::new([("b", &b.namespace)])?;
                    let before = [&answers, &others].map(|count| count.load(Ordering::Relaxed));
                    eventually("datagrams are sent", PATIENCE * 3, || {
                        let now = [&answers, &others].map(|count| count.load(Ordering::Relaxed));
                        Ok(now.iter().zip(before).all(|(now, before)| *now > before + ENOUGH))
                    })?;
                    let seen = watch.seen(&[MARK.to_vec()])?;
                    let flows = String::from_utf8_lossy(&site.host.netd(["flows"])?.stdout).into_owned();
                    ensure!(
                        seen.is_empty(),
                        "the next one with {address} got what was for the last one: {flows}"
                    );
                    ensure!(site.host.netd(["detach", &b.name])?.status.success());
                    Ok(())
                })();
                stop.store(true, Ordering::Relaxed);
                checked.with_context(|| format!("{how:?}"))
            })?;
        }
        Ok(())
    });
}

/// What a daemon holds: descriptors, pins, links on the host, entries of its maps.
fn held(site: &Site) -> Result<(usize, usize, usize, String)> {
    let pid = site.host.process().context("no daemon")?.pid();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let links = snapshot::netd_links(&site.host.namespace)?.len();
    let maps = site.host.json(["status", "--json"])?["maps"].to_string();
    Ok((descriptors, snapshot::pins(site.host.bpffs()).len(), links, maps))
}

#[test]
fn many_come_and_go_and_nothing_is_left() {
    const CLIENTS: usize = 4;
    const CYCLES: usize = 15;
    with_site("many_come_and_go_and_nothing_is_left", "", |site| {
        let stays = site.container("stays")?;
        let namespaces: Vec<Namespace> = (0..CLIENTS)
            .map(|number| site.lab.namespace(&format!("churn-{number}")))
            .collect::<Result<_>>()?;
        let churn = |site: &Site, cycles: usize| -> Result<()> {
            thread::scope(|scope| {
                let clients: Vec<_> = namespaces
                    .iter()
                    .enumerate()
                    .map(|(number, namespace)| {
                        scope.spawn(move || -> Result<()> {
                            let (name, port) = (format!("c{number}"), format!("{}:7", 7000 + number));
                            for cycle in 0..cycles {
                                let attach = ["attach", &name, "--netns", namespace.name(), "-p", &port];
                                for words in [&attach[..], &["detach", &name]] {
                                    let output = site.host.netd(words)?;
                                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                                    ensure!(output.status.success(), "cycle {cycle}: {words:?}: {said}");
                                }
                            }
                            Ok(())
                        })
                    })
                    .collect();
                clients.into_iter().try_for_each(|client| client.join().expect("a client does not panic"))
            })
        };
        // What it gets once and keeps is there after the first ones.
        churn(site, 1)?;
        site.host.settle()?;
        let before = held(site)?;
        churn(site, CYCLES)?;
        // Of descriptors, also the last client's connection may have been open.
        eventually("it holds no more than before", PATIENCE * 3, || {
            let now = held(site)?;
            Ok(now.0 <= before.0 && (now.1, now.2, &now.3) == (before.1, before.2, &before.3))
        })
        .with_context(|| format!("held {before:?}, holds {:?}", held(site)))?;
        reach(&stays.namespace, site.world.address, site.host.address)
    });
}

fn purge(site: &Site) -> Result<std::process::Command> {
    let mut command = site.host.namespace.command(binary()?)?;
    command.args(site.host.run_arguments()).arg("--purge").stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

/// A purge that is killed half way: another one finishes it, and so does a start make it whole again.
#[test]
fn a_purge_that_is_killed() {
    const ROUNDS: u64 = 8;
    with_stopped_site("a_purge_that_is_killed", "", |site| {
        let before = Snapshot::of(&site.host)?;
        let mut half_way = 0;
        for round in 0..ROUNDS {
            site.host.start().with_context(|| format!("round {round}"))?;
            let names = [format!("x{round}"), format!("y{round}")];
            let containers =
                [site.host.container(&names[0], &["-p", "8080:7"])?, site.host.container(&names[1], &[])?];
            site.host.stop(Signal::SIGKILL)?;
            let mut killed = purge(site)?.spawn()?;
            thread::sleep(Duration::from_millis(round * 12));
            half_way += u32::from(killed.try_wait()?.is_none());
            killed.kill()?;
            killed.wait()?;
            if round % 2 == 1 {
                // Whole, whatever of it was gone.
                site.host.start().with_context(|| format!("start after round {round}"))?;
                let again = site.host.container(&format!("z{round}"), &[])?;
                site.serve(&again.namespace, again.address)?;
                reach(&again.namespace, site.world.address, site.host.address)?;
                reach(&site.host.namespace, again.address, again.gateway)?;
                site.services.clear();
                let listed = site.endpoints()?.len();
                let links = snapshot::netd_links(&site.host.namespace)?.len();
                ensure!(listed == links, "round {round}: {listed} endpoints, {links} links");
                site.host.stop(Signal::SIGTERM)?;
            }
            ensure!(purge(site)?.status()?.success(), "round {round}: the purge fails");
            let after = Snapshot::of(&site.host)?;
            ensure!(after == before, "round {round}: not as before: {}", before.difference(&after));
            for container in containers {
                let links = container.namespace.ip_json("link show type veth")?;
                let left = links.as_array().into_iter().flatten().any(|link| !link["ifname"].is_null());
                ensure!(!left, "round {round}: {} has {links}", container.name);
            }
        }
        println!("{half_way} of {ROUNDS} were killed before their end");
        Ok(())
    });
}
