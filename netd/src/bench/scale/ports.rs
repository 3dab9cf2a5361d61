//! Published ports: a range of the host's, and as many of the server's own. The one that is measured is in the middle.

use std::{fmt::Write as _, net::Ipv4Addr};

use anyhow::{Context, Result};

use super::Subject;
use crate::{
    bench::scene::{BRIDGE, BridgeHost, Path, RULES},
    lab::{Host, Lab, Namespace, World},
};

/// The first port of the host, and the server's.
const OUTSIDE: u16 = 20_000;
const INSIDE: u16 = 10_000;

/// The port of so many that is measured: outside, and inside.
fn middle(count: u32) -> (u16, u16) {
    let offset = (count / 2) as u16;
    (OUTSIDE + offset, INSIDE + offset)
}

/// A container of a daemon; for each count there is another one, and the one before gives its ports back.
pub(super) struct Netd {
    host: Host,
    client: Namespace,
    path: Path,
    before: Option<String>,
}

impl Netd {
    pub(super) fn new(lab: &Lab, world: &World) -> Result<Self> {
        let host = Host::running(lab, world, "netd", "").context("cannot start the daemon")?;
        let client = world.router.clone();
        let path = Path::new(&client, &host.namespace, host.address);
        Ok(Self { host, client, path, before: None })
    }
}

impl Subject for Netd {
    fn grow(&mut self, count: u32) -> Result<()> {
        if let Some(before) = self.before.take() {
            self.host.json(["detach", &before])?;
        }
        let name = format!("server{count}");
        let last = count as u16 - 1;
        // IPv4, as the rules: the daemon holds each port with a socket, and one for each family would be more than many may open.
        let range = format!("0.0.0.0:{OUTSIDE}-{}:{INSIDE}-{}", OUTSIDE + last, INSIDE + last);
        let server = self.host.container(&name, &["-p", &range])?;
        self.before = Some(name);
        self.path = Path::new(&self.client, &server.namespace, self.host.address);
        self.path.published = Some(middle(count));
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// A container on a bridge, with the rules that Docker's port mapper sets for each port.
pub(super) struct Bridge {
    bridge: BridgeHost,
    path: Path,
    count: u32,
}

impl Bridge {
    pub(super) fn new(lab: &Lab, world: &World) -> Result<Self> {
        let host = lab.namespace("bridge")?;
        let uplink = world.plug(lab, &host)?;
        let bridge = BridgeHost::new("bridge", host, Ipv4Addr::new(172, 17, 0, 1), 16, RULES)?;
        let server = bridge.container(lab, "server", 2, None)?;
        let path = Path::new(&world.router, &server, uplink.address);
        Ok(Self { bridge, path, count: 0 })
    }
}

impl Subject for Bridge {
    fn grow(&mut self, count: u32) -> Result<()> {
        let server = self.bridge.address(2);
        let ports = (self.count as u16..count as u16).map(|number| (OUTSIDE + number, INSIDE + number));
        self.bridge.restore(&rules(server, ports))?;
        self.count = count;
        self.path.published = Some(middle(count));
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// Three for each port: see the lines of the port mapper in [`RULES`].
fn rules(server: Ipv4Addr, ports: impl Iterator<Item = (u16, u16)>) -> String {
    let (mut filter, mut nat) = ("*filter\n".to_owned(), "*nat\n".to_owned());
    for (outside, inside) in ports {
        let _ = writeln!(
            filter,
            "-A DOCKER -d {server}/32 ! -i {BRIDGE} -o {BRIDGE} -p tcp -m tcp --dport {inside} -j ACCEPT"
        );
        let _ = writeln!(
            nat,
            "-A POSTROUTING -s {server}/32 -d {server}/32 -p tcp -m tcp --dport {inside} -j MASQUERADE"
        );
        let _ = writeln!(
            nat,
            "-A DOCKER ! -i {BRIDGE} -p tcp -m tcp --dport {outside} -j DNAT --to-destination {server}:{inside}"
        );
    }
    format!("{filter}COMMIT\n{nat}COMMIT\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_has_the_rules_that_docker_sets_for_one() {
        let rules = rules(Ipv4Addr::new(172, 17, 0, 2), [(8080, 80)].into_iter());
        let lines: Vec<&str> = rules.lines().filter(|line| line.starts_with("-A")).collect();
        assert_eq!(lines.len(), 3);
        for line in lines {
            assert!(RULES.lines().any(|one| one == line), "{line}");
        }
    }

    #[test]
    fn the_middle_is_one_of_them() {
        for count in [10, 10_000] {
            let (outside, inside) = middle(count);
            assert!(u32::from(outside - OUTSIDE) < count && outside - OUTSIDE == inside - INSIDE);
        }
    }
}
