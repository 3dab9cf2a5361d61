//! `netd run`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::{config, daemon};

/// Worker threads of the daemon; what they do takes little time, and most of it waits.
const WORKERS: usize = 2;

/// Run the daemon, in the foreground, until SIGTERM or Ctrl-C
///
/// Containers keep their network when the daemon stops or is killed: the eBPF programs go on without it, and the next
/// `netd run` takes over.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  netd run                                 with /etc/netd/netd.toml, or without any configuration
  netd run --config ./netd.toml
  RUST_LOG=debug netd run                  say more
  netd run --purge                         remove everything that netd has made

Without a configuration there is the network `default`, 10.88.0.0/16, masqueraded.
Several daemons can run on one machine, each in a network namespace of its own:
  nsenter --net=/run/netns/host-a netd run --socket /tmp/a.sock --state-dir /tmp/a --bpffs-dir /sys/fs/bpf/a")]
pub(super) struct Run {
    /// The configuration file [default: /etc/netd/netd.toml, which need not exist]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where the daemon keeps its state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/netd")]
    state_dir: PathBuf,

    /// Where it pins programs and maps; on a bpffs
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/netd")]
    bpffs_dir: PathBuf,

    /// Remove all links, routes, addresses, programs, maps and files of netd, and end
    ///
    /// Endpoints lose their network. Works also when the daemon was killed; refuses while one is running.
    #[arg(long)]
    purge: bool,
}

impl Run {
    pub(super) fn run(self, socket: PathBuf) -> Result<()> {
        debug_assert_eq!(config::DEFAULT_PATH, "/etc/netd/netd.toml", "the help says so");
        let options = daemon::Options {
            config: self.config,
            socket,
            state_dir: self.state_dir,
            bpffs_dir: self.bpffs_dir,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .enable_all()
            .build()
            .context("cannot start threads")?;
        if self.purge {
            runtime.block_on(daemon::purge(&options))
        } else {
            runtime.block_on(daemon::run(&options))
        }
    }
}
