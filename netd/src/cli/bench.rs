//! `netd bench`.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{
    Args, Subcommand,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser as _},
};

use crate::bench::{self, CASES, Case, Cpus, Order, VARIANTS, Variant};

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

    /// CPUs for both ends of a case: one that they share, or all
    #[arg(long, value_name = "1|all", value_delimiter = ',', default_value = "1")]
    cpus: Vec<Cpus>,

    /// Samples of each variant; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// How long each sample measures
    #[arg(long, default_value = "1", value_parser = seconds)]
    seconds: Duration,

    /// End within a minute: 3 rounds of 0.1 s
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,

    /// Print the results, with every sample, as JSON, and nothing else
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Time `netd attach` and `netd detach` against the CNI plugins
    Attach {
        /// How many times each
        #[arg(long, default_value_t = 100)]
        count: usize,

        /// Print the results, with every sample, as JSON, and nothing else
        #[arg(long)]
        json: bool,
    },

    /// Measure what a large cluster costs each of its nodes: its start, its memory, and how fast a change arrives
    Nodes {
        /// How many other nodes there are
        #[arg(long, default_value_t = 5000)]
        nodes: u32,

        /// How many starts
        #[arg(long, default_value_t = 5)]
        rounds: usize,

        /// Print the results, with every sample, as JSON, and nothing else
        #[arg(long)]
        json: bool,
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
            Some(Command::Attach { count, json }) => bench::run_attach(count, json),
            Some(Command::Nodes { nodes, rounds, json }) => bench::run_nodes(nodes, rounds, json),
            Some(Command::Worker { order }) => bench::work(&order).map(|()| ExitCode::SUCCESS),
        }
    }

    fn options(self) -> bench::Options {
        let chosen = |names: &[String], name: &str| names.is_empty() || names.iter().any(|one| one == name);
        let (rounds, time) =
            if self.quick { (3, Duration::from_millis(100)) } else { (self.rounds, self.seconds) };
        bench::Options {
            cases: CASES.iter().filter(|case: &&Case| chosen(&self.cases, case.name)).collect(),
            variants: VARIANTS
                .iter()
                .filter(|variant: &&Variant| match self.variants.is_empty() {
                    true => !variant.if_named,
                    false => self.variants.iter().any(|one| one == variant.name),
                })
                .collect(),
            cpus: self.cpus,
            rounds,
            time,
            json: self.json,
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
