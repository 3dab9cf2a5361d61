//! The classic way between hosts: Docker's bridge and rules on each, connected as flannel does it, by its backend `host-gw`,
//! which is a route, or `vxlan`.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use super::{
    Between, Hosts, Path,
    bridge::BridgeHost,
    docker,
    hosts::{OVERLAY_MTU, Side, VXLAN_PORT, of_both},
};
use crate::lab::{Lab, world::UPLINK};

/// The network of all hosts, flannel's example. Each has the /24 of its number.
const NETWORK: &str = "10.244.0.0/16";
/// flannel's device, and its VNI.
const DEVICE: &str = "flannel.1";
const VNI: u32 = 1;

/// What flanneld adds to Docker's rules on the host of that number (`masqRules`, `forwardRules` in
/// `pkg/trafficmngr/iptables`; the comments are its own). Docker itself does not masquerade then.
fn rules(number: u8) -> String {
    let own = slice(number);
    format!(
        "\
*filter
:FLANNEL-FWD -
-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD
-A FLANNEL-FWD -s {NETWORK} -m comment --comment \"flanneld forward\" -j ACCEPT
-A FLANNEL-FWD -d {NETWORK} -m comment --comment \"flanneld forward\" -j ACCEPT
COMMIT
*nat
:FLANNEL-POSTRTG -
-A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment \"flanneld masq\" -j RETURN
-A FLANNEL-POSTRTG -s {own} -d {NETWORK} -m comment --comment \"flanneld masq\" -j RETURN
-A FLANNEL-POSTRTG -s {NETWORK} -d {own} -m comment --comment \"flanneld masq\" -j RETURN
-A FLANNEL-POSTRTG ! -s {NETWORK} -d {own} -m comment --comment \"flanneld masq\" -j RETURN
-A FLANNEL-POSTRTG -s {NETWORK} ! -d 224.0.0.0/4 -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s {NETWORK} -d {NETWORK} -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully
COMMIT
"
    )
}

fn slice(number: u8) -> String {
    format!("10.244.{number}.0/24")
}

pub(super) fn direct(lab: &Lab, hosts: &Hosts) -> Result<Between> {
    direct_among(lab, hosts, 0)
}

/// Routed, with a route to each of so many more nodes.
pub(super) fn direct_among(lab: &Lab, hosts: &Hosts, others: u32) -> Result<Between> {
    for (own, other) in hosts.pairs() {
        let more = (0..others).map(|number| {
            format!("{}/24", Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 0).to_bits() + (number << 8)))
        });
        let slices = [slice(other.number)].into_iter().chain(more);
        own.namespace.ip(slices.map(|slice| format!("route add {slice} via {}", other.address)))?;
    }
    containers(lab, hosts, None)
}

pub(super) fn vxlan(lab: &Lab, hosts: &Hosts) -> Result<Between> {
    for (own, other) in hosts.pairs() {
        device(own, other)?;
    }
    containers(lab, hosts, Some(OVERLAY_MTU))
}

/// The device, and where the other host's slice is: all of it known beforehand, nothing is learned. The port is the
/// standard's, as netd's is; flannel's own default on Linux is the kernel's, 8472.
fn device(own: &Side, other: &Side) -> Result<()> {
    let mac = |side: &Side| format!("02:00:0a:f4:{:02x}:00", side.number);
    let at = |side: &Side| Ipv4Addr::new(10, 244, side.number, 0);
    own.namespace
        .ip([
            format!(
                "link add {DEVICE} address {} mtu {OVERLAY_MTU} type vxlan id {VNI} dev {UPLINK} local {} dstport {VXLAN_PORT} \
                 nolearning",
                mac(own),
                own.address
            ),
            format!("address add {}/32 dev {DEVICE}", at(own)),
            format!("link set {DEVICE} up"),
            format!("neighbour add {} lladdr {} dev {DEVICE} nud permanent", at(other), mac(other)),
            format!("route add {} via {} dev {DEVICE} onlink", slice(other.number), at(other)),
        ])
        .context("cannot make a vxlan device")?;
    let (mac, address) = (mac(other), other.address.to_string());
    let entry = ["fdb", "append", &mac, "dev", DEVICE, "dst", &address, "self", "permanent"];
    own.namespace.output("bridge", entry).context("cannot tell the vxlan device of the other host")?;
    Ok(())
}

fn containers(lab: &Lab, hosts: &Hosts, mtu: Option<u32>) -> Result<Between> {
    let host = |side: &Side| -> Result<BridgeHost> {
        let gateway = Ipv4Addr::new(10, 244, side.number, 1);
        let namespace = side.namespace.clone();
        let host =
            BridgeHost::new(&side.name, namespace, gateway, 24, &docker::rules_unmasqueraded(gateway))?;
        host.restore(&rules(side.number))?;
        Ok(host)
    };
    let (a, b) = (host(&hosts.0[0])?, host(&hosts.0[1])?);
    let path =
        Path::new(&a.container(lab, "client", 2, mtu)?, &b.container(lab, "server", 2, mtu)?, b.address(2));
    Ok(Between { path, evidence: Box::new(move || Ok(of_both(a.evidence()?, b.evidence()?))) })
}
