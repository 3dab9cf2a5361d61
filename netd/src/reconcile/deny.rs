//! What is dropped at the uplink before all else.

use anyhow::{Context, Result};

use super::Reconciler;
use crate::{node::HostView, state::State};

impl Reconciler {
    /// Makes the uplink drop what the list says. The XDP program is there only while there is something to deny: some
    /// drivers (veth among them) have less offload with one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn apply_denied(&mut self, state: &State, view: &HostView) -> Result<()> {
        self.datapath.set_denied(state.denied())?;
        match &view.uplink {
            Some(uplink) if !state.denied().is_empty() => self.datapath.attach_xdp(uplink.ifindex),
            _ => self.datapath.detach_xdp(),
        }
        .context("cannot deny sources at the uplink")
    }
}
