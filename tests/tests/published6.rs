//! Published ports over IPv6: what is in `published.rs` of IPv4, and how the families go together.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use netd::lab::{Container, echo};
use netd_tests::{
    Site,
    ports::{Open, at, closed, connected, echo_by, netd, published, refusal, refused},
    site::{PATIENCE, SILENCE, eventually, unreachable},
    streams::TcpFlood,
    with_site,
};
use nix::sys::signal::Signal;

/// More networks: of both families, of both and routed, and of IPv4 only.
const MORE: &str = "[networks.default]\n\
    [networks.blue]\nsubnets = [\"10.89.0.0/24\", \"fd89::/64\"]\n\
    [networks.routed]\nsubnets = [\"10.90.0.0/24\", \"fd90::/64\"]\nmasquerade = false\n\
    [networks.old]\nsubnets = [\"10.91.0.0/24\"]\n";

/// Runs a test with that configuration, where the kernel has IPv6.
fn with_ipv6(test: &str, body: impl FnOnce(&mut Site) -> Result<()>) {
    if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
        eprintln!("SKIP {test}: this kernel has no IPv6");
        return;
    }
    with_site(test, MORE, body);
}

/// The host's address, and the client's outside.
fn outside(site: &Site) -> Result<(Ipv6Addr, Ipv6Addr)> {
    Ok((site.host.address6.context("no uplink")?, site.world.address6.context("no server")?))
}

fn gateway(container: &Container) -> Result<Ipv6Addr> {
    container.gateway6.with_context(|| format!("{} has no IPv6", container.name))
}

#[test]
fn from_outside_with_the_clients_address() {
    with_ipv6("published6::from_outside_with_the_clients_address", |site| {
        published(site, "web", 8007, &["-p", "[::]:8100:7", "-p", "[::]:8100:7/udp"])?;
        published(site, "routed", 8008, &["--network", "routed"])?;
        published(site, "range", 8009, &["-p", "9000-9010:1-11", "-p", "9000-9010:1-11/udp"])?;
        // The same port of the other family may be another's.
        let other = ["-p", "0.0.0.0:8100:7", "-p", "0.0.0.0:8100:7/udp", "-p", "0.0.0.0:8101:7"];
        published(site, "other", 8010, &other)?;
        let client = site.world.server.clone();
        let (host, own) = outside(site)?;
        for port in [8007, 8008, 8009, 9006, 8010, 8100] {
            let seen = echo_by(&client, at(host, port))?;
            ensure!(seen == [IpAddr::from(own); 2], "port {port}: seen as {seen:?}");
        }
        let seen = echo_by(&client, at(site.host.address, 8100))?;
        ensure!(seen == [IpAddr::from(site.world.address); 2], "{seen:?}");
        for port in [9005, 9011, 8101] {
            closed(&client, at(host, port))?;
        }
        netd(site, &["detach", "other"])?;
        closed(&client, at(site.host.address, 8100))?;
        echo_by(&client, at(host, 8100))?;

        // A datagram in fragments.
        client.run(|| echo::udp(at(host, 8007), &[3; 5000], PATIENCE))?;

        // One address only.
        let second: Ipv6Addr = "2001:db8:0:1::77".parse()?;
        site.host.namespace.ip([format!("address add {second}/64 dev eth0 nodad")])?;
        netd(site, &["publish", "web", "-p", &format!("[{second}]:8200:7/tcp")])?;
        eventually("the second address is known", Duration::from_secs(5), || {
            client.run(|| Ok(echo::tcp(at(second, 8200), b"x", SILENCE).is_ok()))
        })?;
        closed(&client, at(host, 8200))?;
        let seen = echo_by(&client, at(second, 8007))?;
        ensure!(seen == [IpAddr::from(own); 2], "{seen:?}");

        let shown = String::from_utf8(site.host.netd(["ls"])?.stdout)?;
        let expected = format!("[::]:8100->7/tcp, [::]:8100->7/udp, [{second}]:8200->7/tcp");
        ensure!(
            shown.contains("0.0.0.0:8007->7/tcp, [::]:8007->7/tcp") && shown.contains(&expected),
            "{shown}"
        );
        let ports = site.endpoint("web")?.context("no endpoint")?["ports"].clone();
        let listed = ports.as_array().into_iter().flatten().any(|port| {
            (&port["host_ip"], &port["host_port"], &port["protocol"])
                == (&"::".into(), &8007.into(), &"udp".into())
        });
        ensure!(listed, "{ports}");
        // web: 4 + 2 + 1; routed: 4; range: 4 + 2 × 2 × 11.
        let status = site.host.json(["status", "--json"])?;
        let maps = status["maps"].as_array().cloned().unwrap_or_default();
        let fill = maps.iter().find(|map| map["name"] == "ports").context("no ports in netd status")?;
        ensure!(fill["entries"] == 59, "{fill}");
        Ok(())
    });
}

#[test]
fn from_containers_and_from_itself() {
    with_ipv6("published6::from_containers_and_from_itself", |site| {
        let web = published(site, "web", 8007, &[])?;
        let peer = site.container("peer")?;
        let blue = site.container_with("blue", &["--network", "blue"])?;
        let routed = site.container_with("routed", &["--network", "routed"])?;
        let (host, _) = outside(site)?;
        for client in [&web, &peer, &blue, &routed] {
            for address in [host, gateway(client)?] {
                let seen = echo_by(&client.namespace, at(address, 8007))?;
                ensure!(seen == [IpAddr::from(address); 2], "{} by {address}: {seen:?}", client.name);
            }
            // Longer than the link: in fragments.
            let long = client.namespace.run(|| echo::udp(at(host, 8007), &[3; 5000], PATIENCE));
            long.with_context(|| format!("{}: fragments", client.name))?;
        }
        // Isolation is as it was.
        unreachable(&blue.namespace, web.address6.context("no address")?)
    });
}

/// What says that nobody listens behind a published port comes to who asked, and to who answers where nobody listens any more.
#[test]
fn nobody_listens_behind_a_published_port() {
    with_ipv6("published6::nobody_listens_behind_a_published_port", |site| {
        let web = site.container_with("web", &["-p", "8009:9/udp", "-p", "8010:10/udp"])?;
        let peer = site.container("peer")?;
        let blue = site.container_with("blue", &["--network", "blue"])?;
        let (host, _) = outside(site)?;
        for client in [&web, &peer, &blue] {
            for address in [host, gateway(client)?] {
                refused(&connected(&client.namespace, at(address, 8009))?)
                    .with_context(|| format!("{} by {address}", client.name))?;
            }
        }
        for client in [&peer, &blue] {
            let server = web.namespace.run(|| Ok(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 10))?))?;
            server.set_read_timeout(Some(PATIENCE))?;
            let socket = connected(&client.namespace, at(host, 8010))?;
            socket.send(b"a question")?;
            let (_, from) = server.recv_from(&mut [0; 16]).context("no question")?;
            drop(socket);
            server.connect(from)?;
            refused(&server).with_context(|| format!("an answer to {}", client.name))?;
        }
        Ok(())
    });
}

#[test]
fn from_the_host_itself() {
    with_ipv6("published6::from_the_host_itself", |site| {
        let web = published(site, "web", 8007, &["-p", "[::1]:8100:7", "-p", "[::1]:8100:7/udp"])?;
        let host = site.host.namespace.clone();
        let (uplink, _) = outside(site)?;
        let gateway = gateway(&web)?;
        for address in [Ipv6Addr::LOCALHOST, uplink, gateway] {
            let seen = echo_by(&host, at(address, 8007))?;
            ensure!(seen == [IpAddr::from(gateway); 2], "by {address}: {seen:?}");
        }
        host.run(|| {
            // What clients see is what they asked for.
            for address in [Ipv6Addr::LOCALHOST, uplink, Ipv4Addr::LOCALHOST.to_ipv6_mapped()] {
                let asked = at(address, 8007);
                let stream =
                    TcpStream::connect_timeout(&asked, PATIENCE).with_context(|| format!("{asked}"))?;
                ensure!(stream.peer_addr()? == asked, "{} instead of {asked}", stream.peer_addr()?);
                echo::exchange(stream, b"hello", PATIENCE)?;
            }
            let socket = UdpSocket::bind("[::]:0")?;
            socket.set_read_timeout(Some(PATIENCE))?;
            for address in [Ipv6Addr::LOCALHOST, uplink, Ipv4Addr::LOCALHOST.to_ipv6_mapped()] {
                let asked = at(address, 8007);
                socket.send_to(b"hello", asked)?;
                let (_, from) = socket.recv_from(&mut [0; 100]).with_context(|| format!("from {asked}"))?;
                ensure!(from == asked, "{asked}: answered by {from}");
            }
            // `localhost` is either, and whoever tries both gets there.
            let stream = TcpStream::connect("localhost:8007").context("localhost")?;
            echo::exchange(stream, b"hello", PATIENCE)?;
            Ok(())
        })?;

        // Bound to the loopback address: for the host alone, and for that address.
        echo_by(&host, at(Ipv6Addr::LOCALHOST, 8100))?;
        let peer = site.container("peer")?;
        closed(&site.world.server, at(uplink, 8100))?;
        for namespace in [&host, &peer.namespace] {
            for address in [IpAddr::from(uplink), gateway.into(), site.host.address.into()] {
                closed(namespace, at(address, 8100))?;
            }
        }
        closed(&host, at(Ipv4Addr::LOCALHOST, 8100))?;
        // Others' loopback is their own.
        ensure!(peer.namespace.run(|| Ok(echo::tcp(at(Ipv6Addr::LOCALHOST, 8007), b"x", SILENCE).is_err()))?);

        // Of a container without IPv6, IPv4 alone is published.
        published(site, "old", 8008, &["--network", "old"])?;
        echo_by(&host, at(Ipv4Addr::LOCALHOST, 8008))?;
        let refused = host.run(|| Ok(TcpStream::connect(at(Ipv6Addr::LOCALHOST, 8008))))?;
        let refused = refused.err().map(|error| error.kind());
        ensure!(refused == Some(std::io::ErrorKind::ConnectionRefused), "{refused:?}");
        closed(&site.world.server, at(uplink, 8008))?;
        host.run(|| TcpListener::bind("[::1]:8008").map(drop).context("[::1]:8008 is held"))?;

        netd(site, &["unpublish", "web", "-p", "8007:7", "-p", "[::]:8007:7/udp"])?;
        closed(&host, at(Ipv6Addr::LOCALHOST, 8007))?;
        ensure!(host.run(|| Ok(echo::udp(at(Ipv4Addr::LOCALHOST, 8007), b"x", PATIENCE).is_ok()))?);
        Ok(())
    });
}

#[test]
fn taken_ports_are_refused_and_their_holder_named() {
    with_ipv6("published6::taken_ports_are_refused_and_their_holder_named", |site| {
        published(site, "web", 8007, &[])?;
        let namespace = site.lab.namespace("late")?;
        let attach = |port: &str| refusal(site, &["attach", "late", "--netns", namespace.name(), "-p", port]);
        for port in ["[::]:8007:80", "[::1]:8007:80", "[2001:db8::1]:8000-8010:80-90/udp"] {
            let said = attach(port)?;
            ensure!(said.contains("`web`") && said.contains("[::]:8007/"), "{said}");
        }
        let host = site.host.namespace.clone();
        let listener = host.run(|| Ok(TcpListener::bind("[::1]:8080")?))?;
        let socket = host.run(|| Ok(UdpSocket::bind("[::]:5353")?))?;
        let me = format!("(pid {})", std::process::id());
        for port in ["8080:80", "[::1]:8080:80", "5353:53/udp", "0.0.0.0:5353:53/udp", "8070-8090:70-90"] {
            let said = attach(port)?;
            ensure!(said.contains("in use by") && said.contains(&me), "{said}");
        }
        ensure!(site.endpoint("late")?.is_none());
        // Of what was refused, nothing is held.
        host.run(|| TcpListener::bind("0.0.0.0:8080").map(drop).context("IPv4's half is held"))?;
        netd(site, &["publish", "web", "-p", "0.0.0.0:8080:80"])?;
        for (port, why) in [
            ("[2001:db8::99]:80:80", "the host has no address 2001:db8::99"),
            ("[fe80::1]:80:80", "fe80::1 is of one link only"),
        ] {
            let said = attach(port)?;
            ensure!(said.contains(why), "{said}");
        }
        drop((listener, socket));

        // And the other way round: what is published, no service of the host's gets.
        netd(site, &["publish", "web", "-p", "[::]:8080:80"])?;
        for address in ["[::1]:8080", "[::]:8080"] {
            ensure!(host.run(|| Ok(TcpListener::bind(address).is_err()))?, "{address} is not held");
        }
        netd(site, &["unpublish", "web", "-p", "8080:80"])?;
        host.run(|| TcpListener::bind("[::]:8080").map(drop).context("the port is not let go"))?;

        // Who has no IPv6 is told why.
        let said = refusal(
            site,
            &["attach", "late", "--netns", namespace.name(), "--network", "old", "-p", "[::1]:1:1"],
        )?;
        ensure!(said.contains("network `old` has no IPv6 subnet"), "{said}");
        namespace.set_sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        let said = attach("[::1]:1:1")?;
        ensure!(said.contains("disable_ipv6"), "{said}");
        // Neither does it need IPv6's port, then.
        let listener = host.run(|| Ok(TcpListener::bind("[::1]:8081")?))?;
        netd(site, &["attach", "late", "--netns", namespace.name(), "-p", "8081:80"])?;
        let said = refusal(site, &["publish", "late", "-p", "[::1]:1:1"])?;
        ensure!(said.contains("endpoint `late` has no IPv6 address"), "{said}");
        drop(listener);
        Ok(())
    });
}

#[test]
fn ports_come_and_go_while_others_carry_on() {
    with_ipv6("published6::ports_come_and_go_while_others_carry_on", |site| {
        published(site, "web", 8007, &["-p", "9000-9010:1-11"])?;
        let client = site.world.server.clone();
        let (host, _) = outside(site)?;
        let mut kept = Open::new(&client, at(host, 8007))?;
        let mut gone = Open::new(&client, at(host, 9006))?;
        let mut of_ipv4 = Open::new(&client, at(site.host.address, 9006))?;
        netd(site, &["unpublish", "web", "-p", "[::]:9006:7"])?;
        closed(&client, at(host, 9006))?;
        ensure!(!gone.works(), "a connection by a port that is published no more");
        ensure!(kept.works(), "a connection by another port");
        ensure!(of_ipv4.works(), "a connection by the other family's");
        netd(site, &["unpublish", "web", "-p", "0.0.0.0:9006:7"])?;
        ensure!(!of_ipv4.works() && kept.works());
        // Given to another at once.
        published(site, "next", 9006, &[])?;
        echo_by(&client, at(host, 9006))?;
        netd(site, &["detach", "next"])?;
        closed(&client, at(host, 9006))?;
        ensure!(kept.works());
        Ok(())
    });
}

#[test]
fn udp_does_not_stick_to_a_container_that_is_gone() {
    with_ipv6("published6::udp_does_not_stick_to_a_container_that_is_gone", |site| {
        let (client, host) = (site.world.server.clone(), site.host.namespace.clone());
        let to = at(outside(site)?.0, 8007);
        let socket = client.run(|| Ok(UdpSocket::bind("[::]:4444")?))?;
        let local = host.run(|| Ok(UdpSocket::bind("[::]:0")?))?;
        local.set_read_timeout(Some(PATIENCE))?;
        let mut addresses = Vec::new();
        for name in ["one", "two", "three"] {
            // With another address each, and under fire from clients that keep their port.
            addresses.push(published(site, name, 8007, &[])?.address6);
            echo::udp_on(&socket, to, b"x", PATIENCE).with_context(|| format!("{name}, from outside"))?;
            local.send_to(b"x", at(Ipv6Addr::LOCALHOST, 8007))?;
            local.recv_from(&mut [0; 64]).with_context(|| format!("{name}, from the host"))?;
            netd(site, &["detach", name])?;
            // The host answers, where nobody is: port unreachable.
            let _ = socket.send(b"into the void");
            eventually("the host refuses", PATIENCE, || Ok(socket.take_error()?.is_some()))?;
        }
        addresses.dedup();
        ensure!(addresses.len() == 3 && !addresses.contains(&None), "{addresses:?}");
        Ok(())
    });
}

#[test]
fn a_download_goes_on_while_the_daemon_is_killed() {
    with_ipv6("published6::a_download_goes_on_while_the_daemon_is_killed", |site| {
        let web = published(site, "web", 8007, &["-p", "4200:4200"])?;
        let _sink = TcpFlood::sink(&web.namespace, at(web.address6.context("no address")?, 4200))?;
        let (uplink, _) = outside(site)?;
        let (client, host) = (site.world.server.clone(), site.host.namespace.clone());
        let flood = TcpFlood::start(&client, at(uplink, 4200))?;
        let before = flood.sent();
        let all = || {
            echo_by(&client, at(uplink, 8007))?;
            echo_by(&host, at(Ipv6Addr::LOCALHOST, 8007)).map(drop)
        };
        for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL] {
            site.host.stop(signal)?;
            thread::sleep(Duration::from_millis(200));
            // Without the daemon, too.
            all().context("without the daemon")?;
            site.host.start()?;
            all()?;
        }
        ensure!(flood.sent() > before, "nothing was sent");
        flood.finish()?;

        // A service that has taken a port meanwhile is no reason not to start.
        site.host.stop(Signal::SIGKILL)?;
        let listener = host.run(|| Ok(TcpListener::bind("[::1]:8007")?))?;
        site.host.start()?;
        let status = String::from_utf8(site.host.netd(["status", "--json"])?.stdout)?;
        ensure!(status.contains("published port [::]:8007/tcp is in use by"), "{status}");
        ensure!(!status.contains("0.0.0.0:8007/tcp is in use by"), "{status}");
        drop(listener);
        eventually("the port is held again", Duration::from_secs(10), || {
            Ok(site.host.netd(["status"])?.status.success())
        })
    });
}

/// Each family leads to what is published of it, also by a socket that does both.
#[test]
fn a_mapped_address_of_the_host_is_ipv4s() {
    with_ipv6("published6::a_mapped_address_of_the_host_is_ipv4s", |site| {
        let web = published(site, "web", 8007, &["-p", "0.0.0.0:8300:7", "-p", "[::]:8301:7"])?;
        let host = site.host.namespace.clone();
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        let answer = host.run(|| echo::tcp(at(mapped, 8300), b"x", PATIENCE))?;
        ensure!(answer.seen.ip() == IpAddr::from(web.gateway), "{}", answer.seen);
        for (address, port) in [(mapped, 8301), (Ipv6Addr::LOCALHOST, 8300)] {
            let to = SocketAddr::from((address, port));
            ensure!(host.run(|| Ok(echo::tcp(to, b"x", SILENCE).is_err()))?, "{to}");
        }
        Ok(())
    });
}
