//! `netd attach`.

use std::{net::IpAddr, path::absolute};

use anyhow::{Context, Result};
use clap::Args;

use super::{print, print_json, publish, table};
use crate::{
    api::client::Client,
    link::LinkChoice,
    request::{AttachRequest, EndpointView},
};

/// Give a container an interface, an address and a default route
///
/// Returns when traffic can flow. When the container's network namespace ends, the endpoint goes with it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  netd attach web --netns web                          a namespace of `ip netns`
  netd attach db --netns /proc/4711/ns/net             that of a process
  netd attach api --netns api --network blue --ip 10.89.0.10     and the IPv6 address that goes with it
  netd attach web --netns web -p 8080:80               the host's port 8080 leads to its port 80
  netd attach web --netns web --json                   print the endpoint as JSON")]
pub(super) struct Attach {
    /// A name for the endpoint
    name: String,

    /// The container's network namespace: a path, or a name of `ip netns`
    #[arg(long, value_name = "PATH|NAME")]
    netns: String,

    /// The network to attach to [default: default]
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,

    /// An address of the network; once for each family, where one determines the other [default: the next free ones]
    #[arg(long = "ip", value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,

    /// A port of the host that leads to one of the container, or a range of them; may be given several times
    #[arg(short, long = "publish", value_name = "[HOSTIP:]HOSTPORT:PORT[/tcp|udp]")]
    publish: Vec<String>,

    /// The kind of link [default: the network's]
    #[arg(long, value_name = "KIND")]
    link: Option<LinkChoice>,

    /// Print the endpoint as JSON
    #[arg(long)]
    json: bool,
}

impl Attach {
    pub(super) async fn run(self, client: &Client) -> Result<()> {
        let request = AttachRequest {
            name: self.name,
            netns: locate(self.netns)?,
            network: self.network,
            addresses: self.addresses,
            link: self.link,
            publish: self.publish,
        };
        let endpoint = client.attach(&request).await?;
        if self.json { print_json(&endpoint) } else { print(describe(&endpoint)) }
    }
}

/// A path from here is not one from the daemon's directory.
fn locate(netns: String) -> Result<String> {
    if !netns.contains('/') {
        return Ok(netns);
    }
    let path = absolute(&netns).with_context(|| format!("cannot find {netns}"))?;
    path.into_os_string().into_string().ok().context("the path of a namespace must be UTF-8")
}

fn describe(endpoint: &EndpointView) -> String {
    let addresses: Vec<String> = endpoint.addresses.iter().map(ToString::to_string).collect();
    let gateway6 = endpoint.gateway6.map(|gateway| format!(" {gateway}")).unwrap_or_default();
    let mut list = table::list();
    let ports = publish::list(endpoint);
    for (what, value) in [
        ("name", &endpoint.name),
        ("network", &endpoint.network),
        ("addresses", &addresses.join(" ")),
        ("gateway", &format!("{}{gateway6}", endpoint.gateway)),
        ("mac", &endpoint.mac),
        ("interface", &endpoint.interface),
        ("host interface", &endpoint.host_interface),
        ("netns", &endpoint.netns),
    ] {
        list.add_row([what, value]);
    }
    if !ports.is_empty() {
        list.add_row(["ports", &ports]);
    }
    table::text(&list)
}
