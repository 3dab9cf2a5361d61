//! The few socket calls that `std::net` does not have.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, TcpStream, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

/// Waits until one of `sources` is readable or at its end; `None` waits for ever. Returns which are.
///
/// # Errors
/// That of poll(2).
pub fn readable<const N: usize>(
    sources: [&dyn AsRawFd; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled =
        sources.map(|source| libc::pollfd { fd: source.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let timeout =
        timeout.map_or(-1, |time| i32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
    loop {
        // SAFETY: `polled` is an array of N initialised pollfd, borrowed for the call.
        let count = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, timeout) };
        if count >= 0 {
            return Ok(polled.map(|one| one.revents != 0));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// A TCP connection from a given local address and port, which `std` cannot make. Port 0 leaves the choice to the kernel.
///
/// # Errors
/// The address is in use, or the peer does not answer within `timeout`.
pub fn connect_from(local: SocketAddrV4, peer: SocketAddrV4, timeout: Duration) -> io::Result<TcpStream> {
    let socket = open(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1i32)?;
    let time = libc::timeval {
        tv_sec: timeout.as_secs().cast_signed(),
        tv_usec: i64::from(timeout.subsec_micros()),
    };
    // connect(2) heeds the send timeout.
    set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &time)?;
    bind(&socket, local)?;
    let peer = sockaddr(peer);
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: `peer` is a sockaddr_in of that length.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const peer).cast(), length) })?;
    let stream = TcpStream::from(socket);
    stream.set_write_timeout(None)?;
    Ok(stream)
}

/// A socket for ICMP echo (see "ping sockets" in icmp(7)): it sends echo requests, receives its own replies, and needs no
/// privilege. `send_to` and `recv_from` do what one expects; the port is ignored.
///
/// `identifier` is that of the requests; 0 leaves it to the kernel.
///
/// # Errors
/// `ping_group_range` does not allow it, or the identifier is in use.
pub fn ping(identifier: u16) -> io::Result<UdpSocket> {
    let socket = open(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP)?;
    if identifier != 0 {
        bind(&socket, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, identifier))?;
    }
    Ok(UdpSocket::from(socket))
}

/// The same for ICMPv6 echo.
///
/// # Errors
/// As [`ping`].
pub fn ping6(identifier: u16) -> io::Result<UdpSocket> {
    let socket = open(libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_ICMPV6)?;
    if identifier != 0 {
        let local = libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: identifier.to_be(),
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: Ipv6Addr::UNSPECIFIED.octets() },
            sin6_scope_id: 0,
        };
        let length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
        // SAFETY: `local` is a sockaddr_in6 of that length.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const local).cast(), length) })?;
    }
    Ok(UdpSocket::from(socket))
}

fn bind(socket: &OwnedFd, local: SocketAddrV4) -> io::Result<()> {
    let local = sockaddr(local);
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: `local` is a sockaddr_in of that length.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const local).cast(), length) })?;
    Ok(())
}

/// A socket of any kind, closed on exec.
///
/// # Errors
/// That of socket(2).
pub fn open(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes no pointers.
    let fd = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: a descriptor that the kernel has just made, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets a socket option whose value is a plain C type.
///
/// # Errors
/// That of setsockopt(2).
pub fn set_option<T: Copy>(socket: &impl AsRawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` points to `length` bytes for the duration of the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const *value).cast(), length) })?;
    Ok(())
}

fn sockaddr(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
