//! Source translation: which ports flows get, and that they do not get in each other's way.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use netd::lab::{Container, Namespace, echo, icmp, socket};
use netd_tests::{
    Site,
    site::{PATIENCE, reach},
    with_site,
};

const PORTS: &str = "[nat]\nports = \"50000-50999\"\n";
const RANGE: std::ops::RangeInclusive<u16> = 50_000..=50_999;

fn from_port(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)
}

fn udp_socket(namespace: &Namespace, port: u16) -> Result<UdpSocket> {
    namespace.run(|| UdpSocket::bind(from_port(port)).with_context(|| format!("cannot bind port {port}")))
}

/// The port that the server sees, by TCP and by UDP, for a source port.
fn seen_ports(site: &Site, client: &Container, port: u16) -> Result<[u16; 2]> {
    let server = site.world.echo();
    let tcp = client.namespace.run(|| {
        let stream = socket::connect_from(from_port(port), server, PATIENCE).context("no TCP connection")?;
        echo::exchange(stream, b"hello", PATIENCE)
    })?;
    let udp = echo::udp_on(&udp_socket(&client.namespace, port)?, server, b"hello", PATIENCE)?;
    for seen in [tcp, udp.seen] {
        ensure!(seen.ip() == site.host.address, "seen as {seen}");
    }
    Ok([tcp.port(), udp.seen.port()])
}

#[test]
fn ports_are_kept_or_taken_from_the_range() {
    with_site("ports_are_kept_or_taken_from_the_range", PORTS, |site| {
        let a = site.container("a")?;
        for port in [50_000, 50_500, 50_999] {
            let seen = seen_ports(site, &a, port)?;
            ensure!(seen == [port; 2], "port {port} was free, but became {seen:?}");
        }
        for port in [1, 1023, 32_768, 49_999, 51_000, 65_535] {
            for seen in seen_ports(site, &a, port)? {
                ensure!(RANGE.contains(&seen), "port {port} became {seen}");
            }
        }
        Ok(())
    });
}

#[test]
fn the_hosts_own_sockets_get_other_ports() {
    with_site("the_hosts_own_sockets_get_other_ports", PORTS, |site| {
        let host = site.host.namespace.clone();
        ensure!(host.sysctl("net.ipv4.ip_local_reserved_ports")? == "50000-50999");
        // So few others that four of five choices would be in the range.
        host.set_sysctl("net.ipv4.ip_local_port_range", "49876 51123")?;
        let a = site.container("a")?;
        let ports: Vec<u16> = host.run(|| {
            (0..100)
                .map(|_| {
                    let stream = TcpStream::connect_timeout(&site.world.echo().into(), PATIENCE)?;
                    Ok(echo::exchange(stream, b"host", PATIENCE)?.port())
                })
                .collect()
        })?;
        let wrong: Vec<_> = ports.iter().filter(|port| RANGE.contains(port)).collect();
        ensure!(wrong.is_empty(), "the host's own connections had {wrong:?}");
        let sockets = (0..100).map(|_| udp_socket(&host, 0)).collect::<Result<Vec<_>>>()?;
        for socket in &sockets {
            let port = socket.local_addr()?.port();
            ensure!(!RANGE.contains(&port), "a socket of the host's got port {port}");
        }

        // One that insists on a port of the range works all the same, as long as no flow has it.
        let own = udp_socket(&host, 50_123)?;
        let seen = echo::udp_on(&own, site.world.echo(), b"own", PATIENCE)?.seen;
        ensure!(seen.port() == 50_123, "{seen}");
        reach(&a.namespace, site.world.address, site.host.address)
    });
}

#[test]
fn reserved_ports_of_others_stay_reserved() {
    netd_tests::site::with_stopped_site("reserved_ports_of_others_stay_reserved", PORTS, |site| {
        const NAME: &str = "net.ipv4.ip_local_reserved_ports";
        let host = site.host.namespace.clone();
        host.set_sysctl(NAME, "8080,9000-9010")?;
        site.host.start()?;
        ensure!(host.sysctl(NAME)? == "8080,9000-9010,50000-50999", "{}", host.sysctl(NAME)?);
        // Another range at the next start: the old one is given back.
        site.host.stop(nix::sys::signal::Signal::SIGTERM)?;
        site.host.configure("[nat]\nports = \"40000-41000\"\n")?;
        site.host.start()?;
        ensure!(host.sysctl(NAME)? == "8080,9000-9010,40000-41000", "{}", host.sysctl(NAME)?);
        Ok(())
    });
}

#[test]
fn two_containers_with_one_source_port() {
    with_site("two_containers_with_one_source_port", PORTS, |site| {
        let clients = [site.container("a")?, site.container("b")?];
        let server = site.world.echo();

        // TCP, both open at once.
        let mut streams = Vec::new();
        let mut ports = Vec::new();
        for client in &clients {
            let mut stream = client.namespace.run(|| {
                socket::connect_from(from_port(50_007), server, PATIENCE).context("no TCP connection")
            })?;
            stream.set_read_timeout(Some(PATIENCE))?;
            ports.push(greeting(&mut stream)?);
            streams.push(stream);
        }
        ensure!(ports[0] == 50_007, "the first had the port to itself, but got {}", ports[0]);
        ensure!(ports[1] != ports[0] && RANGE.contains(&ports[1]), "the second got {}", ports[1]);
        for round in 0..20u8 {
            for (stream, who) in streams.iter_mut().zip([100, 200]) {
                let sent = [who, round];
                let mut got = [0; 2];
                stream.write_all(&sent)?;
                stream.read_exact(&mut got).context("no echo")?;
                ensure!(got == sent, "sent {sent:?}, got {got:?}");
            }
        }

        // UDP, both alive at once.
        let sockets =
            [udp_socket(&clients[0].namespace, 50_008)?, udp_socket(&clients[1].namespace, 50_008)?];
        for round in 0..20u8 {
            for (socket, who) in sockets.iter().zip([100, 200]) {
                echo::udp_on(socket, server, &[who, round], PATIENCE)?;
            }
        }

        // Ping with one identifier.
        std::thread::scope(|scope| {
            let threads: Vec<_> = clients
                .iter()
                .map(|client| {
                    scope.spawn(|| {
                        client.namespace.run(|| {
                            (0..20).try_for_each(|_| {
                                icmp::ping_as(50_009, site.world.address, 56, PATIENCE).map(drop)
                            })
                        })
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|one| one.join().expect("a ping does not panic"))
        })
    });
}

/// The port in an echo server's first line.
fn greeting(stream: &mut TcpStream) -> Result<u16> {
    let mut line = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).context("no greeting")?;
        line.push(byte[0]);
    }
    let line = String::from_utf8(line)?;
    let (_, port) = line.trim().rsplit_once(':').context("no port in the greeting")?;
    Ok(port.parse()?)
}

#[test]
fn one_port_serves_many_destinations() {
    with_site("one_port_serves_many_destinations", PORTS, |site| {
        let clients = [site.container("a")?, site.container("b")?, site.container("c")?];
        let server = site.world.server.clone();
        let mut open = Vec::new();
        for (index, client) in clients.iter().enumerate() {
            let address: Ipv4Addr = format!("203.0.113.{}", 20 + index).parse()?;
            server.ip([format!("address add {address}/24 dev eth0")])?;
            site.serve(&server, address)?;
            let to = SocketAddrV4::new(address, echo::PORT);
            let mut stream = client
                .namespace
                .run(|| socket::connect_from(from_port(50_050), to, PATIENCE).context("no TCP"))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let port = greeting(&mut stream)?;
            ensure!(port == 50_050, "{} to {to} got port {port}, though it was free there", client.name);
            open.push(stream);
            let seen = echo::udp_on(&udp_socket(&client.namespace, 50_051)?, to, b"x", PATIENCE)?.seen;
            ensure!(seen.port() == 50_051, "{} to {to} by UDP got port {}", client.name, seen.port());
        }
        for (stream, who) in open.iter_mut().zip(1u8..) {
            let mut got = [0];
            stream.write_all(&[who])?;
            stream.read_exact(&mut got).context("no echo")?;
            ensure!(got == [who], "a connection got another's data");
        }
        Ok(())
    });
}

#[test]
fn a_network_without_masquerade_is_routed() {
    let config = "[networks.default]\n[networks.routed]\nsubnets = [\"10.89.0.0/24\"]\nmasquerade = false\n";
    with_site("a_network_without_masquerade_is_routed", config, |site| {
        let container = site.container_with("a", &["--network", "routed"])?;
        // The world must know the way, and the host must be a router.
        site.world.router.ip([format!("route add 10.89.0.0/24 via {}", site.host.address)])?;
        site.host.namespace.set_sysctl("net.ipv4.ip_forward", "1")?;
        reach(&container.namespace, site.world.address, container.address)?;
        reach(&site.world.server, container.address, site.world.address)
    });
}

#[test]
fn a_closed_port_answers_with_a_reset() {
    with_site("a_closed_port_answers_with_a_reset", "", |site| {
        let a = site.container("a")?;
        let closed = SocketAddrV4::new(site.world.address, 9);
        let error = a.namespace.run(|| Ok(TcpStream::connect_timeout(&closed.into(), PATIENCE).err()))?;
        let kind = error.map(|error| error.kind());
        ensure!(kind == Some(std::io::ErrorKind::ConnectionRefused), "{kind:?}");
        // And the port is not lost for it.
        std::thread::sleep(Duration::from_millis(10));
        reach(&a.namespace, site.world.address, site.host.address)
    });
}
