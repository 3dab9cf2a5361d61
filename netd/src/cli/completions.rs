//! `netd completions`.

use std::io;

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;

/// Print a script that makes the shell complete netd's commands and options
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  netd completions bash > /etc/bash_completion.d/netd
  netd completions zsh > \"${fpath[1]}/_netd\"
  netd completions fish > ~/.config/fish/completions/netd.fish")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "netd", &mut script);
        match io::Write::write_all(&mut io::stdout(), &script) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }
}
