//! `netd bench`.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{
    Args, Subcommand,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser as _},
};

use crate::bench::{self, CASES, Case, Cpus, Order, Scale, Traffic, VARIANTS, Variant, What};

/// What a quick run may take: the rest of the minute is for removing everything.
const QUICK: Duration = Duration::from_secs(50);

/// Measure netd against a bridge with iptables and others, side by side, in networks made for the purpose
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Bench {
    #[command(subcommand)]
    command: Option<Command>,

    /// Measure only these cases
    #[arg(long, value_name = "CASE", value_delimiter = ',', value_parser = cases())]
    cases: Vec<String>,

    /// Compare only these variants; ratios need netd
    #[arg(long, value_name = "VARIANT", value_delimiter = ',', value_parser = variants())]
    variants: Vec<String>,

    /// Measure what the project's targets need, on one CPU, and say which are reached
    #[arg(long, conflicts_with_all = ["cases", "variants", "cpus"])]
    targets: bool,

    /// CPUs for both ends of a case: one that they share, or all
    #[arg(long, value_name = "1|all", value_delimiter = ',', default_value = "1")]
    cpus: Vec<Cpus>,

    /// Samples of each variant; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// How long each sample measures
    #[arg(long, default_value = "1", value_parser = seconds)]
    seconds: Duration,

    /// End within a minute: up to 3 rounds of 0.05 s, without what takes longer (unless it is named)
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,

    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Debug, Args)]
struct Output {
    /// Print the results, with every sample, as JSON, and nothing else
    #[arg(long)]
    json: bool,

    /// Write a page of plots into this directory, too (index.html, the plots as SVG files, report.json)
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

impl From<Output> for bench::Output {
    fn from(Output { json, report }: Output) -> Self {
        Self { json, report }
    }
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Time `netd attach` and `netd detach` against the CNI plugins
    Attach {
        /// How many times each
        #[arg(long, default_value_t = 100)]
        count: usize,

        #[command(flatten)]
        output: Output,
    },

    /// Measure what a large cluster costs each of its nodes: its start, its memory, and how fast a change arrives
    Nodes {
        /// How many other nodes there are
        #[arg(long, default_value_t = 5000)]
        nodes: u32,

        /// How many starts
        #[arg(long, default_value_t = 5)]
        rounds: usize,

        #[command(flatten)]
        output: Output,
    },

    /// Measure what a packet costs against the number of endpoints, flows, routes and published ports, as curves
    Scale {
        /// Only these
        #[arg(long, value_delimiter = ',', default_value = "endpoints,flows,routes,ports")]
        what: Vec<What>,

        /// Leave out larger counts
        #[arg(long, default_value_t = u32::MAX, hide_default_value = true)]
        max: u32,

        /// Samples of each; the median counts
        #[arg(long, default_value_t = 3)]
        rounds: usize,

        /// How long each sample measures
        #[arg(long, default_value = "0.5", value_parser = seconds)]
        seconds: Duration,

        #[command(flatten)]
        output: Output,
    },

    /// One end of a load, started by `netd bench`
    #[command(hide = true)]
    Worker { order: Order },
}

impl Bench {
    /// Measures and prints the report.
    ///
    /// # Errors
    /// The networks cannot be made.
    pub(super) fn run(self) -> Result<ExitCode> {
        match self.command {
            None => bench::run(&self.options()),
            Some(Command::Attach { count, output }) => bench::run_attach(count, &output.into()),
            Some(Command::Nodes { nodes, rounds, output }) => bench::run_nodes(nodes, rounds, &output.into()),
            Some(Command::Scale { what, max, rounds, seconds, output }) => {
                let output = output.into();
                bench::run_scale(&Scale { what, max, rounds, time: seconds, output })
            }
            Some(Command::Worker { order }) => bench::work(&order).map(|()| ExitCode::SUCCESS),
        }
    }

    fn options(self) -> bench::Options {
        if self.targets {
            return self.for_targets();
        }
        let chosen = |names: &[String], name: &str| names.is_empty() || names.iter().any(|one| one == name);
        let (rounds, time, limit) = self.effort();
        let (cases, skipped): (Vec<&Case>, Vec<&Case>) = CASES
            .iter()
            .filter(|case| chosen(&self.cases, case.name))
            .partition(|case| !self.quick || !self.cases.is_empty() || case.traffic != Traffic::Http);
        let reason = "a sample takes a second, which is too long for --quick: name it with --cases";
        bench::Options {
            cases,
            skipped: skipped.iter().map(|case| (case.name, reason.to_owned())).collect(),
            variants: VARIANTS
                .iter()
                .filter(|variant: &&Variant| match self.variants.is_empty() {
                    true => !variant.if_named,
                    false => self.variants.iter().any(|one| one == variant.name),
                })
                .collect(),
            cpus: self.cpus,
            targets: false,
            rounds,
            time,
            limit,
            output: self.output.into(),
        }
    }

    fn for_targets(self) -> bench::Options {
        let (rounds, time, limit) = self.effort();
        bench::Options {
            cases: CASES.iter().filter(|case| bench::is_case(case.name)).collect(),
            variants: VARIANTS.iter().filter(|variant| bench::is_variant(variant.name)).collect(),
            cpus: vec![Cpus::One],
            targets: true,
            rounds,
            time,
            limit,
            skipped: Vec::new(),
            output: self.output.into(),
        }
    }

    /// The number of rounds, how long a sample measures, and when it is to be over.
    fn effort(&self) -> (usize, Duration, Option<Duration>) {
        match self.quick {
            true => (3, Duration::from_millis(50), Some(QUICK)),
            false => (self.rounds, self.seconds, None),
        }
    }
}

fn cases() -> impl clap::builder::TypedValueParser<Value = String> {
    PossibleValuesParser::new(CASES.iter().map(|case| PossibleValue::new(case.name).help(case.what)))
        .map(|name| name)
}

fn variants() -> impl clap::builder::TypedValueParser<Value = String> {
    PossibleValuesParser::new(
        VARIANTS.iter().map(|variant| PossibleValue::new(variant.name).help(variant.what)),
    )
    .map(|name| name)
}

/// A time in seconds, with a fraction if need be.
fn seconds(text: &str) -> Result<Duration, String> {
    const LONGEST: f64 = 600.0;
    match text.parse() {
        Ok(seconds) if seconds > 0.0 && seconds <= LONGEST => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("a number of seconds, above 0 and up to {LONGEST}")),
    }
}
