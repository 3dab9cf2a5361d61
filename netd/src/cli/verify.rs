//! `netd verify`.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;

use super::{print, print_json, table};
use crate::bpf::verify::{Verified, verify};

/// Load every program into this kernel, and print what its verifier has looked at
///
/// Nothing is attached, and nothing is left: this is how to know whether netd can run here. It needs root.
#[derive(Debug, Args)]
#[command(
    after_help = "VERIFIED is the number of instructions that the verifier has looked at, over all ways through a program; the
kernel refuses a program with more than 1,000,000. The status is 1 where a program is refused.

Examples:
  netd verify
  netd verify --json | jq '[.[] | .verified] | add'"
)]
pub(super) struct Verify {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(super) fn run(self) -> Result<ExitCode> {
        ensure!(nix::unistd::geteuid().is_root(), "netd verify needs root: run it with sudo");
        let programs = verify()?;
        let refused = programs.iter().filter(|program| program.refusal.is_some()).count();
        if self.json {
            print_json(&programs)?;
        } else {
            let mut shown = table::table(&["program", "verified", "bytes", "machine code", ""], &[1, 2, 3]);
            programs.iter().for_each(|program| {
                shown.add_row(row(program));
            });
            print(table::text(&shown))?;
            let total = programs.len();
            print(match refused {
                0 => format!("the kernel takes all {total} programs"),
                _ => format!("the kernel refuses {refused} of {total} programs"),
            })?;
        }
        Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn row(program: &Verified) -> [String; 5] {
    let number = |value: Option<u32>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let refusal = program.refusal.as_ref().map(|why| format!("refused: {why}"));
    [
        program.program.clone(),
        number(program.verified),
        number(program.translated_bytes),
        number(program.jitted_bytes),
        refusal.unwrap_or_default(),
    ]
}
