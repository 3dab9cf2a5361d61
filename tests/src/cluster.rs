//! Several hosts that know each other, and a world between and around them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use netd::{
    cluster::Peer,
    lab::{Container, Etcd, Host, Lab, Service, Switch, World, cluster, echo, http},
};

use crate::site::skipped;

/// Two hosts, and what they are made of. Dropped in this order.
#[derive(Debug)]
pub struct Cluster {
    /// Servers of the test, ended with it.
    pub services: Vec<Service>,
    /// The hosts.
    pub nodes: Vec<Host>,
    /// What they are plugged into, if it is a switch.
    pub switch: Option<Switch>,
    /// The router and the server.
    pub world: World,
    /// What owns all of it.
    pub lab: Lab,
}

/// Runs a test with two hosts: with the transport `direct` they are on one switch, with `vxlan` in networks of their own
/// behind a router. Where that cannot be, prints `SKIP` and why. When the test
/// fails, prints the daemons' logs.
///
/// # Panics
/// The test fails.
pub fn with_cluster(test: &str, transport: &str, body: impl FnOnce(&mut Cluster) -> Result<()>) {
    with_stopped_cluster(test, transport, |cluster| {
        cluster.configure(transport, &[])?;
        cluster.start()?;
        body(cluster)
    });
}

/// The same, with nothing configured or started.
///
/// # Panics
/// The test fails.
pub fn with_stopped_cluster(test: &str, transport: &str, body: impl FnOnce(&mut Cluster) -> Result<()>) {
    if skipped(test) {
        return;
    }
    let mut cluster = Cluster::new(transport == "direct").expect("the test's network");
    if let Err(error) = body(&mut cluster) {
        for node in &cluster.nodes {
            eprintln!("{test}: the log of {}:\n{}", node.name(), node.log());
            for counter in node.counters("drops").unwrap_or_default().iter().filter(|one| one.packets > 0) {
                eprintln!("dropped: {} {}", counter.packets, counter.name);
            }
        }
        panic!("{test}: {error:#}");
    }
}

/// The same with an etcd of so many members, that all nodes find each other by; nothing is started but that. Skipped
/// where there is no etcd.
///
/// # Panics
/// The test fails.
pub fn with_etcd(
    test: &str,
    transport: &str,
    members: u16,
    body: impl FnOnce(&mut Cluster, &mut Etcd) -> Result<()>,
) {
    if !Etcd::is_installed() {
        eprintln!("SKIP {test}: etcd is not installed (package etcd-server)");
        return;
    }
    with_stopped_cluster(test, transport, |cluster| {
        let World { server, address, .. } = &cluster.world;
        let mut etcd = Etcd::start(&cluster.lab, server, *address, members)?;
        for node in &cluster.nodes {
            node.configure(&cluster::etcd_configuration(node.name(), &etcd.endpoints(), transport))?;
        }
        body(cluster, &mut etcd)
    });
}

impl Cluster {
    fn new(switched: bool) -> Result<Self> {
        let lab = Lab::new("test")?;
        let world = World::new(&lab)?;
        let switch = switched.then(|| world.switch(&lab)).transpose()?;
        let host = |name| match &switch {
            Some(switch) => Host::on_switch(&lab, switch, name, ""),
            None => Host::new(&lab, &world, name, ""),
        };
        let nodes = vec![host("one")?, host("two")?];
        Ok(Self { services: Vec::new(), nodes, switch, world, lab })
    }

    /// Writes the configurations; `foreign` are more nodes that each knows.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn configure(&self, transport: &str, foreign: &[Peer]) -> Result<()> {
        let numbered = (1..).zip(&self.nodes);
        let mut all: Vec<Peer> =
            numbered.map(|(number, host)| cluster::node(host, cluster::slices(number))).collect();
        all.extend_from_slice(foreign);
        for (host, own) in self.nodes.iter().zip(&all) {
            host.configure(&cluster::configuration(own, &all, transport))?;
        }
        Ok(())
    }

    /// Starts the daemons.
    ///
    /// # Errors
    /// One does not start.
    pub fn start(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(Host::start)
    }

    /// Attaches a container to the node of that index, in a network; it serves echo and HTTP.
    ///
    /// # Errors
    /// The daemon refuses.
    pub fn container(&mut self, node: usize, name: &str, network: &str) -> Result<Container> {
        self.container_with(node, name, &["--network", network])
    }

    /// The same with options of `netd attach`.
    ///
    /// # Errors
    /// The daemon refuses.
    pub fn container_with(&mut self, node: usize, name: &str, options: &[&str]) -> Result<Container> {
        let container = self.nodes[node].container(name, options)?;
        self.serve(&container)?;
        Ok(container)
    }

    /// Serves echo and HTTP in a container.
    ///
    /// # Errors
    /// Its addresses are not there.
    pub fn serve(&mut self, container: &Container) -> Result<()> {
        let addresses = [Some(IpAddr::from(container.address)), container.address6.map(IpAddr::from)];
        for address in addresses.into_iter().flatten() {
            let at = |port| SocketAddr::new(address, port);
            self.services.extend(echo::serve(&container.namespace, at(echo::PORT))?);
            self.services.push(http::serve(&container.namespace, at(http::PORT))?);
        }
        Ok(())
    }

    /// One container on each node, in the default network.
    ///
    /// # Errors
    /// A daemon refuses.
    pub fn pair(&mut self) -> Result<(Container, Container)> {
        Ok((self.container(0, "a", "default")?, self.container(1, "b", "default")?))
    }

    /// The packets in a counter of `netd status` on a node.
    ///
    /// # Errors
    /// The daemon does not answer, or has no such counter.
    pub fn counter(&self, node: usize, list: &str, name: &str) -> Result<u64> {
        let counters = self.nodes[node].counters(list)?;
        let found = counters.iter().find(|counter| counter.name == name);
        found
            .map(|counter| counter.packets)
            .with_context(|| format!("netd status has no {list} named {name}"))
    }

    /// Packets and bytes that a node has sent to (`tx`) or received from (`rx`) the other, as `netd nodes` says.
    ///
    /// # Errors
    /// The daemon does not answer, or knows no other node.
    pub fn traffic(&self, node: usize, direction: &str) -> Result<(u64, u64)> {
        let nodes = self.nodes[node].json(["nodes", "--json"])?;
        let other = &nodes["nodes"][0];
        let read = |what: &str| {
            let key = format!("{direction}_{what}");
            other[&key].as_u64().with_context(|| format!("no {key} in {nodes}"))
        };
        Ok((read("packets")?, read("bytes")?))
    }

    /// Checks that no packet was dropped on any node for a reason that has to do with other nodes.
    ///
    /// # Errors
    /// One was.
    pub fn nothing_dropped(&self) -> Result<()> {
        for node in 0..self.nodes.len() {
            for reason in
                ["overlay-node", "overlay-network", "too-big", "rewrite", "no-endpoint", "malformed"]
            {
                let dropped = self.counter(node, "drops", reason)?;
                ensure!(dropped == 0, "node {node} dropped {dropped} packets: {reason}");
            }
        }
        Ok(())
    }
}

/// The MAC that netd gives to an address.
#[must_use]
pub fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x6e, a, b, c, d]
}
