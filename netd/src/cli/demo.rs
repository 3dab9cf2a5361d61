//! `netd demo`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

/// The options of `netd demo`.
#[derive(Clone, Copy, Debug, Args)]
pub struct Demo {
    /// Leave the network up afterwards, and print commands to explore it
    #[arg(long)]
    keep: bool,

    /// Print the results as JSON, and nothing else
    #[arg(long)]
    json: bool,

    /// Remove what `--keep` left, and do nothing else
    #[arg(long, conflicts_with_all = ["keep", "json"])]
    clean: bool,
}

impl Demo {
    /// Runs the demo, or cleans up.
    ///
    /// # Errors
    /// The demo's network cannot be made.
    pub fn run(self) -> Result<ExitCode> {
        if self.clean { crate::demo::clean() } else { crate::demo::run(self.keep, self.json) }
    }
}
