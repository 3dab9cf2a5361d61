//! Links, addresses, routes and neighbours, over rtnetlink.
//!
//! Messages are rtnetlink's; the socket is used directly (`socket.rs` says why), each request on a thread of tokio's
//! blocking pool, so that no worker of the runtime ever waits for the kernel's RTNL lock.

mod addresses;
mod container;
mod error;
mod links;
mod macvlan;
mod monitor;
mod neighbours;
mod netns;
mod next_hops;
mod nsid;
mod routes;
mod socket;
mod sysctl;
mod tap;
#[cfg(test)]
mod testing;
mod uplink;
mod vxlan;

use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use anyhow::{Context, Result};
use socket::Socket;

pub use self::{
    addresses::Address,
    container::ContainerSide,
    error::{Error, exists, is_gone},
    links::{Link, PairKind, PairSpec},
    macvlan::MacvlanSpec,
    monitor::{Event, monitor},
    netns::{Netns, NetnsId, is_same},
    next_hops::NextHops,
    routes::{Route, Which},
    sysctl::{Before, forward_from_loopback, has_ipv6, reserve_ports},
    tap::TapSpec,
    uplink::{UplinkInfo, Wanted, find_uplink},
};

/// Sockets of the daemon's own namespace. One that deletes a link is busy for tens of milliseconds, most of which the
/// kernel spends without its lock.
const HOST_SOCKETS: usize = 4;

/// A connection to the kernel's routing netlink in one network namespace. Cheap to clone; closed when the last clone is
/// dropped. A request whose future is dropped is carried out all the same.
#[derive(Clone, Debug)]
pub struct Netlink {
    sockets: Arc<[Mutex<Socket>]>,
}

impl Netlink {
    /// Connects in the calling thread's namespace. Requests must be made in a tokio runtime.
    pub fn host() -> Result<Self> {
        let sockets: Result<Vec<_>, _> = (0..HOST_SOCKETS).map(|_| Socket::open().map(Mutex::new)).collect();
        Ok(Self { sockets: sockets.context("opening a netlink socket")?.into() })
    }

    /// Connects in another namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered (`CAP_SYS_ADMIN` is needed).
    pub async fn enter(netns: &Netns) -> Result<Self> {
        let socket = netns
            .run(Socket::open)?
            .with_context(|| format!("opening a netlink socket in {}", netns.path().display()))?;
        Ok(Self { sockets: Arc::new([Mutex::new(socket)]) })
    }

    /// Runs `f` with a socket, where blocking is allowed.
    async fn call<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Socket) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let sockets = Arc::clone(&self.sockets);
        let done = tokio::task::spawn_blocking(move || {
            let free = sockets.iter().find_map(|socket| match socket.try_lock() {
                Ok(socket) => Some(socket),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            });
            let mut socket =
                free.unwrap_or_else(|| sockets[0].lock().unwrap_or_else(PoisonError::into_inner));
            f(&mut socket)
        });
        done.await.context("a netlink request did not end")?
    }
}
