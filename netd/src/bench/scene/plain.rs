//! The limits: a cable, and no network at all.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::{Path, Scene};
use crate::{
    bench::case::Route,
    lab::{End, Lab, Namespace, World},
};

/// A veth cable between two namespaces.
pub(super) fn veth(lab: &Lab, _world: &World) -> Result<Scene> {
    let (client, server) = (lab.namespace("veth-client")?, lab.namespace("veth-server")?);
    lab.cable(
        End { namespace: &client, interface: "eth0", address: Some("192.0.2.1/24") },
        End { namespace: &server, interface: "eth0", address: Some("192.0.2.2/24") },
    )?;
    Ok(scene(client, server, Ipv4Addr::new(192, 0, 2, 2)))
}

/// Both ends in one namespace.
pub(super) fn loopback(lab: &Lab, _world: &World) -> Result<Scene> {
    let namespace = lab.namespace("loopback")?;
    Ok(scene(namespace.clone(), namespace, Ipv4Addr::LOCALHOST))
}

fn scene(client: Namespace, server: Namespace, address: Ipv4Addr) -> Scene {
    let local = Path { client, server, address };
    Scene { paths: vec![(Route::SameHost, local)], evidence: None, hosts: None }
}
