//! What tests of published ports share.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
};

use anyhow::{Context, Result, bail, ensure};
use netd::lab::{Container, Namespace, echo};

use crate::{
    Site,
    site::{PATIENCE, SILENCE},
};

/// An address and a port.
pub fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

/// TCP and UDP from a namespace to a published echo service; whom the server saw.
///
/// # Errors
/// One of them gets no answer.
pub fn echo_by(from: &Namespace, to: SocketAddr) -> Result<[IpAddr; 2]> {
    let answers =
        from.run(|| Ok([echo::tcp(to, &[7; 3000], PATIENCE)?, echo::udp(to, &[7; 900], PATIENCE)?]));
    let answers = answers.with_context(|| format!("{} → {to}", from.name()))?;
    Ok(answers.map(|answer| answer.seen.ip()))
}

/// Checks that neither TCP nor UDP gets an answer there.
///
/// # Errors
/// One of them does.
pub fn closed(from: &Namespace, to: SocketAddr) -> Result<()> {
    let tcp = from.run(|| Ok(echo::tcp(to, b"x", SILENCE).is_ok()))?;
    let udp = from.run(|| Ok(echo::udp(to, b"x", SILENCE).is_ok()))?;
    ensure!(!tcp && !udp, "{} → {to}: TCP {tcp}, UDP {udp}", from.name());
    Ok(())
}

/// A UDP socket of a namespace's, connected.
///
/// # Errors
/// Those of the system calls.
pub fn connected(from: &Namespace, to: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    from.run(|| {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    })
}

/// Sends by a connected UDP socket, and checks that it learns that nobody listens there: `ECONNREFUSED`.
///
/// # Errors
/// It does not.
pub fn refused(socket: &UdpSocket) -> Result<()> {
    socket.send(b"anybody?")?;
    match socket.recv(&mut [0; 16]) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        other => bail!("{:?} learns nothing: {other:?}", socket.peer_addr()),
    }
}

/// A container with its echo service published at a port of the host's.
///
/// # Errors
/// The daemon refuses.
pub fn published(site: &mut Site, name: &str, port: u16, more: &[&str]) -> Result<Container> {
    let (tcp, udp) = (format!("{port}:7"), format!("{port}:7/udp"));
    site.container_with(name, &[&["-p", &tcp, "-p", &udp], more].concat())
}

/// What a refused command says.
///
/// # Errors
/// It is not refused, or not in one line.
pub fn refusal(site: &Site, arguments: &[&str]) -> Result<String> {
    let output = site.host.netd(arguments)?;
    ensure!(!output.status.success(), "netd {} is not refused", arguments.join(" "));
    let said = String::from_utf8(output.stderr)?.trim().to_owned();
    ensure!(said.lines().count() == 1, "more than one line: {said}");
    Ok(said)
}

/// Runs a command.
///
/// # Errors
/// It is refused.
pub fn netd(site: &Site, arguments: &[&str]) -> Result<()> {
    let output = site.host.netd(arguments)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "netd {}: {said}", arguments.join(" "));
    Ok(())
}

/// A connection that is open, and echoes.
#[derive(Debug)]
pub struct Open(TcpStream);

impl Open {
    /// Opens it.
    ///
    /// # Errors
    /// Nobody greets.
    pub fn new(from: &Namespace, to: SocketAddr) -> Result<Self> {
        let mut stream = from.run(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte).context("no greeting")?;
        }
        Ok(Self(stream))
    }

    /// Whether it still does.
    pub fn works(&mut self) -> bool {
        let mut byte = [0];
        self.0.set_read_timeout(Some(SILENCE)).is_ok()
            && self.0.write_all(b"z").is_ok()
            && self.0.read_exact(&mut byte).is_ok()
    }
}
