//! The CNI plugin `bridge`, as a gateway that masquerades.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Path, Scene};
use crate::{
    bench::{case::Route, cni::Plugin},
    lab::{Lab, Namespace, World},
};

pub(super) fn build(lab: &Lab, world: &World) -> Result<Scene> {
    let host = lab.namespace("cni")?;
    let plugin = Plugin::new(&host, &lab.directory().join("cni"), true)?;
    let uplink = world.plug(lab, &host)?;
    let container = |name: &str| -> Result<(Namespace, Ipv4Addr)> {
        let namespace = lab.namespace(&format!("cni-{name}"))?;
        let result = plugin.add(&namespace)?;
        let address = address(&result).with_context(|| format!("no address in {result}"))?;
        Ok((namespace, address))
    };
    let ((server, address), (client, _)) = (container("server")?, container("client")?);
    let egress = Path::new(&client, &world.router, uplink.router);
    let local = Path::new(&client, &server, address);
    Ok(Scene {
        paths: vec![(Route::SameHost, local), (Route::Egress, egress)],
        evidence: None,
        hosts: None,
        missing: Vec::new(),
    })
}

/// The address in what ADD printed (CNI specification 1.0.0, "Success").
fn address(result: &Value) -> Option<Ipv4Addr> {
    result["ips"][0]["address"].as_str()?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_address_is_read() {
        let result = json!({ "ips": [{ "address": "10.99.0.2/16", "gateway": "10.99.0.1" }] });
        assert_eq!(address(&result), Some(Ipv4Addr::new(10, 99, 0, 2)));
        assert_eq!(address(&json!({})), None);
    }
}
