//! Published ports: from outside, from the host itself, from other containers; who gets them, and who does not.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use netd::lab::echo;
use netd_tests::{
    error_queue::{self, IcmpError},
    ports::{Open, at, closed, connected, echo_by, netd, published, refusal, refused},
    site::{PATIENCE, SILENCE, eventually},
    streams::TcpFlood,
    with_site,
};
use nix::sys::signal::Signal;

/// A second network.
const BLUE: &str = "[networks.default]\n[networks.blue]\nsubnets = [\"10.89.0.0/24\"]\n";
const ROUTED: &str =
    "[networks.default]\n[networks.routed]\nsubnets = [\"10.89.0.0/24\"]\nmasquerade = false\n";

#[test]
fn from_outside_with_the_clients_address() {
    with_site("from_outside_with_the_clients_address", ROUTED, |site| {
        published(site, "web", 8007, &[])?;
        published(site, "routed", 8008, &["--network", "routed"])?;
        published(site, "range", 8009, &["-p", "9000-9010:1-11", "-p", "9000-9010:1-11/udp"])?;
        let (client, host) = (site.world.server.clone(), site.host.address);
        for port in [8007, 8008, 8009, 9006] {
            let seen = echo_by(&client, at(host, port))?;
            ensure!(seen == [IpAddr::V4(site.world.address); 2], "port {port}: seen as {seen:?}");
        }
        closed(&client, at(host, 9005))?;
        closed(&client, at(host, 9011))?;

        // Another address that the host has.
        let second = Ipv4Addr::new(198, 18, 1, 77);
        site.host.namespace.ip([format!("address add {second}/24 dev eth0")])?;
        eventually("the second address is known", Duration::from_secs(5), || {
            client.run(|| Ok(echo::tcp(at(second, 8007), b"x", SILENCE).is_ok()))
        })?;
        let seen = echo_by(&client, at(second, 8007))?;
        ensure!(seen == [IpAddr::V4(site.world.address); 2], "{seen:?}");
        let ls = site.host.netd(["ls"])?;
        let shown = String::from_utf8(ls.stdout)?;
        ensure!(shown.contains("0.0.0.0:8007->7/tcp, [::]:8007->7/tcp, 0.0.0.0:8007->7/udp"), "{shown}");
        Ok(())
    });
}

#[test]
fn from_containers_and_from_itself() {
    with_site("from_containers_and_from_itself", BLUE, |site| {
        let web = published(site, "web", 8007, &[])?;
        let peer = site.container("peer")?;
        let blue = site.container_with("blue", &["--network", "blue"])?;
        let host = site.host.address;
        for client in [&web, &peer, &blue] {
            for address in [host, client.gateway] {
                let seen = echo_by(&client.namespace, at(address, 8007))?;
                ensure!(seen == [IpAddr::V4(address); 2], "{} by {address}: seen as {seen:?}", client.name);
            }
            // Longer than the link: in fragments.
            let long = vec![3; 5000];
            client
                .namespace
                .run(|| echo::udp(at(host, 8007), &long, PATIENCE))
                .with_context(|| format!("{}: fragments", client.name))?;
        }
        // Isolation is as it was.
        ensure!(blue.namespace.run(|| Ok(echo::tcp(at(web.address, 7), b"x", SILENCE).is_err()))?);
        Ok(())
    });
}

/// What says that nobody listens behind a published port comes to who asked, and to who answers where nobody listens any more.
#[test]
fn nobody_listens_behind_a_published_port() {
    with_site("nobody_listens_behind_a_published_port", BLUE, |site| {
        let web = site.container_with("web", &["-p", "8009:9/udp", "-p", "8010:10/udp"])?;
        let peer = site.container("peer")?;
        let blue = site.container_with("blue", &["--network", "blue"])?;
        let host = site.host.address;
        for client in [&web, &peer, &blue] {
            for address in [host, client.gateway] {
                refused(&connected(&client.namespace, at(address, 8009))?)
                    .with_context(|| format!("{} by {address}", client.name))?;
            }
        }
        for client in [&peer, &blue] {
            let server = web.namespace.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 10))?))?;
            server.set_read_timeout(Some(PATIENCE))?;
            let socket = connected(&client.namespace, at(host, 8010))?;
            socket.send(b"a question")?;
            let (_, from) = server.recv_from(&mut [0; 16]).context("no question")?;
            drop(socket);
            server.connect(from)?;
            refused(&server).with_context(|| format!("an answer to {}", client.name))?;
        }
        // Whose time is up is told by whom, and with which address.
        for (ttl, expected) in [
            (1, IcmpError { kind: 11, code: 0, from: peer.gateway, mtu: 0 }),
            (2, IcmpError { kind: 3, code: 3, from: host, mtu: 0 }),
        ] {
            let socket = connected(&peer.namespace, at(host, 8009))?;
            error_queue::keep(&socket)?;
            socket.set_ttl(ttl)?;
            socket.send(b"probe")?;
            let found = error_queue::wait(&socket, PATIENCE).with_context(|| format!("hop {ttl}"))?;
            ensure!(found == expected, "hop {ttl}: {found:?}");
        }
        Ok(())
    });
}

#[test]
fn from_the_host_itself() {
    with_site("from_the_host_itself", "", |site| {
        let web = published(site, "web", 8007, &["-p", "127.0.0.1:8100:7", "-p", "127.0.0.1:8100:7/udp"])?;
        let host = site.host.namespace.clone();
        for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 9, 9, 9), site.host.address, web.gateway] {
            let seen = echo_by(&host, at(address, 8007))?;
            ensure!(seen == [IpAddr::V4(web.gateway); 2], "by {address}: {seen:?}");
        }
        host.run(|| {
            // What clients see is what they asked for.
            for asked in [
                SocketAddr::from((Ipv4Addr::LOCALHOST, 8007)),
                (Ipv6Addr::LOCALHOST, 8007).into(),
                (Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 8007).into(),
            ] {
                let stream =
                    TcpStream::connect_timeout(&asked, PATIENCE).with_context(|| format!("{asked}"))?;
                ensure!(stream.peer_addr()? == asked, "{} instead of {asked}", stream.peer_addr()?);
                echo::exchange(stream, b"hello", PATIENCE)?;
            }
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(PATIENCE))?;
            let asked = SocketAddr::from((Ipv4Addr::LOCALHOST, 8007));
            socket.send_to(b"hello", asked)?;
            let mut buffer = [0; 100];
            let (_, from) = socket.recv_from(&mut buffer).context("no answer to an unconnected socket")?;
            ensure!(from == asked, "answered by {from}");
            Ok(())
        })?;

        // Bound to the loopback address: for the host alone.
        echo_by(&host, at(Ipv4Addr::LOCALHOST, 8100))?;
        let peer = site.container("peer")?;
        closed(&site.world.server, at(site.host.address, 8100))?;
        closed(&peer.namespace, at(site.host.address, 8100))?;
        closed(&peer.namespace, at(peer.gateway, 8100))?;
        closed(&host, at(site.host.address, 8100))?;

        // Others' loopback is their own.
        ensure!(peer.namespace.run(|| Ok(echo::tcp(at(Ipv4Addr::LOCALHOST, 8007), b"x", SILENCE).is_err()))?);
        netd(site, &["unpublish", "web", "-p", "8007:7", "-p", "8007:7/udp"])?;
        closed(&host, at(Ipv4Addr::LOCALHOST, 8007))
    });
}

/// The programs on the root of the cgroups are there only for what is published: each costs every process of the machine something.
#[test]
fn the_hosts_sockets_pay_only_for_what_is_published() {
    with_site("the_hosts_sockets_pay_only_for_what_is_published", "", |site| {
        site.container("web")?;
        let check = |command: &[&str], connect: u64, receive: u64| -> anyhow::Result<()> {
            if !command.is_empty() {
                netd(site, command)?;
            }
            let status = site.host.json(["status", "--json"])?;
            let programs = status["programs"].as_array().context("no programs")?;
            for (name, wanted) in [
                ("connect4", connect),
                ("getpeername6", connect),
                ("sendmsg6", receive),
                ("recvmsg4", receive),
            ] {
                let program = programs.iter().find(|program| program["name"] == name);
                let attached = program.and_then(|program| program["attached"].as_u64());
                ensure!(attached == Some(wanted), "after {command:?}, {name}: {attached:?}");
            }
            Ok(())
        };
        check(&[], 0, 0)?;
        check(&["publish", "web", "-p", "8007:7"], 1, 0)?;
        check(&["publish", "web", "-p", "8007:7/udp", "-p", "8008:7/udp"], 1, 1)?;
        check(&["unpublish", "web", "-p", "8007:7", "-p", "8007:7/udp"], 1, 1)?;
        check(&["unpublish", "web", "-p", "8008:7/udp"], 0, 0)
    });
}

#[test]
fn taken_ports_are_refused_and_their_holder_named() {
    with_site("taken_ports_are_refused_and_their_holder_named", "", |site| {
        published(site, "web", 8007, &[])?;
        let namespace = site.lab.namespace("late")?;
        let attach = |port: &str| refusal(site, &["attach", "late", "--netns", namespace.name(), "-p", port]);
        let said = attach("8007:80")?;
        ensure!(said.contains("`web`") && said.contains("0.0.0.0:8007/tcp"), "{said}");
        let said = attach("127.0.0.1:8000-8010:80-90/udp")?;
        ensure!(said.contains("`web`") && said.contains("127.0.0.1:8007/udp"), "{said}");

        let host = site.host.namespace.clone();
        let listener = host.run(|| Ok(TcpListener::bind("0.0.0.0:8080")?))?;
        let socket = host.run(|| Ok(UdpSocket::bind("127.0.0.1:5353")?))?;
        let me = format!("(pid {})", std::process::id());
        for port in ["8080:80", "127.0.0.1:8080:80", "5353:53/udp", "8070-8090:70-90"] {
            let said = attach(port)?;
            ensure!(said.contains("in use by") && said.contains(&me), "{said}");
        }
        let said = refusal(site, &["publish", "web", "-p", "8080:80"])?;
        ensure!(said.contains(&me), "{said}");
        ensure!(site.endpoint("late")?.is_none());
        let said = attach("192.0.2.99:80:80")?;
        ensure!(said.contains("the host has no address 192.0.2.99"), "{said}");
        drop((listener, socket));

        // And the other way round: what is published, no service of the host's gets.
        netd(site, &["publish", "web", "-p", "8080:80"])?;
        ensure!(host.run(|| Ok(TcpListener::bind("0.0.0.0:8080").is_err()))?, "a port is not held");
        netd(site, &["unpublish", "web", "-p", "8080:80"])?;
        host.run(|| TcpListener::bind("0.0.0.0:8080").map(drop).context("the port is not let go"))
    });
}

#[test]
fn ports_come_and_go_while_others_carry_on() {
    with_site("ports_come_and_go_while_others_carry_on", "", |site| {
        published(site, "web", 8007, &["-p", "9000-9010:1-11"])?;
        let (client, host) = (site.world.server.clone(), site.host.address);
        let mut kept = Open::new(&client, at(host, 8007))?;
        let mut gone = Open::new(&client, at(host, 9006))?;
        netd(site, &["publish", "web", "-p", "8070:7", "-p", "8070:7/udp"])?;
        echo_by(&client, at(host, 8070))?;
        netd(site, &["unpublish", "web", "-p", "9006:7"])?;
        closed(&client, at(host, 9006))?;
        ensure!(!gone.works(), "a connection by a port that is published no more");
        ensure!(kept.works(), "a connection by another port");
        let ports = site.endpoint("web")?.context("no endpoint")?["ports"].clone();
        let ranges: Vec<_> = ports
            .as_array()
            .into_iter()
            .flatten()
            .map(|port| (port["host_port"].clone(), port["count"].clone()))
            .collect();
        ensure!(
            ranges.iter().any(|(port, count)| (port, count) == (&9000.into(), &6.into()))
                && ranges.iter().any(|(port, count)| (port, count) == (&9007.into(), &4.into())),
            "{ports}"
        );
        let said = refusal(site, &["unpublish", "web", "-p", "9006:7"])?;
        ensure!(said.contains("does not publish 0.0.0.0:9006:7/tcp"), "{said}");
        // Given to another at once.
        published(site, "next", 9006, &[])?;
        echo_by(&client, at(host, 9006))?;
        ensure!(kept.works());
        netd(site, &["detach", "next"])?;
        closed(&client, at(host, 9006))?;
        ensure!(kept.works());
        let flows = site.host.json(["flows", "--json", "--endpoint", "web"])?;
        ensure!(flows["total"].as_u64() >= Some(1), "{flows}");
        Ok(())
    });
}

#[test]
fn udp_does_not_stick_to_a_container_that_is_gone() {
    with_site("udp_does_not_stick_to_a_container_that_is_gone", "", |site| {
        let (client, host) = (site.world.server.clone(), site.host.namespace.clone());
        let to = at(site.host.address, 8007);
        let socket = client.run(|| Ok(UdpSocket::bind("0.0.0.0:4444")?))?;
        let local = host.run(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        let mut addresses = Vec::new();
        for name in ["one", "two", "three"] {
            // With another address each, and under fire from clients that keep their port.
            let container = published(site, name, 8007, &[])?;
            addresses.push(container.address);
            echo::udp_on(&socket, to, b"x", PATIENCE).with_context(|| format!("{name}, from outside"))?;
            local.set_read_timeout(Some(PATIENCE))?;
            local.send_to(b"x", at(Ipv4Addr::LOCALHOST, 8007))?;
            local.recv_from(&mut [0; 64]).with_context(|| format!("{name}, from the host"))?;
            netd(site, &["detach", name])?;
            // The host answers, where nobody is: port unreachable.
            let _ = socket.send(b"into the void");
            eventually("the host refuses", PATIENCE, || Ok(socket.take_error()?.is_some()))?;
        }
        addresses.dedup();
        ensure!(addresses.len() == 3, "{addresses:?}");
        Ok(())
    });
}

#[test]
fn a_download_goes_on_while_the_daemon_is_killed() {
    with_site("a_download_goes_on_while_the_daemon_is_killed", "", |site| {
        let web = published(site, "web", 8007, &["-p", "4200:4200"])?;
        let _sink = TcpFlood::sink(&web.namespace, at(web.address, 4200))?;
        let flood = TcpFlood::start(&site.world.server, at(site.host.address, 4200))?;
        let host = site.host.namespace.clone();
        let before = flood.sent();
        for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL] {
            site.host.stop(signal)?;
            thread::sleep(Duration::from_millis(200));
            // Without the daemon, too.
            echo_by(&site.world.server, at(site.host.address, 8007))?;
            echo_by(&host, at(Ipv4Addr::LOCALHOST, 8007))?;
            site.host.start()?;
            echo_by(&site.world.server, at(site.host.address, 8007))?;
            echo_by(&host, at(Ipv4Addr::LOCALHOST, 8007))?;
        }
        ensure!(flood.sent() > before, "nothing was sent");
        flood.finish()?;

        // A service that has taken a port meanwhile is no reason not to start.
        site.host.stop(Signal::SIGKILL)?;
        let listener = host.run(|| Ok(TcpListener::bind("0.0.0.0:8007")?))?;
        site.host.start()?;
        let status = site.host.netd(["status", "--json"])?;
        let status = String::from_utf8(status.stdout)?;
        ensure!(status.contains("published port 0.0.0.0:8007/tcp is in use by"), "{status}");
        drop(listener);
        eventually("the port is held again", Duration::from_secs(10), || {
            // The exit status says whether all is well.
            Ok(site.host.netd(["status"])?.status.success())
        })
    });
}

#[test]
fn ten_thousand_ports() {
    with_site("ten_thousand_ports", "", |site| {
        let start = std::time::Instant::now();
        // Of three kinds; of all four, they would be more than some machines let a process have files.
        let ports = ["-p", "20000-24999:1-5000", "-p", "0.0.0.0:20000-24999:1-5000/udp"];
        let web = site.container_with("web", &ports);
        match &web {
            Err(error) if format!("{error:#}").contains("no more sockets can be opened") => {
                eprintln!("SKIP ten_thousand_ports: {error:#}");
                return Ok(());
            }
            other => other.as_ref().map(drop).map_err(|error| anyhow::anyhow!("{error:#}"))?,
        }
        println!("attached in {:?}", start.elapsed());
        let seen = echo_by(&site.world.server, at(site.host.address, 20_006))?;
        ensure!(seen == [IpAddr::V4(site.world.address); 2]);
        site.host.stop(Signal::SIGKILL)?;
        let start = std::time::Instant::now();
        site.host.start()?;
        println!("started again in {:?}", start.elapsed());
        echo_by(&site.world.server, at(site.host.address, 20_006))?;
        let start = std::time::Instant::now();
        netd(site, &["detach", "web"])?;
        println!("detached in {:?}", start.elapsed());
        closed(&site.world.server, at(site.host.address, 20_006))
    });
}
