//! Attempts to get packets where they must not go: many frames, each with a mark, and who may see which.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use netd::lab::{Container, Namespace, icmp};
use netd_common::host::build::{Body, Ip, ethernet, frame};

use crate::{
    Site,
    frames::{self, Sender},
    site::{PATIENCE, reach},
    watch::Watch,
};

/// Two networks that are masqueraded.
pub const CONFIG: &str = "[networks.default]\nsubnets = [\"10.88.0.0/16\", \"fd88::/48\"]\n\
                      [networks.other]\nsubnets = [\"10.89.0.0/24\", \"fd89::/64\"]\n";
/// An Ethernet address.
pub type Mac = [u8; 6];

/// Frames, and the places where they may and must be seen.
struct Attempt {
    what: String,
    frames: Vec<Vec<u8>>,
    seen: &'static [&'static str],
}

/// Attempts, each of which has a mark in its payload.
#[derive(Default)]
pub struct Attempts(Vec<Attempt>);

/// The payload of an attempt: what it is known by.
fn mark(number: usize) -> Vec<u8> {
    format!("attempt {number:08}").into_bytes()
}

impl Attempts {
    /// Adds an attempt whose frames are made of its mark.
    pub fn add(
        &mut self,
        what: impl Into<String>,
        seen: &'static [&'static str],
        frames: impl FnOnce(Vec<u8>) -> Vec<Vec<u8>>,
    ) {
        let frames = frames(mark(self.0.len()));
        self.0.push(Attempt { what: what.into(), frames, seen });
    }

    /// Adds one frame that nobody may see.
    pub fn nobody(&mut self, what: impl Into<String>, frame: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        self.add(what, &[], |mark| vec![frame(mark)]);
    }

    /// Sends all of them out of an interface, and checks who has seen what. `settle` returns when the last packets have arrived.
    ///
    /// # Errors
    /// Somebody has seen what he must not see, or has not seen what he must.
    ///
    pub fn run(
        &self,
        from: &Namespace,
        interface: &str,
        watch: &Watch,
        settle: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let sender = Sender::new(from, interface)?;
        for attempt in &self.0 {
            for bytes in &attempt.frames {
                sender.send(bytes).with_context(|| attempt.what.clone())?;
            }
        }
        settle()?;
        let marks: Vec<Vec<u8>> = (0..self.0.len()).map(mark).collect();
        let places = |attempt: &Attempt| attempt.seen.iter().copied().collect::<BTreeSet<_>>();
        let (mut seen, end) = (BTreeSet::new(), Instant::now() + PATIENCE);
        loop {
            seen.extend(watch.seen(&marks)?);
            let of = |number: usize| -> BTreeSet<_> {
                seen.iter().filter(|(index, _)| *index == number).map(|(_, place)| *place).collect()
            };
            let wrong: Vec<String> = (0..)
                .zip(&self.0)
                .filter(|(number, attempt)| of(*number) != places(attempt))
                .map(|(number, attempt)| {
                    format!("{}: seen at {:?}, not {:?}", attempt.what, of(number), attempt.seen)
                })
                .collect();
            if wrong.is_empty() {
                println!("{} attempts", self.0.len());
                return Ok(());
            }
            // What must be seen may take its time.
            ensure!(Instant::now() < end, "{} of {}:\n{}", wrong.len(), self.0.len(), wrong.join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The MAC of an interface.
///
/// # Errors
/// There is none.
pub fn mac_on(namespace: &Namespace, interface: &str) -> Result<Mac> {
    let link = namespace.ip_json(&format!("link show {interface}"))?;
    frames::mac(link[0]["address"].as_str().context("the link has no MAC")?)
}

/// A datagram with a mark.
#[must_use]
pub fn udp(mark: Vec<u8>) -> Body {
    Body::Udp(40_000, 9, mark)
}

/// Has a host help the attacker as far as a host can be told to: it forwards, and takes routes from senders.
///
/// # Errors
/// A sysctl is not there.
pub fn careless(host: &Namespace) -> Result<()> {
    for (name, value) in [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv4.conf.all.accept_source_route", "1"),
        ("net.ipv4.conf.default.accept_source_route", "1"),
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv6.conf.default.accept_source_route", "1"),
        ("net.ipv6.conf.all.seg6_enabled", "1"),
        ("net.ipv6.conf.default.seg6_enabled", "1"),
        ("net.ipv6.conf.eth0.seg6_enabled", "1"),
    ] {
        // Not every kernel has segment routing.
        if !name.contains("seg6") || host.sysctl(name).is_ok() {
            host.set_sysctl(name, value)?;
        }
    }
    Ok(())
}

/// Who is on the host: a and b in one network, c in another.
pub struct Trio {
    /// Of the network `default`.
    pub a: Container,
    /// Its neighbour.
    pub b: Container,
    /// Of the network `other`.
    pub c: Container,
}

impl Trio {
    /// Attaches them.
    ///
    /// # Errors
    /// The daemon refuses.
    pub fn new(site: &mut Site) -> Result<Self> {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let c = site.container_with("c", &["--network", "other"])?;
        Ok(Self { a, b, c })
    }

    /// Their addresses: a's, b's, c's.
    ///
    /// # Errors
    /// One has no IPv6.
    pub fn addresses(&self) -> Result<[([u8; 4], [u8; 16]); 3]> {
        let address6 = |one: &Container| one.address6.context("no IPv6").map(|address| address.octets());
        Ok([
            (self.a.address.octets(), address6(&self.a)?),
            (self.b.address.octets(), address6(&self.b)?),
            (self.c.address.octets(), address6(&self.c)?),
        ])
    }

    /// Checks that all works as before; what was sent before has arrived then.
    ///
    /// # Errors
    /// Something does not.
    pub fn work(&self, site: &Site) -> Result<()> {
        let host = &site.host.namespace;
        for container in [&self.a, &self.b, &self.c] {
            host.run(|| icmp::ping(container.address, 56, PATIENCE))?;
            reach(&container.namespace, site.world.address, site.host.address)?;
        }
        reach(&self.a.namespace, self.b.address, self.a.address)
    }
}

/// Options that name a station, or that routers look at.
#[must_use]
pub fn options(station: [u8; 4]) -> [(&'static str, Vec<u8>); 4] {
    let route = |kind| [&[1, kind, 7, 4][..], &station].concat();
    [
        ("a loose source route", route(0x83)),
        ("a strict source route", route(0x89)),
        ("a record of the route", vec![1, 7, 15, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("a router alert", vec![0x94, 4, 0, 0]),
    ]
}

/// Headers that send an IPv6 packet on: types 0, 2, 3 and 4, with one station to go.
#[must_use]
pub fn routing_headers(station: [u8; 16]) -> [(u8, Vec<u8>); 4] {
    [0, 2, 3, 4].map(|kind| (kind, [&[0, 2, kind, 1, 0, 0, 0, 0][..], &station].concat()))
}

/// A packet in tags and other things that a kernel may take off: what it is called, the EtherType, what follows it.
#[must_use]
pub fn wrappings(packet: &[u8]) -> Vec<(String, u16, Vec<u8>)> {
    let tag = |id: u16, next: u16| [id.to_be_bytes(), next.to_be_bytes()].concat();
    let tags = |list: &[(u16, u16)]| {
        // Each tag says what follows it.
        let types = list.iter().skip(1).map(|(kind, _)| *kind).chain([0x0800]);
        let bytes: Vec<u8> = list.iter().zip(types).flat_map(|((_, id), next)| tag(*id, next)).collect();
        [bytes, packet.to_vec()].concat()
    };
    let stacks: [&[(u16, u16)]; 12] = [
        &[(0x8100, 0)],
        &[(0x8100, 5)],
        &[(0x8100, 0xe000)],
        &[(0x88a8, 0)],
        &[(0x88a8, 5)],
        &[(0x9100, 0)],
        &[(0x8100, 0), (0x8100, 0)],
        &[(0x88a8, 0), (0x8100, 0)],
        &[(0x8100, 0), (0x88a8, 0)],
        &[(0x8100, 0), (0x8100, 0), (0x8100, 0)],
        &[(0x88a8, 0), (0x88a8, 0), (0x8100, 0)],
        &[(0x8100, 0), (0x8100, 0), (0x8100, 0), (0x8100, 0)],
    ];
    let mut all: Vec<_> =
        stacks.iter().map(|list| (format!("tags {list:x?}"), list[0].0, tags(list))).collect();
    let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], packet].concat();
    let bridge = [&[0x42, 0x42, 3, 0, 0, 0, 0][..], packet].concat();
    let inner = ethernet([2; 6], [4; 6], 0x0800, packet);
    for (what, kind, bytes) in [
        ("LLC and SNAP", snap.len() as u16, snap),
        ("a bridge's BPDU", bridge.len() as u16, bridge),
        ("MPLS", 0x8847, [&[0, 0, 0x11, 0x40][..], packet].concat()),
        ("PPPoE", 0x8864, [&[0x11, 0, 0, 1, 0, 90, 0, 0x21][..], packet].concat()),
        ("a frame in a frame", 0x6558, inner),
        ("EAPOL", 0x888e, packet.to_vec()),
        ("LLDP", 0x88cc, packet.to_vec()),
        ("RARP", 0x8035, packet.to_vec()),
        ("IPX", 0x8137, packet.to_vec()),
        ("AppleTalk", 0x809b, packet.to_vec()),
        ("loopback", 0x9000, packet.to_vec()),
        ("MACsec", 0x88e5, packet.to_vec()),
        ("IPv6's type", 0x86dd, packet.to_vec()),
    ] {
        all.push((what.to_owned(), kind, bytes));
    }
    all
}

/// A VXLAN packet in a frame: outer addresses, VNI, inner frame.
#[must_use]
pub fn vxlan(to: Mac, from: Mac, outer: &Ip, vni: u32, inner: &[u8]) -> Vec<u8> {
    let header = [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes()].concat();
    frame(to, from, outer, &Body::UdpUnchecked(50_000, 4789, [&header, inner].concat()))
}
