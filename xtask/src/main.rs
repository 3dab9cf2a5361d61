//! netd's developer commands, run as `cargo xtask COMMAND`.
//!
//! Each command first sets up what it needs and the machine lacks, so that a fresh clone is one command away from a
//! running netd. What is there already costs a fraction of a second to find.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::tools::Goal;

mod apt;
mod compare;
mod ebpf;
mod fuzz;
mod linker;
mod lint;
mod progress;
mod run;
mod setup;
mod skips;
#[cfg_attr(not(test), expect(dead_code, reason = "the build script of netd needs the rest"))]
mod sources;
mod summary;
mod system;
mod test;
mod toolchain;
mod tools;
mod vm;
mod workspace;

/// Build, run, test and check netd.
///
/// Every command sets up what it needs first: it says what is missing and why, then installs it (as root, on Debian
/// and its relatives, with apt-get). Start with `cargo xtask run`.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything and run netd; with no arguments, its demo.
    ///
    /// Sets up what is missing, builds the eBPF programs and the daemon (release), and becomes `netd ARGS`: the exit
    /// code is netd's. With no ARGS it runs `netd demo`, which makes the four network configurations on this machine
    /// and sends real traffic through them. netd needs root.
    Run {
        /// What netd gets, for example `cargo xtask run -- ls --json`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<OsString>,
    },
    /// Run every test: unit, property, program and network.
    ///
    /// Sets up what is missing, builds everything, and runs all stages even when an early one fails. The network tests
    /// make network namespaces of their own and need root. The last line is the total:
    /// `N passed, N failed, N skipped`. A skipped test is one that this machine cannot run; the reasons are listed.
    /// With NETD_REQUIRE_ALL=1, as in CI, a test that is skipped has failed, but for a few that are never run.
    Test {
        /// Run only the tests whose name contains this.
        filter: Option<String>,
        /// Passed to the test harness, for example `-- --nocapture`.
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Check the formatting, the lints and the documentation, as CI does.
    ///
    /// rustfmt and clippy on all crates (the eBPF programs with the toolchain that compiles them), and rustdoc; a
    /// warning is an error. All checks run even when an early one fails.
    Lint,
    /// Measure netd against a Linux bridge with iptables and others, side by side.
    ///
    /// Sets up the tools that the benchmarks drive, builds everything (release), and becomes `netd bench ARGS`.
    Bench {
        /// What `netd bench` gets, for example `--json`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<OsString>,
    },
    /// Feed the decision core with what libFuzzer makes of the corpus in fuzz/corpus.
    ///
    /// New stories go to target/fuzz/corpus, one that breaks something to target/fuzz. At the end libFuzzer prints how many it
    /// played, and how many a second.
    Fuzz(fuzz::Options),
    /// Play generated stories through netd and through a bridge with Docker's rules, and compare what everybody gets.
    ///
    /// `test` does the same for some seconds. The stories of packets come first, then those of real sockets. A difference is a
    /// failure unless docs/nat.md has it; it is shown with the seed that plays it again.
    Compare(compare::Options),
    /// Run a command, or the whole test suite, on other kernels: in a VM whose root is this machine's, read-only.
    ///
    /// The kernels are Debian's, downloaded to target/vm. What the command writes is gone when it has ended; its status is this
    /// command's. The VM has two virtio NICs, eth0 and eth1, that are joined to each other, and no way out. Software does the
    /// emulation where the machine gives no virtual CPUs: then it all takes about five times as long.
    Vm(vm::Options),
    /// Install what is missing: the eBPF toolchain, bpf-linker, and the tools that tests and benchmarks use.
    ///
    /// The other commands do this for themselves. NETD_EBPF_TOOLCHAIN=debian|nightly picks the toolchain for the eBPF
    /// programs; by default it is the first that is found of Debian's rustc with its prebuilt core, and rustup's
    /// nightly with rust-src.
    Setup {
        /// Only what this needs.
        #[arg(value_enum, default_value_t = Goal::All)]
        goal: Goal,
    },
    /// Compile the eBPF programs to target/bpf/*.o, which `cargo build` embeds in netd.
    BuildEbpf,
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run { args } => run::run(&args),
        Command::Test { filter, args } => test::test(filter.as_deref(), &args),
        Command::Lint => lint::lint(),
        Command::Bench { args } => run::bench(&args),
        Command::Fuzz(options) => fuzz::fuzz(&options),
        Command::Compare(options) => compare::compare(&options),
        Command::Vm(options) => vm::vm(&options),
        Command::Setup { goal } => setup::setup(goal),
        Command::BuildEbpf => {
            ebpf::build(&setup::prepare(Goal::Build)?)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_arguments_with_and_without_the_separator() {
        for line in [&["xtask", "run", "--", "ls", "--json"][..], &["xtask", "run", "ls", "--json"]] {
            let Command::Run { args } = Cli::parse_from(line).command else { panic!("{line:?}") };
            assert_eq!(args, ["ls", "--json"]);
        }
    }

    #[test]
    fn vm_takes_kernels_and_a_command() {
        for line in
            [&["xtask", "vm", "6.1", "6.12"][..], &["xtask", "vm", "6.1", "--", "netd", "demo", "--json"]]
        {
            assert!(matches!(Cli::parse_from(line).command, Command::Vm(_)));
        }
    }

    #[test]
    fn test_takes_a_filter_and_arguments_for_the_harness() {
        let Command::Test { filter, args } =
            Cli::parse_from(["xtask", "test", "snat", "--", "--nocapture"]).command
        else {
            panic!("not a test command")
        };
        assert_eq!((filter.as_deref(), args.as_slice()), (Some("snat"), &["--nocapture".to_owned()][..]));
    }
}
