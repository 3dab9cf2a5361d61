//! Containers on one host.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};

use super::Subject;
use crate::{
    bench::scene::{BRIDGE, BridgeHost, Path, RULES},
    bpf::add_crowd,
    lab::{Host, Lab, World},
};

/// More are only entries in netd's maps: attaching ten thousand would take minutes, and a packet's cost is that of look-ups.
const REAL: u32 = 1_000;
/// How long a new link sends by itself (address detection, multicast reports, router solicitations): a thousand of them keep
/// a CPU busy for that long.
const SETTLE: Duration = Duration::from_secs(15);
/// Ports that a Linux bridge has room for (`BR_MAX_PORTS`, less one).
const BRIDGE_PORTS: u32 = 1_023;

/// Waits until what so many new links send by themselves is over.
fn settle(links: u32) {
    std::thread::sleep(SETTLE * links.min(REAL) / REAL);
}

/// Containers of a daemon.
pub(super) struct Netd<'a> {
    lab: &'a Lab,
    host: Host,
    path: Path,
    client: Ipv4Addr,
    count: u32,
}

impl<'a> Netd<'a> {
    pub(super) fn new(lab: &'a Lab, world: &World) -> Result<Self> {
        let host = Host::running(lab, world, "netd", "").context("cannot start the daemon")?;
        let (client, server) = (host.container("client", &[])?, host.container("server", &[])?);
        let path = Path::new(&client.namespace, &server.namespace, server.address);
        Ok(Self { lab, host, path, client: client.address, count: 2 })
    }
}

impl Subject for Netd<'_> {
    fn grow(&mut self, count: u32) -> Result<()> {
        let before = self.count;
        while self.count < count.min(REAL) {
            let name = format!("more{}", self.count);
            let namespace = self.lab.namespace(&format!("netd-{name}"))?;
            self.host.attach(&name, &namespace, &[])?;
            self.count += 1;
        }
        settle(self.count - before);
        if self.count < count {
            // Addresses of the network that the daemon has given to nobody.
            let first = Ipv4Addr::new(10, 88, 128, 0).to_bits();
            let addresses = (self.count..count).map(|number| Ipv4Addr::from_bits(first + number));
            add_crowd(self.host.bpffs(), self.client, addresses)?;
            self.count = count;
        }
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// Containers on a bridge. The others' ends are in one namespace: the bridge sees ports and addresses.
pub(super) struct Bridge<'a> {
    lab: &'a Lab,
    host: crate::lab::Namespace,
    _bridge: BridgeHost,
    path: Path,
    count: u32,
}

impl<'a> Bridge<'a> {
    pub(super) fn new(lab: &'a Lab, world: &World) -> Result<Self> {
        let host = lab.namespace("bridge")?;
        world.plug(lab, &host)?;
        let bridge = BridgeHost::new("bridge", host.clone(), Ipv4Addr::new(172, 17, 0, 1), 16, RULES)?;
        let server = bridge.container(lab, "server", 2, None)?;
        let client = bridge.container(lab, "client", 3, None)?;
        let path = Path::new(&client, &server, bridge.address(2));
        Ok(Self { lab, host, _bridge: bridge, path, count: 2 })
    }
}

impl Subject for Bridge<'_> {
    fn grow(&mut self, count: u32) -> Result<()> {
        ensure!(count <= BRIDGE_PORTS, "a Linux bridge has room for {BRIDGE_PORTS} ports");
        // A namespace for each step: one with very many links takes long to list.
        let crowd = self.lab.namespace(&format!("bridge-crowd-{count}"))?;
        // As dockerd does in containers of a network without IPv6: else the bridge floods what they send by themselves. Fails
        // where there is no IPv6.
        let _ = crowd.set_sysctl("net.ipv6.conf.default.disable_ipv6", "1");
        let lines = (self.count..count).flat_map(|number| {
            let peer = crowd.name();
            [
                format!("link add more{number} type veth peer name more{number} netns {peer}"),
                format!("link set more{number} master {BRIDGE} up"),
            ]
        });
        self.host.ip(lines)?;
        let (first, peers) = (Ipv4Addr::new(172, 17, 4, 0).to_bits(), self.count..count);
        crowd.ip(peers.map(|number| format!("link set more{number} up")))?;
        // What a container says of itself when it comes up: the bridge learns its address.
        let learned = (self.count..count).map(|number| {
            let [.., a, b, c, d] = (first + number).to_be_bytes();
            format!("fdb replace 02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x} dev more{number} master static")
        });
        let batch: String = learned.map(|line| line + "\n").collect();
        let file = self.lab.directory().join(format!("fdb-{count}"));
        std::fs::write(&file, batch).with_context(|| format!("cannot write {}", file.display()))?;
        self.host.output("bridge", ["-batch".as_ref(), file.as_os_str()])?;
        settle(count - self.count);
        self.count = count;
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
