//! `netd bench nodes`: what a large cluster costs each of its nodes.
//!
//! One real daemon and one real etcd, in which there are that many more nodes with a slice each, which do not exist. What
//! such a cluster costs a packet is a matter of the ordinary cases: variant `netd-5000-nodes`.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use super::{
    case::Unit,
    interruption::Interruption,
    machine::Machine,
    memory,
    progress::Progress,
    report::{Outcome, Report, Series},
    scene::OURS,
    schedule,
};
use crate::{
    bpf::node_behind,
    lab::{Etcd, Host, Lab, World},
};

/// The cluster that the large one is compared with.
const FEW: u32 = 5;
const FEW_NAME: &str = "netd-5-nodes";
/// Slices of the network that all share.
const SLICES: u32 = 1 << 13;
/// Changes of a node in each round.
const CHANGES: u32 = 20;
/// How long a change may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the names in the report mean.
pub(super) fn legend(nodes: u32) -> String {
    format!("  {OURS:<12} a node that finds {nodes} others in etcd\n  {FEW_NAME} the same with {FEW}\n")
}

/// A daemon and its part of etcd.
struct Node {
    host: Host,
    prefix: String,
    others: u32,
}

/// Measures `rounds` starts and changes of a node among `nodes` others.
///
/// # Errors
/// The lab cannot be made, or there is no etcd.
pub(super) fn measure(
    nodes: u32,
    rounds: usize,
    interruption: &Interruption,
    progress: &mut Progress,
) -> Result<Report> {
    ensure!(nodes > FEW && nodes < SLICES, "--nodes must be more than {FEW} and less than {SLICES}");
    ensure!(Etcd::is_installed(), "netd bench nodes needs etcd (package etcd-server)");
    let machine = Machine::here();
    progress.step("making the world outside");
    let lab = interruption.lab("nodes")?;
    let world = World::new(&lab)?;
    let etcd = Etcd::start(&lab, &world.server, world.address, 1)?;
    let mut all = Vec::new();
    for (name, others) in [("many", nodes), ("few", FEW)] {
        progress.step(format!("writing {others} nodes"));
        all.push(Node::build(&lab, &world, &etcd, name, others)?);
    }
    let outcome = |case, what, unit| Outcome {
        group: "one node among others",
        case,
        what,
        unit,
        cpus: super::cpus::allowed().map_or(1, |cpus| cpus.len()),
        operation: "start",
        count: None,
        series: vec![Series::new(OURS), Series::new(FEW_NAME)],
    };
    let mut start =
        outcome("nodes-start", "from nothing until all nodes are in the maps", Unit::Milliseconds);
    let mut change = outcome(
        "nodes-change",
        "from the change of another node, written to etcd, until the map has it",
        Unit::Milliseconds,
    );
    let mut memory = outcome("nodes-memory", "memory of the daemon afterwards (resident)", Unit::Mebibytes);
    progress.begin(rounds * all.len());
    for round in 0..rounds {
        for index in schedule::order(round, all.len()) {
            interruption.wait_if_happened();
            progress.step(format!("round {} of {rounds}: {} nodes", round + 1, all[index].others));
            let node = &mut all[index];
            let text = |error: anyhow::Error| format!("{error:#}");
            start.series[index].samples.push(node.start().map(Into::into).map_err(text));
            match node.changes(&etcd) {
                Ok(times) => {
                    change.series[index].samples.extend(times.into_iter().map(|time| Ok(time.into())));
                }
                Err(error) => change.series[index].samples.push(Err(text(error))),
            }
            memory.series[index].samples.push(node.memory().map(Into::into).map_err(text));
            interruption.wait_if_happened();
            progress.count();
        }
    }
    progress.step("removing everything");
    drop((all, etcd, world, lab));
    progress.clear();
    Ok(Report {
        machine,
        outcomes: vec![start, change, memory],
        unavailable: Vec::new(),
        evidence: Vec::new(),
        targets: Vec::new(),
        settings: json!({ "nodes": nodes, "rounds": rounds, "changes": CHANGES }),
    })
}

/// A node that does not exist: a name, an address, a slice.
fn other(number: u32, moved: u32) -> (String, Ipv4Addr, String) {
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 0, 0).to_bits() + (moved << 16) + number);
    let slice = Ipv4Addr::from_bits(Ipv4Addr::new(10, 32, 0, 0).to_bits() + (number << 8));
    (format!("other-{number}"), address, format!("{slice}-24"))
}

fn registration(number: u32, moved: u32) -> String {
    let (name, address, _) = other(number, moved);
    json!({ "id": name, "address": address, "transport": "auto", "mtu": 1500, "uses": ["default"] })
        .to_string()
}

impl Node {
    fn build(lab: &Lab, world: &World, etcd: &Etcd, name: &str, others: u32) -> Result<Self> {
        let prefix = format!("/{name}");
        let config = format!(
            "[node]\nname = {name:?}\n\n[networks.default]\nsubnets = [\"10.32.0.0/11\"]\n\n[cluster]\nstore = \"etcd\"\n\
             endpoints = {:?}\nprefix = {prefix:?}\n",
            etcd.endpoints()
        );
        let mut host = Host::new(lab, world, name, &config)?;
        // It makes the network, and takes the slice that it keeps.
        host.start()?;
        host.stop(Signal::SIGTERM)?;
        let slices = format!("{prefix}/v1/slices/default/");
        let taken = etcd.get(&slices)?;
        let taken = taken.first().context("the node has no slice")?.0.clone();
        let records = (1..SLICES).filter(|number| format!("{slices}{}", other(*number, 0).2) != taken);
        let mut batch = Vec::new();
        for number in records.take(others as usize) {
            let (name, _, slice) = other(number, 0);
            batch.push((format!("{prefix}/v1/nodes/{name}"), registration(number, 0)));
            batch.push((format!("{slices}{slice}"), json!({ "node": name }).to_string()));
        }
        etcd.put_all(&batch)?;
        Ok(Self { host, prefix, others })
    }

    /// Starts the daemon anew, without anything that it knew. Returns the milliseconds until it was ready.
    fn start(&mut self) -> Result<f64> {
        if self.host.process().is_some() {
            self.host.stop(Signal::SIGKILL)?;
        }
        for directory in [self.host.state(), self.host.bpffs().to_owned()] {
            fs::remove_dir_all(&directory)
                .with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        let start = Instant::now();
        self.host.start()?;
        let time = start.elapsed();
        for number in [1, 2] {
            let known = self.behind(number)?;
            ensure!(known.is_some(), "the map has no route to node {number}");
        }
        Ok(time.as_secs_f64() * 1e3)
    }

    /// The node to whose slice the map has a route.
    fn behind(&self, number: u32) -> Result<Option<IpAddr>> {
        let slice = Ipv4Addr::new(10, 32, 0, 9).to_bits() + (number << 8);
        node_behind(self.host.bpffs(), Ipv4Addr::from_bits(slice).into())
    }

    /// Moves nodes to other addresses. Returns the milliseconds that each took to arrive.
    fn changes(&self, etcd: &Etcd) -> Result<Vec<f64>> {
        let number = if self.behind(1)?.is_some() { 1 } else { 2 };
        let key = format!("{}/v1/nodes/other-{number}", self.prefix);
        etcd.with_client(async |mut client| {
            let mut times = Vec::new();
            for moved in (1..=CHANGES).chain([0]) {
                let start = Instant::now();
                client.put(key.as_str(), registration(number, moved), None).await?;
                let wanted = other(number, moved).1;
                while self.behind(number).ok().flatten() != Some(wanted.into()) && start.elapsed() < PATIENCE
                {
                    tokio::time::sleep(Duration::from_micros(200)).await;
                }
                times.push(start.elapsed());
            }
            Ok(times)
        })?
        .into_iter()
        .map(|time| match time {
            time if time < PATIENCE => Ok(time.as_secs_f64() * 1e3),
            _ => bail!("a change has not arrived within {PATIENCE:?}"),
        })
        .collect()
    }

    /// The memory that the daemon has, in MiB.
    fn memory(&self) -> Result<f64> {
        let process = self.host.process().context("no daemon")?;
        memory::resident(process.pid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_differ() {
        assert_eq!(
            other(1, 0),
            ("other-1".to_owned(), Ipv4Addr::new(100, 64, 0, 1), "10.32.1.0-24".to_owned())
        );
        assert_eq!(other(5000, 2).1, Ipv4Addr::new(100, 66, 19, 136));
        assert_eq!(other(SLICES - 1, 0).2, "10.63.255.0-24");
    }
}
