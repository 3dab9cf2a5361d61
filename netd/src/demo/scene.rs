//! A configuration as it stands: hosts, their containers, and the services that they run.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result, ensure};

use super::{
    probe::{Expect, Pair},
    progress::Progress,
    report::{Check, Configuration, HostFacts, What},
};
use crate::{
    bpf::{Counter, ProgramStatus},
    cluster::Peer,
    lab::{Container, Etcd, Host, Lab, Namespace, Service, Switch, World, cluster, echo, http},
    request::NodeList,
};

/// Bytes of a download from the internet, and of one from a neighbour.
const INTERNET_BYTES: u64 = 8 << 20;
const LOCAL_BYTES: u64 = 2 << 20;

const HOST: &str = "host";
const GATEWAY: &str = "gateway";
const UPLINK: &str = "uplink";
const INTERNET: &str = "internet";

/// One of the four configurations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) number: u8,
    pub(super) name: &'static str,
    pub(super) wiring: Wiring,
    pub(super) note: Option<&'static str>,
    /// Hosts, and their containers with their networks.
    pub(super) hosts: &'static [(&'static str, &'static [(&'static str, &'static str)])],
    /// Ways that packets between the hosts must take, and those that they must not.
    pub(super) carried: Option<(&'static [&'static str], &'static [&'static str])>,
}

/// How the hosts are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wiring {
    /// One host, which knows of no other.
    Alone,
    /// By a switch.
    Switch,
    /// By a router.
    Routed,
}

/// A configuration that runs.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) members: Vec<Member>,
    _services: Vec<Service>,
    etcd: Option<Etcd>,
    _switch: Option<Switch>,
}

/// A host with its containers.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) host: Host,
    pub(super) containers: Vec<Container>,
}

/// Why a configuration could not be built, with what the daemons said.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) log: String,
}

impl Scene {
    /// Starts the hosts' daemons, attaches the containers and starts their services.
    pub(super) fn start(plan: &Plan, lab: &Lab, world: &World, progress: &Progress) -> Result<Self, Failure> {
        let number = plan.number;
        let silent = |error| Failure { error, log: String::new() };
        progress.step(format!("configuration {number}: building the hosts"));
        let (switch, etcd, mut hosts) =
            build(plan, lab, world).context("cannot build the hosts").map_err(silent)?;
        let built = (|| {
            progress.step(format!("configuration {number}: starting the daemons"));
            start(&mut hosts)?;
            hosts.iter().try_for_each(|host| acquainted(host, hosts.len() - 1))?;
            let mut containers = Vec::new();
            for (host, (_, members)) in hosts.iter().zip(plan.hosts) {
                let attach = |(name, network): &(&str, &str)| {
                    progress.step(format!("configuration {number}: attaching {name}"));
                    host.container(name, &["--network", network])
                        .with_context(|| format!("cannot attach {name}"))
                };
                containers.push(members.iter().map(attach).collect::<Result<Vec<_>>>()?);
            }
            Ok(containers)
        })();
        let logs = |hosts: &[Host]| hosts.iter().map(Host::log).collect::<Vec<_>>().join("\n");
        let containers = built.map_err(|error| Failure { error, log: logs(&hosts) })?;
        let members: Vec<Member> =
            hosts.into_iter().zip(containers).map(|(host, containers)| Member { host, containers }).collect();
        let services = members.iter().map(services).collect::<Result<Vec<_>>>().map_err(silent)?;
        Ok(Self { members, _services: services.into_iter().flatten().collect(), etcd, _switch: switch })
    }

    /// How the hosts know each other, if there are several.
    pub(super) fn store(&self) -> Option<&'static str> {
        match self.etcd {
            _ if self.members.len() == 1 => None,
            Some(_) => {
                Some("the hosts find each other by an etcd on the internet side, which the demo has started")
            }
            None => Some(
                "the hosts know each other by [[cluster.peers]] in their configurations (embedded store)",
            ),
        }
    }

    /// What the daemons have said.
    pub(super) fn log(&self) -> String {
        self.members.iter().map(|member| member.host.log()).collect::<Vec<_>>().join("\n")
    }

    fn containers(&self) -> impl Iterator<Item = &Container> {
        self.members.iter().flat_map(|member| &member.containers)
    }

    /// The other containers of a container's network.
    pub(super) fn neighbours<'a>(&'a self, of: &'a Container) -> impl Iterator<Item = &'a Container> {
        self.containers().filter(move |other| other.network == of.network && other.name != of.name)
    }

    /// Drives the traffic and writes down what came of it.
    pub(super) fn prove(
        &mut self,
        plan: &Plan,
        world: &World,
        progress: &Progress,
        result: &mut Configuration,
    ) -> Result<()> {
        let number = plan.number;
        result.hosts = self.members.len();
        let pairs = self.pairs(world);
        for pair in &pairs {
            for (names, name) in [(&mut result.rows, &pair.from), (&mut result.columns, &pair.to)] {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
        // As the reader thinks of them, not as they came up.
        let order = |name: &String| match name.as_str() {
            GATEWAY => 0,
            UPLINK => 1,
            INTERNET => usize::MAX,
            name => 2 + self.containers().position(|one| one.name == name).unwrap_or(0),
        };
        result.columns.sort_by_key(order);
        result.places = self.places(world);

        let (blocked, open): (Vec<&Pair>, Vec<&Pair>) =
            pairs.iter().partition(|pair| pair.expect == Expect::Blocked);
        for pair in open {
            progress.step(format!("configuration {number}: {} → {}", pair.from, pair.to));
            result.checks.extend(pair.probe());
        }
        if !blocked.is_empty() {
            progress.step(format!("configuration {number}: what must not be reached"));
            self.prove_blocked(&blocked, result)?;
        }

        progress.step(format!("configuration {number}: reading the counters"));
        result.forwarded = moved(self.counters("forwarded")?);
        result.drops = moved(self.counters("drops")?);
        result.programs = self.programs()?;
        if let Some((must, must_not)) = plan.carried {
            result.checks.push(carried(&result.forwarded, must, must_not));
        }
        for member in &self.members {
            let facts = HostFacts::of(&member.host.namespace)?;
            let name = if self.members.len() > 1 { member.host.name() } else { HOST };
            for (fact, count) in facts.checks() {
                let detail = format!("{} ({})", count.number, count.how);
                result.checks.push(of_host(name, What::Fact(fact), count.number == 0, detail));
            }
            match &mut result.facts {
                Some(sum) => sum.add(&facts),
                None => result.facts = Some(facts),
            }
        }
        Ok(())
    }

    /// The counters of all hosts together.
    fn counters(&self, list: &str) -> Result<Vec<Counter>> {
        let mut sum: Vec<Counter> = Vec::new();
        for member in &self.members {
            for counter in member.host.counters(list)? {
                match sum.iter_mut().find(|one| one.number == counter.number) {
                    Some(one) => {
                        one.packets += counter.packets;
                        one.bytes += counter.bytes;
                    }
                    None => sum.push(counter),
                }
            }
        }
        Ok(sum)
    }

    /// All at once, because each waits for an answer that does not come. That nothing came is not enough: the drops must be
    /// counted, or something else kept it from coming.
    fn prove_blocked(&self, pairs: &[&Pair], result: &mut Configuration) -> Result<()> {
        let before = self.counters("drops")?;
        let checks: Vec<Check> = std::thread::scope(|scope| {
            let threads: Vec<_> = pairs.iter().map(|pair| scope.spawn(|| pair.probe())).collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let after = self.counters("drops")?;
        let tries = checks.len() as u64;
        result.checks.extend(checks);
        // Whatever else is dropped, such as IPv6 that nobody asked for, has another reason.
        let (most, name) = after
            .iter()
            .map(|counter| {
                let was = before.iter().find(|other| other.number == counter.number);
                (counter.packets - was.map_or(0, |was| was.packets), counter.name.as_str())
            })
            .max()
            .unwrap_or((0, "no reason"));
        let detail = format!("{tries} tries, {most} packets dropped: {name}");
        result.checks.push(of_host(HOST, What::Dropped, most >= tries, detail));
        Ok(())
    }

    /// The daemons' programs, with their hooks and how many interfaces of all hosts run them.
    fn programs(&self) -> Result<Vec<String>> {
        let mut sum: Vec<ProgramStatus> = Vec::new();
        for member in &self.members {
            let mut status = member.host.json(["status", "--json"])?;
            let programs: Vec<ProgramStatus> = serde_json::from_value(status["programs"].take())
                .context("netd status --json: no list of programs")?;
            for program in programs {
                match sum.iter_mut().find(|one| one.name == program.name) {
                    Some(one) => one.attached += program.attached,
                    None => sum.push(program),
                }
            }
        }
        let attached = sum.iter().filter(|program| program.attached > 0);
        Ok(attached.map(|one| format!("{} ({} × {})", one.name, one.attached, one.hook)).collect())
    }

    /// Everybody to everybody.
    fn pairs(&self, world: &World) -> Vec<Pair> {
        let pair = |from: (&str, &Namespace), to: (&str, Ipv4Addr), ipv6, expect, bytes| Pair {
            from: from.0.to_owned(),
            to: to.0.to_owned(),
            namespace: from.1.clone(),
            address: to.1,
            ipv6,
            expect,
            bytes,
        };
        // The address, and what the server sees.
        let ipv6 = |to: Option<Ipv6Addr>, seen: Option<Ipv6Addr>| to.zip(seen);
        let mut pairs = Vec::new();
        for Member { host, containers } in &self.members {
            // What a host does by itself is shown where there is only one.
            let alone = self.members.len() == 1;
            if alone {
                let own = (HOST, &host.namespace);
                for to in containers {
                    let expect = Expect::Reach { seen: to.gateway, masquerade: false };
                    let v6 = ipv6(to.address6, to.gateway6);
                    pairs.push(pair(own, (&to.name, to.address), v6, expect, LOCAL_BYTES));
                }
                let expect = Expect::Reach { seen: host.address, masquerade: false };
                let v6 = ipv6(world.address6, host.address6);
                pairs.push(pair(own, (INTERNET, world.address), v6, expect, INTERNET_BYTES));
            }
            for from in containers {
                let client = (from.name.as_str(), &from.namespace);
                let own = Expect::Reach { seen: from.address, masquerade: false };
                if alone {
                    for (to, address, address6) in
                        [(GATEWAY, from.gateway, from.gateway6), (UPLINK, host.address, host.address6)]
                    {
                        let v6 = ipv6(address6, from.address6);
                        pairs.push(pair(client, (to, address), v6, own, LOCAL_BYTES));
                    }
                }
                for to in self.containers().filter(|to| to.name != from.name) {
                    let expect = if from.network == to.network { own } else { Expect::Blocked };
                    let v6 = ipv6(to.address6, from.address6);
                    pairs.push(pair(client, (&to.name, to.address), v6, expect, LOCAL_BYTES));
                }
                let expect = Expect::Reach { seen: host.address, masquerade: true };
                let v6 = ipv6(world.address6, host.address6);
                pairs.push(pair(client, (INTERNET, world.address), v6, expect, INTERNET_BYTES));
            }
        }
        pairs
    }

    fn places(&self, world: &World) -> Vec<(String, String)> {
        let mut places: Vec<(String, String)> = Vec::new();
        for Member { host, containers } in &self.members {
            if self.members.len() == 1 {
                for (network, gateway, gateway6) in networks(containers) {
                    places.push((format!("{GATEWAY} of {network}"), both(gateway, gateway6)));
                }
                places.push((UPLINK.to_owned(), both(host.address, host.address6)));
                let address = |one: &Container| (one.name.clone(), both(one.address, one.address6));
                places.extend(containers.iter().map(address));
            } else {
                let inside =
                    containers.iter().map(|one| format!("{} {}", one.name, both(one.address, one.address6)));
                let inside: Vec<String> = inside.collect();
                let address = both(host.address, host.address6);
                places.push((host.name().to_owned(), format!("{address} ({})", inside.join(", "))));
            }
        }
        places.push((INTERNET.to_owned(), both(world.address, world.address6)));
        places
    }
}

/// Makes the hosts, with their uplinks and configurations, and what connects them.
fn build(plan: &Plan, lab: &Lab, world: &World) -> Result<(Option<Switch>, Option<Etcd>, Vec<Host>)> {
    let switch = (plan.wiring == Wiring::Switch).then(|| world.switch(lab)).transpose()?;
    let hosts = plan.hosts.iter().map(|(name, _)| match &switch {
        Some(switch) => Host::on_switch(lab, switch, name, cluster::NETWORKS),
        None => Host::new(lab, world, name, cluster::NETWORKS),
    });
    let hosts = hosts.collect::<Result<Vec<_>>>()?;
    let transport = match plan.wiring {
        Wiring::Alone => return Ok((switch, None, hosts)),
        Wiring::Switch => "direct",
        Wiring::Routed => "vxlan",
    };
    if plan.wiring == Wiring::Routed && Etcd::is_installed() {
        let etcd = Etcd::start(lab, &world.server, world.address, 1)?;
        for host in &hosts {
            host.configure(&cluster::etcd_configuration(host.name(), &etcd.endpoints(), transport))?;
        }
        return Ok((switch, Some(etcd), hosts));
    }
    let nodes: Vec<Peer> =
        (1..).zip(&hosts).map(|(number, host)| cluster::node(host, cluster::slices(number))).collect();
    for (host, node) in hosts.iter().zip(&nodes) {
        host.configure(&cluster::configuration(node, &nodes, transport))?;
    }
    Ok((switch, None, hosts))
}

/// Starts the daemons, all at once.
fn start(hosts: &mut [Host]) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = hosts.iter_mut().map(|host| scope.spawn(|| host.start())).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
    .context("cannot start the daemons")
}

/// Waits until a host knows the others.
fn acquainted(host: &Host, others: usize) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(120);
    let end = Instant::now() + PATIENCE;
    loop {
        let nodes: NodeList = serde_json::from_value(host.json(["nodes", "--json"])?)?;
        if nodes.nodes.iter().filter(|node| node.address.is_some()).count() >= others {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{} does not find the other hosts within {PATIENCE:?}", host.name());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether packets between the hosts took the ways that they must, and no other.
fn carried(forwarded: &[Counter], must: &[&str], must_not: &[&str]) -> Check {
    let packets = |way: &str| forwarded.iter().find(|one| one.name == way).map_or(0, |one| one.packets);
    let passed = must.iter().all(|way| packets(way) > 0) && must_not.iter().all(|way| packets(way) == 0);
    let ways: Vec<String> =
        must.iter().chain(must_not).map(|way| format!("{way} {} packets", packets(way))).collect();
    of_host(HOST, What::Carried, passed, ways.join(", "))
}

fn of_host(host: &str, what: What, passed: bool, detail: String) -> Check {
    Check { from: host.to_owned(), to: host.to_owned(), what, passed, detail, time: None }
}

/// Addresses of both families as the reader sees them.
fn both(address: Ipv4Addr, address6: Option<Ipv6Addr>) -> String {
    address6.map_or_else(|| address.to_string(), |address6| format!("{address} {address6}"))
}

/// Each network once, with its gateways.
fn networks(containers: &[Container]) -> Vec<(&str, Ipv4Addr, Option<Ipv6Addr>)> {
    let mut networks: Vec<_> =
        containers.iter().map(|one| (one.network.as_str(), one.gateway, one.gateway6)).collect();
    networks.sort_unstable();
    networks.dedup();
    networks
}

/// Echo and HTTP in each container, and on each of the host's addresses: a datagram that is answered from a socket bound
/// to no address may leave with another address than it was sent to.
fn services(member: &Member) -> Result<Vec<Service>> {
    let Member { host, containers } = member;
    let gateways =
        networks(containers).into_iter().map(|(_, gateway, gateway6)| (&host.namespace, gateway, gateway6));
    let places = gateways
        .chain([(&host.namespace, host.address, host.address6)])
        .chain(containers.iter().map(|one| (&one.namespace, one.address, one.address6)));
    let mut services = Vec::new();
    for (namespace, address, address6) in places {
        for address in [Some(IpAddr::from(address)), address6.map(IpAddr::from)].into_iter().flatten() {
            services.extend(echo::serve(namespace, SocketAddr::new(address, echo::PORT))?);
            services.push(http::serve(namespace, SocketAddr::new(address, http::PORT))?);
        }
    }
    Ok(services)
}

/// Those that counted something, most packets first.
fn moved(counters: Vec<Counter>) -> Vec<Counter> {
    let mut moved: Vec<Counter> = counters.into_iter().filter(|counter| counter.packets > 0).collect();
    moved.sort_by_key(|counter| std::cmp::Reverse(counter.packets));
    moved
}
