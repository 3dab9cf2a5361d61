//! `netd ls`.

use anyhow::Result;
use clap::Args;

use super::{print, print_json, publish, table};
use crate::{api::client::Client, request::EndpointView};

/// List the endpoints: addresses, links, and how much they have sent and received
#[derive(Debug, Args)]
#[command(after_help = "TX is what the container has sent, RX what it has received.

Examples:
  netd ls
  netd ls --json | jq -r '.endpoints[].name'")]
pub(super) struct Ls {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Ls {
    pub(super) async fn run(self, client: &Client) -> Result<()> {
        let list = client.endpoints().await?;
        if self.json {
            return print_json(&list);
        }
        if list.endpoints.is_empty() {
            return print("no endpoints: `netd attach NAME --netns NETNS` makes one");
        }
        let headings = [
            "name",
            "network",
            "addresses",
            "link",
            "netns",
            "ports",
            "tx packets",
            "tx bytes",
            "rx packets",
            "rx bytes",
            "",
        ];
        let mut shown = table::table(&headings, &[6, 7, 8, 9]);
        for endpoint in &list.endpoints {
            shown.add_row(row(endpoint));
        }
        print(table::text(&shown))
    }
}

fn row(endpoint: &EndpointView) -> Vec<String> {
    let addresses: Vec<String> = endpoint.addresses.iter().map(ToString::to_string).collect();
    let counters = &endpoint.counters;
    let problem = endpoint.problem.as_ref().map(|problem| format!("NOT WORKING: {problem}"));
    vec![
        endpoint.name.clone(),
        endpoint.network.clone(),
        addresses.join(" "),
        endpoint.link.as_str().to_owned(),
        if endpoint.netns.is_empty() { "-".to_owned() } else { endpoint.netns.clone() },
        publish::list(endpoint),
        counters.tx_packets.to_string(),
        table::bytes(counters.tx_bytes),
        counters.rx_packets.to_string(),
        table::bytes(counters.rx_bytes),
        problem.unwrap_or_default(),
    ]
}
