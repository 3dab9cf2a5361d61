//! ICMP errors: about what containers send into the world, about what they get from there, and netd's own.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use netd::lab::{Container, Namespace, echo, socket};
use netd_tests::{
    Site,
    error_queue::{self, IcmpError},
    site::{PATIENCE, SILENCE, eventually},
    with_site,
};

/// Nobody listens there.
const CLOSED: u16 = 9;
/// An MTU on the way that is smaller than at both ends.
const NARROW: u32 = 1300;
/// `IP_PMTUDISC_DO`: all packets forbid that they be cut.
const NEVER_CUT: i32 = 2;

fn udp(from: &Namespace) -> Result<UdpSocket> {
    from.run(|| UdpSocket::bind("0.0.0.0:0").context("cannot bind a UDP socket"))
}

/// A UDP socket that keeps errors, connected to the world's server.
fn to_server(site: &Site, from: &Container, port: u16) -> Result<UdpSocket> {
    let socket = udp(&from.namespace)?;
    error_queue::keep(&socket)?;
    socket.connect((site.world.address, port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn router_of(site: &Site) -> Ipv4Addr {
    let [a, b, c, _] = site.host.address.octets();
    Ipv4Addr::new(a, b, c, 1)
}

/// The hops of a traceroute: who says that the time is up.
fn hops(site: &Site, gateway: Ipv4Addr) -> [IcmpError; 2] {
    [gateway, router_of(site)].map(|from| IcmpError { kind: 11, code: 0, from, mtu: 0 })
}

#[test]
fn traceroute_with_udp() {
    with_site("traceroute_with_udp", "", |site| {
        let a = site.container("a")?;
        let refused = IcmpError { kind: 3, code: 3, from: site.world.address, mtu: 0 };
        let hops = hops(site, a.gateway);
        for (ttl, expected) in (1u32..).zip(hops.into_iter().chain([refused])) {
            let socket = to_server(site, &a, 33434)?;
            socket.set_ttl(ttl)?;
            socket.send(b"probe")?;
            let found = error_queue::wait(&socket, PATIENCE).with_context(|| format!("hop {ttl}"))?;
            ensure!(found == expected, "hop {ttl}: {found:?}");
        }
        Ok(())
    });
}

#[test]
fn traceroute_with_ping() {
    with_site("traceroute_with_ping", "", |site| {
        let a = site.container("a")?;
        let hops = hops(site, a.gateway);
        // One identifier in the range, which is kept, and one that is not.
        for identifier in [50_001, 7] {
            let socket = a.namespace.run(|| socket::ping(identifier).context("no ping socket"))?;
            error_queue::keep(&socket)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            for (ttl, expected) in (1u32..).zip(hops) {
                socket.set_ttl(ttl)?;
                socket.send_to(&[8, 0, 0, 0, 0, 0, 0, 1], (site.world.address, 0))?;
                let found = error_queue::wait(&socket, PATIENCE)
                    .with_context(|| format!("identifier {identifier}, hop {ttl}"))?;
                ensure!(found == expected, "identifier {identifier}, hop {ttl}: {found:?}");
            }
            socket.set_ttl(3)?;
            socket.send_to(&[8, 0, 0, 0, 0, 0, 0, 1], (site.world.address, 0))?;
            socket.recv(&mut [0; 64]).context("no echo reply")?;
        }
        Ok(())
    });
}

#[test]
fn a_closed_udp_port_in_the_world_refuses() {
    with_site("a_closed_udp_port_in_the_world_refuses", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let other = to_server(site, &b, CLOSED + 1)?;
        for round in 0..3 {
            let socket = udp(&a.namespace)?;
            socket.connect((site.world.address, CLOSED))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send(b"anybody?")?;
            let kind = socket.recv(&mut [0; 16]).err().map(|error| error.kind());
            ensure!(kind == Some(ErrorKind::ConnectionRefused), "round {round}: {kind:?}");
        }
        ensure!(other.take_error()?.is_none(), "another container got an error");
        Ok(())
    });
}

#[test]
fn a_closed_port_of_a_container_refuses_the_world() {
    with_site("a_closed_port_of_a_container_refuses_the_world", "", |site| {
        let a = site.container("a")?;
        let server =
            site.world.server.run(|| Ok(UdpSocket::bind((site.world.address, 4600))?)).context("server")?;
        server.set_read_timeout(Some(PATIENCE))?;
        // Once with a port that is kept and once with one that is not.
        for port in [50_000, 4000] {
            let client = a.namespace.run(|| Ok(UdpSocket::bind(("0.0.0.0", port))?))?;
            client.send_to(b"question", (site.world.address, 4600))?;
            let (_, peer) = server.recv_from(&mut [0; 16]).context("the question")?;
            ensure!(peer.ip() == site.host.address, "seen as {peer}");
            drop(client);

            server.connect(peer)?;
            // A busy kernel leaves an error out now and then (`icmp_global_allow`, `icmp_xmit_lock`).
            let mut kind = None;
            server.set_read_timeout(Some(PATIENCE / 10))?;
            for _ in 0..10 {
                server.send(b"a late answer")?;
                kind = server.recv(&mut [0; 16]).err().map(|error| error.kind());
                if kind != Some(ErrorKind::WouldBlock) {
                    break;
                }
            }
            server.set_read_timeout(Some(PATIENCE))?;
            ensure!(kind == Some(ErrorKind::ConnectionRefused), "port {port}: {kind:?}");
            // Unconnected again.
            disconnect(&server)?;
        }
        Ok(())
    });
}

/// Takes a UDP socket's peer away.
fn disconnect(socket: &UdpSocket) -> Result<()> {
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: the address is of the length that is given.
    let result = unsafe { libc::connect(socket.as_raw_fd(), &raw const nobody, size_of_val(&nobody) as u32) };
    ensure!(result == 0, "{}", std::io::Error::last_os_error());
    Ok(())
}

/// Makes the network of the world's server narrower than the host's.
fn narrow(site: &Site) -> Result<()> {
    site.world.router.ip([format!("link set servers mtu {NARROW}")])?;
    site.world.server.ip([format!("link set eth0 mtu {NARROW}")])
}

/// The MTU of the way as a connected socket knows it.
fn path_mtu(socket: &impl std::os::fd::AsRawFd) -> Result<u32> {
    let (mut mtu, mut length) = (0u32, size_of::<u32>() as libc::socklen_t);
    // SAFETY: the option's value is an int, which the pointers describe.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU,
            (&raw mut mtu).cast(),
            &raw mut length,
        )
    };
    ensure!(result == 0, "{}", std::io::Error::last_os_error());
    Ok(mtu)
}

#[test]
fn tcp_finds_the_mtu_of_the_way() {
    with_site("tcp_finds_the_mtu_of_the_way", "", |site| {
        narrow(site)?;
        // The server is not to say that it can take no more than what fits.
        site.world.server.ip(["route replace default via 203.0.113.1 advmss 1460"])?;
        let a = site.container("a")?;
        let stream =
            a.namespace.run(|| Ok(TcpStream::connect_timeout(&site.world.echo().into(), PATIENCE)?))?;
        let watched = stream.try_clone()?;

        a.namespace.run(|| echo::exchange(stream, &vec![3; 500_000], PATIENCE).map(drop))?;
        let mtu = path_mtu(&watched)?;
        ensure!(mtu == NARROW, "the way's MTU is {mtu}");
        Ok(())
    });
}

#[test]
fn udp_finds_the_mtu_of_the_way() {
    with_site("udp_finds_the_mtu_of_the_way", "", |site| {
        narrow(site)?;
        let a = site.container("a")?;
        let socket = to_server(site, &a, echo::PORT)?;
        socket::set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &NEVER_CUT)?;
        ensure!(path_mtu(&socket)? == 1500, "the way's MTU was known before");
        socket.send(&[1; 1400])?;
        let found = error_queue::wait(&socket, PATIENCE)?;
        let expected = IcmpError { kind: 3, code: 4, from: router_of(site), mtu: NARROW };
        ensure!(found == expected, "{found:?}");
        ensure!(path_mtu(&socket)? == NARROW, "the way's MTU is {}", path_mtu(&socket)?);
        // 28 bytes of headers fit, and the answer's greeting.
        let _ = socket.take_error();
        socket.send(&[1; NARROW as usize - 28])?;
        let length = socket.recv(&mut [0; 2000]).context("no answer")?;
        ensure!(length > NARROW as usize - 28, "{length} bytes");
        Ok(())
    });
}

#[test]
fn packets_larger_than_the_uplinks_mtu() {
    // A network that is told to be wider than the uplink.
    let config = "[networks.default]\nsubnets = [\"10.88.0.0/16\"]\nmtu = 1500\n";
    netd_tests::site::with_stopped_site("packets_larger_than_the_uplinks_mtu", config, |site| {
        site.host.namespace.ip([format!("link set eth0 mtu {NARROW}")])?;
        site.world.router.ip([format!("link set host1 mtu {NARROW}")])?;
        site.host.start()?;
        let a = site.container("a")?;
        let socket = to_server(site, &a, echo::PORT)?;
        socket::set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &NEVER_CUT)?;
        socket.send(&[1; 1400])?;
        let found = error_queue::wait(&socket, PATIENCE)?;
        let expected = IcmpError { kind: 3, code: 4, from: a.gateway, mtu: NARROW };
        ensure!(found == expected, "{found:?}");
        ensure!(path_mtu(&socket)? == NARROW, "the way's MTU is {}", path_mtu(&socket)?);
        // TCP as well, whose segments are cut after the program.
        a.namespace.run(|| echo::tcp(site.world.echo(), &vec![3; 500_000], PATIENCE).map(drop))
    });
}

#[test]
fn over_its_quota_a_container_is_told() {
    with_site("over_its_quota_a_container_is_told", "[nat]\nmax-flows-per-endpoint = 2\n", |site| {
        let a = site.container("a")?;
        let live = [to_server(site, &a, echo::PORT)?, to_server(site, &a, echo::PORT)?];
        for socket in &live {
            echo::udp_on(socket, site.world.echo(), b"live", PATIENCE)?;
        }
        // TCP: connect(2) fails at once.
        let start = Instant::now();
        let error = a
            .namespace
            .run(|| Ok(TcpStream::connect_timeout(&site.world.echo().into(), PATIENCE).err()))?
            .context("a connection over the quota")?;
        ensure!(error.kind() == ErrorKind::HostUnreachable, "{error}");
        ensure!(start.elapsed() < Duration::from_secs(1), "it took {:?}", start.elapsed());
        // UDP: the next call fails.
        let socket = udp(&a.namespace)?;
        socket.connect(site.world.echo())?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(b"refused")?;
        let error = socket.recv(&mut [0; 16]).err().context("an answer over the quota")?;
        ensure!(error.kind() == ErrorKind::HostUnreachable, "{error}");
        ensure!(site.drops("flow-quota")? == 2, "{} drops", site.drops("flow-quota")?);
        ensure!(site.counter("forwarded", "icmp-error-sent")? == 2, "not counted");
        // Everything live goes on.
        for socket in &live {
            echo::udp_on(socket, site.world.echo(), b"live", PATIENCE)?;
        }
        Ok(())
    });
}

/// An ICMP "port unreachable" about a UDP packet, as a container can send it past its own stack.
fn unreachable_message(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let quote = [
        &[0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0][..],
        &from.ip().octets(),
        &to.ip().octets(),
        &from.port().to_be_bytes(),
        &to.port().to_be_bytes(),
        &[0, 16, 0, 0],
    ]
    .concat();
    let mut message = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &quote].concat();
    let sum = netd_common::host::build::internet_checksum(&[&message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

#[test]
fn a_container_cannot_break_its_neighbours_connections() {
    with_site("a_container_cannot_break_its_neighbours_connections", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let victim = to_server(site, &b, echo::PORT)?;
        echo::udp_on(&victim, site.world.echo(), b"before", PATIENCE)?;
        let std::net::SocketAddr::V4(local) = victim.local_addr()? else { unreachable!("bound to IPv4") };
        let raw: UdpSocket = a
            .namespace
            .run(|| Ok(socket::open(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)?.into()))?;
        // To the neighbour, to the host that translates for it, and to the server, in the neighbour's name.
        let message = unreachable_message(local, site.world.echo());
        let outside =
            unreachable_message(SocketAddrV4::new(site.host.address, local.port()), site.world.echo());
        let back = unreachable_message(site.world.echo(), local);
        for (to, message) in
            [(b.address, &message), (site.host.address, &outside), (site.world.address, &back)]
        {
            let before = site.drops("spoofed-error")?;
            raw.send_to(message, (to, 0))?;
            eventually("the drop is counted", PATIENCE, || Ok(site.drops("spoofed-error")? == before + 1))?;
        }
        std::thread::sleep(SILENCE);
        ensure!(victim.take_error()?.is_none(), "the neighbour got an error");
        echo::udp_on(&victim, site.world.echo(), b"after", PATIENCE)?;
        // What is honest arrives: the neighbour asks a closed port.
        let asks = udp(&b.namespace)?;
        asks.connect((a.address, CLOSED))?;
        asks.set_read_timeout(Some(PATIENCE))?;
        asks.send(b"anybody?")?;
        let kind = asks.recv(&mut [0; 16]).err().map(|error| error.kind());
        ensure!(kind == Some(ErrorKind::ConnectionRefused), "{kind:?}");
        Ok(())
    });
}
