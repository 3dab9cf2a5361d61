//! The command `vm`: other kernels than this machine's, in a virtual machine whose root is this machine's own.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use crate::summary::{self, Totals};
use crate::tools::Goal;
use crate::{ebpf, progress, setup, test, workspace};

use image::Image;
use kernels::{KERNELS, Kernel};
use machine::{Accelerator, Ended, Size};

mod image;
mod kernels;
mod machine;

/// Which kernels, and what runs there.
#[derive(Args)]
pub(crate) struct Options {
    /// The kernels, for example 6.1; all of them without.
    kernels: Vec<String>,
    /// Minutes until a VM that has not ended is switched off.
    #[arg(long, value_name = "MINUTES", default_value_t = 180)]
    limit: u64,
    /// CPUs of the VM.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// Memory of the VM in MiB; what is written there is in it, too.
    #[arg(long, default_value_t = 4096)]
    memory: u32,
    /// Count instructions: one CPU, whose every instruction takes a nanosecond of the VM's time, so that what a packet takes there in
    /// nanoseconds is instructions.
    #[arg(long)]
    count: bool,
    /// What runs there, for example `-- netd demo`; the whole test suite without.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Where kernels are kept, and what a run needs.
fn directory() -> PathBuf {
    workspace::root().join("target/vm")
}

/// The command `vm`: its status is that of the first command that failed.
pub(crate) fn vm(options: &Options) -> Result<ExitCode> {
    let kernels = match options.kernels.as_slice() {
        [] => KERNELS.iter().collect(),
        names => names.iter().map(|name| Kernel::named(name)).collect::<Result<Vec<_>>>()?,
    };
    let tools = setup::prepare(Goal::Vm)?;
    let kernels = kernels.into_iter().map(Kernel::install).collect::<Result<Vec<_>>>()?;
    ebpf::build(&tools)?;
    workspace::build_netd()?;
    let command = if options.command.is_empty() {
        // All is compiled here: there it would take five times as long.
        test::compile_all()?;
        [env::current_exe()?.into_os_string(), "test".into()].to_vec()
    } else {
        options.command.clone()
    };
    let cpus = if options.count { 1 } else { options.cpus };
    let size = Size { cpus, memory: options.memory };
    let limit = Duration::from_secs(60 * options.limit);
    let mut accelerator = if options.count { Accelerator::Count } else { Accelerator::to_try() };
    let (mut first_failure, mut table, mut tested) = (0, Vec::new(), Vec::new());
    for kernel in kernels {
        println!("== Linux {}", kernel.name);
        let dir = directory().join(format!("run-{}", process::id()));
        let image = Image::build(&kernel, &command, dir)?;
        let start = Instant::now();
        let mut ended = machine::run(&kernel, &image, accelerator, size, limit);
        if let Ok(Ended::Dead) = ended {
            accelerator.fall_back();
            ended = machine::run(&kernel, &image, accelerator, size, limit);
        }
        let _ = fs::remove_dir_all(&image.dir);
        let (status, console) = match ended {
            Ok(Ended::Command(status, console)) => (status, console),
            Ok(Ended::Dead) => (1, Vec::new()),
            Err(error) => {
                eprintln!("error: {error:#}");
                (1, Vec::new())
            }
        };
        let outcome = if status == 0 { "ok" } else { "FAILED" };
        table.push(format!(
            "  {outcome:<7} Linux {:<6} {:>12}",
            kernel.name,
            progress::elapsed(start.elapsed())
        ));
        let summary = console.iter().skip_while(|line| *line != "== summary").skip(1);
        table.extend(summary.map(|line| format!("          {line}")));
        let results = summary::by_program(console.iter().map(String::as_str));
        tested.push((kernel.name, results));
        if first_failure == 0 {
            first_failure = status;
        }
    }
    println!("\n== kernels");
    table.iter().for_each(|line| println!("{line}"));
    matrix(&tested).iter().for_each(|line| println!("{line}"));
    Ok(ExitCode::from(first_failure))
}

/// The table of kernels and test programs: how many tests passed, failed and were skipped. Empty: nothing was tested.
fn matrix(tested: &[(&str, Vec<(String, Totals)>)]) -> Vec<String> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in tested.iter().flat_map(|(_, results)| results) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Vec::new();
    }
    let row = |first: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("  {cell:<26}")).collect();
        format!("  {first:<20}{cells}").trim_end().to_owned()
    };
    let mut lines = vec![String::new(), "== tests that passed".to_owned()];
    lines.push(row("", tested.iter().map(|(kernel, _)| format!("Linux {kernel}")).collect()));
    for name in names {
        let cell = |(_, results): &(&str, Vec<(String, Totals)>)| {
            let found = results.iter().find(|(program, _)| program == name);
            found.map_or("-".to_owned(), |(_, totals)| totals.short())
        };
        lines.push(row(name, tested.iter().map(cell).collect()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_and_programs() {
        let output = "
     Running unittests src/lib.rs (target/release/deps/netd-1a)
test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
     Running tests/links.rs (target/release/deps/links-2b)
SKIP netkit::x: no netkit
test y ... FAILED
test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
== summary
     Running tests/none.rs (target/release/deps/none-3c)";
        let (old, new) = (summary::by_program(output.lines()), summary::by_program(output.lines().take(3)));
        let lines = matrix(&[("6.1", old), ("7.3", new)]);
        assert_eq!(
            lines[3..],
            [
                "  netd                  3, 1 skipped                3, 1 skipped",
                "  links                 0, 1 failed, 1 skipped      -"
            ]
        );
        assert!(matrix(&[("6.1", Vec::new())]).is_empty());
    }
}
