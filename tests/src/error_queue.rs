//! ICMP errors as a socket learns of them (`IP_RECVERR`, see ip(7)).

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use netd::lab::socket;

/// An ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Who sent it.
    pub from: Ipv4Addr,
    /// The MTU in a "fragmentation needed".
    pub mtu: u32,
}

/// Lets a socket keep the errors that it gets.
///
/// # Errors
/// That of setsockopt(2).
pub fn keep(socket: &UdpSocket) -> io::Result<()> {
    socket::set_option(socket, libc::IPPROTO_IP, libc::IP_RECVERR, &1i32)
}

/// Waits for an error.
///
/// # Errors
/// None comes within `patience`.
pub fn wait(socket: &UdpSocket, patience: Duration) -> Result<IcmpError> {
    let end = Instant::now() + patience;
    loop {
        if let Some(error) = take(socket).context("cannot read the error queue")? {
            return Ok(error);
        }
        if Instant::now() > end {
            bail!("no ICMP error came within {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The next error, if there is one.
fn take(socket: &UdpSocket) -> io::Result<Option<IcmpError>> {
    let mut data = [0u8; 64];
    // Words, for the alignment of a control message.
    let mut control = [0u64; 32];
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: an all-zero msghdr is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message points to buffers of the lengths that it says, which outlive the call.
    let got = unsafe {
        libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
    };
    if got < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    }
    // SAFETY: the kernel has filled the message in.
    let mut head = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole header within the buffer.
    while let Some(one) = unsafe { head.as_ref() } {
        if (one.cmsg_level, one.cmsg_type) == (libc::IPPROTO_IP, libc::IP_RECVERR) {
            // SAFETY: the data of such a message is this struct, and the sender's address after it (ip(7)).
            let (error, offender) = unsafe {
                let error = libc::CMSG_DATA(head).cast::<libc::sock_extended_err>();
                (error.read_unaligned(), error.add(1).cast::<libc::sockaddr_in>().read_unaligned())
            };
            if error.ee_origin == libc::SO_EE_ORIGIN_ICMP {
                return Ok(Some(IcmpError {
                    kind: error.ee_type,
                    code: error.ee_code,
                    from: offender.sin_addr.s_addr.to_ne_bytes().into(),
                    mtu: error.ee_info,
                }));
            }
        }
        // SAFETY: as above.
        head = unsafe { libc::CMSG_NXTHDR(&raw const message, head) };
    }
    Ok(None)
}
