//! libFuzzer on the decision core, with the stable compiler.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::apt::Apt;
use crate::tools::{self, Goal};
use crate::workspace;

/// What makes the compiler count which edges are taken and what is compared: `cargo fuzz` gives the same.
const COVERAGE: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks --cfg fuzzing";

/// What the command `fuzz` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// For how long, seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Processes at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    jobs: u32,
    /// Add to fuzz/corpus what reaches something that the stories there do not.
    #[arg(long)]
    keep: bool,
    /// Passed to libFuzzer, for example `-- -runs=1000000`.
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// The command `fuzz`.
pub(crate) fn fuzz(options: &Options) -> Result<ExitCode> {
    // No eBPF: the core is compiled for the host.
    tools::ensure(Goal::Fuzz, &mut Apt::new())?;
    let fuzzer = build()?;
    let kept = workspace::root().join("fuzz/corpus");
    let work = workspace::root().join("target/fuzz");
    let found = work.join("corpus");
    fs::create_dir_all(&found).with_context(|| format!("making {}", found.display()))?;

    let mut command = Command::new(&fuzzer);
    command.arg(format!("-max_total_time={}", options.seconds));
    command.arg(format!("-artifact_prefix={}/", work.display()));
    command.args(["-max_len=512", "-timeout=10", "-print_final_stats=1"]);
    if options.jobs > 1 {
        // libFuzzer's own way: each job writes a log where it is started.
        command.args([format!("-jobs={}", options.jobs), format!("-workers={}", options.jobs)]);
    }
    command.args(&options.args).arg(&found).arg(&kept).current_dir(&work);
    if !command.status().context("starting the fuzzer")?.success() {
        bail!(
            "a story broke something: it is in {}; what it shows goes with `cargo test -p netd-fuzz` once it is in {}",
            work.display(),
            kept.display()
        );
    }
    if options.keep {
        let mut merge = Command::new(&fuzzer);
        merge.args(["-merge=1", "-max_len=512"]).arg(&kept).arg(&found).current_dir(&work);
        workspace::run("merging what was found", &mut merge)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Compiles the fuzzer into a target directory of its own, and says where it is.
fn build() -> Result<PathBuf> {
    let host = host()?;
    let target = workspace::root().join("target/fuzz/build");
    let mut cargo = workspace::cargo();
    // With a target given, build scripts and macros are compiled without the counters, which they could not link.
    cargo.args(["build", "--release", "-p", "netd-fuzz", "--features", "libfuzzer", "--bin", "core"]);
    cargo.arg("--target").arg(&host).arg("--target-dir").arg(&target).env("RUSTFLAGS", COVERAGE);
    workspace::run("building the fuzzer", &mut cargo)?;
    Ok(target.join(host).join("release/core"))
}

/// The triple of this machine.
fn host() -> Result<String> {
    let output = workspace::rustc().arg("-vV").output().context("running rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host =
        text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    Ok(host.to_owned())
}
