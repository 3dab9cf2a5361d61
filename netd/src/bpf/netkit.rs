//! The program of a netkit pair: it runs where the container sends, and is attached by the host's end, so that nobody in the container
//! can take it away.
//!
//! Attaching waits for an RCU grace period, as that of TCX does (`netkit_entry_sync`).

use std::{io, os::fd::AsFd as _, sync::OnceLock};

use anyhow::{Context as _, Result};
use aya::programs::SchedClassifier;
use aya_obj::generated::bpf_attach_type::BPF_NETKIT_PEER;

use super::{
    links::{Hook, device},
    pins::Pins,
    syscall,
};

/// Whether the kernel has netkit (Linux 6.7).
#[must_use]
pub fn has_netkit() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    // Where it cannot be asked, nothing can be loaded either; that says why.
    *FOUND.get_or_init(|| syscall::has_hook(BPF_NETKIT_PEER).unwrap_or(false))
}

/// Makes a container's end run the program, in the place of the one that it runs, if it does.
pub(super) fn attach(program: &SchedClassifier, pins: &Pins, ifindex: u32) -> Result<()> {
    let path = pins.link(ifindex, Hook::Netkit);
    let descriptor = program.fd().context("asking for a program")?;
    match syscall::update_link(&path, descriptor.as_fd()) {
        Ok(()) => return Ok(()),
        // The device of the link is gone, and its index has come to be another's: a link of no use.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            pins.remove_link(ifindex, Hook::Netkit)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("replacing the program of {}", path.display()));
        }
    }
    let name = Hook::Netkit.program();
    let link = syscall::create_link(descriptor.as_fd(), ifindex, BPF_NETKIT_PEER).with_context(|| {
        let device = device(ifindex).unwrap_or_default();
        format!("attaching {name} to the other end of {device}")
    })?;
    syscall::pin(link.as_fd(), &path).with_context(|| format!("pinning {}", path.display()))
}
