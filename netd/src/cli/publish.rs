//! `netd publish` and `netd unpublish`.

use anyhow::Result;
use clap::Args;

use super::{print, print_json};
use crate::{
    api::client::Client,
    request::{EndpointView, PublishRequest},
};

/// Publish ports of an endpoint: those of the host lead to it
///
/// Connections to the host's address and HOSTPORT, from outside, from the host itself and from other containers, come to the
/// endpoint's PORT: over IPv4, and over IPv6 where the endpoint has that. What is open on its other ports goes on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  netd publish web -p 8080:80
  netd publish dns -p 53:53/udp -p 53:53/tcp
  netd publish db -p 127.0.0.1:5432:5432               from the host itself only
  netd publish web -p [2001:db8::1]:8080:80            at one address, IPv6 in brackets
  netd publish web -p 0.0.0.0:8080:80                  of IPv4 only; [::]:8080:80 of IPv6 only
  netd publish ftp -p 8000-8010:8000-8010              a range")]
pub(super) struct Publish {
    #[command(flatten)]
    ports: Ports,
}

/// Publish ports of an endpoint no more
///
/// Their connections end; others go on. A part of a range can be taken out of it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  netd unpublish web -p 8080:80
  netd unpublish ftp -p 8003:8003                      one of a range")]
pub(super) struct Unpublish {
    #[command(flatten)]
    ports: Ports,
}

#[derive(Debug, Args)]
struct Ports {
    /// The endpoint's name, as `netd ls` shows it
    name: String,

    /// A port, or a range of them; may be given several times
    #[arg(short, long = "publish", value_name = "[HOSTIP:]HOSTPORT:PORT[/tcp|udp]", required = true)]
    publish: Vec<String>,

    /// Print the endpoint as JSON
    #[arg(long)]
    json: bool,
}

impl Publish {
    pub(super) async fn run(self, client: &Client) -> Result<()> {
        let request = PublishRequest { publish: self.ports.publish };
        show(&client.publish(&self.ports.name, &request).await?, self.ports.json)
    }
}

impl Unpublish {
    pub(super) async fn run(self, client: &Client) -> Result<()> {
        let request = PublishRequest { publish: self.ports.publish };
        show(&client.unpublish(&self.ports.name, &request).await?, self.ports.json)
    }
}

fn show(endpoint: &EndpointView, json: bool) -> Result<()> {
    if json {
        return print_json(endpoint);
    }
    match list(endpoint) {
        ports if ports.is_empty() => print(format!("{} publishes no ports", endpoint.name)),
        ports => print(format!("{} publishes {ports}", endpoint.name)),
    }
}

/// Published ports, as `docker ps` shows them.
pub(super) fn list(endpoint: &EndpointView) -> String {
    endpoint.ports.iter().map(|port| port.shown()).collect::<Vec<_>>().join(", ")
}
