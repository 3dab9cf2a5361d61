//! UDP that the sender hands to the kernel in one piece for many datagrams (`UDP_SEGMENT`), as QUIC does.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use netd::lab::{Namespace, socket};

/// Payload of each datagram: what fits with IPv6 in VXLAN over IPv6.
pub const SEGMENT: usize = 1380;
/// Datagrams of one call: as many as fit into 64 KiB with an overlay's headers.
pub const SEGMENTS: usize = 46;
const PATIENCE: Duration = Duration::from_secs(3);

/// Sends some bursts from one namespace to an address in another, each in one call, and checks that each arrives complete,
/// in order and unchanged.
///
/// # Errors
/// Something of it does not.
pub fn exchange(
    from: &Namespace,
    to: &Namespace,
    address: impl Into<SocketAddr>,
    bursts: usize,
) -> Result<()> {
    let address = address.into();
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let receiver = to.run(|| UdpSocket::bind(address).with_context(|| format!("cannot bind {address}")))?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let sender = from.run(|| UdpSocket::bind(any).context("cannot bind"))?;
    sender.connect(address)?;
    let size = libc::c_int::try_from(SEGMENT)?;
    socket::set_option(&sender, libc::SOL_UDP, libc::UDP_SEGMENT, &size).context("no UDP_SEGMENT")?;
    for burst in 0..bursts {
        let data: Vec<u8> = (0..SEGMENT * SEGMENTS).map(|at| ((at * 31 + burst * 7) >> 3) as u8).collect();
        let sent = sender.send(&data).context("cannot send a burst")?;
        ensure!(sent == data.len(), "{sent} bytes were sent");
        let mut buffer = [0; 2048];
        for (number, segment) in data.chunks(SEGMENT).enumerate() {
            let length = receiver.recv(&mut buffer).with_context(|| {
                format!("burst {burst} to {address}: {number} of {SEGMENTS} datagrams came")
            })?;
            ensure!(
                buffer[..length] == *segment,
                "burst {burst}: datagram {number} is wrong ({length} bytes)"
            );
        }
    }
    Ok(())
}
