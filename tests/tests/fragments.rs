//! Packets that are larger than the MTU, cut up by those who send them, through the masquerade.

use std::{
    net::{SocketAddrV4, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use netd::lab::{Container, echo, icmp};
use netd_tests::{Site, site::PATIENCE, with_site};

/// A datagram nearly as long as there are.
const LONG: usize = 60_000;

/// Sizes around those where the number of fragments changes, at an MTU of 1500.
const SIZES: [usize; 9] = [1472, 1473, 1480, 1481, 2952, 2953, 4000, 30_001, LONG];

#[test]
fn long_datagrams_to_the_world_and_back() {
    with_site("long_datagrams_to_the_world_and_back", "", |site| {
        let a = site.container("a")?;
        for size in SIZES {
            let answer = a.namespace.run(|| echo::udp(site.world.echo(), &vec![9; size], PATIENCE))?;
            ensure!(answer.seen.ip() == site.host.address, "seen as {}", answer.seen);
        }
        for reason in ["fragment", "fragment-tiny", "too-big"] {
            ensure!(site.drops(reason)? == 0, "dropped: {reason}");
        }
        Ok(())
    });
}

#[test]
fn long_pings_to_the_world() {
    with_site("long_pings_to_the_world", "", |site| {
        let a = site.container("a")?;
        for size in SIZES {
            a.namespace.run(|| icmp::ping(site.world.address, size, PATIENCE).map(drop))?;
        }
        Ok(())
    });
}

/// Many datagrams of two containers at once, each told from the others by what is in it.
fn talk(client: &Container, server: SocketAddrV4, who: u8) -> Result<()> {
    // Three at once have to fit into the server's receive buffer.
    const SIZE: u32 = 15_000;
    let socket = client.namespace.run(|| UdpSocket::bind("0.0.0.0:0").context("cannot bind"))?;
    for round in 0..100u32 {
        let data: Vec<u8> =
            (0..SIZE).map(|at| (at.wrapping_mul(31) >> 3) as u8 ^ who ^ round as u8).collect();
        echo::udp_on(&socket, server, &data, PATIENCE).with_context(|| format!("datagram {round}"))?;
    }
    Ok(())
}

#[test]
fn containers_do_not_get_each_others_fragments() {
    with_site("containers_do_not_get_each_others_fragments", "", |site| {
        let clients = [site.container("a")?, site.container("b")?, site.container("c")?];
        let server = site.world.echo();
        thread::scope(|scope| {
            let threads: Vec<_> = (1u8..)
                .zip(&clients)
                .map(|(who, client)| scope.spawn(move || talk(client, server, who)))
                .collect();
            threads.into_iter().try_for_each(|one| one.join().expect("an exchange does not panic"))
        })
    });
}

#[test]
fn the_hosts_own_fragments_are_its_own() {
    with_site("the_hosts_own_fragments_are_its_own", "", |site| {
        let a = site.container("a")?;
        let host = site.host.namespace.clone();
        host.run(|| {
            for size in SIZES {
                echo::udp(site.world.echo(), &vec![9; size], PATIENCE)?;
                icmp::ping(site.world.address, size, PATIENCE)?;
                // To the container and back, which needs no translation.
                echo::udp(SocketAddrV4::new(a.address, echo::PORT), &vec![9; size], PATIENCE)?;
            }
            Ok(())
        })?;
        let dropped = site.drops("fragment")?;
        ensure!(dropped == 0, "{dropped} fragments were dropped");
        Ok(())
    });
}

#[test]
fn one_containers_fragments_at_nobody_elses_expense() {
    with_site("one_containers_fragments_at_nobody_elses_expense", "", |site: &mut Site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let server = site.world.echo();
        // As many datagrams as a container can send while another's long ones are under way.
        let flood = a.namespace.run(|| UdpSocket::bind("0.0.0.0:0").context("cannot bind"))?;
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // Nobody listens there.
                    let done = flood.send_to(&[7; 1500], (site.world.address, 9)).is_ok();
                    sent.fetch_add(u64::from(done), Ordering::Relaxed);
                }
            });
            let mut result = Ok(());
            while result.is_ok() && sent.load(Ordering::Relaxed) < 1000 {
                result = talk(&b, server, 9);
            }
            stop.store(true, Ordering::Relaxed);
            result
        })?;
        let status = site.host.json(["status", "--json"])?;
        let fill = status["maps"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|map| map["name"] == "fragments")
            .context("netd status has no map of fragments")?;
        let entries = fill["entries"].as_u64().context("no number of entries")?;
        ensure!((2..=3 * 64).contains(&entries), "{entries} entries");
        // Not a flow of the container's own is lost for it either.
        a.namespace.run(|| echo::udp(server, &vec![1; LONG], PATIENCE).map(drop))?;
        Ok(())
    });
}
