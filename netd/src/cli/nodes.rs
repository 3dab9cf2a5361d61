//! `netd nodes`.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{print, print_json, table};
use crate::{
    api::client::Client,
    cluster::{Presence, Transport},
    request::NodeView,
};

/// List the other nodes: their slices of the networks, and how packets get there
#[derive(Debug, Args)]
#[command(after_help = "TX is what this node has sent there, RX what came from there.

Examples:
  netd nodes
  netd nodes --json | jq -r '.nodes[] | select(.transport == \"vxlan\") | .name'
  netd nodes rm host-c                 # it is gone for good: its slices are free for others")]
pub(super) struct Nodes {
    #[command(subcommand)]
    command: Option<Command>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Rm(Rm),
}

/// Forget a node that is no more: its slices of the networks are free for other nodes
#[derive(Debug, Args)]
struct Rm {
    /// The node's name
    name: String,
}

impl Nodes {
    pub(super) async fn run(self, client: &Client) -> Result<()> {
        if let Some(Command::Rm(rm)) = self.command {
            return client.remove_node(&rm.name).await;
        }
        let list = client.nodes().await?;
        if self.json {
            return print_json(&list);
        }
        if list.nodes.is_empty() {
            return print("no other nodes: [[cluster.peers]] in the configuration names them, or etcd");
        }
        let headings = [
            "name",
            "address",
            "transport",
            "slices",
            "last seen",
            "tx packets",
            "tx bytes",
            "rx packets",
            "rx bytes",
        ];
        let mut shown = table::table(&headings, &[5, 6, 7, 8]);
        for node in &list.nodes {
            shown.add_row(row(node));
        }
        print(table::text(&shown))
    }
}

fn row(node: &NodeView) -> Vec<String> {
    let subnets: Vec<String> = node.subnets.iter().map(ToString::to_string).collect();
    let transport = match node.transport {
        Some(transport @ (Transport::Direct | Transport::Vxlan)) => {
            let other = node.transport6.filter(|other| *other != transport).map(word);
            let other = other.map(|other| format!(" (IPv6: {other})")).unwrap_or_default();
            format!("{}{other}", word(transport))
        }
        None if node.address.is_none() => "-".to_owned(),
        Some(Transport::Auto) | None => "no uplink".to_owned(),
    };
    let addresses: Vec<String> =
        node.address.into_iter().chain(node.address6.map(IpAddr::from)).map(|a| a.to_string()).collect();
    let counters = &node.counters;
    vec![
        node.name.clone(),
        if addresses.is_empty() { "-".to_owned() } else { addresses.join(" ") },
        transport,
        subnets.join(" "),
        last_seen(node, SystemTime::now()),
        counters.tx_packets.to_string(),
        table::bytes(counters.tx_bytes),
        counters.rx_packets.to_string(),
        table::bytes(counters.rx_bytes),
    ]
}

fn word(transport: Transport) -> &'static str {
    match transport {
        Transport::Auto => "auto",
        Transport::Direct => "direct",
        Transport::Vxlan => "vxlan",
    }
}

/// `now`, `12 s ago`, `3 min ago (lost)`.
fn last_seen(node: &NodeView, now: SystemTime) -> String {
    let age = node.last_seen.map(|seen| {
        let since = now.duration_since(UNIX_EPOCH + Duration::from_secs(seen)).unwrap_or_default();
        match since.as_secs() {
            0..2 => "now".to_owned(),
            seconds @ 2..120 => format!("{seconds} s ago"),
            seconds @ 120..7200 => format!("{} min ago", seconds / 60),
            seconds => format!("{} h ago", seconds / 3600),
        }
    });
    match (age, node.presence) {
        (Some(age), Presence::Known | Presence::Registered) => age,
        (None, Presence::Known | Presence::Registered) => "-".to_owned(),
        (Some(age), Presence::Unregistered) => format!("{age} (no lease)"),
        (None, Presence::Unregistered) => "no lease".to_owned(),
        (Some(age), Presence::Lost) => format!("{age} (lost)"),
        (None, Presence::Lost) => "lost".to_owned(),
    }
}
