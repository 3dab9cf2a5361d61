//! Packets out of a container with what a device is told to do with them: checksums to fill in, segments to cut. A container can say
//! anything, by a packet socket or a tap of its own. Whatever it says, nothing breaks, and it reaches nobody that it may not.

use anyhow::{Context, Result, ensure};
use netd::lab::Container;
use netd_common::host::build::{Ip, Ip6, ethernet, ipv4, ipv6};
use netd_tests::{
    attempts::mac_on,
    cluster::{Cluster, with_cluster},
    frames::{self, Sender},
    site::reach,
    watch::Watch,
};

/// Frames that are made, of which the kernel takes a part.
const FRAMES: usize = 6000;
/// What is in all payloads.
const MARK: &[u8] = b"of a container's";

/// Numbers that look random and are the same each time (Knuth's MMIX).
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.next() % choices.len()]
    }

    /// In so many of a hundred cases.
    fn often(&mut self, percent: usize) -> bool {
        self.next() % 100 < percent
    }
}

/// Whom the frames are for.
struct Receivers {
    v4: Vec<[u8; 4]>,
    v6: Vec<[u8; 16]>,
}

/// A packet and the offset of its transport header.
fn packet(random: &mut Random, from: &Container, to: &Receivers) -> Result<(u16, Vec<u8>, usize)> {
    let v6 = random.often(50);
    let icmp = if v6 { 58 } else { 1 };
    let other = (random.next() % 256) as u8;
    let protocol = random.of(&[6, 6, 17, 17, icmp, other]);
    let size: usize = random.of(&[0, 8, 20, 60, 500, 1400, 4344, 20_000, 60_000]);
    let payload: Vec<u8> = MARK.iter().copied().cycle().take(size).collect();
    let ports = |random: &mut Random| {
        let (source, destination) = (random.of(&[80u16, 40_000, 4789]), random.of(&[80u16, 4789, 53, 8080]));
        [source.to_be_bytes(), destination.to_be_bytes()].concat()
    };
    let l4 = match protocol {
        6 => {
            let (offset, flags) = (random.of(&[0x50, 0x80, 0xf0, 0]), random.of(&[0x10, 2, 0x18, 0xc2]));
            [ports(random), vec![0, 0, 0, 1, 0, 0, 0, 1, offset, flags, 1, 0, 0, 0, 0, 0], payload].concat()
        }
        17 => {
            let length = random.of(&[0, 8, 8 + size, 65_535]) as u16;
            [ports(random), length.to_be_bytes().to_vec(), vec![0, random.of(&[0, 1])], payload].concat()
        }
        _ => payload,
    };
    let mut bytes;
    let header;
    if v6 {
        let mut ip = Ip6::new(from.address6.context("no IPv6")?.octets(), random.of(&to.v6));
        if random.often(20) {
            ip.extensions.push((60, vec![0, 0, 1, 4, 0, 0, 0, 0]));
        } else if random.often(10) {
            ip.extensions.push((44, vec![0, 0, 0, random.of(&[0, 1, 8, 9]), 0, 0, 0, 7]));
        }
        header = 40 + 8 * ip.extensions.len();
        bytes = ipv6(&ip, protocol, &l4);
        if random.often(10) {
            bytes[4..6].copy_from_slice(&(random.next() as u16).to_be_bytes());
        }
    } else {
        let mut ip = Ip::new(from.address.octets(), random.of(&to.v4));
        ip.options = vec![1; random.of(&[0, 0, 0, 4, 40])];
        if random.often(20) {
            ip.fragment = random.of(&[0x4000, 0x2000, 0x00b9]);
        }
        header = 20 + ip.options.len();
        bytes = ipv4(&ip, protocol, &l4);
        if random.often(10) {
            bytes[2..4].copy_from_slice(&(random.next() as u16).to_be_bytes());
        }
    }
    Ok((if v6 { 0x86dd } else { 0x0800 }, bytes, 14 + header))
}

/// A `virtio_net_hdr` for a frame, in native byte order: mostly near to sense.
fn offloads(random: &mut Random, length: usize, l4: usize, protocol: u8, v6: bool) -> Vec<u8> {
    // None, TCP over IPv4, UDP in fragments, TCP over IPv6, UDP in segments, with ECN, of no meaning.
    let fitting = match (protocol, v6) {
        (6, false) => 1,
        (6, true) => 4,
        (17, _) => 5,
        _ => 0,
    };
    let kind = if random.often(60) { fitting } else { random.of(&[0, 1, 3, 4, 5, 0x81, 0x84, 2, 255]) };
    let flags: u8 = random.of(&[1, 1, 1, 1, 0, 2, 4, 7]);
    let anywhere = random.next() % 65_536;
    let start = if random.often(80) {
        l4
    } else {
        random.of(&[0, 14, 34, length - 1, length, length + 10, anywhere])
    };
    let fitting = match protocol {
        6 => 16,
        17 => 6,
        _ => 2,
    };
    let offset = if random.often(80) { fitting } else { random.of(&[0, 1, 65_535, anywhere % 2000]) };
    let size = random.of(&[1, 2, 8, 100, 536, 1000, 1400, 1448, 9000, 65_535]);
    let header = random.of(&[0, 14, 34, 54, 66, l4 + 20, l4 + 8, length, 65_535]);
    let words = [header, size, start, offset].map(|word| (word as u16).to_ne_bytes());
    [&[flags, kind][..], words.as_flattened()].concat()
}

/// What the kernel thinks of itself: a warning sets a bit.
fn taint() -> Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/tainted").context("cannot read kernel.tainted")
}

#[test]
fn any_offload_that_a_container_asks_for() {
    with_cluster("any_offload_that_a_container_asks_for", "vxlan", |cluster: &mut Cluster| {
        let before = taint()?;
        let (a, b) = cluster.pair()?;
        let (c, d) = (cluster.container(0, "c", "other")?, cluster.container(1, "d", "other")?);
        let neighbour = cluster.container(0, "neighbour", "default")?;
        let published =
            cluster.nodes[0].netd(["publish", "neighbour", "-p", "8080:80", "-p", "8080:80/udp"])?;
        ensure!(published.status.success(), "{}", String::from_utf8_lossy(&published.stderr));
        let watch = Watch::new([("c", &c.namespace), ("d", &d.namespace)])?;
        let node = &cluster.nodes[0];
        let v6 = |address: Option<std::net::Ipv6Addr>| address.context("no IPv6").map(|one| one.octets());
        let to = Receivers {
            // In VXLAN, to a neighbour, translated, to the host, by a published port; to another network, here and there.
            v4: vec![
                b.address.octets(),
                neighbour.address.octets(),
                cluster.world.address.octets(),
                node.address.octets(),
                a.gateway.octets(),
                c.address.octets(),
                d.address.octets(),
            ],
            v6: vec![
                v6(b.address6)?,
                v6(neighbour.address6)?,
                v6(cluster.world.address6)?,
                v6(node.address6)?,
                v6(a.gateway6)?,
                v6(c.address6)?,
                v6(d.address6)?,
            ],
        };
        let own = frames::mac(&a.mac)?;
        let host_mac = mac_on(&node.namespace, &a.host_interface)?;
        let sender = Sender::with_offloads(&a.namespace, "eth0")?;
        let mut random = Random(u64::from(std::process::id()));
        println!("seed {}", random.0);
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..FRAMES {
            let (kind, bytes, l4) = packet(&mut random, &a, &to)?;
            let protocol = if kind == 0x0800 { bytes[9] } else { bytes[6] };
            let frame = ethernet(host_mac, own, kind, &bytes);
            let head = offloads(&mut random, frame.len(), l4, protocol, kind != 0x0800);
            let mut whole = [head, frame].concat();
            if random.often(5) {
                whole.truncate(10 + random.of(&[14, 20, 34, 54]));
            }
            match sender.send(&whole) {
                Ok(()) => taken += 1,
                Err(_) => refused += 1,
            }
        }
        println!("{taken} frames were taken by the kernel, {refused} refused");
        ensure!(taken > FRAMES / 10, "the kernel took {taken} frames only, {refused} not");

        // All goes on, for it and for the others.
        reach(&a.namespace, b.address, a.address)?;
        reach(&a.namespace, cluster.world.address, cluster.nodes[0].address)?;
        reach(&b.namespace, a.address, b.address)?;
        reach(&c.namespace, d.address, c.address)?;
        for node in &cluster.nodes {
            ensure!(node.netd(["ls"])?.status.success(), "{} does not answer", node.name());
        }
        let seen = watch.seen(&[MARK.to_vec()])?;
        ensure!(seen.is_empty(), "another network has seen packets: {seen:?}");
        ensure!(
            taint()? == before,
            "the kernel has warned: tainted {} before, {} now",
            before.trim(),
            taint()?.trim()
        );
        Ok(())
    });
}
