//! Networks of the kernel's own, without rules, between two namespaces; and the limits: a cable, and no network at all.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Path, Scene};
use crate::{
    bench::case::Route,
    lab::{End, Lab, Namespace, World},
};

const CLIENT: &str = "192.0.2.1/24";
const SERVER: &str = "192.0.2.2/24";
const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// A Linux bridge, and no rule.
pub(super) fn bridge(lab: &Lab, _world: &World) -> Result<Scene> {
    let host = lab.namespace("bridge-plain")?;
    host.ip(["link add br0 type bridge", "link set br0 up"]).context("cannot make a bridge")?;
    let end = |interface: &str, address| -> Result<Namespace> {
        let namespace = lab.namespace(&format!("bridge-plain-{interface}"))?;
        lab.cable(
            End { namespace: &host, interface, address: None },
            End { namespace: &namespace, interface: "eth0", address: Some(address) },
        )?;
        host.ip([format!("link set {interface} master br0")])?;
        Ok(namespace)
    };
    Ok(scene(&end("client", CLIENT)?, &end("server", SERVER)?, SERVER_ADDRESS))
}

/// Two macvlan links in bridge mode.
pub(super) fn macvlan(lab: &Lab, _world: &World) -> Result<Scene> {
    children(lab, "macvlan", "macvlan mode bridge")
}

/// Two ipvlan links in mode L2.
pub(super) fn ipvlan(lab: &Lab, _world: &World) -> Result<Scene> {
    children(lab, "ipvlan", "ipvlan mode l2")
}

/// Links that a host's link is divided into.
fn children(lab: &Lab, name: &str, kind: &str) -> Result<Scene> {
    let host = lab.namespace(name)?;
    host.ip(["link add parent type veth peer name other", "link set other up", "link set parent up"])?;
    let end = |end: &str, address| -> Result<Namespace> {
        let namespace = lab.namespace(&format!("{name}-{end}"))?;
        host.ip([format!("link add link parent name eth0 netns {} type {kind}", namespace.name())])
            .with_context(|| format!("this kernel makes no {name} link"))?;
        address_and_up(&namespace, address)?;
        Ok(namespace)
    };
    Ok(scene(&end("client", CLIENT)?, &end("server", SERVER)?, SERVER_ADDRESS))
}

/// A pair of netkit devices, in layer-3 mode and without a program, which is how they are made when nothing else is said.
pub(super) fn netkit(lab: &Lab, _world: &World) -> Result<Scene> {
    let (client, server) = (lab.namespace("netkit-client")?, lab.namespace("netkit-server")?);
    // Versions of ip that know nothing of netkit can make a pair all the same; the kernel names the other end.
    client.ip(["link add eth0 type netkit"]).context("this kernel makes no netkit link")?;
    let links = client.ip_json("link show")?;
    let peer = peer_of(&links, "eth0").with_context(|| format!("eth0 has no peer in {links}"))?;
    client.ip([format!("link set {peer} netns {} name eth0", server.name())])?;
    for (namespace, address) in [(&client, CLIENT), (&server, SERVER)] {
        address_and_up(namespace, address)?;
    }
    ensure!(client.ip_json("link show eth0")?[0]["operstate"] != "DOWN", "the netkit link does not come up");
    Ok(scene(&client, &server, SERVER_ADDRESS))
}

/// The other link besides the loopback.
fn peer_of<'a>(links: &'a Value, own: &str) -> Option<&'a str> {
    let mut names = links.as_array()?.iter().filter_map(|link| link["ifname"].as_str());
    names.find(|name| *name != "lo" && *name != own)
}

fn address_and_up(namespace: &Namespace, address: &str) -> Result<()> {
    namespace.ip([format!("address add {address} dev eth0"), "link set eth0 up".to_owned()])
}

/// A veth cable between two namespaces.
pub(super) fn veth(lab: &Lab, _world: &World) -> Result<Scene> {
    let (client, server) = (lab.namespace("veth-client")?, lab.namespace("veth-server")?);
    lab.cable(
        End { namespace: &client, interface: "eth0", address: Some(CLIENT) },
        End { namespace: &server, interface: "eth0", address: Some(SERVER) },
    )?;
    Ok(scene(&client, &server, SERVER_ADDRESS))
}

/// Both ends in one namespace.
pub(super) fn loopback(lab: &Lab, _world: &World) -> Result<Scene> {
    let namespace = lab.namespace("loopback")?;
    Ok(scene(&namespace, &namespace, Ipv4Addr::LOCALHOST))
}

fn scene(client: &Namespace, server: &Namespace, address: Ipv4Addr) -> Scene {
    let local = Path::new(client, server, address);
    Scene { paths: vec![(Route::SameHost, local)], evidence: None, hosts: None, missing: Vec::new() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_peer_is_the_link_that_is_left() {
        let links = json!([{ "ifname": "lo" }, { "ifname": "nk0" }, { "ifname": "eth0" }]);
        assert_eq!(peer_of(&links, "eth0"), Some("nk0"));
        assert_eq!(peer_of(&json!([{ "ifname": "lo" }]), "eth0"), None);
    }
}
