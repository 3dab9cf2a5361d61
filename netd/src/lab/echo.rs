//! Echo over TCP and UDP, with the client's address as the server saw it.
//!
//! A server's answer begins with the line `peer ADDRESS:PORT`; what follows is what it was sent. So one exchange shows
//! that both ways work, and whether the client's address was translated on the way.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{Namespace, Service, socket};

/// The port of the echo services here, that of RFC 862.
pub const PORT: u16 = 7;

/// What a client learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// From the first packet to the last byte of the answer.
    pub time: Duration,
    /// The client's address as the server saw it.
    pub seen: SocketAddr,
}

/// Serves echo on `address`, both TCP and UDP.
///
/// # Errors
/// The namespace cannot be entered, or the address cannot be bound.
pub fn serve(namespace: &Namespace, address: impl Into<SocketAddr>) -> Result<[Service; 2]> {
    let address = address.into();
    let tcp = Service::tcp(namespace, address, |stream| {
        // The client went away: its affair.
        let _ = answer_stream(stream);
    })?;
    let udp =
        Service::udp(namespace, address, |data, peer| Some([greeting(peer).as_bytes(), data].concat()))?;
    Ok([tcp, udp])
}

fn answer_stream(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(greeting(stream.peer_addr()?).as_bytes())?;
    let mut buffer = vec![0; 65536];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

fn greeting(peer: SocketAddr) -> String {
    format!("peer {peer}\n")
}

/// Connects, sends `data`, half-closes, and checks that all of it comes back and that the other side closes too. To be
/// called inside the client's namespace.
///
/// # Errors
/// Nothing comes back within `timeout`, or something else does.
pub fn tcp(server: impl Into<SocketAddr>, data: &[u8], timeout: Duration) -> Result<Answer> {
    let server = server.into();
    let start = Instant::now();
    let stream = TcpStream::connect_timeout(&server, timeout)
        .with_context(|| format!("no TCP connection to {server}"))?;
    let seen = exchange(stream, data, timeout).with_context(|| format!("TCP {server}"))?;
    Ok(Answer { time: start.elapsed(), seen })
}

/// The same on a connection that exists.
///
/// # Errors
/// As [`tcp`].
pub fn exchange(mut stream: TcpStream, data: &[u8], timeout: Duration) -> Result<SocketAddr> {
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.set_nodelay(true)?;
    let mut sender = stream.try_clone()?;
    let mut received = Vec::new();
    // At the same time: neither side could take more than its buffers hold otherwise.
    std::thread::scope(|scope| {
        let sent =
            scope.spawn(move || sender.write_all(data).and_then(|()| sender.shutdown(Shutdown::Write)));
        stream.read_to_end(&mut received).context("cannot receive")?;
        sent.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).context("cannot send")
    })?;
    parse(&received, data)
}

/// Sends `data` in one datagram and checks that it comes back. To be called inside the client's namespace.
///
/// # Errors
/// Nothing comes back within `timeout`, or something else does.
pub fn udp(server: impl Into<SocketAddr>, data: &[u8], timeout: Duration) -> Result<Answer> {
    let server = server.into();
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let client = UdpSocket::bind(any).context("cannot bind a UDP socket")?;
    udp_on(&client, server, data, timeout)
}

/// The same from a socket that exists.
///
/// # Errors
/// As [`udp`].
pub fn udp_on(
    client: &UdpSocket,
    server: impl Into<SocketAddr>,
    data: &[u8],
    timeout: Duration,
) -> Result<Answer> {
    let server = server.into();
    client.connect(server).with_context(|| format!("no UDP way to {server}"))?;
    let start = Instant::now();
    client.send(data).with_context(|| format!("cannot send UDP to {server}"))?;
    if socket::readable([client], Some(timeout))? == [false] {
        bail!("no UDP answer from {server} within {timeout:?}");
    }
    let mut buffer = vec![0; 65536];
    let length = client.recv(&mut buffer).with_context(|| format!("no UDP answer from {server}"))?;
    let time = start.elapsed();
    let seen = parse(&buffer[..length], data).with_context(|| format!("UDP {server}"))?;
    Ok(Answer { time, seen })
}

fn parse(answer: &[u8], data: &[u8]) -> Result<SocketAddr> {
    let end = answer.iter().position(|byte| *byte == b'\n').context("the answer has no greeting")?;
    let (line, rest) = (&answer[..end], &answer[end + 1..]);
    let seen = std::str::from_utf8(line)
        .ok()
        .and_then(|line| line.strip_prefix("peer ")?.parse().ok())
        .context("the greeting has no address")?;
    ensure!(rest == data, "sent {} bytes, got {} bytes that differ", data.len(), rest.len());
    Ok(seen)
}
