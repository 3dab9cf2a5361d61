//! ICMP echo, and ICMPv6 echo.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::socket;

/// Length of the ICMP header of an echo.
const HEADER: usize = 8;

/// Sends one echo request with `size` bytes of data and waits for its reply; returns the round trip. To be called inside
/// the sender's namespace.
///
/// # Errors
/// No reply comes within `timeout`, or one with other data.
pub fn ping(to: impl Into<IpAddr>, size: usize, timeout: Duration) -> Result<Duration> {
    ping_as(0, to, size, timeout)
}

/// The same with a given identifier; 0 leaves it to the kernel.
///
/// # Errors
/// As [`ping`], or the identifier is in use.
pub fn ping_as(identifier: u16, to: impl Into<IpAddr>, size: usize, timeout: Duration) -> Result<Duration> {
    let to = to.into();
    let (socket, request, reply_type) = match to {
        IpAddr::V4(_) => (socket::ping(identifier), 8, 0),
        IpAddr::V6(_) => (socket::ping6(identifier), 128, 129),
    };
    let socket = socket.context("cannot open a ping socket")?;
    let mut request = vec![request, 0, 0, 0, 0, 0, 0, 1];
    request.extend((0..size).map(|index| (index % 251) as u8));
    let start = Instant::now();
    socket.send_to(&request, (to, 0)).with_context(|| format!("cannot ping {to}"))?;
    let mut reply = vec![0; request.len() + 1];
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        if socket::readable([&socket], Some(left))? == [false] {
            bail!("no echo reply from {to} within {timeout:?}");
        }
        let (length, from) =
            socket.recv_from(&mut reply).with_context(|| format!("no echo reply from {to}"))?;
        if from.ip() != to {
            continue;
        }
        // The kernel fills in identifier and checksum.
        if reply[0] != reply_type || reply[HEADER..length] != request[HEADER..] {
            bail!("the echo reply from {to} has other data than was sent");
        }
        return Ok(start.elapsed());
    }
}
