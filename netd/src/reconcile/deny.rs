//! What is dropped at the uplink before all else.

use anyhow::{Context, Result};

use super::{Reconciler, uplink::Known};
use crate::{bpf::XdpChoice, node::HostView, state::State};

impl Reconciler {
    /// Makes the uplink drop what the list says. The XDP program is there only while there is something to deny: some
    /// drivers (veth among them) have less offload with one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn apply_denied(&mut self, state: &State, view: &HostView, xdp: XdpChoice) -> Result<()> {
        self.datapath.set_denied(state.denied())?;
        let known = self.uplink.as_ref().and_then(Known::interface);
        match view.uplink.as_ref().map(|uplink| uplink.ifindex).or(known) {
            Some(ifindex) if !state.denied().is_empty() => self.datapath.attach_xdp(ifindex, xdp),
            _ => self.datapath.detach_xdp(),
        }
        .context("cannot deny sources at the uplink")
    }
}
