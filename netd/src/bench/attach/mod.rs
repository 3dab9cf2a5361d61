//! `netd bench attach`: how long it takes to give a namespace its network, and to take it away.
//!
//! What is timed is what a runtime waits for: from the start of the command until it has ended. Each variant has a host and
//! containers of its own, which are attached and detached again and again: one alone, and all at once.

mod cni;
mod docker;
mod netd;

use std::{thread, time::Instant};

use anyhow::{Context, Result, anyhow};
use serde_json::json;

use super::{
    case::Unit,
    cpus,
    interruption::Interruption,
    machine::Machine,
    progress::Progress,
    report::{Outcome, Report, Series},
    scene::OURS,
    schedule,
};
use crate::lab::{Lab, World};

/// Containers that each variant has.
const CONTAINERS: usize = 8;
/// All are attached at once in one round of so many.
const ONE_IN: usize = 10;

/// Something that attaches and detaches its containers, which are numbered.
trait Attacher: Sync {
    /// Gives a container its network; returns when that is done.
    fn attach(&self, index: usize) -> Result<()>;
    /// Takes it away.
    fn detach(&self, index: usize) -> Result<()>;
    /// What it holds now; `None`: it has no daemon.
    fn memory(&self) -> Result<Option<Memory>> {
        Ok(None)
    }
}

/// Memory, in MiB.
struct Memory {
    daemon: f64,
    /// The tables of its programs in the kernel.
    maps: Option<f64>,
}

type Build = fn(&Lab, &World) -> Result<Box<dyn Attacher>>;

/// Every variant, in the order of the report.
const VARIANTS: [(&str, Build); 4] = [
    (OURS, netd::build),
    ("docker", docker::build),
    ("cni-bridge", cni::masquerading),
    ("cni-bridge-plain", cni::plain),
];

/// What the names in the report mean.
pub(super) const LEGEND: &str =
    "  netd             netd attach, netd detach; network default (which masquerades)
  docker           docker network connect, disconnect: a second network of a running container
  cni-bridge       the CNI plugin bridge with host-local, as a gateway that masquerades: ADD, DEL
  cni-bridge-plain the same without masquerade
";

/// Measures those variants that are chosen by their names, `count` times each.
///
/// # Errors
/// The lab cannot be made. What a variant fails at is in the report.
pub(super) fn compare(
    count: usize,
    chosen: impl Fn(&str) -> bool,
    interruption: &Interruption,
    progress: &mut Progress,
) -> Result<Report> {
    let machine = Machine::here();
    progress.step("making the world outside");
    let lab = interruption.lab("attach")?;
    let world = World::new(&lab)?;
    let mut unavailable = Vec::new();
    let mut built: Vec<(&'static str, Box<dyn Attacher>)> = Vec::new();
    for (name, build) in VARIANTS.into_iter().filter(|(name, _)| chosen(name)) {
        progress.step(format!("building {name}"));
        // The first time is not like the others: the plugin makes its bridge, caches fill.
        match build(&lab, &world).and_then(|attacher| once(&*attacher).map(|_| attacher)) {
            Ok(attacher) => built.push((name, attacher)),
            Err(error) => unavailable.push((name, format!("{error:#}"))),
        }
    }
    let cpus = cpus::allowed()?.len();
    let outcome = |group, case, what, unit| Outcome {
        group,
        case,
        what,
        unit,
        cpus,
        operation: "command",
        count: None,
        series: built.iter().map(|(name, _)| Series::new(name)).collect(),
    };
    let one = |case, what| outcome("one container", case, what, Unit::Milliseconds);
    let many = |case, what| outcome("containers, eight commands at once", case, what, Unit::PerSecond);
    let memory = |case, what| outcome("memory, with eight containers", case, what, Unit::Mebibytes);
    let mut attach = one("attach", "from the command's start to its end: the container has its network");
    let mut detach = one("detach", "from the command's start to its end: the container's network is gone");
    let mut attach_rate = many("attach-rate", "containers that get their network, a second");
    let mut detach_rate = many("detach-rate", "containers that lose their network, a second");
    let mut daemon = memory("memory-daemon", "what the daemon and its children hold (resident)");
    let mut maps = memory("memory-maps", "what the kernel holds for the daemon's maps, full or not");
    progress.begin(count * built.len());
    for round in 0..count {
        for index in schedule::order(round, built.len()) {
            interruption.wait_if_happened();
            let (name, attacher) = &built[index];
            progress.step(format!("round {} of {count}: {name}", round + 1));
            let time = once(&**attacher);
            interruption.wait_if_happened();
            push([&mut attach, &mut detach], index, time);
            if round % ONE_IN == 0 {
                let (rates, held) = match together(&**attacher) {
                    Ok((rates, held)) => (Ok(rates), held),
                    Err(error) => (Err(error), None),
                };
                interruption.wait_if_happened();
                push([&mut attach_rate, &mut detach_rate], index, rates);
                if let Some(Memory { daemon: resident, maps: tables }) = held {
                    daemon.series[index].samples.push(Ok(resident.into()));
                    maps.series[index].samples.extend(tables.map(|tables| Ok(tables.into())));
                }
            }
            progress.count();
        }
    }
    progress.step("removing everything");
    drop((built, world, lab));
    progress.clear();
    Ok(Report {
        machine,
        outcomes: vec![attach, detach, attach_rate, detach_rate, daemon, maps],
        unavailable,
        evidence: Vec::new(),
        targets: Vec::new(),
        settings: json!({ "count": count }),
    })
}

/// Adds a sample to each of two outcomes.
fn push(outcomes: [&mut Outcome; 2], index: usize, values: Result<(f64, f64)>) {
    let [first, second] = outcomes.map(|outcome| &mut outcome.series[index].samples);
    let (one, other) = match values {
        Ok((one, other)) => (Ok(one.into()), Ok(other.into())),
        Err(error) => (Err(format!("{error:#}")), Err(format!("{error:#}"))),
    };
    first.push(one);
    second.push(other);
}

/// Attaches and detaches all at once; returns how many a second, and what is held in between.
fn together(attacher: &dyn Attacher) -> Result<((f64, f64), Option<Memory>)> {
    let all = |work: fn(&dyn Attacher, usize) -> Result<()>| -> Result<f64> {
        let start = Instant::now();
        let ended: Vec<Result<()>> = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..CONTAINERS).map(|index| scope.spawn(move || work(attacher, index))).collect();
            let panicked = || Err(anyhow!("a thread has panicked"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked())).collect()
        });
        let time = start.elapsed();
        ended.into_iter().collect::<Result<()>>()?;
        Ok(CONTAINERS as f64 / time.as_secs_f64())
    };
    let attached = all(|attacher, index| attacher.attach(index)).context("cannot attach all at once");
    let held = attached.as_ref().ok().map(|_| attacher.memory());
    // Also where only some were attached: the next round must find none.
    let detached = all(|attacher, index| attacher.detach(index)).context("cannot detach all at once");
    Ok(((attached?, detached?), held.transpose()?.flatten()))
}

/// Attaches and detaches one; returns how long each took, in milliseconds.
fn once(attacher: &dyn Attacher) -> Result<(f64, f64)> {
    let start = Instant::now();
    attacher.attach(0).context("cannot attach")?;
    let attached = start.elapsed();
    let start = Instant::now();
    attacher.detach(0).context("cannot detach")?;
    Ok((attached.as_secs_f64() * 1e3, start.elapsed().as_secs_f64() * 1e3))
}
