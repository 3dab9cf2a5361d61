//! Datagrams that nobody receives: a host drops them at its uplink, and counts what it drops.
//!
//! They are sent in two ways. As frames: the kernel runs a program that puts each on the link (`BPF_PROG_RUN` with
//! `BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18), and they come to the host's driver as those of a NIC do, as memory that no packet of the
//! kernel's (skb) has been made of. That costs some 100 ns each, so that what the host does for one is most of what is
//! measured. And by a socket, which makes packets of the kernel's: then there is nothing left that dropping early could save,
//! and native XDP on a veth link has to copy each into a buffer of its own.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use aya::{
    EbpfLoader,
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp},
};
use serde::{Deserialize, Serialize};

use super::{
    Load, Measured, Order,
    cost::{Cost, Meter},
    packets::{Batch, SMALL},
    repeat::repeat,
};
use crate::bench::{frames, latency::Latency};

/// Frames of one batch: a driver handles as many in one go (`NAPI_POLL_WEIGHT`), and a veth link holds 256.
const BATCH: u32 = 64;
/// Frames that are sent first, to learn how many can be sent in some time.
const PROBE: u32 = 1 << 13;
/// Most that is sent in one call.
const LIMIT: u128 = 1 << 28;
/// Where nothing listens (RFC 863's port).
const PORT: u16 = 9;

/// Where the sender is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct Outside {
    /// Its link to the host.
    pub(in super::super) link: String,
    /// The MAC at the other end of that.
    pub(in super::super) mac: [u8; 6],
    /// The address that it sends from.
    pub(in super::super) source: Ipv4Addr,
}

/// What was sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct Sent {
    /// In the time that is measured.
    pub(in super::super) load: Load,
    /// In all.
    pub(in super::super) total: u64,
}

/// Sends frames.
pub(super) fn frames(order: &Order) -> Result<Sent> {
    let outside = outside(order)?;
    let link = nix::net::if_::if_nametoindex(outside.link.as_str())
        .with_context(|| format!("there is no link {}", outside.link))?;
    let mut programs = EbpfLoader::new()
        .override_global("LINK", &link, true)
        .load(frames::OBJECT)
        .context("loading the eBPF object")?;
    let program: &mut Xdp = programs.program_mut("send").context("no program send")?.try_into()?;
    program.load().context("the kernel refuses program send")?;
    let frame = frame(outside, *order.address.ip());
    let mut total = 0;
    // How long each took. The kernel's own clock: it does not count the start and the end of a call, which take it some 20 ms.
    let mut send = |count: u32| -> Result<Duration> {
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: count,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        let result = program.test_run(options).context("cannot send frames (Linux 5.18 can)")?;
        total += u64::from(count);
        Ok(result.duration)
    };
    let probe = send(PROBE)?;
    let each = send(frames_in(order.warmup, probe))?;
    let count = frames_in(order.time, each);
    let mut meter = Meter::new(None)?;
    meter.begin()?;
    let each = send(count)?;
    let cost = meter.end()?;
    let measured = Measured { count: count.into(), time: each * count };
    // Of the time that was measured, and none around it.
    let cost = Cost { time: measured.time, ..cost };
    Ok(Sent { load: Load { measured, latency: Latency::new(), cost }, total })
}

/// As many batches as take so long, at least one.
fn frames_in(time: Duration, each: Duration) -> u32 {
    let count = (time.as_nanos() / each.as_nanos().max(1)).min(LIMIT) as u32;
    count.next_multiple_of(BATCH).max(BATCH)
}

/// Sends datagrams by a socket.
pub(super) fn packets(order: &Order) -> Result<Sent> {
    let socket = UdpSocket::bind(SocketAddrV4::new(outside(order)?.source, 0)).context("cannot bind")?;
    let to = SocketAddrV4::new(*order.address.ip(), PORT);
    socket.connect(to).with_context(|| format!("cannot reach {to}"))?;
    let mut batch = Batch::new(SMALL);
    let mut total = 0;
    let Load { measured, cost, .. } = repeat(order, u64::MAX, || {
        total += batch.send(&socket).context("cannot send")? as u64;
        Ok(())
    })?;
    // A call sends all of its batch, or fails.
    let measured = Measured { count: measured.count * Batch::SIZE as u64, ..measured };
    Ok(Sent { load: Load { measured, latency: Latency::new(), cost }, total })
}

fn outside(order: &Order) -> Result<&Outside> {
    let Some(outside) = &order.outside else { bail!("nobody has said where the sender is") };
    Ok(outside)
}

/// A datagram of [`SMALL`] bytes in UDP (without a checksum, which IPv4 allows), IPv4 and Ethernet.
fn frame(outside: &Outside, destination: Ipv4Addr) -> Vec<u8> {
    const IP: u16 = 20;
    const UDP: u16 = 8;
    let (length, payload) = (IP + UDP + SMALL as u16, UDP + SMALL as u16);
    let mut ip = vec![0x45, 0];
    ip.extend(length.to_be_bytes());
    // No identification, not to be fragmented; a TTL of 64, UDP; the checksum comes last.
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(outside.source.octets().into_iter().chain(destination.octets()));
    let sum: u32 = ip.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    // Locally administered, and nobody's.
    let mut frame: Vec<u8> = outside.mac.into_iter().chain([2, 0, 0, 0, 0, 1, 8, 0]).chain(ip).collect();
    for word in [PORT, PORT, payload, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.resize(frame.len() + SMALL, 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_what_a_receiver_takes() {
        let outside = Outside {
            link: "wire".to_owned(),
            mac: [2, 1, 2, 3, 4, 5],
            source: Ipv4Addr::new(198, 51, 100, 7),
        };
        let frame = frame(&outside, Ipv4Addr::new(198, 18, 0, 2));
        assert_eq!(frame.len(), 14 + 20 + 8 + SMALL);
        assert_eq!((&frame[..6], &frame[12..14]), (&outside.mac[..], &[8, 0][..]));
        let (ip, udp) = frame[14..].split_at(20);
        let words = ip.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let sum: u32 = words.sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the checksum");
        assert_eq!((ip[0], usize::from(ip[3]), ip[9]), (0x45, 20 + 8 + SMALL, 17));
        assert_eq!(ip[12..], [198, 51, 100, 7, 198, 18, 0, 2]);
        assert_eq!(udp[..8], [0, 9, 0, 9, 0, 72, 0, 0]);
    }

    #[test]
    fn whole_batches_are_sent() {
        let nanoseconds = Duration::from_nanos;
        for (time, each, count) in
            [(0, 300, BATCH), (1_000_000, 0, 1_000_000), (64_001, 1000, 64), (65_000, 1000, 128)]
        {
            assert_eq!(frames_in(nanoseconds(time), nanoseconds(each)), count, "{time} ns at {each} ns");
        }
        assert_eq!(frames_in(Duration::from_secs(600), nanoseconds(1)), 1 << 28);
    }
}
