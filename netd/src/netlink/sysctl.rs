//! Ports that the host's own sockets are kept away from.

use anyhow::{Result, bail};

/// Adds `lo` to `hi` (inclusive) to `net.ipv4.ip_local_reserved_ports` of the calling thread's namespace.
pub fn reserve_ports(lo: u16, hi: u16) -> Result<()> {
    bail!("not yet: {lo}-{hi}")
}

/// Takes `lo` to `hi` (inclusive) out of it again.
pub fn release_ports(lo: u16, hi: u16) -> Result<()> {
    bail!("not yet: {lo}-{hi}")
}
