//! Notices of the kernel: links, addresses, routes.

use anyhow::{Result, bail};
use tokio::sync::mpsc;

/// What happened in the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link appeared: its index and name.
    LinkAdded(u32, String),
    /// A link went.
    LinkRemoved(u32),
    /// An address, a default route or the state of a link changed: the uplink may be another now.
    HostChanged,
    /// The kernel had more to say than could be read: look at everything again.
    Lost,
}

/// Watches the calling thread's namespace, until the receiver is dropped. Must be called in a tokio runtime.
pub fn monitor() -> Result<mpsc::Receiver<Event>> {
    bail!("not yet")
}
