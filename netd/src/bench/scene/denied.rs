//! Hosts that drop, at their uplink, what comes from a source: netd by its deny list, others by a rule of iptables'.

use std::{net::Ipv4Addr, rc::Rc};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    programs::{Xdp, XdpMode},
};
use serde_json::Value;

use super::{Path, RULES, Scene, bridge::BridgeHost};
use crate::{
    bench::{case::Route, frames, worker::Outside},
    lab::{End, Host, Lab, Namespace, world::UPLINK},
};

/// What is dropped (RFC 5737), and who sends.
const DENIED: &str = "198.51.100.0/24";
const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// The host, and who is at the other end of its uplink.
const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// What the uplink's other end is called.
const WIRE: &str = "wire";
/// Entries of a long list.
const MANY: u32 = 10_000;
/// Of those, as many as one command adds: the daemon takes no request of any length.
const AT_ONCE: usize = 1_000;

/// A sender, and what its packets run into.
pub(in super::super) struct Denied {
    pub(in super::super) outside: Outside,
    dropped: Box<dyn Fn() -> Result<u64>>,
}

impl std::fmt::Debug for Denied {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Denied").field("outside", &self.outside).finish_non_exhaustive()
    }
}

impl Denied {
    /// Packets that the host has dropped so far, by its own counter.
    ///
    /// # Errors
    /// It has none.
    pub(in super::super) fn dropped(&self) -> Result<u64> {
        (self.dropped)()
    }
}

/// An uplink with a sender at its other end.
struct Site {
    host: Namespace,
    outside: Namespace,
}

impl Site {
    fn new(lab: &Lab, name: &str) -> Result<Self> {
        let site = Self { host: lab.namespace(name)?, outside: lab.namespace(&format!("{name}-outside"))? };
        let [own, other] = [HOST, NEIGHBOUR].map(|address| format!("{address}/24"));
        lab.cable(
            End { namespace: &site.outside, interface: WIRE, address: Some(&other) },
            End { namespace: &site.host, interface: UPLINK, address: Some(&own) },
        )?;
        site.outside.ip([format!("address add {SOURCE}/32 dev {WIRE}")])?;
        site.host.ip([format!("route add default via {NEIGHBOUR}")])?;
        // As a NIC's driver does: it polls its ring, and aggregates. Without it a veth link has no such ring.
        site.host
            .output("ethtool", ["-K", UPLINK, "gro", "on"])
            .context("cannot set offloads (package ethtool)")?;
        Ok(site)
    }

    fn scene(self, dropped: impl Fn() -> Result<u64> + 'static, what: &'static str) -> Result<Scene> {
        let links = self.host.ip_json(&format!("link show {UPLINK}"))?;
        let mac = mac(&links[0]["address"]).with_context(|| format!("no MAC in {links}"))?;
        // A program that drops all drops questions for neighbours, too.
        let text = links[0]["address"].as_str().unwrap_or_default();
        self.outside.ip([format!("neighbour replace {HOST} lladdr {text} dev {WIRE} nud permanent")])?;
        let outside = Outside { link: WIRE.to_owned(), mac, source: SOURCE };
        let denied = Rc::new(Denied { outside, dropped: Box::new(dropped) });
        let path = Path { denied: Some(Rc::clone(&denied)), ..Path::new(&self.outside, &self.host, HOST) };
        Ok(Scene {
            paths: vec![(Route::Denied, path)],
            evidence: Some(Box::new(move || {
                let count = denied.dropped()?;
                ensure!(count > 0, "nothing was dropped by {what}");
                Ok(format!("{count} packets were dropped by {what}"))
            })),
            hosts: None,
            missing: Vec::new(),
        })
    }
}

fn mac(text: &Value) -> Option<[u8; 6]> {
    let parts = text.as_str()?.split(':').map(|part| u8::from_str_radix(part, 16).ok());
    parts.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

/// A daemon's deny list with one entry.
pub(super) fn netd(lab: &Lab) -> Result<Scene> {
    daemon(lab, "netd-denied", 1)
}

/// The same, with many more.
pub(super) fn netd_among_many(lab: &Lab) -> Result<Scene> {
    daemon(lab, "netd-denied-many", MANY)
}

fn daemon(lab: &Lab, name: &str, entries: u32) -> Result<Scene> {
    let site = Site::new(lab, name)?;
    let mut host = Host::in_namespace(lab, site.host.clone(), HOST, name, "")?;
    host.start().context("cannot start the daemon")?;
    let sources: Vec<String> = [DENIED.to_owned()]
        .into_iter()
        .chain(others(entries - 1).map(|address| address.to_string()))
        .collect();
    for sources in sources.chunks(AT_ONCE) {
        let output = host.netd(["deny", "add"].into_iter().chain(sources.iter().map(String::as_str)))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "netd deny add ({}): {}", output.status, said.trim());
    }
    site.scene(
        move || {
            let drops = host.counters("drops")?;
            Ok(drops.iter().filter(|counter| counter.name == "denied").map(|counter| counter.packets).sum())
        },
        "netd's deny list",
    )
}

/// Addresses all over the address space: a look-up among them goes as deep as one among so many can.
fn others(count: u32) -> impl Iterator<Item = Ipv4Addr> {
    // An odd factor: no two are the same.
    const SPREAD: u32 = 0x9e37_79b1;
    let is_free = |address: &Ipv4Addr| {
        let [first, second, ..] = address.octets();
        (1..224).contains(&first)
            && first != 127
            && (first, second) != (198, 18)
            && (first, second) != (198, 51)
    };
    (1..)
        .map(|number: u32| Ipv4Addr::from_bits(number.wrapping_mul(SPREAD)))
        .filter(is_free)
        .take(count as usize)
}

/// A rule of iptables' at the first place where one can be, on a host with Docker's rules.
pub(super) fn iptables(lab: &Lab) -> Result<Scene> {
    let site = Site::new(lab, "bridge-denied")?;
    let gateway = Ipv4Addr::new(172, 17, 0, 1);
    let host = BridgeHost::new("bridge-denied", site.host.clone(), gateway, 16, RULES)?;
    host.restore(&format!("*raw\n-A PREROUTING -s {DENIED} -j DROP\nCOMMIT\n"))?;
    site.scene(move || host.counted("raw", "PREROUTING"), "the rule in raw PREROUTING")
}

/// A program that drops all there is: what is left is what sending costs.
pub(super) fn program(lab: &Lab) -> Result<Scene> {
    let site = Site::new(lab, "xdp-drop")?;
    let mut programs = Ebpf::load(frames::OBJECT).context("loading the eBPF object")?;
    site.host.run(|| {
        let program: &mut Xdp = programs.program_mut("drop").context("no program drop")?.try_into()?;
        program.load().context("the kernel refuses program drop")?;
        program.attach(UPLINK, XdpMode::Driver).context("cannot attach program drop")?;
        Ok(())
    })?;
    let host = site.host.clone();
    site.scene(
        move || {
            // The program stays as long as this does. It drops all that is received: the link's own counter is its.
            let _ = &programs;
            Ok(super::counted(&host, UPLINK, super::Direction::Received)?.0)
        },
        "a program",
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn macs_are_read() {
        assert_eq!(mac(&json!("02:00:0a:f4:ff:01")), Some([2, 0, 10, 244, 255, 1]));
        for bad in [json!("02:00"), json!("02:00:0a:f4:ff:zz"), json!(7)] {
            assert_eq!(mac(&bad), None);
        }
    }

    #[test]
    fn a_long_list_has_no_entry_twice_and_none_of_the_hosts() {
        let all: HashSet<Ipv4Addr> = others(MANY).collect();
        assert_eq!(all.len(), MANY as usize);
        for own in [HOST, NEIGHBOUR, SOURCE] {
            assert!(!all.contains(&own));
        }
    }
}
