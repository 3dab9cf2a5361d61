//! Builds the networks, and takes the samples.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::{
    Options,
    case::Case,
    cpus::{self, Cpus, Placement},
    interruption::Interruption,
    machine::Machine,
    progress::Progress,
    report::{Outcome, Report, Series},
    sample::{self, Timing},
    scene::{Scene, Variant},
    schedule,
};
use crate::lab::World;

/// A variant that is up.
type Built = (&'static Variant, Scene);

/// A case on a number of CPUs, and what came of it so far.
struct Plan {
    case: &'static Case,
    placement: Placement,
    /// Indices of the scenes that have the case's route; one series each.
    scenes: Vec<usize>,
    outcome: Outcome,
}

/// Measures all that the options ask for.
///
/// # Errors
/// The lab cannot be made. What a variant fails at is in the report.
pub(super) fn compare(
    options: &Options,
    interruption: &Interruption,
    progress: &mut Progress,
) -> Result<Report> {
    let allowed = cpus::allowed()?;
    let machine = Machine::here();
    progress.step("making the world outside");
    let lab = interruption.lab("bench")?;
    let world = World::new(&lab)?;
    let mut unavailable = Vec::new();
    let mut built: Vec<Built> = Vec::new();
    for variant in &options.variants {
        progress.step(format!("building {}", variant.name));
        match variant.build(&lab, &world) {
            Ok(scene) => built.push((variant, scene)),
            Err(error) => unavailable.push((variant.name, format!("{error:#}"))),
        }
    }
    let mut plans: Vec<Plan> = options
        .cases
        .iter()
        .flat_map(|case| options.cpus.iter().map(|cpus| plan(case, *cpus, &allowed, &built)))
        .filter(|plan| !plan.scenes.is_empty())
        .collect();
    progress.begin(options.rounds * plans.iter().map(|plan| plan.scenes.len()).sum::<usize>());
    for round in 0..options.rounds {
        for plan in &mut plans {
            plan.round(round, &built, options, interruption, progress);
        }
    }
    progress.clear();
    let evidence = built
        .iter()
        .filter_map(|(variant, scene)| {
            let text = scene.evidence()?.unwrap_or_else(|error| format!("its counters: {error:#}"));
            Some((variant.name, text))
        })
        .collect();
    progress.step("removing everything");
    drop((built, world, lab));
    progress.clear();
    Ok(Report {
        machine,
        outcomes: plans.into_iter().map(|plan| plan.outcome).collect(),
        unavailable,
        evidence,
        settings: json!({
            "rounds": options.rounds,
            "seconds": options.time.as_secs_f64(),
            "warmup_seconds": warmup(options.time).as_secs_f64(),
        }),
    })
}

fn plan(case: &'static Case, cpus: Cpus, allowed: &[usize], built: &[Built]) -> Plan {
    let scenes: Vec<usize> = built
        .iter()
        .enumerate()
        .filter(|(_, (_, scene))| scene.path(case.route).is_some())
        .map(|(index, _)| index)
        .collect();
    let series = scenes.iter().map(|index| Series::new(built[*index].0.name)).collect();
    Plan {
        case,
        placement: cpus.place(allowed),
        scenes,
        outcome: Outcome {
            case: case.name,
            what: case.what,
            unit: case.unit(),
            cpus: cpus.count(allowed),
            series,
        },
    }
}

impl Plan {
    /// Takes one sample of each variant.
    fn round(
        &mut self,
        round: usize,
        built: &[Built],
        options: &Options,
        interruption: &Interruption,
        progress: &mut Progress,
    ) {
        let timing = Timing { warmup: warmup(options.time), time: options.time };
        for index in schedule::order(round, self.scenes.len()) {
            // What fails now, fails because the lab is being removed.
            interruption.wait_if_happened();
            let (variant, scene) = &built[self.scenes[index]];
            let Some(path) = scene.path(self.case.route) else { continue };
            let series = &mut self.outcome.series[index];
            let last = series.median().map_or_else(String::new, |median| format!(" {median:.1} so far"));
            progress.step(format!(
                "round {} of {}: {}, CPUs: {}, {}{last}",
                round + 1,
                options.rounds,
                self.case.name,
                self.outcome.cpus,
                variant.name
            ));
            let sample = sample::take(self.case, path, &self.placement, timing);
            interruption.wait_if_happened();
            series.samples.push(sample.map_err(|error| format!("{error:#}")));
            progress.count();
        }
    }
}

/// A fifth of the time that is measured: neighbours are resolved, caches are warm, TCP's window has grown.
fn warmup(time: Duration) -> Duration {
    (time / 5).clamp(Duration::from_millis(20), Duration::from_millis(500))
}
