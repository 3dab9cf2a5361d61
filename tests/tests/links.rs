//! Each kind of link does what the others do.

use std::{net::IpAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use netd::{
    lab::{Container, echo, http, icmp},
    link::LinkKind,
};
use netd_tests::{
    Site,
    cluster::with_cluster,
    frames::{self, Catcher, Frame},
    ports::{self, at, echo_by, published},
    site::{PATIENCE, eventually, reach, unreachable},
    snapshot::Snapshot,
    streams::{TcpFlood, UdpPulse},
    with_site,
};
use nix::sys::signal::Signal;
use serde_json::Value;

/// How long packets flow in each state of the daemon.
const PAUSE: Duration = Duration::from_millis(400);
const PORT: u16 = 4000;
const TIMES: usize = 10;

/// A test for each kind.
macro_rules! each_kind {
    ($($kind:ident = $word:ident;)+) => { $(
        mod $word {
            use super::*;

            #[test]
            fn everybody_is_reached() {
                reached(concat!(stringify!($word), "::everybody_is_reached"), LinkKind::$kind);
            }

            #[test]
            fn forged_frames_are_dropped() {
                forged(concat!(stringify!($word), "::forged_frames_are_dropped"), LinkKind::$kind);
            }

            #[test]
            fn the_daemon_is_killed() {
                killed(concat!(stringify!($word), "::the_daemon_is_killed"), LinkKind::$kind);
            }

            #[test]
            fn the_container_cannot_take_the_program_away() {
                let test = concat!(stringify!($word), "::the_container_cannot_take_the_program_away");
                program_stays(test, LinkKind::$kind);
            }

            #[test]
            fn long_packets() {
                long(concat!(stringify!($word), "::long_packets"), LinkKind::$kind);
            }

            #[test]
            fn nothing_is_left() {
                left(concat!(stringify!($word), "::nothing_is_left"), LinkKind::$kind);
            }

            #[test]
            fn between_hosts() {
                for transport in ["direct", "vxlan"] {
                    two_hosts(concat!(stringify!($word), "::between_hosts"), LinkKind::$kind, transport);
                }
            }
        }
    )+ };
}
each_kind! {
    Veth = veth;
    Netkit = netkit;
    NetkitL3 = netkit_l3;
}

/// Whether this kernel has no such links; says so.
fn skipped(test: &str, kind: LinkKind) -> bool {
    let missing = kind.missing();
    if let Some(why) = &missing {
        eprintln!("SKIP {test}: {why}");
    }
    missing.is_some()
}

fn with_link(test: &str, kind: LinkKind, config: &str, body: impl FnOnce(&mut Site) -> Result<()>) {
    if !skipped(test, kind) {
        with_site(test, config, body);
    }
}

fn reached(test: &str, kind: LinkKind) {
    let config = "[networks.default]\n[networks.other]\nsubnets = [\"10.89.0.0/24\"]\n";
    with_link(test, kind, config, |site| {
        let link = ["--link", kind.as_str()];
        let (a, b) = (published(site, "a", 8007, &link)?, site.container_with("b", &link)?);
        let veth = site.container_with("veth", &["--link", "veth"])?;
        let other = site.container_with("other", &[&link[..], &["--network", "other"]].concat())?;
        let host = site.host.namespace.clone();
        site.serve(&host, a.gateway)?;
        for (from, to) in [(&a, &b), (&b, &a), (&a, &veth), (&veth, &a)] {
            reach(&from.namespace, to.address, from.address)?;
            if let (Some(own), Some(its)) = (from.address6, to.address6) {
                reach(&from.namespace, its, own)?;
            }
        }
        reach(&a.namespace, a.gateway, a.address)?;
        reach(&host, a.address, a.gateway)?;
        if let (Some(address6), Some(gateway6)) = (a.address6, a.gateway6) {
            reach(&host, address6, gateway6)?;
            site.serve(&host, gateway6)?;
            reach(&a.namespace, gateway6, address6)?;
        }
        reach(&a.namespace, site.world.address, site.host.address)?;

        // By a published port: from the world, from the host, from others and from itself.
        let seen = echo_by(&site.world.server, at(site.host.address, 8007))?;
        ensure!(seen == [IpAddr::V4(site.world.address); 2], "from the world: seen as {seen:?}");
        for from in [&host, &b.namespace, &veth.namespace, &other.namespace, &a.namespace] {
            echo_by(from, at(site.host.address, 8007))?;
        }
        for (from, to) in [(&a, &other), (&other, &a)] {
            unreachable(&from.namespace, to.address)?;
        }
        ensure!(site.drops("isolated")? > 0, "nothing was counted as isolated");

        let endpoint = site.endpoint("a")?.context("netd ls has no a")?;
        ensure!(endpoint["link"] == kind.as_str(), "{endpoint}");
        let link = site.host.namespace.ip_json(&format!("-details link show {}", a.host_interface))?;
        ensure!(link[0]["linkinfo"]["info_kind"] == kind.kernel_kind(), "{link}");
        ensure!(link[0]["address"] == a.mac || kind.has_macs(), "{link}");
        for counter in ["tx_packets", "rx_packets", "tx_bytes", "rx_bytes"] {
            ensure!(site.endpoint_counter("a", counter)? > 0, "{counter} is 0");
        }
        Ok(())
    });
}

/// A frame of the container's to another.
fn frame(site: &Site, from: &Container, to: &Container) -> Result<Frame> {
    let link = site.host.namespace.ip_json(&format!("link show {}", from.host_interface))?;
    Ok(Frame {
        source_mac: frames::mac(&from.mac)?,
        destination_mac: frames::mac(link[0]["address"].as_str().context("the link has no MAC")?)?,
        vlan: None,
        source: from.address,
        destination: to.address,
        port: PORT,
    })
}

/// Sends frames, and says how many arrived and how many were counted as dropped for a reason.
fn sent(site: &Site, from: &Container, frame: &Frame, to: &Catcher, reason: &str) -> Result<(usize, u64)> {
    let before = site.drops(reason)?;
    frames::send(&from.namespace, "eth0", &frame.bytes()?, TIMES)?;
    let arrived = to.count()?;
    Ok((arrived, site.drops(reason)? - before))
}

fn forged(test: &str, kind: LinkKind) {
    with_link(test, kind, "", |site| {
        let link = ["--link", kind.as_str()];
        let (a, b) = (site.container_with("a", &link)?, site.container_with("b", &link)?);
        let own = frame(site, &a, &b)?;
        let catcher = Catcher::new(&b.namespace, PORT)?;
        let honest = sent(site, &a, &own, &catcher, "spoofed-address")?;
        ensure!(honest == (TIMES, 0), "honest frames: {honest:?}");
        for (forged, reason) in [
            (Frame { source: b.address, ..own }, "spoofed-address"),
            (Frame { source: "10.88.77.77".parse()?, ..own }, "spoofed-address"),
            (Frame { source_mac: [2, 0, 0, 0, 0, 9], ..own }, "spoofed-mac"),
            (Frame { vlan: Some(5), ..own }, "vlan"),
        ] {
            let got = sent(site, &a, &forged, &catcher, reason)?;
            ensure!(got == (0, TIMES as u64), "{forged:?}: {got:?} arrived and were counted as {reason}");
        }
        Ok(())
    });
}

fn killed(test: &str, kind: LinkKind) {
    with_link(test, kind, "", |site| {
        let link = ["--link", kind.as_str()];
        let (a, b) = (site.container_with("a", &link)?, site.container_with("b", &link)?);
        let (host, server) = (site.host.namespace.clone(), site.world.server.clone());
        let outside = at(site.world.address, 4200);
        let _sink = TcpFlood::sink(&server, outside)?;
        let flood = TcpFlood::start(&a.namespace, outside)?;
        let pulses = [
            UdpPulse::start(&host, &a.namespace, at(a.address, 4300))?,
            UdpPulse::start(&a.namespace, &b.namespace, at(b.address, 4301))?,
            UdpPulse::start(&a.namespace, &server, at(site.world.address, 4302))?,
        ];
        site.host.settle()?;
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            thread::sleep(PAUSE);
            let before = flood.sent();
            site.host.stop(signal)?;
            eventually("the stream goes on without the daemon", PATIENCE, || Ok(flood.sent() > before))?;
            site.host.start()?;
        }
        thread::sleep(PAUSE);
        for pulse in pulses {
            ensure!(pulse.finish()? > 0, "nothing was sent");
        }
        flood.finish()?;
        reach(&b.namespace, a.address, b.address)
    });
}

fn program_stays(test: &str, kind: LinkKind) {
    with_link(test, kind, "", |site| {
        let link = ["--link", kind.as_str()];
        let (a, b) = (site.container_with("a", &link)?, site.container_with("b", &link)?);
        // Root in the container's network namespace; most of it fails, and nothing helps.
        let mac = if kind.has_macs() { " address 02:00:00:00:00:07" } else { "" };
        for (program, words) in [
            ("tc", "qdisc add dev eth0 clsact".to_owned()),
            ("tc", "qdisc del dev eth0 clsact".to_owned()),
            ("tc", "qdisc replace dev eth0 root pfifo_fast".to_owned()),
            ("ip", "link set eth0 down".to_owned()),
            ("ip", "link set eth0 type netkit peer forward".to_owned()),
            ("ip", format!("link set eth0 name eth7{mac}")),
            ("ip", "link set eth7 name eth0".to_owned()),
            ("ip", "link set eth0 up".to_owned()),
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            let _ = a.namespace.output(program, words);
        }
        let own = frame(site, &a, &b)?;
        let catcher = Catcher::new(&b.namespace, PORT)?;
        let honest = sent(site, &a, &own, &catcher, "spoofed-address")?;
        ensure!(honest == (TIMES, 0), "honest frames: {honest:?}");
        let forged = Frame { source: b.address, ..own };
        let got = sent(site, &a, &forged, &catcher, "spoofed-address")?;
        ensure!(got == (0, TIMES as u64), "{got:?} arrived and were counted");
        Ok(())
    });
}

fn long(test: &str, kind: LinkKind) {
    let config =
        "[networks.default]\nmtu = 1400\n[networks.big]\nsubnets = [\"10.89.0.0/24\"]\nbig-tcp = true\n";
    with_link(test, kind, config, |site| {
        let link = ["--link", kind.as_str()];
        let (a, b) = (site.container_with("a", &link)?, site.container_with("b", &link)?);
        let big = site.container_with("big", &[&link[..], &["--network", "big"]].concat())?;
        let host = site.host.namespace.clone();
        let show = |inside: bool, one: &Container| -> Result<Value> {
            let (at, name) = if inside { (&one.namespace, "eth0") } else { (&host, &*one.host_interface) };
            Ok(at.ip_json(&format!("-details link show {name}"))?[0].take())
        };
        for inside in [false, true] {
            let plain = show(inside, &a)?;
            ensure!(plain["mtu"] == 1400, "{plain}");
            let large = show(inside, &big)?;
            ensure!(large["gso_max_size"].as_u64() > Some(65_536), "{large}");
        }
        for (from, to) in [(&a.namespace, b.address), (&host, a.address)] {
            from.run(|| {
                echo::udp(at(to, echo::PORT), &vec![9; 60_000], PATIENCE)?;
                icmp::ping(to, 60_000, PATIENCE)
            })?;
        }
        a.namespace.run(|| http::download(at(site.world.address, http::PORT), 20_000_000, PATIENCE))?;
        // Segmentation is left to whom the packets are for: few packets carry all of it.
        let before = site.endpoint_counter("b", "rx_packets")?;
        let _sink = TcpFlood::sink(&b.namespace, at(b.address, 4200))?;
        let bytes: u64 = 20_000_000;
        TcpFlood::burst(&a.namespace, at(b.address, 4200), bytes)?;
        let packets = site.endpoint_counter("b", "rx_packets")? - before;
        ensure!(packets < bytes / 1400 / 2, "{packets} packets for {bytes} bytes");
        Ok(())
    });
}

fn left(test: &str, kind: LinkKind) {
    with_link(test, kind, "", |site| {
        let before = Snapshot::of(&site.host)?;
        let link = ["--link", kind.as_str()];
        let (a, b) = (site.container_with("a", &link)?, site.container_with("b", &link)?);
        reach(&a.namespace, b.address, a.address)?;
        site.services.clear();
        ports::netd(site, &["detach", "a"])?;
        if kind.has_netns() {
            let inside = a.namespace.ip_json("link show")?;
            ensure!(
                inside.as_array().is_some_and(|links| links.len() == 1),
                "left in the container: {inside}"
            );
            site.lab.remove_namespace(&b.namespace)?;
        } else {
            // A machine that is off has its tap still.
            ports::netd(site, &["detach", "b"])?;
        }
        eventually("nothing is left", PATIENCE, || {
            Ok(site.endpoints()?.is_empty() && Snapshot::of(&site.host)? == before)
        })
        .with_context(|| match Snapshot::of(&site.host) {
            Ok(after) => before.difference(&after),
            Err(error) => error.to_string(),
        })
    });
}

fn two_hosts(test: &str, kind: LinkKind, transport: &str) {
    if skipped(test, kind) {
        return;
    }
    with_cluster(test, transport, |cluster| {
        let link = ["--link", kind.as_str()];
        let (a, b) = (cluster.container_with(0, "a", &link)?, cluster.container_with(1, "b", &link)?);
        for (from, to) in [(&a, &b), (&b, &a)] {
            reach(&from.namespace, to.address, from.address)?;
            if let (Some(own), Some(its)) = (from.address6, to.address6) {
                reach(&from.namespace, its, own)?;
            }
            from.namespace.run(|| http::download(at(to.address, http::PORT), 5_000_000, PATIENCE))?;
        }
        cluster.nothing_dropped()
    });
}

/// Where a kernel lacks a kind, whoever asks for it is told so, and what to choose.
#[test]
fn a_kind_that_this_kernel_lacks_is_refused() {
    const TEST: &str = "a_kind_that_this_kernel_lacks_is_refused";
    let missing = LinkKind::ALL.into_iter().find_map(|kind| Some((kind, kind.missing()?)));
    let Some((kind, why)) = missing else {
        eprintln!("SKIP {TEST}: this kernel has all kinds of links");
        return;
    };
    with_site(TEST, "", |site| {
        let (netns, word) = (site.lab.namespace("n")?, kind.as_str());
        let subnet = ["--subnet", "10.89.0.0/24"];
        for words in [
            &["attach", "x", "--netns", netns.name(), "--link", word][..],
            &[&["network", "create", "x", "--link", word][..], &subnet].concat(),
        ] {
            let said = ports::refusal(site, words)?;
            ensure!(said.contains(&why) && said.contains("choose veth"), "{said}");
        }
        ensure!(site.endpoints()?.is_empty());
        site.host.stop(Signal::SIGTERM)?;
        site.host.configure(&format!("[networks.default]\nlink = \"{word}\"\n"))?;
        let error = site.host.start().err().context("the daemon starts")?.to_string();
        ensure!(error.contains(&format!("networks.default.link: {why}")), "{error}");
        Ok(())
    });
}
