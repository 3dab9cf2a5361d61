//! `netd attach`.

use std::{net::IpAddr, path::absolute};

use anyhow::{Context, Result};
use clap::Args;

use super::{print, print_json, publish, table};
use crate::{
    api::client::Client,
    endpoint::Tap,
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
  netd attach vm1 --link tap --owner 1000              a tap for a virtual machine that user 1000 runs
  netd attach web --netns web --json                   print the endpoint as JSON")]
pub(super) struct Attach {
    /// A name for the endpoint
    name: String,

    /// The container's network namespace: a path, or a name of `ip netns`; a tap needs none
    #[arg(long, value_name = "PATH|NAME")]
    netns: Option<String>,

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

    /// Of a tap: the user who may open it, besides root, and the group
    #[arg(long, value_name = "UID[:GID]")]
    owner: Option<String>,

    /// Of a tap: it may be opened with several queues
    #[arg(long)]
    multi_queue: bool,

    /// Print the endpoint as JSON
    #[arg(long)]
    json: bool,
}

impl Attach {
    pub(super) async fn run(self, client: &Client) -> Result<()> {
        let request = AttachRequest {
            name: self.name,
            netns: self.netns.map(locate).transpose()?.unwrap_or_default(),
            network: self.network,
            addresses: self.addresses,
            link: self.link,
            tap: tap(self.owner.as_deref(), self.multi_queue)?,
            publish: self.publish,
        };
        let endpoint = client.attach(&request).await?;
        if self.json { print_json(&endpoint) } else { print(describe(&endpoint)) }
    }
}

/// What was said about a tap.
fn tap(owner: Option<&str>, multi_queue: bool) -> Result<Option<Tap>> {
    let Some(owner) = owner else {
        return Ok(multi_queue.then(|| Tap { multi_queue, ..Tap::default() }));
    };
    let (user, group) = owner.split_once(':').map_or((owner, None), |(user, group)| (user, Some(group)));
    let number = |text: &str| {
        let wrong = || format!("--owner: {text:?} is no number of a user or group: say UID or UID:GID");
        text.parse::<u32>().with_context(wrong)
    };
    Ok(Some(Tap { user: Some(number(user)?), group: group.map(number).transpose()?, multi_queue }))
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
        ("mtu", &endpoint.mtu.to_string()),
    ] {
        list.add_row([what, value]);
    }
    if !endpoint.netns.is_empty() {
        list.add_row(["netns", &endpoint.netns]);
    }
    if !ports.is_empty() {
        list.add_row(["ports", &ports]);
    }
    table::text(&list)
}
