//! What a container must not do: be another, and reach another network.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use netd::lab::Container;
use netd_tests::{
    Site,
    frames::{self, Catcher, Frame},
    site::{reach, unreachable},
    with_site,
};

const PORT: u16 = 4000;
const TIMES: usize = 10;

fn host_mac(site: &Site, container: &Container) -> Result<[u8; 6]> {
    let link = site.host.namespace.ip_json(&format!("link show {}", container.host_interface))?;
    frames::mac(link[0]["address"].as_str().context("the link has no MAC")?)
}

#[test]
fn spoofed_frames_are_dropped_and_counted() {
    with_site("spoofed_frames_are_dropped_and_counted", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let gateway_mac = host_mac(site, &a)?;
        let own = Frame {
            source_mac: frames::mac(&a.mac)?,
            destination_mac: gateway_mac,
            vlan: None,
            source: a.address,
            destination: b.address,
            port: PORT,
        };
        let neighbour: Ipv4Addr = "10.88.77.77".parse()?;
        let stranger: Ipv4Addr = "192.0.2.1".parse()?;
        let (b_mac, other_mac) = (frames::mac(&b.mac)?, [2, 0, 0, 0, 0, 9]);
        let to_host = Frame { destination: a.gateway, ..own };
        let to_world = Frame { destination: site.world.address, ..own };
        let table: [(&str, Frame, &str); 13] = [
            ("an address of the subnet", Frame { source: neighbour, ..own }, "spoofed-address"),
            ("the receiver's address", Frame { source: b.address, ..own }, "spoofed-address"),
            ("the gateway's address", Frame { source: a.gateway, ..own }, "spoofed-address"),
            ("an address of the world", Frame { source: stranger, ..own }, "spoofed-address"),
            ("no address", Frame { source: Ipv4Addr::UNSPECIFIED, ..own }, "spoofed-address"),
            ("a loopback address", Frame { source: Ipv4Addr::LOCALHOST, ..own }, "spoofed-address"),
            ("an address, to the host", Frame { source: neighbour, ..to_host }, "spoofed-address"),
            ("an address, to the world", Frame { source: neighbour, ..to_world }, "spoofed-address"),
            ("a MAC", Frame { source_mac: other_mac, ..own }, "spoofed-mac"),
            ("the receiver's MAC", Frame { source_mac: b_mac, ..own }, "spoofed-mac"),
            ("a MAC, to the host", Frame { source_mac: other_mac, ..to_host }, "spoofed-mac"),
            ("a VLAN tag", Frame { vlan: Some(5), ..own }, "vlan"),
            ("a priority tag", Frame { vlan: Some(0), ..own }, "vlan"),
        ];
        let catchers = [
            ("b", Catcher::new(&b.namespace, PORT)?),
            ("the host", Catcher::new(&site.host.namespace, PORT)?),
            ("the server", Catcher::new(&site.world.server, PORT)?),
        ];

        // These are delivered, or nothing that follows would mean anything.
        for (index, frame) in [own, to_host, to_world].iter().enumerate() {
            frames::send(&a.namespace, "eth0", &frame.bytes()?, TIMES)?;
            let (whom, catcher) = &catchers[index];
            let count = catcher.count()?;
            ensure!(count == TIMES, "{count} of {TIMES} honest frames reached {whom}");
        }
        for (what, frame, reason) in table {
            let before = (site.drops(reason)?, site.endpoint_counter("a", "dropped")?);
            frames::send(&a.namespace, "eth0", &frame.bytes()?, TIMES)?;
            for (whom, catcher) in &catchers {
                let count = catcher.count()?;
                ensure!(count == 0, "{count} frames with {what} reached {whom}");
            }
            let after = (site.drops(reason)?, site.endpoint_counter("a", "dropped")?);
            let counted = after.0 - before.0;
            ensure!(counted == TIMES as u64, "{what}: {counted} of {TIMES} counted as {reason}");
            ensure!(after.1 - before.1 >= TIMES as u64, "{what}: not counted for the endpoint");
        }
        // And a is not punished for it.
        reach(&a.namespace, b.address, a.address)
    });
}

#[test]
fn forged_arp_is_dropped_and_counted() {
    with_site("forged_arp_is_dropped_and_counted", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let (a_mac, b_mac) = (frames::mac(&a.mac)?, frames::mac(&b.mac)?);
        let table = [
            ("b's address", frames::arp_request(a_mac, a_mac, b.address, a.gateway)?, "spoofed-arp"),
            (
                "the gateway's address",
                frames::arp_request(a_mac, a_mac, a.gateway, b.address)?,
                "spoofed-arp",
            ),
            ("b's MAC inside", frames::arp_request(a_mac, b_mac, a.address, a.gateway)?, "spoofed-arp"),
            ("b's MAC outside", frames::arp_request(b_mac, a_mac, a.address, a.gateway)?, "spoofed-mac"),
        ];
        let host_before = site.host.namespace.ip_json("neighbour show")?;
        for (what, frame, reason) in table {
            let before = site.drops(reason)?;
            frames::send(&a.namespace, "eth0", &frame, TIMES)?;
            let counted = site.drops(reason)? - before;
            ensure!(counted == TIMES as u64, "{what}: {counted} of {TIMES} counted as {reason}");
        }
        let host_after = site.host.namespace.ip_json("neighbour show")?;
        let macs = |list: &serde_json::Value| {
            let entry = |one: &serde_json::Value| format!("{} {}", one["dst"], one["lladdr"]);
            // Of the uplink's the kernel finds out and forgets when it likes.
            let own = |one: &&serde_json::Value| one["dev"] != "eth0";
            let all = list.as_array().into_iter().flatten();
            all.filter(own).map(entry).collect::<std::collections::BTreeSet<_>>()
        };
        ensure!(macs(&host_before) == macs(&host_after), "the host learned: {host_before} to {host_after}");
        reach(&b.namespace, a.address, b.address)
    });
}

#[test]
fn networks_do_not_reach_each_other() {
    let config = "[networks.default]\n[networks.other]\nsubnets = [\"10.89.0.0/24\"]\n";
    with_site("networks_do_not_reach_each_other", config, |site| {
        let a = site.container("a")?;
        let b = site.container_with("b", &["--network", "other"])?;
        // One made while the daemon runs is as good.
        let made = site.host.netd(["network", "create", "third", "--subnet", "10.90.0.0/24"])?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let c = site.container_with("c", &["--network", "third"])?;
        let containers = [a, b, c];
        let host = site.host.namespace.clone();
        for container in &containers {
            // All are alive,
            reach(&host, container.address, container.gateway)?;
            reach(&container.namespace, site.world.address, site.host.address)?;
        }
        for from in &containers {
            for to in containers.iter().filter(|to| to.name != from.name) {
                // and still.
                let before = site.drops("isolated")?;
                unreachable(&from.namespace, to.address)?;
                let counted = site.drops("isolated")? - before;
                ensure!(counted >= 3, "{} → {}: {counted} drops counted as isolated", from.name, to.name);
            }
        }
        // A second one in the same network does.
        let b2 = site.container_with("b2", &["--network", "other"])?;
        reach(&b2.namespace, containers[1].address, b2.address)
    });
}

#[test]
fn the_world_does_not_reach_into_a_masqueraded_network() {
    with_site("the_world_does_not_reach_into_a_masqueraded_network", "", |site| {
        let a = site.container("a")?;
        // Even a host that forwards, and a router that knows the way.
        site.host.namespace.set_sysctl("net.ipv4.ip_forward", "1")?;
        site.world.router.ip([format!("route add 10.88.0.0/16 via {}", site.host.address)])?;
        unreachable(&site.world.server, a.address)?;
        let counted = site.drops("unsolicited")?;
        ensure!(counted >= 3, "{counted} drops counted as unsolicited");
        reach(&a.namespace, site.world.address, site.host.address)
    });
}
