//! Translation near its limits: ports, the table's share, and what is collected while all of it is in use.

use std::{
    net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use netd::{
    lab::{Container, echo},
    request::FlowList,
};
use netd_tests::{
    Site,
    site::{PATIENCE, SILENCE},
    streams::UdpPulse,
    with_site,
};

fn total(site: &Site, options: &[&str]) -> Result<usize> {
    let words = ["flows", "--json"].iter().chain(options).copied();
    let list: FlowList = serde_json::from_value(site.host.json(words)?)?;
    Ok(list.total)
}

/// A socket that has got an answer, or why it has not.
fn flow(client: &Container, server: SocketAddrV4, patience: Duration) -> Result<UdpSocket> {
    let socket = client.namespace.run(|| UdpSocket::bind("0.0.0.0:0").context("cannot bind"))?;
    echo::udp_on(&socket, server, b"flow", patience)?;
    Ok(socket)
}

#[test]
fn ports_that_are_used_up_at_one_destination() {
    const PORTS: usize = 256;
    const OTHERS: usize = 32;
    let config = "[nat]\nports = \"50000-50255\"\n";
    with_site("ports_that_are_used_up_at_one_destination", config, |site| {
        let clients = [site.container("a")?, site.container("b")?];
        let server = site.world.echo();
        // One gets at least half of them, and never all. The last ones may need more than one try.
        let (mut sockets, mut refused) = (Vec::new(), 0);
        while refused < 8 {
            match flow(&clients[0], server, SILENCE / 3) {
                Ok(socket) => sockets.push(socket),
                Err(_) => refused += 1,
            }
            ensure!(sockets.len() < PORTS, "one has all ports");
        }
        ensure!(sockets.len() >= PORTS / 2, "one has got {} of {PORTS} ports", sockets.len());
        ensure!(site.drops("ports-exhausted")? == refused, "the drops are not counted");
        // The rest is there for another, at once.
        for number in 0..OTHERS {
            let socket = flow(&clients[1], server, PATIENCE);
            sockets.push(socket.with_context(|| format!("{number} of {OTHERS} flows of another"))?);
        }
        ensure!(total(site, &["--protocol", "udp"])? == sockets.len());

        // Another protocol and another destination have all ports to themselves, and what is there goes on.
        let other = Ipv4Addr::new(203, 0, 113, 20);
        site.world.server.ip([format!("address add {other}/24 dev eth0")])?;
        let namespace = site.world.server.clone();
        site.serve(&namespace, other)?;
        flow(&clients[0], SocketAddrV4::new(other, echo::PORT), PATIENCE)?;
        clients[1].namespace.run(|| echo::tcp(server, b"tcp", PATIENCE).map(drop))?;
        for socket in &sockets {
            echo::udp_on(socket, server, b"again", PATIENCE).context("a flow was lost")?;
        }
        // What goes makes room.
        let removed = site.host.json(["flows", "--json", "--endpoint", "b", "--protocol", "udp", "flush"])?;
        ensure!(removed["removed"] == OTHERS, "{removed}");
        flow(&clients[1], server, PATIENCE).map(drop)
    });
}

#[test]
fn closed_connections_are_collected_while_others_work() {
    const QUOTA: u32 = 64;
    const CONNECTIONS: u32 = 4 * QUOTA;
    let config = format!("[nat]\nmax-flows-per-endpoint = {QUOTA}\n");
    with_site("closed_connections_are_collected_while_others_work", &config, |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let server = site.world.server.clone();
        let target = SocketAddrV4::new(site.world.address, 4300);
        let pulses = [
            UdpPulse::start(&a.namespace, &server, target)?,
            UdpPulse::start(&b.namespace, &server, SocketAddrV4::new(site.world.address, 4301))?,
        ];
        let (echo, start) = (site.world.echo(), Instant::now());
        let (mut made, mut refused) = (0, 0);
        while made < CONNECTIONS {
            ensure!(start.elapsed() < Duration::from_secs(120), "{made} connections, {refused} refused");
            match a.namespace.run(|| Ok(TcpStream::connect_timeout(&echo.into(), PATIENCE).ok()))? {
                Some(stream) => {
                    echo::exchange(stream, b"connection", PATIENCE)?;
                    made += 1;
                }
                None => {
                    refused += 1;
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
        println!("{made} connections with room for {QUOTA}, {refused} refused, in {:.1?}", start.elapsed());
        for pulse in pulses {
            ensure!(pulse.finish().context("a flow that was in use is gone")? > 100);
        }
        Ok(())
    });
}

#[test]
fn an_address_that_is_used_again_has_no_flows() {
    with_site("an_address_that_is_used_again_has_no_flows", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let server = site.world.echo();
        let ours: Vec<_> = (0..5).map(|_| flow(&a, server, PATIENCE)).collect::<Result<_>>()?;
        let others: Vec<_> = (0..7).map(|_| flow(&b, server, PATIENCE)).collect::<Result<_>>()?;
        a.namespace.run(|| echo::tcp(server, b"tcp", PATIENCE).map(drop))?;
        ensure!((total(site, &["--endpoint", "a"])?, total(site, &["--endpoint", "b"])?) == (6, 7));

        // By what is asked for, and nothing else.
        let address = site.world.address.to_string();
        for (options, expected) in [
            (&["--endpoint", "a", "--protocol", "tcp"][..], 1),
            (&["--remote", "192.0.2.254"], 0),
            (&["--endpoint", "a", "--remote", &address, "--protocol", "icmp"], 0),
        ] {
            let words = ["flows", "--json"].iter().chain(options).copied().chain(["flush"]);
            let removed = site.host.json(words)?;
            ensure!(removed["removed"] == expected, "{options:?}: {removed}");
        }
        ensure!(total(site, &[])? == 12);

        drop(ours);
        site.services.clear();
        ensure!(site.host.netd(["detach", "a"])?.status.success());
        ensure!(
            total(site, &[])? == 7,
            "the flows of an endpoint that is gone are still there, or others went with them"
        );
        let c = site.container_with("c", &["--ip", &a.address.to_string()])?;
        ensure!(total(site, &["--endpoint", "c"])? == 0, "a new endpoint has inherited flows");
        flow(&c, server, PATIENCE)?;
        ensure!((total(site, &["--endpoint", "c"])?, total(site, &["--endpoint", "b"])?) == (1, 7));
        others.iter().try_for_each(|socket| echo::udp_on(socket, server, b"again", PATIENCE).map(drop))
    });
}
