//! A Linux bridge with the rules and settings of Docker.

use std::{
    io::{ErrorKind, Write as _},
    net::Ipv4Addr,
    process::Stdio,
};

use anyhow::{Context, Result, anyhow, bail};

use super::{
    Path, Scene,
    docker::{BRIDGE, BRIDGE_NETFILTER, FORWARDING, GATEWAY, RULES},
};
use crate::lab::{End, Lab, Namespace, World};

pub(super) fn build(lab: &Lab, world: &World) -> Result<Scene> {
    let host = lab.namespace("bridge")?;
    let uplink = world.plug(lab, &host)?;
    // STP off, and all else as the kernel has it: as dockerd makes it.
    host.ip([
        format!("link add {BRIDGE} type bridge"),
        format!("address add {GATEWAY}/16 dev {BRIDGE}"),
        format!("link set {BRIDGE} up"),
    ])
    .context("cannot make a bridge")?;
    // The server is the one with the published port.
    let server = container(lab, &host, "server", "172.17.0.2")?;
    let client = container(lab, &host, "client", "172.17.0.3")?;
    host.set_sysctl(FORWARDING, "1")?;
    // Without br_netfilter there is no such sysctl, and frames between the containers do not meet the rules.
    let sees_frames = host.set_sysctl(BRIDGE_NETFILTER, "1").is_ok();
    restore(&host)?;
    Ok(Scene {
        local: Path { client: client.clone(), server, address: Ipv4Addr::new(172, 17, 0, 2) },
        egress: Some(Path { client, server: world.router.clone(), address: uplink.router }),
        evidence: Some(Box::new(move || evidence(&host, sees_frames))),
    })
}

fn container(lab: &Lab, host: &Namespace, name: &str, address: &str) -> Result<Namespace> {
    let namespace = lab.namespace(&format!("bridge-{name}"))?;
    lab.cable(
        End { namespace: host, interface: name, address: None },
        End { namespace: &namespace, interface: "eth0", address: Some(&format!("{address}/16")) },
    )?;
    host.ip([format!("link set {name} master {BRIDGE}")])?;
    namespace.ip([format!("route add default via {GATEWAY}")])?;
    Ok(namespace)
}

/// Sets the rules, with the machine's own iptables, whichever of its two kinds that is.
fn restore(host: &Namespace) -> Result<()> {
    let started = host
        .command("iptables-restore")?
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match started {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("iptables is not installed"),
        started => started.context("cannot run iptables-restore")?,
    };
    let mut stdin = child.stdin.take().ok_or_else(|| anyhow!("iptables-restore has no standard input"))?;
    // An error here means that it has ended early; what it said is the better message.
    let _ = stdin.write_all(RULES.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().context("cannot wait for iptables-restore")?;
    if !output.status.success() {
        bail!("iptables does not take Docker's rules: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// What the first rule of FORWARD has counted: every packet that went through the chain.
fn evidence(host: &Namespace, sees_frames: bool) -> Result<String> {
    let listing = host.output("iptables", ["-n", "-v", "-x", "-L", "FORWARD"])?;
    let packets = first_count(&listing).with_context(|| format!("no counter in {listing:?}"))?;
    Ok(match (sees_frames, packets) {
        (true, 0) => "WARNING: no packet went through Docker's rules".to_owned(),
        (true, _) => format!("{packets} packets went through Docker's FORWARD rules"),
        (false, _) => format!(
            "{packets} packets went through Docker's FORWARD rules; those between the containers did not: this kernel has no \
             br_netfilter"
        ),
    })
}

/// The packets of the first rule in a listing: two lines of headings, then `packets bytes target …`.
fn first_count(listing: &str) -> Option<u64> {
    listing.lines().nth(2)?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read() {
        let listing = "Chain FORWARD (policy DROP 0 packets, 0 bytes)\n    pkts      bytes target     prot opt in     out     source               destination\n   84123 5634271 DOCKER-USER  0    --  *      *       0.0.0.0/0            0.0.0.0/0\n";
        assert_eq!(first_count(listing), Some(84123));
        assert_eq!(first_count("Chain FORWARD (policy ACCEPT)\n"), None);
    }
}
