//! Brings a machine to the point where a command can do its work.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use crate::apt::Apt;
use crate::toolchain::{self, Toolchain};
use crate::tools::{self, Goal};
use crate::{linker, progress};

/// What compiles the eBPF programs.
pub(crate) struct Ebpf {
    /// The compiler.
    pub(crate) toolchain: Toolchain,
    /// The linker's path.
    pub(crate) linker: PathBuf,
}

/// The command `setup`.
pub(crate) fn setup(goal: Goal) -> Result<ExitCode> {
    let start = Instant::now();
    prepare(goal)?;
    eprintln!("set-up: complete ({})", progress::elapsed(start.elapsed()));
    Ok(ExitCode::SUCCESS)
}

/// Installs what `goal` needs and the machine lacks.
pub(crate) fn prepare(goal: Goal) -> Result<Ebpf> {
    let mut apt = Apt::new();
    tools::ensure(goal, &mut apt)?;
    let toolchain = toolchain::ensure(&mut apt)?;
    let linker = linker::ensure(&toolchain, &mut apt)?;
    if matches!(goal, Goal::Lint | Goal::All) {
        toolchain::ensure_clippy(&toolchain, &mut apt)?;
        toolchain::ensure_host_lints()?;
    }
    Ok(Ebpf { toolchain, linker })
}
