//! `netd detach`.

use anyhow::Result;
use clap::Args;

use crate::api::client::Client;

/// Take an endpoint's interface and address away
#[derive(Debug, Args)]
#[command(after_help = "Example:
  netd detach web")]
pub(super) struct Detach {
    /// The endpoint's name, as `netd ls` shows it
    name: String,
}

impl Detach {
    pub(super) async fn run(self, client: &Client) -> Result<()> {
        client.detach(&self.name).await
    }
}
