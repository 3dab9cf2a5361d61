//! What one does with all its might keeps nobody else out: while it goes on, all connections of others are made.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use etherparse::PacketBuilder;
use netd::lab::{Container, Namespace, echo};
use netd_tests::{
    Site, frames,
    ports::{at, published},
    site::PATIENCE,
    with_site,
};

/// Connections of others' while it goes on.
const CONNECTIONS: usize = 40;

/// The MAC addresses of a packet from a namespace: its own, and the neighbour's.
type Macs = ([u8; 6], [u8; 6]);

/// A packet from an address and port to another.
fn packet((own, other): Macs, from: SocketAddrV4, to: SocketAddrV4, tcp: bool) -> Vec<u8> {
    let ip = PacketBuilder::ethernet2(own, other).ipv4(from.ip().octets(), to.ip().octets(), 64);
    let mut bytes = Vec::new();
    let written = if tcp {
        ip.tcp(from.port(), to.port(), 1, 1024).syn().write(&mut bytes, b"")
    } else {
        ip.udp(from.port(), to.port()).write(&mut bytes, b"x")
    };
    written.expect("a packet in memory");
    bytes
}

/// The MAC address of a namespace's interface.
fn mac_of(namespace: &Namespace, interface: &str) -> Result<[u8; 6]> {
    let links = namespace.ip_json(&format!("link show dev {interface}"))?;
    frames::mac(links[0]["address"].as_str().context("no MAC")?)
}

/// The interface of a namespace by which another is reached, and the MAC addresses on the way. The two have talked.
fn way(from: &Namespace, to: Ipv4Addr) -> Result<(String, Macs)> {
    let route = from.ip_json(&format!("route get {to}"))?;
    let interface = route[0]["dev"].as_str().context("no interface")?.to_owned();
    let hop = route[0]["gateway"].as_str().map_or_else(|| to.to_string(), str::to_owned);
    let neighbours = from.ip_json(&format!("neigh show {hop} dev {interface}"))?;
    let other = neighbours[0]["lladdr"].as_str().with_context(|| format!("{hop} is not known"))?;
    let macs = (mac_of(from, &interface)?, frames::mac(other)?);
    Ok((interface, macs))
}

/// Sends packets round and round, from each of these sources, until `body` has ended. `body` begins when all have been sent once.
fn under(attackers: &[(&Namespace, &str, Vec<Vec<u8>>)], body: impl FnOnce() -> Result<()>) -> Result<()> {
    for (namespace, interface, packets) in attackers {
        frames::send_all(namespace, interface, packets.iter())?;
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for (namespace, interface, packets) in attackers {
            let done = &done;
            scope.spawn(move || {
                let goes_on = |_: &&Vec<u8>| !done.load(Ordering::Relaxed);
                frames::send_all(namespace, interface, packets.iter().cycle().take_while(goes_on))
            });
        }
        let result = body();
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// Asks an echo server by UDP, and again where no answer comes soon: what floods its socket makes it miss some. To be refused is an error.
fn ask(to: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        socket.send(b"hello")?;
        match socket.recv(&mut [0; 64]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            answer => return Ok(answer.map(|_| ())?),
        }
    }
    bail!("no answer within {PATIENCE:?}")
}

/// A container's connections to a server, all of which are to be made.
fn all_connect(from: &Namespace, to: SocketAddr) -> Result<()> {
    from.run(|| {
        for number in 0..CONNECTIONS {
            echo::tcp(to, b"hello", PATIENCE).with_context(|| format!("connection {number} to {to}"))?;
            ask(to).with_context(|| format!("question {number} to {to}"))?;
        }
        Ok(())
    })
}

/// Takes an address away from a container after it has talked to somebody: its kernel answers nothing that comes back, and resets
/// nothing.
fn mute(container: &Container, to: Ipv4Addr) -> Result<(String, Macs)> {
    container.namespace.run(|| echo::tcp((to, echo::PORT), b"hello", PATIENCE))?;
    let way = way(&container.namespace, to)?;
    container.namespace.ip([format!("address del {}/{} dev eth0", container.address, container.prefix)])?;
    Ok(way)
}

#[test]
fn all_ports_of_a_destination() {
    with_site("all_ports_of_a_destination", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        site.container("c")?;
        let server = site.world.echo();
        let (interface, macs) = mute(&a, *server.ip())?;
        let from = |port| SocketAddrV4::new(a.address, port);
        let all = |tcp| (20_000..60_000).map(|port| packet(macs, from(port), server, tcp)).collect();
        let attackers = [true, false].map(|tcp| (&a.namespace, interface.as_str(), all(tcp)));
        under(&attackers, || all_connect(&b.namespace, server.into()))?;
        ensure!(site.drops("ports-exhausted")? > 0, "the attack did not take all that it could get");
        Ok(())
    });
}

#[test]
fn four_containers_fill_the_table() {
    with_site("four_containers_fill_the_table", "[nat]\nmax-flows = 16384\n", |site| {
        let names = ["a", "b", "c", "d"];
        let greedy = names.iter().map(|name| site.container(name)).collect::<Result<Vec<_>>>()?;
        let other = published(site, "other", 8080, &[])?;
        let server = site.world.echo();
        let ways = greedy.iter().map(|one| mute(one, *server.ip())).collect::<Result<Vec<_>>>()?;
        let attackers: Vec<_> = greedy
            .iter()
            .zip(&ways)
            .map(|(one, (interface, macs))| {
                let to = |number: u16| SocketAddrV4::new(*server.ip(), 1_000 + number);
                let from = SocketAddrV4::new(one.address, 5_000);
                let all = (0..20_000).map(|number| packet(*macs, from, to(number), false)).collect();
                (&one.namespace, interface.as_str(), all)
            })
            .collect();
        under(&attackers, || {
            all_connect(&other.namespace, server.into())?;
            all_connect(&site.world.server, at(site.host.address, 8080))
        })?;
        // They have opened five times what the table holds: theirs have made room for each other.
        let flows = site.host.json(["flows", "--json", "--limit", "1"])?["total"].as_u64();
        ensure!(flows.is_some_and(|flows| flows > 4_096), "the attack has only taken {flows:?} flows");
        Ok(())
    });
}

/// The number of a spoofed source.
fn source(number: u32) -> SocketAddrV4 {
    let [_, a, b, c] = number.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(198, 51 + a, b, c), 4_000)
}

#[test]
fn syns_from_everywhere_to_a_published_port() {
    with_site("syns_from_everywhere_to_a_published_port", "", |site| {
        let b = published(site, "b", 8080, &[])?;
        let server = site.world.echo();
        let to = SocketAddrV4::new(site.host.address, 8080);
        all_connect(&site.world.server, to.into())?;
        let (interface, macs) = way(&site.world.router, site.host.address)?;
        let syns = (0..70_000).map(|number| packet(macs, source(number), to, true)).collect();
        let attackers = [(&site.world.router, interface.as_str(), syns)];
        under(&attackers, || {
            all_connect(&site.world.server, to.into())?;
            all_connect(&b.namespace, server.into())
        })?;
        let flows = site.host.json(["flows", "--json", "--limit", "1"])?["total"].as_u64();
        ensure!(flows.is_some_and(|flows| flows > 4_096), "the attack has only taken {flows:?} flows");
        Ok(())
    });
}

#[test]
fn status_says_who_has_all_its_flows() {
    with_site("status_says_who_has_all_its_flows", "[nat]\nmax-flows-per-endpoint = 8\n", |site| {
        let a = site.container("a")?;
        let problems =
            |site: &Site| Ok::<_, anyhow::Error>(site.host.json(["status", "--json"])?["problems"].clone());
        ensure!(problems(site)? == serde_json::json!([]), "{}", problems(site)?);
        let echo = site.world.echo();
        let sockets = a.namespace.run(|| {
            let socket = || {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                echo::udp_on(&socket, echo, b"flow", PATIENCE)?;
                Ok(socket)
            };
            (0..8).map(|_| socket()).collect::<Result<Vec<_>>>()
        })?;
        let said = problems(site)?;
        let Some([problem]) = said.as_array().map(Vec::as_slice) else { bail!("not one problem: {said}") };
        let text = problem.as_str().context("no text")?;
        ensure!(
            text == "endpoint `a` has 8 flows that it has opened, of 8 that it may have (nat.max-flows-per-endpoint)",
            "{text}"
        );
        drop(sockets);
        Ok(())
    });
}
