//! Waiting until a link that is up really sends.
//!
//! The end of a veth that is set up first has no carrier yet. When the other end comes up, it gets one, but starts to send
//! only when a kernel thread (`net/core/link_watch.c`) gets round to it: until then whatever is sent to it is dropped without
//! a trace. On a busy machine that takes long enough to lose the first packet of a connection.

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

use crate::netlink::Netlink;

/// How long to wait. The thread has at most a second's work before it, as it does not run more often than that.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often to look.
const INTERVAL: Duration = Duration::from_millis(1);

/// Returns when the link sends.
///
/// # Errors
/// It does not: the link, or its other end, is down.
pub(super) async fn wait(nl: &Netlink, ifindex: u32) -> Result<()> {
    // Since 6.8 the kernel does what the thread has yet to do before it answers this. Before that, only time helps.
    let link = nl.link_by_index(ifindex).await?.with_context(|| format!("link number {ifindex} is gone"))?;
    let name = link.name;
    let end = Instant::now() + PATIENCE;
    while !is_running(&name)? {
        if Instant::now() > end {
            bail!("link {name} has no carrier: is its other end down?");
        }
        sleep(INTERVAL).await;
    }
    Ok(())
}

/// Whether the kernel says that a link of this namespace is running (`IFF_RUNNING`, RFC 2863: operational).
fn is_running(name: &str) -> io::Result<bool> {
    // SAFETY: a system call without pointers; the descriptor is checked, and new, so nothing else owns it.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: all zeros is a valid ifreq: an empty name, and a union of numbers and a null pointer.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    // SAFETY: the request names an interface and has room for its flags, and lives until the call returns, after which
    // the flags are what its union holds.
    let flags = unsafe {
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request) < 0 {
            return Err(io::Error::last_os_error());
        }
        request.ifr_ifru.ifru_flags
    };
    Ok(libc::c_int::from(flags) & libc::IFF_RUNNING != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_this_namespace() {
        // lo is up and running in every namespace that tests run in; nothing has the other name.
        assert!(is_running("lo").unwrap());
        assert!(is_running("nd-dm-none").is_err());
        assert!(is_running("a-name-that-is-too-long").is_err());
    }
}
