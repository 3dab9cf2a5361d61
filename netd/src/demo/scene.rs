//! A configuration as it stands: a host, its containers, and the services that they run.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Error, Result};

use super::{
    probe::{Expect, Pair},
    progress::Progress,
    report::{Check, Configuration, HostFacts, What},
};
use crate::{
    bpf::{Counter, ProgramStatus},
    lab::{Container, Host, Lab, Namespace, Service, World, echo, http},
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
    /// How to build it, where this version of netd can.
    pub(super) scene: Option<Layout>,
}

/// What a configuration consists of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) host: &'static str,
    pub(super) config: &'static str,
    /// Names and networks.
    pub(super) containers: &'static [(&'static str, &'static str)],
}

/// A configuration that runs.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) host: Host,
    pub(super) containers: Vec<Container>,
    _services: Vec<Service>,
}

/// Why a configuration could not be built, with what the daemon said.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) log: String,
}

impl Scene {
    /// Starts the host's daemon, attaches the containers and starts their services.
    pub(super) fn start(
        layout: &Layout,
        lab: &Lab,
        world: &World,
        number: u8,
        progress: &Progress,
    ) -> Result<Self, Failure> {
        progress.step(format!("configuration {number}: starting the daemon of {}", layout.host));
        let mut host = Host::new(lab, world, layout.host, layout.config)
            .context("cannot build the host")
            .map_err(|error| Failure { error, log: String::new() })?;
        let built = host.start().context("cannot start the daemon").and_then(|()| {
            let containers = layout
                .containers
                .iter()
                .map(|(name, network)| {
                    progress.step(format!("configuration {number}: attaching {name}"));
                    host.container(name, &["--network", network])
                        .with_context(|| format!("cannot attach {name}"))
                })
                .collect::<Result<Vec<_>>>()?;
            Ok((services(&host, &containers)?, containers))
        });
        match built {
            Ok((services, containers)) => Ok(Self { host, containers, _services: services }),
            Err(error) => Err(Failure { error, log: host.log() }),
        }
    }

    /// Drives the traffic and writes down what came of it.
    pub(super) fn prove(
        &mut self,
        world: &World,
        number: u8,
        progress: &Progress,
        result: &mut Configuration,
    ) -> Result<()> {
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
            INTERNET => 3,
            _ => 2,
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
        result.forwarded = moved(self.host.counters("forwarded")?);
        result.drops = moved(self.host.counters("drops")?);
        result.programs = self.programs()?;
        let facts = HostFacts::of(&self.host.namespace)?;
        for (name, count) in facts.checks() {
            result.checks.push(Check {
                from: HOST.to_owned(),
                to: HOST.to_owned(),
                what: What::Fact(name),
                passed: count.number == 0,
                detail: format!("{} ({})", count.number, count.how),
                time: None,
            });
        }
        result.facts = Some(facts);
        Ok(())
    }

    /// All at once, because each waits for an answer that does not come. That nothing came is not enough: the drops must be
    /// counted, or something else kept it from coming.
    fn prove_blocked(&self, pairs: &[&Pair], result: &mut Configuration) -> Result<()> {
        let before = self.host.counters("drops")?;
        let checks: Vec<Check> = std::thread::scope(|scope| {
            let threads: Vec<_> = pairs.iter().map(|pair| scope.spawn(|| pair.probe())).collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let after = self.host.counters("drops")?;
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
        result.checks.push(Check {
            from: HOST.to_owned(),
            to: HOST.to_owned(),
            what: What::Dropped,
            passed: most >= tries,
            detail: format!("{tries} tries, {most} packets dropped: {name}"),
            time: None,
        });
        Ok(())
    }

    /// The daemon's programs, with their hooks and how many interfaces run them.
    fn programs(&self) -> Result<Vec<String>> {
        let mut status = self.host.json(["status", "--json"])?;
        let programs: Vec<ProgramStatus> = serde_json::from_value(status["programs"].take())
            .context("netd status --json: no list of programs")?;
        let attached = programs.iter().filter(|program| program.attached > 0);
        Ok(attached.map(|one| format!("{} ({} × {})", one.name, one.attached, one.hook)).collect())
    }

    /// Everybody to everybody.
    fn pairs(&self, world: &World) -> Vec<Pair> {
        let pair = |from: &str, namespace: &Namespace, to: &str, address, expect, bytes| Pair {
            from: from.to_owned(),
            to: to.to_owned(),
            namespace: namespace.clone(),
            address,
            expect,
            bytes,
        };
        let host = &self.host;
        let mut pairs = Vec::new();
        for to in &self.containers {
            let expect = Expect::Reach { seen: to.gateway, masquerade: false };
            pairs.push(pair(HOST, &host.namespace, &to.name, to.address, expect, LOCAL_BYTES));
        }
        let expect = Expect::Reach { seen: host.address, masquerade: false };
        pairs.push(pair(HOST, &host.namespace, INTERNET, world.address, expect, INTERNET_BYTES));
        for from in &self.containers {
            let own = Expect::Reach { seen: from.address, masquerade: false };
            for (to, address) in [(GATEWAY, from.gateway), (UPLINK, host.address)] {
                pairs.push(pair(&from.name, &from.namespace, to, address, own, LOCAL_BYTES));
            }
            for to in self.containers.iter().filter(|to| to.name != from.name) {
                let expect = if from.network == to.network { own } else { Expect::Blocked };
                pairs.push(pair(&from.name, &from.namespace, &to.name, to.address, expect, LOCAL_BYTES));
            }
            let expect = Expect::Reach { seen: host.address, masquerade: true };
            pairs.push(pair(&from.name, &from.namespace, INTERNET, world.address, expect, INTERNET_BYTES));
        }
        pairs
    }

    fn places(&self, world: &World) -> Vec<(String, String)> {
        let mut places: Vec<(String, String)> = Vec::new();
        for (network, gateway) in networks(&self.containers) {
            places.push((format!("{GATEWAY} of {network}"), gateway.to_string()));
        }
        places.push((UPLINK.to_owned(), self.host.address.to_string()));
        places.extend(self.containers.iter().map(|one| (one.name.clone(), one.address.to_string())));
        places.push((INTERNET.to_owned(), world.address.to_string()));
        places
    }
}

/// Each network once, with its gateway.
fn networks(containers: &[Container]) -> Vec<(&str, Ipv4Addr)> {
    let mut networks: Vec<(&str, Ipv4Addr)> =
        containers.iter().map(|one| (one.network.as_str(), one.gateway)).collect();
    networks.sort_unstable();
    networks.dedup();
    networks
}

/// Echo and HTTP in each container, and on each of the host's addresses: a datagram that is answered from a socket bound
/// to no address may leave with another address than it was sent to.
fn services(host: &Host, containers: &[Container]) -> Result<Vec<Service>> {
    let gateways = networks(containers).into_iter().map(|(_, gateway)| (&host.namespace, gateway));
    let places = gateways
        .chain([(&host.namespace, host.address)])
        .chain(containers.iter().map(|one| (&one.namespace, one.address)));
    let mut services = Vec::new();
    for (namespace, address) in places {
        services.extend(echo::serve(namespace, SocketAddrV4::new(address, echo::PORT))?);
        services.push(http::serve(namespace, SocketAddrV4::new(address, http::PORT))?);
    }
    Ok(services)
}

/// Those that counted something, most packets first.
fn moved(counters: Vec<Counter>) -> Vec<Counter> {
    let mut moved: Vec<Counter> = counters.into_iter().filter(|counter| counter.packets > 0).collect();
    moved.sort_by_key(|counter| std::cmp::Reverse(counter.packets));
    moved
}
