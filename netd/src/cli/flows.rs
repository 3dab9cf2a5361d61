//! `netd flows`.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{print, print_json, table};
use crate::{
    api::client::Client,
    request::{FlowProtocol, FlowQuery, FlowView},
};

/// List the translated flows, or remove them
#[derive(Debug, Args)]
#[command(
    after_help = "A flow that is flushed ends only if its container is silent: its next packet begins a new one.

Examples:
  netd flows --endpoint web
  netd flows --protocol udp --json | jq .total
  netd flows --endpoint web flush"
)]
pub(super) struct Flows {
    /// Only those of an endpoint
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,

    /// Only those of a protocol
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<FlowProtocol>,

    /// Only those with this address on the other side
    #[arg(long, value_name = "ADDRESS")]
    remote: Option<IpAddr>,

    /// List at most so many [default: 10000]
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Remove them
    Flush,
}

impl Flows {
    pub(super) async fn run(self, client: &Client) -> Result<()> {
        let Self { endpoint, protocol, remote, limit, json, command } = self;
        let query = FlowQuery { endpoint, protocol, remote, limit };
        if matches!(command, Some(Command::Flush)) {
            let flushed = client.flush_flows(&query).await?;
            return if json {
                print_json(&flushed)
            } else {
                print(format!("{} flows removed", flushed.removed))
            };
        }
        let list = client.flows(&query).await?;
        if json {
            return print_json(&list);
        }
        if list.flows.is_empty() {
            return print("no flows: containers that talk to the world by masquerade have some");
        }
        let headings =
            ["endpoint", "protocol", "container", "translated", "remote", "state", "idle", "expires in"];
        let mut shown = table::table(&headings, &[6, 7]);
        for flow in &list.flows {
            shown.add_row(row(flow));
        }
        print(table::text(&shown))?;
        match list.total - list.flows.len() {
            0 => Ok(()),
            more => print(format!("and {more} more (--limit {} shows all)", list.total)),
        }
    }
}

fn row(flow: &FlowView) -> Vec<String> {
    vec![
        flow.endpoint.clone().unwrap_or_else(|| "-".to_owned()),
        flow.protocol.clone(),
        SocketAddr::new(flow.address, flow.port).to_string(),
        SocketAddr::new(flow.translated, flow.translated_port).to_string(),
        SocketAddr::new(flow.remote, flow.remote_port).to_string(),
        flow.state.clone(),
        format!("{} s", flow.idle),
        format!("{} s", flow.expires_in),
    ]
}
