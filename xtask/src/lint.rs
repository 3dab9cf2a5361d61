//! The checks that need no machine to run on: formatting, lints, documentation.

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::tools::Goal;
use crate::{ebpf, progress, setup, workspace};

/// The host's crates; netd-ebpf compiles for BPF only.
const HOST_CRATES: [&str; 3] = ["--workspace", "--exclude", "netd-ebpf"];

/// The command `lint`: all checks, also when an early one fails.
pub(crate) fn lint() -> Result<ExitCode> {
    let tools = setup::prepare(Goal::Lint)?;
    let mut checks = Checks::default();
    checks.run("formatting", || host(&["fmt", "--all", "--check"], |_| {}));
    // netd embeds the object, so it is there before netd is checked.
    checks.run("eBPF build", || ebpf::build(&tools));
    checks.run("eBPF clippy", || ebpf::clippy(&tools));
    checks.run("clippy", || {
        let args = ["clippy"].iter().chain(&HOST_CRATES).chain(&["--all-targets", "--", "-D", "warnings"]);
        host(&args.copied().collect::<Vec<_>>(), |_| {})
    });
    checks.run("documentation", || {
        let args = ["doc", "--no-deps"].iter().chain(&HOST_CRATES);
        host(&args.copied().collect::<Vec<_>>(), |command| {
            command.env("RUSTDOCFLAGS", "-D warnings");
        })
    });
    checks.finish()
}

fn host(args: &[&str], adjust: impl FnOnce(&mut Command)) -> Result<()> {
    let mut command = workspace::cargo();
    command.args(args);
    adjust(&mut command);
    workspace::run(&format!("cargo {}", args.join(" ")), &mut command)
}

#[derive(Default)]
struct Checks {
    passed: usize,
    failed: Vec<&'static str>,
}

impl Checks {
    fn run(&mut self, name: &'static str, check: impl FnOnce() -> Result<()>) {
        let start = Instant::now();
        eprintln!("== {name}");
        let result = check();
        let time = progress::elapsed(start.elapsed());
        match result {
            Ok(()) => {
                eprintln!("== {name}: ok ({time})");
                self.passed += 1;
            }
            Err(error) => {
                eprintln!("== {name}: FAILED ({time}): {error:#}");
                self.failed.push(name);
            }
        }
    }

    fn finish(self) -> Result<ExitCode> {
        if !self.failed.is_empty() {
            bail!(
                "{} of {} checks failed: {}",
                self.failed.len(),
                self.failed.len() + self.passed,
                self.failed.join(", ")
            );
        }
        eprintln!("lint: {} checks passed", self.passed);
        Ok(ExitCode::SUCCESS)
    }
}
