//! `netd bench attach`: how long it takes to give a namespace its network, and to take it away.
//!
//! What is timed is what a runtime waits for: from the start of the command until it has ended. Each variant has a host and a
//! container's namespace of its own; the same namespace is attached and detached again and again.

mod cni;
mod netd;

use std::time::Instant;

use anyhow::{Context, Result};
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

/// Something that attaches and detaches one container.
trait Attacher {
    /// Gives the container its network; returns when that is done.
    fn attach(&mut self) -> Result<()>;
    /// Takes it away.
    fn detach(&mut self) -> Result<()>;
}

type Build = fn(&Lab, &World) -> Result<Box<dyn Attacher>>;

/// Every variant, in the order of the report.
const VARIANTS: [(&str, Build); 3] =
    [(OURS, netd::build), ("cni-bridge", cni::masquerading), ("cni-bridge-plain", cni::plain)];

/// What the names in the report mean.
pub(super) const LEGEND: &str =
    "  netd             netd attach, netd detach; network default (which masquerades)
  cni-bridge       the CNI plugin bridge with host-local, as a gateway that masquerades: ADD, DEL
  cni-bridge-plain the same without masquerade
";

/// Measures all variants, `count` times each.
///
/// # Errors
/// The lab cannot be made. What a variant fails at is in the report.
pub(super) fn compare(count: usize, interruption: &Interruption, progress: &mut Progress) -> Result<Report> {
    let machine = Machine::here();
    progress.step("making the world outside");
    let lab = interruption.lab("attach")?;
    let world = World::new(&lab)?;
    let mut unavailable = Vec::new();
    let mut built: Vec<(&'static str, Box<dyn Attacher>)> = Vec::new();
    for (name, build) in VARIANTS {
        progress.step(format!("building {name}"));
        // The first time is not like the others: the plugin makes its bridge, caches fill.
        match build(&lab, &world).and_then(|mut attacher| once(&mut *attacher).map(|_| attacher)) {
            Ok(attacher) => built.push((name, attacher)),
            Err(error) => unavailable.push((name, format!("{error:#}"))),
        }
    }
    let cpus = cpus::allowed()?.len();
    let outcome = |case, what| Outcome {
        group: "one container",
        case,
        what,
        unit: Unit::Milliseconds,
        cpus,
        operation: "command",
        count: None,
        series: built.iter().map(|(name, _)| Series::new(name)).collect(),
    };
    let mut attach = outcome("attach", "from the command's start to its end: the container has its network");
    let mut detach =
        outcome("detach", "from the command's start to its end: the container's network is gone");
    progress.begin(count * built.len());
    for round in 0..count {
        for index in schedule::order(round, built.len()) {
            interruption.wait_if_happened();
            let (name, attacher) = &mut built[index];
            progress.step(format!("round {} of {count}: {name}", round + 1));
            let (attached, detached) = match once(&mut **attacher) {
                Ok((attached, detached)) => (Ok(attached), Ok(detached)),
                Err(error) => (Err(format!("{error:#}")), Err(format!("{error:#}"))),
            };
            interruption.wait_if_happened();
            attach.series[index].samples.push(attached.map(Into::into));
            detach.series[index].samples.push(detached.map(Into::into));
            progress.count();
        }
    }
    progress.step("removing everything");
    drop((built, world, lab));
    progress.clear();
    Ok(Report {
        machine,
        outcomes: vec![attach, detach],
        unavailable,
        evidence: Vec::new(),
        settings: json!({ "count": count }),
    })
}

/// Attaches and detaches; returns how long each took, in milliseconds.
fn once(attacher: &mut dyn Attacher) -> Result<(f64, f64)> {
    let start = Instant::now();
    attacher.attach().context("cannot attach")?;
    let attached = start.elapsed();
    let start = Instant::now();
    attacher.detach().context("cannot detach")?;
    Ok((attached.as_secs_f64() * 1e3, start.elapsed().as_secs_f64() * 1e3))
}
