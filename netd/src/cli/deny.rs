//! `netd deny`.

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{print, print_json, table};
use crate::{api::client::Client, request::DenyRequest};

/// Drop what comes from some sources, at the uplink and before all else (XDP)
///
/// It concerns all of the host: its own services too. The list stays until its entries are removed.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  netd deny add 203.0.113.7 198.51.100.0/24 2001:db8::/32
  netd deny ls                                             with how many packets each has dropped
  netd deny rm 203.0.113.7")]
pub(super) enum Command {
    Add(Add),
    Rm(Rm),
    Ls(Ls),
}

/// Drop packets from these addresses or prefixes
#[derive(Debug, Args)]
pub(super) struct Add {
    /// Addresses or prefixes
    #[arg(required = true, value_name = "CIDR")]
    sources: Vec<String>,
}

/// Let packets from these addresses or prefixes pass again
#[derive(Debug, Args)]
pub(super) struct Rm {
    /// Addresses or prefixes, as they are in the list
    #[arg(required = true, value_name = "CIDR")]
    sources: Vec<String>,
}

/// List what is dropped
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(super) async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Add(add) => client.deny(&DenyRequest { sources: add.sources }).await,
            Self::Rm(rm) => client.allow(&DenyRequest { sources: rm.sources }).await,
            Self::Ls(ls) => ls.run(client).await,
        }
    }
}

impl Ls {
    async fn run(self, client: &Client) -> Result<()> {
        let list = client.denied().await?;
        if self.json {
            return print_json(&list);
        }
        if list.denied.is_empty() {
            return print("nothing is denied: `netd deny add CIDR` does it");
        }
        let mut shown = table::table(&["source", "packets dropped"], &[1]);
        for denied in &list.denied {
            shown.add_row([denied.source.to_string(), denied.packets.to_string()]);
        }
        print(table::text(&shown))
    }
}
