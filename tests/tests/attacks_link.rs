//! What a container does to its own end of its link, with all rights in its namespace: it may cut itself off, and nobody else.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use netd::lab::{Container, Namespace, icmp};
use netd_common::host::build::{Body, Ip, arp, ethernet, frame, ipv4};
use netd_tests::{
    Site,
    attempts::mac_on,
    frames::{self, Sender},
    site::{PATIENCE, SILENCE, eventually, reach},
    with_site,
};

/// Two networks; there is one neighbour, one stranger.
const CONFIG: &str = "[networks.default]\n[networks.other]\nsubnets = [\"10.89.0.0/24\"]\n";
/// How long the daemon may take to make a link anew.
const REBUILT: Duration = Duration::from_secs(60);

/// The others, who must not notice anything.
struct Others {
    neighbour: Container,
    stranger: Container,
}

impl Others {
    fn new(site: &mut Site) -> Result<Self> {
        let neighbour = site.container("neighbour")?;
        let stranger = site.container_with("stranger", &["--network", "other"])?;
        Ok(Self { neighbour, stranger })
    }

    /// That they work, and the daemon.
    fn work(&self, site: &Site) -> Result<()> {
        for container in [&self.neighbour, &self.stranger] {
            site.host.namespace.run(|| icmp::ping(container.address, 56, PATIENCE))?;
            reach(&container.namespace, site.world.address, site.host.address)?;
        }
        ensure!(site.host.netd(["ls"])?.status.success(), "the daemon does not answer");
        Ok(())
    }
}

/// Runs lines of `ip`, of which any may fail: what a kernel does not have, a container cannot do.
fn tries(namespace: &Namespace, lines: &[String]) {
    for line in lines {
        // Whether it is done is not what is asked.
        let _ = namespace.ip([line]);
    }
}

/// Whether an address of a container's own choice gets an answer.
fn answered(from: &Namespace, source: &str, to: &impl ToString) -> Result<bool> {
    let mut ping = from.command("ping")?;
    ping.args(["-c1", "-W1", "-I", source, &to.to_string()]);
    Ok(ping.output().context("cannot run ping")?.status.success())
}

#[test]
fn what_a_container_does_to_its_link_is_its_own_loss() {
    with_site("what_a_container_does_to_its_link_is_its_own_loss", CONFIG, |site| {
        let a = site.container("a")?;
        let others = Others::new(site)?;
        let (own, inside) = (a.mac.clone(), a.namespace.clone());
        let (neighbour, gateway) = (&others.neighbour, a.gateway);
        let nested = site.lab.namespace("nested")?;
        let nested = nested.name();
        // What it does, and how it takes that back.
        let table: [(&str, Vec<String>, Vec<String>); 12] = [
            (
                "another's MAC",
                vec![format!("link set eth0 address {}", neighbour.mac)],
                vec![format!("link set eth0 address {own}")],
            ),
            (
                "a neighbour's address",
                vec![format!("address add {}/16 dev eth0", neighbour.address)],
                vec![format!("address del {}/16 dev eth0", neighbour.address)],
            ),
            (
                "the gateway's address",
                vec![format!("address add {gateway}/16 dev eth0")],
                vec![format!("address del {gateway}/16 dev eth0")],
            ),
            ("a large MTU", vec!["link set eth0 mtu 65535".into()], vec!["link set eth0 mtu 1500".into()]),
            ("a small MTU", vec!["link set eth0 mtu 68".into()], vec!["link set eth0 mtu 1500".into()]),
            (
                "all that there is to hear",
                vec!["link set eth0 promisc on".into(), "link set eth0 allmulticast on".into()],
                vec!["link set eth0 promisc off".into(), "link set eth0 allmulticast off".into()],
            ),
            ("no ARP", vec!["link set eth0 arp off".into()], vec!["link set eth0 arp on".into()]),
            (
                "an interface on top",
                vec![
                    "link add top link eth0 type macvlan mode bridge".into(),
                    "address add 10.88.0.77/16 dev top".into(),
                    "link set top up".into(),
                ],
                vec!["link del top".into()],
            ),
            (
                "a bridge",
                vec![
                    "link add bridge type bridge".into(),
                    "link set eth0 master bridge".into(),
                    "link set bridge up".into(),
                ],
                vec!["link del bridge".into()],
            ),
            (
                "a network behind it",
                vec![
                    format!("link add behind type veth peer name eth0 netns {nested}"),
                    "address add 192.168.9.1/24 dev behind".into(),
                    "link set behind up".into(),
                ],
                vec!["link del behind".into()],
            ),
            (
                "down and up",
                vec!["link set eth0 down".into()],
                vec!["link set eth0 up".into(), format!("route replace default via {gateway}")],
            ),
            (
                "another name",
                vec![
                    "link set eth0 down".into(),
                    "link set eth0 name other0".into(),
                    "link set other0 up".into(),
                ],
                vec![
                    "link set other0 down".into(),
                    "link set other0 name eth0".into(),
                    "link set eth0 up".into(),
                    format!("route replace default via {gateway}"),
                ],
            ),
        ];
        for (what, does, undoes) in &table {
            tries(&inside, does);
            // It asks and sends what it likes; who gets an answer in another's name is another.
            for stolen in [neighbour.address, gateway] {
                let source = stolen.to_string();
                let address = inside.ip_json("address show")?.to_string();
                if address.contains(&format!("\"{source}\"")) {
                    let heard = answered(&inside, &source, &site.world.address)?;
                    ensure!(!heard, "{what}: the world has answered {stolen}");
                }
            }
            others.work(site).with_context(|| format!("{what}: the others"))?;
            tries(&inside, undoes);
            site.host
                .namespace
                .run(|| icmp::ping(a.address, 56, PATIENCE))
                .with_context(|| format!("{what}: after it"))?;
        }
        // All of it was its own doing: it works again.
        reach(&inside, site.world.address, site.host.address)
    });
}

#[test]
fn a_container_that_takes_its_link_away() {
    with_site("a_container_that_takes_its_link_away", CONFIG, |site| {
        let a = site.container("a")?;
        let others = Others::new(site)?;
        let inside = a.namespace.clone();
        let thief = site.lab.namespace("thief")?;
        // Into a namespace of its own, with the address.
        tries(&inside, &[format!("link set eth0 netns {}", thief.name())]);
        tries(
            &thief,
            &[
                format!("address add {}/16 dev eth0", a.address),
                "link set eth0 up".into(),
                format!("route add default via {}", a.gateway),
            ],
        );
        others.work(site)?;
        tries(&thief, &["link del eth0".into()]);
        others.work(site)?;
        let host = site.host.namespace.clone();
        let back = || Ok(host.run(|| icmp::ping(a.address, 56, SILENCE)).is_ok());
        eventually("the link is made anew", REBUILT, back)?;

        // Deleted, again and again, while others come and go.
        let spare = site.lab.namespace("spare")?;
        // Each time it is made anew only after a longer pause.
        const DELETIONS: u32 = 3;
        let (stop, deleted) = (AtomicBool::new(false), AtomicU32::new(0));
        thread::scope(|scope| {
            let attacker = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    deleted.fetch_add(u32::from(inside.ip(["link del eth0"]).is_ok()), Ordering::Relaxed);
                }
            });
            let others_come = (|| {
                let end = Instant::now() + REBUILT;
                for round in 0.. {
                    if round >= 8 && deleted.load(Ordering::Relaxed) >= DELETIONS {
                        break;
                    }
                    ensure!(Instant::now() < end, "the link was deleted {deleted:?} times only");
                    let output = site.host.netd(["attach", "guest", "--netns", spare.name()])?;
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    ensure!(output.status.success(), "round {round}: {said}");
                    others.work(site).with_context(|| format!("round {round}"))?;
                    ensure!(site.host.netd(["detach", "guest"])?.status.success(), "round {round}: detach");
                }
                Ok(())
            })();
            stop.store(true, Ordering::Relaxed);
            attacker.join().expect("the attacker does not panic");
            others_come
        })?;
        println!("the link was deleted {deleted:?} times");
        eventually("the link is made anew for the last time", REBUILT, back)?;
        ensure!(!site.host.log().contains("panicked"), "the daemon has panicked");
        Ok(())
    });
}

/// Thousands of frames of each kind that nobody answers.
#[test]
fn storms_of_frames() {
    const FRAMES: usize = 6000;
    with_site("storms_of_frames", CONFIG, |site| {
        let a = site.container("a")?;
        let others = Others::new(site)?;
        let own = frames::mac(&a.mac)?;
        let host_mac = mac_on(&site.host.namespace, &a.host_interface)?;
        let address = a.address.octets();
        let body = Body::Udp(40_000, 9, vec![0; 40]);
        let asks = arp(1, (own, address), ([0; 6], [10, 88, 3, 3]));
        let first = |id| Ip { id, fragment: 0x2000, ..Ip::new(address, site.world.address.octets()) };
        let storms: [(&str, Vec<Vec<u8>>); 6] = [
            ("to everybody", vec![frame([0xff; 6], own, &Ip::new(address, [255; 4]), &body)]),
            (
                "to a group",
                vec![frame([1, 0, 0x5e, 0, 0, 0xfb], own, &Ip::new(address, [224, 0, 0, 251]), &body)],
            ),
            ("of ARP", vec![ethernet([0xff; 6], own, 0x0806, &asks)]),
            ("of an unknown type", vec![ethernet([0xff; 6], own, 0x88cc, &[0x60; 60])]),
            ("of no sense", vec![ethernet([0xff; 6], own, 0x0800, &[0xff; 60])]),
            (
                "of first fragments",
                // UDP, longer than what there is of it.
                (0..1000)
                    .map(|id| {
                        let datagram = [0, 5, 0, 9, 0, 100, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];
                        ethernet(host_mac, own, 0x0800, &ipv4(&first(id), 17, &datagram))
                    })
                    .collect(),
            ),
        ];
        let [x, y, z, _] = site.host.address.octets();
        let router = Ipv4Addr::new(x, y, z, 1);
        let sender = Sender::new(&a.namespace, "eth0")?;
        for (what, list) in &storms {
            for bytes in list.iter().cycle().take(FRAMES) {
                sender.send(bytes).with_context(|| format!("a storm {what}"))?;
            }
            others.work(site).with_context(|| format!("after a storm {what}"))?;
            // Long datagrams of a neighbour's arrive all the same; but where the storm went, which keeps no room for them.
            let long = || icmp::ping(router, 8000, PATIENCE);
            others
                .neighbour
                .namespace
                .run(long)
                .with_context(|| format!("fragments after a storm {what}"))?;
        }
        Ok(())
    });
}
