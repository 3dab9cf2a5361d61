//! The commands that end in netd.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::tools::Goal;
use crate::{ebpf, setup, workspace};

/// The command `run`.
pub(crate) fn run(args: &[OsString]) -> Result<ExitCode> {
    if args.is_empty() { become_netd(Goal::Run, &["demo".into()]) } else { become_netd(Goal::Run, args) }
}

/// The command `bench`.
pub(crate) fn bench(args: &[OsString]) -> Result<ExitCode> {
    let args: Vec<OsString> = [OsString::from("bench")].into_iter().chain(args.iter().cloned()).collect();
    become_netd(Goal::Bench, &args)
}

/// Builds netd and replaces this process with it: signals reach it directly, and its exit code is the command's.
fn become_netd(goal: Goal, args: &[OsString]) -> Result<ExitCode> {
    ebpf::build(&setup::prepare(goal)?)?;
    workspace::build_netd()?;
    let binary = workspace::netd_binary()?;
    // Returns only if it could not be done.
    let error = Command::new(&binary).args(args).exec();
    Err(error).with_context(|| format!("running {}", binary.display()))
}
