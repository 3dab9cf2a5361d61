//! Next hops that the programs remember: what changes is forgotten, with a daemon at once, without one soon.

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, Map, MapData};
use netd::lab::{Container, echo};
use netd_tests::{
    Site,
    site::{PATIENCE, SILENCE, eventually},
    with_site,
};
use nix::sys::signal::Signal;

/// How long what is remembered holds without a daemon at most, with the slowest clock that a kernel may have.
const FORGOTTEN: Duration = Duration::from_millis(700);
/// How often the router's address changes.
const ROUNDS: u8 = 8;

/// The router's addresses on the host's network.
const ROUTER: &str = "198.18.1.1";
const ROUTER6: &str = "2001:db8:0:1::1";

/// A conversation of a container's with the world's server, by its router.
struct Talk {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Talk {
    /// In IPv4, and in IPv6 where the kernel has it.
    fn all(site: &Site, from: &Container) -> Result<Vec<Self>> {
        let v4 = ("0.0.0.0:0", Some(site.world.address.into()));
        let v6 = ("[::]:0", site.world.address6.map(IpAddr::from));
        let talk = |(any, server): (&str, Option<IpAddr>)| {
            let server = SocketAddr::new(server?, echo::PORT);
            let bind = || UdpSocket::bind(any).context("cannot bind");
            Some(from.namespace.run(bind).map(|socket| Self { socket, server }))
        };
        [v4, v6].into_iter().filter_map(talk).collect()
    }

    fn answered(&self, patience: Duration) -> bool {
        echo::udp_on(&self.socket, self.server, b"are you there?", patience).is_ok()
    }

    /// Talks until the next hop is remembered.
    fn remember(&self) -> Result<()> {
        for _ in 0..3 {
            ensure!(self.answered(PATIENCE), "no answer from {}", self.server);
        }
        Ok(())
    }

    /// The router's interface gets another MAC address, and the host knows: also for the other family, which is not asked here.
    fn change(&self, site: &Site, round: u8) -> Result<()> {
        let mac = format!("02:00:00:00:77:{round:02x}");
        site.world.router.ip([format!("link set host1 address {mac}")])?;
        let routers = [Some(ROUTER), site.world.address6.map(|_| ROUTER6)];
        let known = |router| format!("neighbour replace {router} lladdr {mac} dev eth0 nud permanent");
        site.host.namespace.ip(routers.into_iter().flatten().map(known))
    }
}

/// How often the daemon has told the programs that next hops have changed, in a map that only it and they have.
fn turns(site: &Site) -> Result<Array<MapData, u32>> {
    let pid = site.host.process().context("there is no daemon")?.pid();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // It may have closed the file meanwhile.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let id = text.lines().find_map(|line| line.strip_prefix("map_id:")?.trim().parse().ok());
        let Some(id) = id else { continue };
        let map = MapData::from_id(id).with_context(|| format!("map {id}"))?;
        if map.info()?.name_as_str() == Some("NEXT_HOPS_TURN") {
            return Map::Array(map).try_into().context("the map is no array of words");
        }
    }
    bail!("the daemon has no map NEXT_HOPS_TURN")
}

/// Once the daemon has heard of a change, not one packet goes the old way.
#[test]
fn a_change_is_heard_of() {
    with_site("a_change_is_heard_of", "", |site| {
        let a = site.container("a")?;
        let turns = turns(site)?;
        let turn = || turns.get(&0, 0).context("reading map NEXT_HOPS_TURN");
        for talk in Talk::all(site, &a)? {
            for round in 0..ROUNDS {
                talk.remember()?;
                let before = turn()?;
                talk.change(site, round)?;
                eventually("the daemon tells the programs", PATIENCE, || Ok(turn()? != before))?;
                // Far sooner than what was remembered would have been forgotten anyway.
                let answered = talk.answered(PATIENCE);
                ensure!(answered, "round {round}: a packet to {} went to the old MAC address", talk.server);
            }
        }
        Ok(())
    });
}

#[test]
fn without_a_daemon_it_is_forgotten_by_itself() {
    with_site("without_a_daemon_it_is_forgotten_by_itself", "", |site| {
        let a = site.container("a")?;
        site.host.stop(Signal::SIGKILL)?;
        for talk in Talk::all(site, &a)? {
            // That something is remembered at all shows in a packet that is lost: unless just then its time is over.
            let mut lost = false;
            for round in 0..30 {
                talk.remember()?;
                talk.change(site, round)?;
                lost |= !talk.answered(SILENCE);
                sleep(FORGOTTEN.saturating_sub(SILENCE));
                ensure!(
                    talk.answered(PATIENCE),
                    "round {round}: the old way to {} is not forgotten",
                    talk.server
                );
                if lost {
                    break;
                }
            }
            ensure!(lost, "nothing was remembered of {}", talk.server);
        }
        Ok(())
    });
}

#[test]
fn with_rules_of_the_hosts_own_nothing_is_remembered() {
    with_site("with_rules_of_the_hosts_own_nothing_is_remembered", "", |site| {
        let a = site.container("a")?;
        let talks = Talk::all(site, &a)?;
        for (change, said) in [
            ("rule add ipproto udp lookup main priority 1000", "next hops are not remembered"),
            ("rule del ipproto udp lookup main priority 1000", "next hops are remembered"),
        ] {
            talks.iter().try_for_each(Talk::remember)?;
            site.host.namespace.ip([change])?;
            eventually(said, PATIENCE, || Ok(site.host.log().contains(said)))?;
        }
        site.host.namespace.ip(["rule add ipproto udp lookup main priority 1000"])?;
        eventually("it is seen again", PATIENCE, || {
            Ok(site.host.log().matches("next hops are not remembered").count() == 2)
        })?;
        // As nothing is remembered, not one packet is lost, daemon or not.
        site.host.stop(Signal::SIGKILL)?;
        for talk in talks {
            for round in 0..4 {
                talk.remember()?;
                talk.change(site, round)?;
                ensure!(talk.answered(PATIENCE), "round {round}: a packet to {} was lost", talk.server);
            }
        }
        Ok(())
    });
}
