//! A vxlan device in collect-metadata mode on each of two hosts, driven by two small eBPF programs (`netd-ebpf/src/bin`): the
//! way that other eBPF datapaths go.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, anyhow, ensure};
use aya::{
    Ebpf, EbpfLoader,
    programs::{SchedClassifier, TcAttachType},
};

use super::{
    Between, Hosts, Path,
    hosts::{Direction, OVERLAY_MTU, Side, VXLAN_PORT, counted},
};
use crate::lab::{End, Lab, Namespace};

/// The eBPF object, in the binary.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/metadata.o"));

const DEVICE: &str = "overlay";
/// The host side of the container's link.
const LINK: &str = "container";
const VNI: u32 = 1;

pub(super) fn vxlan(lab: &Lab, hosts: &Hosts) -> Result<Between> {
    let mut ends = Vec::new();
    let mut programs = Vec::new();
    for (own, other) in hosts.pairs() {
        let namespace = lab.namespace(&format!("{}-container", own.name))?;
        lab.cable(
            End { namespace: &own.namespace, interface: LINK, address: None },
            End { namespace: &namespace, interface: "eth0", address: None },
        )?;
        own.namespace.ip([format!("link set {LINK} mtu {OVERLAY_MTU}")])?;
        // One subnet, and neighbours that are known: no program has to answer ARP, or to change an address.
        namespace.ip([
            format!("link set eth0 mtu {OVERLAY_MTU} address {}", mac(own)),
            format!("address add {}/16 dev eth0", address(own)),
            format!("neighbour add {} lladdr {} dev eth0 nud permanent", address(other), mac(other)),
        ])?;
        own.namespace
            .ip([
                format!("link add {DEVICE} type vxlan external dstport {VXLAN_PORT} nolearning"),
                format!("link set {DEVICE} up"),
            ])
            .context("cannot make a vxlan device in collect-metadata mode")?;
        programs.push(load(own, other.address)?);
        ends.push(namespace);
    }
    let [client, server] = <[Namespace; 2]>::try_from(ends).map_err(|_| anyhow!("not two containers"))?;
    let devices = hosts.0.each_ref().map(|side| side.namespace.clone());
    Ok(Between {
        path: Path::new(&client, &server, address(&hosts.0[1])),
        evidence: Box::new(move || {
            // The programs stay as long as this does.
            let _ = &programs;
            evidence(&devices)
        }),
    })
}

fn address(side: &Side) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, side.number, 2)
}

fn mac(side: &Side) -> String {
    format!("02:00:0a:f4:{:02x}:02", side.number)
}

/// Loads a host's programs and attaches them.
fn load(own: &Side, remote: Ipv4Addr) -> Result<Ebpf> {
    let (device, link, remote) = (ifindex(own, DEVICE)?, ifindex(own, LINK)?, remote.to_bits());
    let mut programs = EbpfLoader::new()
        .override_global("DEVICE", &device, true)
        .override_global("LINK", &link, true)
        .override_global("REMOTE", &remote, true)
        .override_global("VNI", &VNI, true)
        .load(OBJECT)
        .context("loading the eBPF object")?;
    own.namespace.run(|| {
        for (name, interface) in [("to_tunnel", LINK), ("from_tunnel", DEVICE)] {
            let program: &mut SchedClassifier =
                programs.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
            program.load().with_context(|| format!("the kernel refuses program {name}"))?;
            program
                .attach(interface, TcAttachType::Ingress)
                .with_context(|| format!("cannot attach program {name}"))?;
        }
        Ok(())
    })?;
    Ok(programs)
}

fn ifindex(side: &Side, link: &str) -> Result<u32> {
    let links = side.namespace.ip_json(&format!("link show {link}"))?;
    let index = links[0]["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok());
    index.with_context(|| format!("no ifindex in {links}"))
}

/// What the devices have counted.
fn evidence([client, server]: &[Namespace; 2]) -> Result<String> {
    let (sent, _) = counted(client, DEVICE, Direction::Sent)?;
    let (received, _) = counted(server, DEVICE, Direction::Received)?;
    ensure!(sent > 0 && received > 0, "the devices sent {sent} packets and received {received}");
    Ok(format!("packets through the devices to the server: {sent} sent, {received} received"))
}
