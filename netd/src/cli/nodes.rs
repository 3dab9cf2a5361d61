//! `netd nodes`.

use anyhow::Result;
use clap::Args;

use super::{print, print_json, table};
use crate::{api::client::Client, cluster::Transport, request::NodeView};

/// List the other nodes: their slices of the networks, and how packets get there
#[derive(Debug, Args)]
#[command(after_help = "TX is what this node has sent there, RX what came from there.

Examples:
  netd nodes
  netd nodes --json | jq -r '.nodes[] | select(.transport == \"vxlan\") | .name'")]
pub(super) struct Nodes {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Nodes {
    pub(super) async fn run(self, client: &Client) -> Result<()> {
        let list = client.nodes().await?;
        if self.json {
            return print_json(&list);
        }
        if list.nodes.is_empty() {
            return print("no other nodes: [[cluster.peers]] in the configuration names them");
        }
        let headings =
            ["name", "address", "transport", "slices", "tx packets", "tx bytes", "rx packets", "rx bytes"];
        let mut shown = table::table(&headings, &[4, 5, 6, 7]);
        for node in &list.nodes {
            shown.add_row(row(node));
        }
        print(table::text(&shown))
    }
}

fn row(node: &NodeView) -> Vec<String> {
    let subnets: Vec<String> = node.subnets.iter().map(ToString::to_string).collect();
    let transport = match node.transport {
        Some(Transport::Direct) => "direct",
        Some(Transport::Vxlan) => "vxlan",
        Some(Transport::Auto) | None => "no uplink",
    };
    let counters = &node.counters;
    vec![
        node.name.clone(),
        node.address.to_string(),
        transport.to_owned(),
        subnets.join(" "),
        counters.tx_packets.to_string(),
        table::bytes(counters.tx_bytes),
        counters.rx_packets.to_string(),
        table::bytes(counters.rx_bytes),
    ]
}
