//! netd: a host with a real daemon and two containers.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use super::{Path, Scene};
use crate::lab::{Host, Lab, World};

pub(super) fn build(lab: &Lab, world: &World) -> Result<Scene> {
    let host = Host::running(lab, world, "netd", "").context("cannot start the daemon")?;
    let client = host.container("client", &[]).context("cannot attach the client")?;
    let server = host.container("server", &[]).context("cannot attach the server")?;
    // The next host beyond the uplink: nothing but the uplink's cable is between it and the host.
    let [a, b, c, _] = host.address.octets();
    let router = Ipv4Addr::new(a, b, c, 1);
    Ok(Scene {
        local: Path { client: client.namespace.clone(), server: server.namespace, address: server.address },
        egress: Some(Path { client: client.namespace, server: world.router.clone(), address: router }),
        evidence: Some(Box::new(move || evidence(&host))),
    })
}

/// The daemon's counters of forwarded packets, largest first.
fn evidence(host: &Host) -> Result<String> {
    let mut moved = host.counters("forwarded")?;
    moved.retain(|counter| counter.packets > 0);
    moved.sort_by_key(|counter| std::cmp::Reverse(counter.packets));
    let parts: Vec<String> =
        moved.iter().map(|counter| format!("{} {}", counter.packets, counter.name)).collect();
    Ok(if parts.is_empty() {
        "WARNING: netd has forwarded no packet".to_owned()
    } else {
        format!("packets forwarded by netd: {}", parts.join(", "))
    })
}
