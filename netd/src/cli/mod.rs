//! The command line: one file a command.
//!
//! What is asked for goes to standard output, errors to standard error as one line `netd: …`. The exit status is 0, 1 for
//! an error, and 2 for a command line that is not understood.

mod attach;
mod bench;
mod completions;
pub mod demo;
mod deny;
mod detach;
mod flows;
mod log;
mod ls;
mod network;
mod nodes;
mod publish;
mod run;
mod status;
mod table;
mod verify;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::{api::client::Client, names};

/// Where the daemon answers if nothing else is said.
const DEFAULT_SOCKET: &str = "/run/netd/netd.sock";

/// Container networking on eBPF, without the Linux bridge and without iptables.
#[derive(Debug, Parser)]
#[command(
    version,
    disable_help_subcommand = true,
    after_help = "Getting started, as root:
  netd demo                                see all of it work, in networks made for the purpose
  netd run                                 start the daemon (in the foreground)
  ip netns add web                         stands for a container
  netd attach web --netns web              give it an interface and an address
  ip netns exec web ping -c1 10.88.0.1     the container reaches its host
  netd ls                                  list what is attached
  netd detach web                          take it away again

`netd COMMAND --help` explains a command and its options."
)]
struct Cli {
    /// The daemon's unix socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "NETD_SOCKET",
        hide_env_values = true,
        default_value = DEFAULT_SOCKET
    )]
    socket: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Attach(attach::Attach),
    Detach(detach::Detach),
    Publish(publish::Publish),
    Unpublish(publish::Unpublish),
    Ls(ls::Ls),
    #[command(subcommand)]
    Network(network::Command),
    Nodes(nodes::Nodes),
    #[command(subcommand)]
    Deny(deny::Command),
    Flows(flows::Flows),
    Status(status::Status),
    /// Show the configurations that netd is for, with real traffic, in networks made for the purpose
    Demo(demo::Demo),
    Bench(bench::Bench),
    Verify(verify::Verify),
    Completions(completions::Completions),
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    // A usage error ends here, with status 2.
    let cli = Cli::parse();
    match cli.execute() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("netd: {}", names::one_line(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    fn execute(self) -> Result<ExitCode> {
        let client = Client::new(&self.socket);
        log::begin(if matches!(self.command, Command::Run(_)) { "info" } else { "off" });
        match self.command {
            Command::Run(run) => run.run(self.socket)?,
            Command::Demo(demo) => return demo.run(),
            Command::Bench(bench) => return bench.run(),
            Command::Verify(verify) => return verify.run(),
            Command::Completions(completions) => completions.run()?,
            Command::Attach(attach) => block_on(attach.run(&client))?,
            Command::Detach(detach) => block_on(detach.run(&client))?,
            Command::Publish(publish) => block_on(publish.run(&client))?,
            Command::Unpublish(unpublish) => block_on(unpublish.run(&client))?,
            Command::Ls(ls) => block_on(ls.run(&client))?,
            Command::Network(network) => block_on(network.run(&client))?,
            Command::Deny(deny) => block_on(deny.run(&client))?,
            Command::Nodes(nodes) => block_on(nodes.run(&client))?,
            Command::Flows(flows) => block_on(flows.run(&client))?,
            Command::Status(status) => return block_on(status.run(&client)),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Runs a command that asks the daemon. It only waits, so one thread will do.
fn block_on<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start")?.block_on(command)
}

/// Prints a line, or a table. That nobody reads on (`netd ls | head -1`) is no error.
fn print(text: impl std::fmt::Display) -> Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Prints JSON.
fn print_json(value: &impl Serialize) -> Result<()> {
    print(serde_json::to_string_pretty(value)?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_socket_is_an_option_of_every_command() {
        for words in [
            &["netd", "--socket", "/s", "ls"][..],
            &["netd", "ls", "--socket", "/s"],
            &["netd", "network", "ls", "--socket", "/s"],
            &["netd", "run", "--socket", "/s"],
        ] {
            assert_eq!(Cli::try_parse_from(words).unwrap().socket, PathBuf::from("/s"), "{words:?}");
        }
    }
}
