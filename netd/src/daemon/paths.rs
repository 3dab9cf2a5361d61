//! Hears what routers say of packets between nodes that were too big.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use tokio::{io::unix::AsyncFd, sync::mpsc};
use tracing::{info, warn};

use super::owner::Owner;
use crate::{cluster::TooBig, config::Config};

/// Messages that wait. More are lost: each packet that is too big brings another.
const QUEUE: usize = 16;
/// `ICMPV6_FILTER`, the option of a socket (linux/icmpv6.h).
const FILTER: libc::c_int = 1;

/// Begins to listen, where there are other nodes. Without that, ways that take less than the uplinks lose what is too big for
/// them, as the log then says.
pub(super) fn listen(config: &Config) -> mpsc::Receiver<TooBig> {
    let (told, heard) = mpsc::channel(QUEUE);
    if config.cluster.etcd.is_some() || !config.cluster.peers.is_empty() {
        match open() {
            Ok(socket) => drop(tokio::spawn(follow(socket, told))),
            // Without IPv6 nothing goes by it.
            Err(error) if is_without_ipv6(&error) => {}
            Err(error) => warn!("what routers say of too big packets between nodes is not heard: {error:#}"),
        }
    }
    heard
}

fn is_without_ipv6(error: &anyhow::Error) -> bool {
    error.downcast_ref() == Some(&nix::errno::Errno::EAFNOSUPPORT)
}

/// A socket that gets these messages, and no others.
fn open() -> Result<AsyncFd<OwnedFd>> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet6, SockType::Raw, flags, SockProtocol::IcmpV6)
        .context("opening a socket for ICMPv6")?;
    // A set bit keeps a type away.
    let mut filter = [u32::MAX; 8];
    filter[0] &= !(1 << TooBig::KIND);
    let length = size_of_val(&filter) as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of the array, which is as the option wants it (struct icmp6_filter).
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_ICMPV6, FILTER, filter.as_ptr().cast(), length)
    };
    nix::errno::Errno::result(set).context("choosing ICMPv6 messages")?;
    // SAFETY: the descriptor is owned by what is registered, so it stays open for as long as that.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

async fn follow(socket: AsyncFd<OwnedFd>, told: mpsc::Sender<TooBig>) {
    let mut message = [0; TooBig::LENGTH];
    while !told.is_closed() {
        let Ok(mut ready) = socket.readable().await else { return };
        let received = ready.try_io(|socket| {
            recv(socket.as_raw_fd(), &mut message, MsgFlags::empty()).map_err(io::Error::from)
        });
        // What the kernel has to say of the socket itself is of no use here.
        if let Ok(Ok(length)) = received
            && let Some(too_big) = message.get(..length).and_then(TooBig::parse)
        {
            let _ = told.try_send(too_big);
        }
    }
}

impl Owner {
    /// Takes in what a router has said, and what others have said meanwhile.
    pub(super) async fn learn(&mut self, told: TooBig) {
        let mut told = Some(told);
        let mut changed = false;
        while let Some(too_big) = told {
            let Some(uplink) = &self.view.uplink else { return };
            if let Some(node) = self.kernel.learn(&too_big, &self.state, uplink) {
                changed = true;
                info!("node {node}: the way there takes {} bytes at most, says a router", too_big.mtu);
            }
            told = self.paths.try_recv().ok();
        }
        if changed {
            let set = self.kernel.set_routes(&self.state, &self.view).await;
            self.note("routes", set);
        }
    }
}
