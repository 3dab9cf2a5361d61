//! `netd demo`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

/// Show the configurations that netd is for, with real traffic, in networks made for the purpose
///
/// Prints who reached whom, and what carried it. Nothing of it is left afterwards. The exit status is 0 only if every
/// configuration that this version has works.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  netd demo
  netd demo --json | jq '.configurations[] | {name, passed}'
  netd demo --keep                         leave the network up, to look around in it
  netd demo --clean                        remove what --keep has left")]
pub struct Demo {
    /// Leave the network up afterwards, and print commands to explore it
    #[arg(long)]
    keep: bool,

    /// Print the results as JSON, and nothing else
    #[arg(long)]
    json: bool,

    /// Remove what `--keep` has left (all, or only that of this name), and do nothing else
    #[arg(
        long,
        value_name = "NAME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        conflicts_with_all = ["keep", "json"]
    )]
    clean: Option<String>,
}

impl Demo {
    /// Runs the demo, or cleans up.
    ///
    /// # Errors
    /// The demo's network cannot be made.
    pub fn run(self) -> Result<ExitCode> {
        match self.clean.as_deref() {
            Some("") => crate::demo::clean(None),
            Some(name) => crate::demo::clean(Some(name)),
            None => crate::demo::run(self.keep, self.json),
        }
    }
}
