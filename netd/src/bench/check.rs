//! Before anything is measured: do packets go where the variant says? A comparison with something else would be worth nothing.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    case::{Frames, Link, Route, Traffic, Transport},
    cpus::Placement,
    sample::{self, Timing},
    scene::{Direction, Path, Scene, VXLAN_PORT, counted},
};
use crate::lab::{Namespace, socket, world::UPLINK};

/// A moment of traffic; of a stream, long enough for TCP to send as much at a time as it ever does.
const MOMENT: Timing = Timing { warmup: Duration::from_millis(10), time: Duration::from_millis(30) };
/// The largest frame on a link with Ethernet's MTU.
const FRAME: u64 = 1514;

/// Sends something on each way, and asks the kernel's counters, and the wire between two hosts, what it saw.
///
/// # Errors
/// Nothing arrives, or it went another way.
pub(super) fn check(scene: &Scene, placement: &Placement) -> Result<()> {
    for (route, path) in scene.paths() {
        let exchange = |traffic| sample::run(traffic, path, placement, MOMENT).map(drop);
        match (route, scene.sender()) {
            (Route::Hosts(link), Some(sender)) => {
                let tap = Tap::open(sender)?;
                exchange(Traffic::TcpRr)?;
                transport(link.transport, &tap.frames(path.address)?)?;
                drop(tap);
                sizes(*link, path, sender, || exchange(Traffic::TcpStream))?;
            }
            (Route::Denied, _) => {
                for traffic in [Traffic::DroppedFrames, Traffic::DroppedPackets] {
                    sample::dropped(traffic, path, placement, MOMENT)?;
                }
            }
            _ => exchange(Traffic::TcpRr)?,
        }
    }
    scene.evidence().transpose()?;
    Ok(())
}

/// Frames that a [`Tap`] has seen: with the container's own address outside, or in VXLAN.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    bare: usize,
    vxlan: usize,
}

fn transport(transport: Transport, seen: &Seen) -> Result<()> {
    let as_said = match transport {
        Transport::Direct => seen.bare > 0 && seen.vxlan == 0,
        Transport::Vxlan => seen.bare == 0 && seen.vxlan > 0,
    };
    ensure!(
        as_said,
        "between the hosts went {} packets in VXLAN and {} without: not what this variant should send",
        seen.vxlan,
        seen.bare
    );
    Ok(())
}

/// Compares the sizes of packets on the wire, and where they arrive, with what they should be.
fn sizes(link: Link, path: &Path, sender: &Namespace, stream: impl FnOnce() -> Result<()>) -> Result<()> {
    let counters = || -> Result<_> {
        Ok((counted(sender, UPLINK, Direction::Sent)?, counted(&path.server, "eth0", Direction::Received)?))
    };
    let before = counters()?;
    stream()?;
    let after = counters()?;
    let average = |after: (u64, u64), before: (u64, u64)| {
        (after.1.saturating_sub(before.1)).checked_div(after.0.saturating_sub(before.0))
    };
    let sent = average(after.0, before.0).context("the stream did not go out of the uplink")?;
    match link.frames {
        Frames::Whole => ensure!(sent > 2 * FRAME, "packets were cut: {sent} bytes each on the wire"),
        Frames::Mtu => ensure!(sent <= FRAME, "packets were not cut: {sent} bytes each on the wire"),
    }
    // Before Linux 6.7 a link does not count what a program put into it.
    if let Some(received) = average(after.1, before.1) {
        ensure!(
            received > 2 * FRAME,
            "the receiver got packets of {received} bytes: they were not aggregated"
        );
    }
    Ok(())
}

/// A packet socket on a host's uplink.
struct Tap(OwnedFd);

impl Tap {
    fn open(host: &Namespace) -> Result<Self> {
        host.run(|| {
            let protocol = (libc::ETH_P_ALL as u16).to_be();
            let socket = socket::open(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK,
                libc::c_int::from(protocol),
            )
            .context("cannot open a packet socket")?;
            let index = nix::net::if_::if_nametoindex(UPLINK).context("there is no uplink")?;
            // SAFETY: plain data, for which zero is valid.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            address.sll_ifindex = index.cast_signed();
            let length = size_of_val(&address) as libc::socklen_t;
            // SAFETY: `address` is a sockaddr_ll of that length.
            let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
            ensure!(bound == 0, "cannot listen on the uplink: {}", io::Error::last_os_error());
            Ok(Self(socket))
        })
    }

    /// What it has seen so far; `container` is the server's address.
    fn frames(&self, container: Ipv4Addr) -> Result<Seen> {
        let mut seen = Seen::default();
        let mut buffer = [0; 128];
        loop {
            // SAFETY: the buffer is of that length; what does not fit into it is cut off.
            let length =
                unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            let Ok(length) = usize::try_from(length) else {
                let error = io::Error::last_os_error();
                ensure!(error.kind() == io::ErrorKind::WouldBlock, "cannot read from the uplink: {error}");
                return Ok(seen);
            };
            seen.add(&buffer[..length], container);
        }
    }
}

impl Seen {
    fn add(&mut self, frame: &[u8], container: Ipv4Addr) {
        const UDP: u8 = 17;
        let part = |offset: usize, length| frame.get(offset..offset + length);
        if part(12, 2) != Some(&[8, 0]) {
            return;
        }
        // Neither has options.
        if part(23, 1) == Some(&[UDP]) && part(36, 2) == Some(&VXLAN_PORT.to_be_bytes()) {
            self.vxlan += 1;
        } else if [26, 30].iter().any(|offset| part(*offset, 4) == Some(&container.octets())) {
            self.bare += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frame's beginning: IPv4 with these addresses.
    fn frame(protocol: u8, source: [u8; 4], destination: [u8; 4], port: u16) -> Vec<u8> {
        let mut bytes = vec![0; 12];
        bytes.extend([8, 0, 0x45, 0, 0, 60, 0, 0, 0, 0, 64, protocol, 0, 0]);
        bytes.extend(source.into_iter().chain(destination).chain([0x80, 0]));
        bytes.extend(port.to_be_bytes());
        bytes
    }

    #[test]
    fn frames_are_told_apart() {
        let (one, two, container) = ([198, 18, 0, 1], [198, 18, 0, 2], [10, 88, 2, 1]);
        let mut seen = Seen::default();
        seen.add(&frame(17, one, two, VXLAN_PORT), container.into());
        seen.add(&frame(6, one, container, 80), container.into());
        seen.add(&frame(17, container, one, 53), container.into());
        for other in [frame(6, one, two, VXLAN_PORT), frame(17, one, two, 53), vec![0; 60], vec![8; 3]] {
            seen.add(&other, container.into());
        }
        assert_eq!(seen, Seen { bare: 2, vxlan: 1 });
        assert!(transport(Transport::Vxlan, &seen).is_err(), "some were not in VXLAN");
        assert!(transport(Transport::Vxlan, &Seen { bare: 0, vxlan: 9 }).is_ok());
        assert!(transport(Transport::Direct, &Seen { bare: 9, vxlan: 0 }).is_ok());
        assert!(transport(Transport::Direct, &Seen::default()).is_err(), "nothing at all");
    }
}
