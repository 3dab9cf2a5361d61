//! A Linux bridge with the rules and settings of Docker.

use std::{
    io::{ErrorKind, Write as _},
    net::Ipv4Addr,
    process::Stdio,
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::{
    Path, Scene,
    docker::{BRIDGE, BRIDGE_NETFILTER, FORWARDING, RULES},
};
use crate::{
    bench::case::Route,
    lab::{End, Lab, Namespace, World},
};

pub(super) fn build(lab: &Lab, world: &World) -> Result<Scene> {
    let host = lab.namespace("bridge")?;
    let uplink = world.plug(lab, &host)?;
    let host = BridgeHost::new("bridge", host, Ipv4Addr::new(172, 17, 0, 1), 16, RULES)?;
    // The server is the one with the published port.
    let server = host.container(lab, "server", 2, None)?;
    let client = host.container(lab, "client", 3, None)?;
    let egress = Path::new(&client, &world.router, uplink.router);
    let local = Path::new(&client, &server, host.address(2));
    let published = Path::published(&world.router, &server, uplink.address);
    Ok(Scene {
        paths: vec![(Route::SameHost, local), (Route::Egress, egress), (Route::Published, published)],
        evidence: Some(Box::new(move || host.evidence())),
        hosts: None,
        missing: Vec::new(),
    })
}

/// A host with Docker's bridge.
pub(in super::super) struct BridgeHost {
    name: String,
    namespace: Namespace,
    gateway: Ipv4Addr,
    prefix: u8,
    /// Without br_netfilter, frames between two containers do not meet the rules.
    sees_frames: bool,
}

impl BridgeHost {
    /// Makes the bridge, with this address, and sets the rules.
    pub(in super::super) fn new(
        name: &str,
        namespace: Namespace,
        gateway: Ipv4Addr,
        prefix: u8,
        rules: &str,
    ) -> Result<Self> {
        // STP off, and all else as the kernel has it: as dockerd makes it.
        namespace
            .ip([
                format!("link add {BRIDGE} type bridge"),
                format!("address add {gateway}/{prefix} dev {BRIDGE}"),
                format!("link set {BRIDGE} up"),
            ])
            .context("cannot make a bridge")?;
        namespace.set_sysctl(FORWARDING, "1")?;
        // There is such a sysctl where there is br_netfilter.
        let sees_frames = namespace.set_sysctl(BRIDGE_NETFILTER, "1").is_ok();
        let host = Self { name: name.to_owned(), namespace, gateway, prefix, sees_frames };
        host.restore(rules)?;
        Ok(host)
    }

    /// The address in the bridge's subnet that ends with this number.
    pub(in super::super) fn address(&self, number: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.gateway.octets();
        Ipv4Addr::new(a, b, c, number)
    }

    /// Makes a container with that address.
    pub(in super::super) fn container(
        &self,
        lab: &Lab,
        name: &str,
        number: u8,
        mtu: Option<u32>,
    ) -> Result<Namespace> {
        let namespace = lab.namespace(&format!("{}-{name}", self.name))?;
        let address = format!("{}/{}", self.address(number), self.prefix);
        lab.cable(
            End { namespace: &self.namespace, interface: name, address: None },
            End { namespace: &namespace, interface: "eth0", address: Some(&address) },
        )?;
        if let Some(mtu) = mtu {
            self.namespace.ip([format!("link set {name} mtu {mtu}")])?;
            namespace.ip([format!("link set eth0 mtu {mtu}")])?;
        }
        self.namespace.ip([format!("link set {name} master {BRIDGE}")])?;
        namespace.ip([format!("route add default via {}", self.gateway)])?;
        Ok(namespace)
    }

    /// Adds rules, with the machine's own iptables, whichever of its two kinds that is.
    pub(in super::super) fn restore(&self, rules: &str) -> Result<()> {
        let started = self
            .namespace
            .command("iptables-restore")?
            .arg("--noflush")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match started {
            Err(error) if error.kind() == ErrorKind::NotFound => bail!("iptables is not installed"),
            started => started.context("cannot run iptables-restore")?,
        };
        let mut stdin =
            child.stdin.take().ok_or_else(|| anyhow!("iptables-restore has no standard input"))?;
        // An error here means that it has ended early; what it said is the better message.
        let _ = stdin.write_all(rules.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().context("cannot wait for iptables-restore")?;
        if !output.status.success() {
            bail!("iptables does not take the rules: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Packets that the first rule of a chain has met and taken.
    pub(super) fn counted(&self, table: &str, chain: &str) -> Result<u64> {
        let listing = self.namespace.output("iptables", ["-t", table, "-n", "-v", "-x", "-L", chain])?;
        first_count(&listing).with_context(|| format!("no counter in {listing:?}"))
    }

    /// What the first rule of FORWARD has counted: every packet that went through the chain.
    pub(in super::super) fn evidence(&self) -> Result<String> {
        let packets = self.counted("filter", "FORWARD")?;
        ensure!(packets > 0, "no packet went through Docker's rules on {}", self.name);
        let rest = if self.sees_frames {
            ""
        } else {
            "; those between the containers of a host did not: this kernel has no br_netfilter"
        };
        Ok(format!("{packets} packets went through Docker's FORWARD rules{rest}"))
    }
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
