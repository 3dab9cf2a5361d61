//! Translated connections: those of one container to many servers that do not answer.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use anyhow::{Context, Result, ensure};

use super::Subject;
use crate::{
    bench::scene::{BridgeHost, Path, RULES},
    lab::{Host, Lab, Namespace, World},
};

/// Where the silent servers are: the router drops what is for them without an answer (RFC 5737).
const SILENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 0);
/// The first of their ports, and how many there are.
const FIRST_PORT: u16 = 1_024;
const PORTS: u32 = 1_000;
/// Flows that netd has room for, and its quota for the container.
const CONFIGURATION: &str = "[nat]\nmax-flows = 524288\nmax-flows-per-endpoint = 400000\n";

/// A container behind a masquerade.
pub(super) struct Masqueraded {
    path: Path,
    socket: UdpSocket,
    count: u32,
    /// How many flows the masquerade knows.
    known: Box<dyn Fn() -> Result<u64>>,
}

pub(super) fn netd(lab: &Lab, world: &World) -> Result<Masqueraded> {
    let host = Host::running(lab, world, "netd", CONFIGURATION).context("cannot start the daemon")?;
    let client = host.container("client", &[])?.namespace;
    let [a, b, c, _] = host.address.octets();
    let known = move || {
        let flows = host.json(["flows", "--limit", "1", "--json"])?;
        flows["total"].as_u64().with_context(|| format!("no total in {flows}"))
    };
    Masqueraded::new(world, &client, Ipv4Addr::new(a, b, c, 1), Box::new(known))
}

pub(super) fn bridge(lab: &Lab, world: &World) -> Result<Masqueraded> {
    let namespace = lab.namespace("bridge")?;
    let uplink = world.plug(lab, &namespace)?;
    let host = BridgeHost::new("bridge", namespace.clone(), Ipv4Addr::new(172, 17, 0, 1), 16, RULES)?;
    let client = host.container(lab, "client", 3, None)?;
    let known = move || {
        let count = namespace.sysctl("net.netfilter.nf_conntrack_count")?;
        count.parse().with_context(|| format!("conntrack counts {count:?}"))
    };
    Masqueraded::new(world, &client, uplink.router, Box::new(known))
}

impl Masqueraded {
    fn new(
        world: &World,
        client: &Namespace,
        router: Ipv4Addr,
        known: Box<dyn Fn() -> Result<u64>>,
    ) -> Result<Self> {
        world.router.ip([format!("route replace blackhole {SILENT}/24")])?;
        let socket = client.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot bind"))?;
        Ok(Self { path: Path::new(client, &world.router, router), socket, count: 0, known })
    }

    /// A datagram to each server: a flow each, new or kept.
    fn send(&self) -> Result<()> {
        (0..self.count).try_for_each(|number| {
            self.socket.send_to(&[0], server(number)).context("cannot send to a silent server")?;
            Ok(())
        })
    }
}

fn server(number: u32) -> SocketAddrV4 {
    let (host, port) = (number / PORTS, number % PORTS);
    SocketAddrV4::new(Ipv4Addr::from_bits(SILENT.to_bits() + host), FIRST_PORT + port as u16)
}

impl Subject for Masqueraded {
    fn grow(&mut self, count: u32) -> Result<()> {
        self.count = count;
        self.send()?;
        let known = (self.known)()?;
        ensure!(known >= u64::from(count), "only {known} flows are known");
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn refresh(&mut self) -> Result<()> {
        self.send()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flow_has_a_server_of_its_own_in_the_silent_network() {
        assert_eq!(server(0), SocketAddrV4::new(SILENT, 1024));
        assert_eq!(server(999), SocketAddrV4::new(SILENT, 2023));
        assert_eq!(server(249_999), SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 249), 2023));
    }
}
