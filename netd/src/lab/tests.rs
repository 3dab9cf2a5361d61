//! The lab's own parts, without a daemon.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A lab with a world and a plain client behind its router; `None` (and why) where labs cannot be made.
fn world(test: &str) -> Option<(Lab, World, Namespace)> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP lab::tests::{test}: network namespaces need root");
        return None;
    }
    let lab = Lab::new("unit").expect("a lab");
    let world = World::new(&lab).expect("a world");
    let client = lab.namespace("client").expect("a namespace");
    world.plug(&lab, &client).expect("an uplink");
    Some((lab, world, client))
}

#[test]
fn tools_reach_the_server() {
    let Some((lab, world, client)) = world("tools_reach_the_server") else { return };
    let address = Ipv4Addr::new(198, 18, 1, 2);
    let echo = SocketAddrV4::new(world.address, echo::PORT);

    client.run(|| icmp::ping(world.address, 56, SECOND)).expect("ping");
    for size in [0, 1, 1400, 60_000] {
        let data = vec![7; size];
        let tcp = client.run(|| echo::tcp(echo, &data, SECOND)).expect("TCP");
        assert_eq!(tcp.seen.ip(), address);
        let udp = client.run(|| echo::udp(echo, &data, SECOND)).expect("UDP");
        assert_eq!(udp.seen.ip(), address);
    }
    let big = vec![3; 5_000_000];
    client.run(|| echo::tcp(echo, &big, SECOND)).expect("TCP, more than fits into buffers");
    let download =
        client.run(|| http::download(SocketAddrV4::new(world.address, http::PORT), 1_234_567, SECOND));
    assert_eq!(download.expect("HTTP").bytes, 1_234_567);
    drop((world, lab));
}

#[test]
fn tools_fail_when_nothing_answers() {
    let Some((_lab, world, client)) = world("tools_fail_when_nothing_answers") else { return };
    let short = Duration::from_millis(50);
    let silent = Ipv4Addr::new(203, 0, 113, 99);
    let closed = SocketAddrV4::new(world.address, 9);
    let checks: [(&str, Result<()>); 5] = [
        ("ping", client.run(|| icmp::ping(silent, 56, short).map(drop))),
        ("TCP", client.run(|| echo::tcp(SocketAddrV4::new(silent, 7), b"x", short).map(drop))),
        ("UDP", client.run(|| echo::udp(SocketAddrV4::new(silent, 7), b"x", short).map(drop))),
        ("HTTP", client.run(|| http::download(closed, 1, short).map(drop))),
        // An echo service is no web server.
        ("HTTP", client.run(|| http::download(world.echo(), 1, short).map(drop))),
    ];
    for (what, result) in checks {
        assert!(result.is_err(), "{what} got an answer from nobody");
    }
}

#[test]
fn fresh_namespaces_have_no_bridge_rule_or_connection() {
    let Some((_lab, _world, client)) = world("fresh_namespaces_have_no_bridge_rule_or_connection") else {
        return;
    };
    for count in [facts::bridges(&client), facts::netfilter_rules(&client), facts::conntrack_entries(&client)]
    {
        let count = count.expect("a count");
        assert_eq!(count.number, 0, "{}", count.how);
    }
    client.ip(["link add br0 type bridge"]).expect("a bridge");
    assert_eq!(facts::bridges(&client).expect("a count").number, 1);
}

#[test]
fn a_lab_removes_what_it_made() {
    let Some((lab, _world, client)) = world("a_lab_removes_what_it_made") else { return };
    let mut sleep = std::process::Command::new("sleep");
    sleep.arg("1000");
    let process = lab.spawn(&client, &sleep, &lab.directory().join("sleep.log")).expect("a process");
    let (directory, bpffs) = (lab.directory().to_owned(), lab.bpffs());
    assert!(directory.exists() && bpffs.exists() && client.path().exists());
    drop(lab);
    assert!(matches!(process.ended(), Ok(Some(_))), "the process still runs");
    for path in [directory, bpffs, client.path()] {
        assert!(!path.exists(), "{} is left", path.display());
    }
}

#[test]
fn pins_of_a_lab_that_is_gone_are_swept() {
    let Some((lab, world, _)) = world("pins_of_a_lab_that_is_gone_are_swept") else { return };
    // Beside this one's, of a process that there cannot be.
    let left = lab.bpffs().with_file_name(format!("nd-unit-0-{}", std::process::id()));
    std::fs::create_dir_all(left.join("host/v0/maps")).expect("directories of pins");
    let other = Lab::new("unit").expect("a lab");
    assert!(!left.exists(), "{} is left", left.display());
    assert!(lab.bpffs().exists() && other.bpffs().exists(), "those of the living");
    drop((world, lab));
}

#[test]
fn a_closed_lab_makes_nothing_more() {
    let Some((lab, _world, client)) = world("a_closed_lab_makes_nothing_more") else { return };
    lab.closer().close();
    assert!(lab.namespace("late").is_err());
    assert!(lab.spawn(&client, &std::process::Command::new("true"), &lab.directory().join("log")).is_err());
    assert!(!Namespace::named(&format!("{}-late", lab.prefix())).path().exists());
}

#[test]
fn namespaces_have_sysctls_of_their_own() {
    let Some((_lab, world, client)) = world("namespaces_have_sysctls_of_their_own") else { return };
    assert_eq!(world.router.sysctl("net.ipv4.ip_forward").expect("a sysctl"), "1");
    assert_eq!(client.sysctl("net.ipv4.ip_forward").expect("a sysctl"), "0");
    assert!(client.set_sysctl("kernel.panic", "1").is_err(), "not a sysctl of a namespace");
}
