//! `netd attach`.

use std::{net::IpAddr, path::absolute};

use anyhow::{Context, Result};
use clap::Args;

use super::{print, print_json, publish, table};
use crate::{
    api::client::Client,
    link::{LinkChoice, Tap},
    request::{AttachRequest, EndpointView},
};

/// Give a container an interface, an address and a default route
///
/// Returns when traffic can flow. When the container's network namespace ends, the endpoint goes with it.
///
/// With --link tap, for a virtual machine: makes a tap device, which the machine's monitor opens by name. The guest sets itself up, with
/// the address, the gateway and the MAC address that are printed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  netd attach web --netns web                          a namespace of `ip netns`
  netd attach db --netns /proc/4711/ns/net             that of a process
  netd attach api --netns api --network blue --ip 10.89.0.10     and the IPv6 address that goes with it
  netd attach web --netns web -p 8080:80               the host's port 8080 leads to its port 80
  netd attach web --netns web --json                   print the endpoint as JSON
  netd attach vm1 --link tap --owner 1000              a tap that user 1000 may open (QEMU, Firecracker, Kata)
  netd attach vm2 --link tap --owner 64055:108 --queues 4        user and group, to be opened with four queues")]
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

    /// Who may open a tap, by number; with a group, the user must be in that as well [default: 0]
    #[arg(long, value_name = "UID[:GID]", value_parser = owner)]
    owner: Option<(u32, Option<u32>)>,

    /// With how many queues a tap is to be opened [default: 1]
    #[arg(long, value_name = "NUMBER")]
    queues: Option<u16>,

    /// Print the endpoint as JSON
    #[arg(long)]
    json: bool,
}

impl Attach {
    pub(super) async fn run(self, client: &Client) -> Result<()> {
        let tap = (self.owner.is_some() || self.queues.is_some()).then(|| {
            let (owner, group) = self.owner.unwrap_or_default();
            Tap { owner, group, queues: self.queues.unwrap_or(Tap::default().queues) }
        });
        let request = AttachRequest {
            name: self.name,
            netns: self.netns.map(locate).transpose()?,
            network: self.network,
            addresses: self.addresses,
            link: self.link,
            tap,
            publish: self.publish,
        };
        let endpoint = client.attach(&request).await?;
        if self.json { print_json(&endpoint) } else { print(describe(&endpoint)) }
    }
}

/// Who may open a tap, as it is given.
fn owner(text: &str) -> Result<(u32, Option<u32>), String> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let number = |text: &str| {
        // The highest is the kernel's word for nobody in particular.
        text.parse().ok().filter(|number| *number != u32::MAX).ok_or_else(|| {
            format!("{text:?} is no number of a user or group: `id -u NAME` and `id -g NAME` print them")
        })
    };
    Ok((number(user)?, group.map(number).transpose()?))
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
    ] {
        list.add_row([what, value]);
    }
    match &endpoint.tap {
        None => drop(list.add_row(["netns", &endpoint.netns])),
        Some(tap) => {
            let group = tap.group.map(|group| format!(", group {group}")).unwrap_or_default();
            let queues =
                if tap.queues == 1 { "1 queue".to_owned() } else { format!("{} queues", tap.queues) };
            list.add_row(["tap", &format!("user {}{group}, {queues}", tap.owner)]);
        }
    }
    if !ports.is_empty() {
        list.add_row(["ports", &ports]);
    }
    table::text(&list)
}
