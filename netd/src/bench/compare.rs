//! Builds the networks, and takes the samples.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::{
    Options,
    case::Case,
    check,
    cpus::{self, Cpus, Placement},
    interruption::Interruption,
    machine::Machine,
    progress::Progress,
    report::{Outcome, Report, Series},
    sample::{self, Timing},
    scene::{Scene, Site, Variant},
    schedule,
    worker::why_no_counters,
};
use crate::lab::{Lab, World};

/// A variant that is up.
struct Built {
    variant: &'static Variant,
    site: Site,
    scene: Scene,
}

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
    let end = options.limit.map(|limit| Instant::now() + limit);
    let allowed = cpus::allowed()?;
    let machine = Machine::here();
    progress.step("making the world outside");
    let lab = interruption.lab("bench")?;
    let world = World::new(&lab)?;
    let mut unavailable = options.skipped.clone();
    unavailable.extend(why_no_counters().map(|reason| ("instructions and cycles", reason)));
    let mut built: Vec<Built> = Vec::new();
    let one_cpu = Cpus::One.place(&allowed);
    for site in sites(&options.cases) {
        for variant in options.variants.iter().copied().filter(|one| options.needs(one, site)) {
            progress.step(format!("building {} ({site})", variant.name));
            interruption.wait_if_happened();
            match build(variant, site, &lab, &world, &one_cpu) {
                Ok(one) => {
                    for (route, name, reason) in one.scene.missing() {
                        if options.cases.iter().any(|case| case.route == *route) {
                            unavailable.push((*name, reason.clone()));
                        }
                    }
                    built.push(one);
                }
                Err(error) => unavailable.push((variant.name, format!("{site}: {error:#}"))),
            }
        }
    }
    let mut plans: Vec<Plan> = options
        .cases
        .iter()
        .flat_map(|case| options.cpus.iter().map(|cpus| plan(options, case, *cpus, &allowed, &built)))
        .filter(|plan| !plan.scenes.is_empty())
        .collect();
    progress.begin(options.rounds * plans.iter().map(|plan| plan.scenes.len()).sum::<usize>());
    let mut rounds = 0;
    let mut longest = Duration::ZERO;
    while rounds < options.rounds {
        let start = Instant::now();
        // A round that cannot end in time is not begun, but there is one in any case.
        if rounds > 0 && end.is_some_and(|end| start + longest > end) {
            break;
        }
        for plan in &mut plans {
            plan.round(rounds, &built, options, interruption, progress);
        }
        longest = longest.max(start.elapsed());
        rounds += 1;
    }
    progress.clear();
    if rounds < options.rounds {
        let reason = format!("no time was left for more than {rounds} of {}", options.rounds);
        unavailable.push(("the last rounds", reason));
    }
    let evidence = built
        .iter()
        .filter_map(|Built { variant, site, scene }| {
            let text = scene.evidence()?.unwrap_or_else(|error| format!("WARNING: {error:#}"));
            Some((variant.name, format!("{site}: {text}")))
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
        targets: Vec::new(),
        settings: json!({
            "rounds": rounds,
            "seconds": options.time.as_secs_f64(),
            "warmup_seconds": warmup(options.time).as_secs_f64(),
        }),
    })
}

/// What the cases need, each once.
fn sites(cases: &[&Case]) -> Vec<Site> {
    let mut sites = Vec::new();
    for site in cases.iter().map(|case| Site::of(case.route)) {
        if !sites.contains(&site) {
            sites.push(site);
        }
    }
    sites
}

/// Builds a variant and checks that its packets go where they should.
fn build(
    variant: &'static Variant,
    site: Site,
    lab: &Lab,
    world: &World,
    placement: &Placement,
) -> Result<Built> {
    let scene = variant.build(site, lab, world)?;
    check::check(&scene, placement)?;
    Ok(Built { variant, site, scene })
}

fn plan(options: &Options, case: &'static Case, cpus: Cpus, allowed: &[usize], built: &[Built]) -> Plan {
    let scenes: Vec<usize> = built
        .iter()
        .enumerate()
        .filter(|(_, built)| options.measures(case, built.variant) && built.scene.path(case.route).is_some())
        .map(|(index, _)| index)
        .collect();
    let series = scenes.iter().map(|index| Series::new(built[*index].variant.name)).collect();
    Plan {
        case,
        placement: cpus.place(allowed),
        scenes,
        outcome: Outcome {
            group: case.route.group(),
            case: case.name,
            what: case.what,
            unit: case.unit(),
            cpus: cpus.count(allowed),
            operation: case.traffic.operation().0,
            count: None,
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
            let Built { variant, scene, .. } = &built[self.scenes[index]];
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
pub(super) fn warmup(time: Duration) -> Duration {
    (time / 5).clamp(Duration::from_millis(20), Duration::from_millis(500))
}

#[cfg(test)]
mod tests {
    use super::{super::CASES, *};

    #[test]
    fn each_site_is_needed_once() {
        let all: Vec<&Case> = CASES.iter().collect();
        let names: Vec<String> = sites(&all).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["one host", "denied", "vxlan", "vxlan-mtu", "direct", "direct-mtu"]);
        assert_eq!(sites(&all[..2]), [Site::OneHost]);
    }
}
