//! Connections of unusual shapes.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddrV4, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use netd::lab::{Container, Service, echo};
use netd_tests::{Site, site::PATIENCE, with_site};

/// Longer than a few rounds of the daemon's clean-up.
const IDLE: Duration = Duration::from_secs(12);
const ANSWER: usize = 1_000_000;

/// The ways that a connection of a container can take: whom it connects to, and what that is called.
fn ways(
    site: &mut Site,
    port: u16,
    handle: fn(TcpStream),
) -> Result<(Container, Vec<(&'static str, SocketAddrV4)>)> {
    let (a, b) = (site.container("a")?, site.container("b")?);
    let (host, server) = (site.host.namespace.clone(), site.world.server.clone());
    let mut ways = Vec::new();
    for (what, namespace, address) in [
        ("a neighbour", &b.namespace, b.address),
        ("the host", &host, a.gateway),
        ("the world", &server, site.world.address),
    ] {
        let address = SocketAddrV4::new(address, port);
        site.services.push(Service::tcp(namespace, address.into(), handle)?);
        ways.push((what, address));
    }
    Ok((a, ways))
}

fn connect(client: &Container, to: SocketAddrV4) -> Result<TcpStream> {
    let stream = client.namespace.run(|| Ok(TcpStream::connect_timeout(&to.into(), PATIENCE)?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

#[test]
fn half_closed_connections_go_on() {
    with_site("half_closed_connections_go_on", "", |site| {
        // Answers only after the client has closed its side, and after a pause.
        let (client, ways) = ways(site, 4001, |mut stream| {
            let mut all = Vec::new();
            let read = stream.read_to_end(&mut all);
            thread::sleep(Duration::from_millis(300));
            if read.is_ok() && all == b"question" {
                let _ = stream.write_all(&vec![5; ANSWER]);
            }
        })?;
        for (what, address) in ways {
            let mut stream = connect(&client, address)?;
            stream.write_all(b"question")?;
            stream.shutdown(Shutdown::Write)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).with_context(|| format!("half-closed, to {what}"))?;
            ensure!(answer == vec![5; ANSWER], "{} bytes of {ANSWER} came from {what}", answer.len());
        }
        Ok(())
    });
}

#[test]
fn idle_connections_stay() {
    with_site("idle_connections_stay", "", |site| {
        let (client, ways) = ways(site, 4002, |mut stream| {
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        })?;
        let mut open = ways
            .iter()
            .map(|(what, address)| Ok((*what, connect(&client, *address)?)))
            .collect::<Result<Vec<_>>>()?;
        for round in 0..2u8 {
            for (what, stream) in &mut open {
                let mut got = [0];
                stream.write_all(&[round])?;
                stream.read_exact(&mut got).with_context(|| format!("round {round}, to {what}"))?;
                ensure!(got == [round], "{what} answered {got:?}");
            }
            if round == 0 {
                thread::sleep(IDLE);
            }
        }
        Ok(())
    });
}

/// Connections one after the other, from several threads at once.
fn connect_often(client: &Container, to: SocketAddrV4, times: usize, patience: Duration) -> Result<()> {
    const THREADS: usize = 8;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(move || {
                    client.namespace.run(|| {
                        (0..times / THREADS).try_for_each(|_| echo::tcp(to, b"short", patience).map(drop))
                    })
                })
            })
            .collect();
        threads.into_iter().try_for_each(|one| one.join().expect("an exchange does not panic"))
    })
}

#[test]
fn thousands_of_short_connections() {
    with_site("thousands_of_short_connections", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        for (what, to) in
            [("the world", site.world.echo()), ("a neighbour", SocketAddrV4::new(b.address, echo::PORT))]
        {
            connect_often(&a, to, 2000, PATIENCE).with_context(|| format!("to {what}"))?;
        }
        for reason in ["flow-quota", "flow-table-full", "ports-exhausted"] {
            ensure!(site.drops(reason)? == 0, "connections were dropped: {reason}");
        }
        Ok(())
    });
}

#[test]
fn more_connections_than_ports() {
    // Ports of closed connections are used again; whoever finds none waits for a second or two, and then gets one.
    with_site("more_connections_than_ports", "[nat]\nports = \"50000-50255\"\n", |site| {
        let a = site.container("a")?;
        connect_often(&a, site.world.echo(), 800, Duration::from_secs(20))
    });
}
