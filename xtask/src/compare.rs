//! netd and netfilter side by side, for as long as one likes.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::tools::Goal;
use crate::{ebpf, setup, workspace};

/// What the command `compare` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// For how long new stories of packets are played, and then those of sockets as long again.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
    /// Play the story of this seed instead, and show it.
    #[arg(long, value_name = "NUMBER", conflicts_with = "minutes")]
    seed: Option<String>,
}

/// The command `compare`.
pub(crate) fn compare(options: &Options) -> Result<ExitCode> {
    ebpf::build(&setup::prepare(Goal::Test)?)?;
    workspace::build_netd()?;
    let mut cargo = workspace::cargo();
    cargo.args([
        "test",
        "--release",
        "-p",
        "netd-tests",
        "--test",
        "compare",
        "--",
        "--nocapture",
        "--test-threads=1",
    ]);
    cargo.env("NETD_BIN", workspace::netd_binary()?);
    match &options.seed {
        Some(seed) => cargo.env("NETD_COMPARE_SEED", seed),
        None => cargo.env("NETD_COMPARE_SECONDS", (options.minutes * 60).to_string()),
    };
    workspace::run("comparing", &mut cargo)?;
    Ok(ExitCode::SUCCESS)
}
