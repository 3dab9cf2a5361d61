//! Every test, in stages; all stages run even when an early one fails.

use std::env;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::summary::{Reader, Totals};
use crate::tools::Goal;
use crate::{ebpf, progress, setup, skips, workspace};

/// How many program and network tests run at a time: they mostly wait, but each has several namespaces with daemons, and
/// some of them look at the clock.
const NETWORK_THREADS: &str = "2";

/// What is overflowing or out of order is an error in the decision core, also where it is optimised.
const CHECKED_CORE: [&str; 6] = [
    "--config=profile.release.package.netd-common.overflow-checks=true",
    "--config=profile.release.package.netd-common.debug-assertions=true",
    "-p",
    "netd-common",
    "-p",
    "netd-fuzz",
];

/// Arguments of cargo for a stage's tests.
struct Stage {
    name: &'static str,
    profile: &'static [&'static str],
    packages: &'static [&'static str],
}

// The decision core's property tests are heavy, so it is optimised.
const CORE: Stage = Stage { name: "decision core", profile: &["--release"], packages: &CHECKED_CORE };
const DAEMON: Stage =
    Stage { name: "daemon and developer's commands", profile: &[], packages: &["-p", "netd", "-p", "xtask"] };
const NETWORK: Stage =
    Stage { name: "program and network tests", profile: &["--release"], packages: &["-p", "netd-tests"] };

impl Stage {
    fn cargo(&self) -> Command {
        let mut cargo = workspace::cargo();
        cargo.arg("test").args(self.profile).args(self.packages);
        cargo
    }
}

/// Compiles all tests, for where they cannot be compiled. The eBPF object must be there.
pub(crate) fn compile_all() -> Result<()> {
    [CORE, DAEMON, NETWORK].iter().try_for_each(|stage| compile(&mut stage.cargo()))
}

/// The command `test`.
pub(crate) fn test(filter: Option<&str>, args: &[String]) -> Result<ExitCode> {
    let mut stages = Stages { filter, args, totals: Totals::default(), lines: Vec::new() };
    let object = stages.step("set-up", || setup::prepare(Goal::Test));
    let object = object.and_then(|tools| stages.step("eBPF programs", || ebpf::build(&tools)));

    // The decision core does not need the object.
    stages.tests(&CORE, &[]);
    if object.is_some() {
        stages.tests(&DAEMON, &[]);
        let netd = stages.step("netd (release)", || {
            workspace::build_netd()?;
            workspace::netd_binary()
        });
        if let Some(netd) = netd {
            let threads = env::var("RUST_TEST_THREADS").unwrap_or_else(|_| NETWORK_THREADS.into());
            let environment = [("NETD_BIN", netd), ("RUST_TEST_THREADS", PathBuf::from(threads))];
            stages.tests(&NETWORK, &environment);
        }
    } else {
        eprintln!(
            "== not run, because netd cannot be built: tests of the daemon, of its programs and of the network"
        );
    }
    Ok(stages.finish())
}

/// What has been run so far.
struct Stages<'a> {
    filter: Option<&'a str>,
    args: &'a [String],
    totals: Totals,
    /// A line for each stage.
    lines: Vec<String>,
}

impl Stages<'_> {
    /// Runs a stage that is no test, but whose failure counts.
    fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Option<T> {
        let start = Instant::now();
        eprintln!("== {name}");
        match work() {
            Ok(value) => {
                self.lines.push(describe("ok", name, start.elapsed(), ""));
                Some(value)
            }
            Err(error) => {
                eprintln!("error: {error:#}");
                self.lines.push(describe("FAILED", name, start.elapsed(), ""));
                self.totals.fail(format!("{name}: {error:#}"));
                None
            }
        }
    }

    /// Runs the tests of some packages.
    fn tests(&mut self, stage: &Stage, environment: &[(&str, PathBuf)]) {
        let (start, name) = (Instant::now(), stage.name);
        eprintln!("== {name}");
        let mut cargo = stage.cargo();
        cargo.envs(environment.iter().map(|(name, value)| (name, value)));
        let totals = compile(&mut cargo).and_then(|()| self.execute(&mut cargo)).unwrap_or_else(|error| {
            let mut totals = Totals::default();
            totals.fail(format!("{name}: {error:#}"));
            totals
        });
        let outcome = if totals.any_failed() { "FAILED" } else { "ok" };
        self.lines.push(describe(outcome, name, start.elapsed(), &totals.line()));
        self.totals.add(totals);
    }

    /// Runs the compiled tests, shows their output as it comes, and counts.
    fn execute(&self, cargo: &mut Command) -> Result<Totals> {
        let given = |option: &str| self.args.iter().any(|arg| arg.starts_with(option));
        cargo.arg("--no-fail-fast").args(self.filter).arg("--").args(self.args);
        let verbose = given("--show-output");
        if !verbose {
            cargo.arg("--show-output");
        }
        if io::stdout().is_terminal() && !given("--color") {
            cargo.arg("--color=always").env("CARGO_TERM_COLOR", "always");
        }
        // One pipe for both: cargo's headers and the harness's results stay in order.
        let (reader, writer) = io::pipe()?;
        cargo.stdout(writer.try_clone()?).stderr(writer);
        let mut child = cargo.spawn().context("cannot start cargo")?;
        // Our copies of the writing end have to go, or the output would never end.
        cargo.stdout(Stdio::null()).stderr(Stdio::null());

        let mut results = Reader::new(verbose);
        for line in BufReader::new(reader).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            if results.line(&line) {
                println!("{line}");
            }
        }
        Ok(results.finish(child.wait()?.success()))
    }

    /// Prints the summary.
    fn finish(mut self) -> ExitCode {
        if self.filter.is_some() && !self.totals.any_ran() {
            self.totals.fail("no test has a name with the given filter");
        }
        if skips::all_required() {
            let whole = self.filter.is_none() && self.args.is_empty() && !self.totals.any_failed();
            let faults = skips::faults(self.totals.skipped(), whole);
            faults.into_iter().for_each(|fault| self.totals.fail(fault));
        }
        println!("\n== summary");
        for line in &self.lines {
            println!("{line}");
        }
        list("skipped", self.totals.skipped());
        list("failed", self.totals.failures());
        println!("{}", self.totals.line());
        if self.totals.any_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// Compiles the tests that `cargo` would run, with cargo's own progress on the screen.
fn compile(cargo: &mut Command) -> Result<()> {
    let mut build = Command::new(cargo.get_program());
    build.args(cargo.get_args()).arg("--no-run").current_dir(workspace::root());
    for (name, value) in cargo.get_envs() {
        match value {
            Some(value) => build.env(name, value),
            None => build.env_remove(name),
        };
    }
    // Names of test programs go to stdout or stderr by cargo's version; they say nothing here.
    workspace::run("compiling the tests", &mut build)
}

fn describe(outcome: &str, name: &str, time: Duration, results: &str) -> String {
    let line = format!("  {outcome:<7} {name:<34} {:>12}  {results}", progress::elapsed(time));
    line.trim_end().to_owned()
}

fn list<'a>(title: &str, lines: impl Iterator<Item = &'a str>) {
    for (i, line) in lines.enumerate() {
        if i == 0 {
            println!("{title}:");
        }
        println!("  {line}");
    }
}
