//! `netd bench`: netd against what it replaces, and against the limits, side by side on this machine.
//!
//! Each variant is a network between the same two ends, in namespaces of its own: netd, a Linux bridge with Docker's rules, a
//! bare veth cable, the loopback; and the same with the two ends on two hosts, routed or in VXLAN. Before anything is measured
//! it is checked that packets go where the variant says. A sample is one load of a bounded time, made by two processes on chosen CPUs. Samples of the
//! variants are interleaved, so that a change in the machine's speed falls on all of them; what counts is the ratio.
//!
//! To add a case, add a row to [`CASES`]; to add a way to build a network, a row to [`VARIANTS`].

mod attach;
mod case;
mod check;
mod cni;
mod compare;
mod cpus;
mod dockerd;
mod frames;
mod http;
mod interruption;
mod latency;
mod machine;
mod memory;
mod nodes;
mod page;
mod plot;
mod progress;
mod report;
mod sample;
mod scale;
mod scene;
mod schedule;
mod stats;
mod targets;
mod text;
mod worker;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};

pub use self::{
    case::{Better, CASES, Case, Frames, Link, Route, Traffic, Transport, Unit},
    cpus::Cpus,
    scale::{Scale, What},
    scene::{OURS, VARIANTS, Variant},
    targets::{is_case, is_variant},
    worker::{Order, run as work},
};
use self::{interruption::Interruption, page::Page, progress::Progress, report::Report, scene::Site};

/// What to measure.
#[derive(Debug)]
pub struct Options {
    /// In this order.
    pub cases: Vec<&'static Case>,
    /// In this order.
    pub variants: Vec<&'static Variant>,
    /// Each case is measured with each of these.
    pub cpus: Vec<Cpus>,
    /// Only what the targets need: each case with the variants that it names, and attaching; and what came of them.
    pub targets: bool,
    /// Samples of each variant.
    pub rounds: usize,
    /// How long a sample measures.
    pub time: Duration,
    /// No round begins that does not end within this time from the start.
    pub limit: Option<Duration>,
    /// What was left out of the cases and variants, and why; for the report.
    pub skipped: Vec<(&'static str, String)>,
    /// Where the results go.
    pub output: Output,
}

impl Options {
    /// Whether a variant is measured in a case that it has a way for.
    fn measures(&self, case: &Case, variant: &Variant) -> bool {
        !self.targets || targets::needs(case.name, variant.name)
    }

    /// Whether a variant is built on a site.
    fn needs(&self, variant: &Variant, site: Site) -> bool {
        let of_site = |case: &&&Case| Site::of(case.route) == site;
        variant.is_for(site) && self.cases.iter().filter(of_site).any(|case| self.measures(case, variant))
    }
}

/// Where results go.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// JSON, and nothing else, on the standard output.
    pub json: bool,
    /// Also as a page of plots, into this directory.
    pub report: Option<PathBuf>,
}

/// How many times something is attached for each round of the other cases: one takes some ten milliseconds.
const ATTACHED: usize = 10;

/// Compares netd with the other variants and prints the report. Fails if netd could not run, or a sample failed.
///
/// # Errors
/// The lab cannot be made: not root, or the kernel lacks something.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(options.rounds > 0, "--rounds must be at least 1");
    ensure!(!options.time.is_zero(), "--seconds must be more than 0");
    finish(&options.output, |interruption, progress| {
        if !options.output.json {
            let names: Vec<&str> = options.variants.iter().map(|variant| variant.name).collect();
            println!(
                "netd bench, in network namespaces of this machine ({} rounds of {} s):\n{}",
                options.rounds,
                options.time.as_secs_f64(),
                text::legend(&names)
            );
        }
        // First: while the kernel clears the many namespaces of the other cases away, attaching takes a third longer.
        let attached = options.targets.then(|| {
            attach::compare(options.rounds * ATTACHED, targets::needs_attached, interruption, progress)
        });
        let mut report = compare::compare(options, interruption, progress)?;
        if let Some(attached) = attached.transpose()? {
            report.outcomes.extend(attached.outcomes);
            report.unavailable.extend(attached.unavailable);
            report.targets = targets::judge(&report.outcomes);
        }
        Ok(report)
    })
}

/// Compares `netd attach` and `netd detach` with the CNI plugins, `count` times each, and prints the report.
///
/// # Errors
/// The lab cannot be made: not root, or the kernel lacks something.
pub fn run_attach(count: usize, output: &Output) -> Result<ExitCode> {
    ensure!(count > 0, "--count must be at least 1");
    finish(output, |interruption, progress| {
        if !output.json {
            println!(
                "netd bench attach, in network namespaces of this machine ({count} times):\n{}",
                attach::LEGEND
            );
        }
        attach::compare(count, |_| true, interruption, progress)
    })
}

/// Measures what a cluster of so many nodes costs one of them, and prints the report.
///
/// # Errors
/// The lab cannot be made: not root, or the kernel lacks something; or there is no etcd.
pub fn run_nodes(nodes: u32, rounds: usize, output: &Output) -> Result<ExitCode> {
    ensure!(rounds > 0, "--rounds must be at least 1");
    finish(output, |interruption, progress| {
        if !output.json {
            println!("netd bench nodes ({rounds} rounds):\n{}", nodes::legend(nodes));
        }
        nodes::measure(nodes, rounds, interruption, progress)
    })
}

/// Measures costs against how much there is of something, and prints the report.
///
/// # Errors
/// The lab cannot be made: not root, or the kernel lacks something.
pub fn run_scale(scale: &Scale) -> Result<ExitCode> {
    ensure!(scale.rounds > 0, "--rounds must be at least 1");
    finish(&scale.output, |interruption, progress| {
        if !scale.output.json {
            println!("netd bench scale ({} rounds):\n{}", scale.rounds, scale::LEGEND);
        }
        scale::measure(scale, interruption, progress)
    })
}

fn finish(
    output: &Output,
    measure: impl FnOnce(&Interruption, &mut Progress) -> Result<Report>,
) -> Result<ExitCode> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "netd bench makes network namespaces and loads programs, which only root may: run it with sudo"
    );
    // Before anything is measured: what cannot be written later would be lost.
    let page = output.report.as_deref().map(Page::create).transpose()?;
    let interruption = Interruption::catch()?;
    let mut progress = Progress::new();
    let report = measure(&interruption, &mut progress);
    progress.clear();
    interruption.wait_if_happened();
    let report = report?;
    if let Some(page) = page {
        page.write(&report)?;
    }
    if output.json {
        println!("{}", serde_json::to_string_pretty(&report.json()).context("cannot write JSON")?);
    } else {
        print!("{}", text::text(&report));
    }
    Ok(if report.complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
