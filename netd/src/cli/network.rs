//! `netd network`.

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{print, print_json, table};
use crate::{api::client::Client, link::LinkChoice, network::Origin, request::NetworkRequest};

/// Create, remove and list networks
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Create(Create),
    Rm(Rm),
    Ls(Ls),
}

/// Create a network
///
/// Its first address is the gateway: the host, as containers see it. Containers of different networks do not reach each
/// other. The network stays until it is removed, also when netd is started anew.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  netd network create blue --subnet 10.89.0.0/16 --subnet fd89::/48
  netd network create routed --subnet 192.0.2.0/24 --no-masquerade
  netd network create fast --subnet 10.90.0.0/16 --big-tcp")]
pub(super) struct Create {
    /// A name for the network
    name: String,

    /// Its subnet, and if it is to have IPv6 also its IPv6 subnet; may not overlap another network's, nor what this host
    /// reaches already
    #[arg(long = "subnet", value_name = "CIDR", required = true)]
    subnets: Vec<String>,

    /// Let packets leave with the containers' own addresses: for subnets that the world has routes to
    #[arg(long)]
    no_masquerade: bool,

    /// MTU of the containers' interfaces [default: that of the uplink]
    #[arg(long, value_name = "BYTES", default_value_t = 0, hide_default_value = true)]
    mtu: i64,

    /// Let containers send packets above 64 KiB to each other: faster within a host, slower out of it unless the uplink
    /// takes such packets too
    #[arg(long)]
    big_tcp: bool,

    /// In a cluster: prefix length of the part that each node takes [default: 24, or what makes 16 parts]
    #[arg(long, value_name = "LENGTH")]
    slice: Option<u8>,

    /// The kind of the containers' links
    #[arg(long, value_name = "KIND", default_value = "auto")]
    link: LinkChoice,

    /// With --link macvlan: the host's interface on the LAN
    #[arg(long, value_name = "INTERFACE")]
    parent: Option<String>,

    /// With --link macvlan: the part of the LAN's subnet that addresses are given out of [default: none, say --ip]
    #[arg(long, value_name = "CIDR")]
    range: Option<String>,

    /// With --link macvlan: the LAN's router [default: no default route]
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<String>,

    /// Print the network as JSON
    #[arg(long)]
    json: bool,
}

/// Remove a network that has no endpoints
#[derive(Debug, Args)]
pub(super) struct Rm {
    /// The network's name
    name: String,
}

/// List the networks
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(super) async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Create(create) => create.run(client).await,
            Self::Rm(rm) => client.remove_network(&rm.name).await,
            Self::Ls(ls) => ls.run(client).await,
        }
    }
}

impl Create {
    async fn run(self, client: &Client) -> Result<()> {
        let request = NetworkRequest {
            name: self.name,
            subnets: self.subnets,
            masquerade: !self.no_masquerade,
            link: self.link,
            mtu: self.mtu,
            big_tcp: self.big_tcp,
            slice: self.slice,
            parent: self.parent,
            range: self.range,
            gateway: self.gateway,
        };
        let network = client.create_network(&request).await?;
        if self.json { print_json(&network) } else { Ok(()) }
    }
}

impl Ls {
    async fn run(self, client: &Client) -> Result<()> {
        let list = client.networks().await?;
        if self.json {
            return print_json(&list);
        }
        if list.networks.is_empty() {
            return print("no networks: `netd network create NAME --subnet CIDR` makes one");
        }
        let headings =
            ["name", "subnets", "gateway", "masquerade", "mtu", "BIG TCP", "endpoints", "defined by"];
        let mut shown = table::table(&headings, &[4, 6]);
        for network in &list.networks {
            let subnets: Vec<String> = network.subnets.iter().map(ToString::to_string).collect();
            let gateway = Some(network.gateway).filter(|gateway| !gateway.is_unspecified());
            let gateways =
                [gateway.map(|gateway| gateway.to_string()), network.gateway6.map(|g| g.to_string())];
            let gateways: Vec<String> = gateways.into_iter().flatten().collect();
            shown.add_row([
                network.name.clone(),
                subnets.join(" "),
                gateways.join(" "),
                if network.masquerade { "yes" } else { "no" }.to_owned(),
                network.mtu.to_string(),
                if network.big_tcp { "yes" } else { "no" }.to_owned(),
                network.endpoints.to_string(),
                match network.origin {
                    Origin::Config => "configuration",
                    Origin::Command => "command",
                    Origin::Cluster => "cluster",
                }
                .to_owned(),
            ]);
        }
        print(table::text(&shown))
    }
}
