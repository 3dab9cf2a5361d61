//! The limits: a cable, and no network at all.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::{Path, Scene};
use crate::lab::{End, Lab, World};

/// A veth cable between two namespaces.
pub(super) fn veth(lab: &Lab, _world: &World) -> Result<Scene> {
    let (client, server) = (lab.namespace("veth-client")?, lab.namespace("veth-server")?);
    lab.cable(
        End { namespace: &client, interface: "eth0", address: Some("192.0.2.1/24") },
        End { namespace: &server, interface: "eth0", address: Some("192.0.2.2/24") },
    )?;
    let local = Path { client, server, address: Ipv4Addr::new(192, 0, 2, 2) };
    Ok(Scene { local, egress: None, evidence: None })
}

/// Both ends in one namespace.
pub(super) fn loopback(lab: &Lab, _world: &World) -> Result<Scene> {
    let namespace = lab.namespace("loopback")?;
    let local = Path { client: namespace.clone(), server: namespace, address: Ipv4Addr::LOCALHOST };
    Ok(Scene { local, egress: None, evidence: None })
}
