//! Denied sources: added, removed, shown.

use tracing::info;

use super::owner::Owner;
use crate::request::{DeniedList, DeniedView, DenyRequest, Refusal};

/// The task of keeping them away, for `netd status`.
pub(super) const DENIED: &str = "denied sources";

impl Owner {
    pub(super) async fn deny(&mut self, request: &DenyRequest) -> Result<(), Refusal> {
        let (added, changes) = self.state.deny(&request.sources)?;
        if let Err(error) = self.commit(changes).await {
            self.state.undo_deny(&added);
            return Err(Refusal::Failed(error.context("cannot keep the list of denied sources")));
        }
        if let Err(error) = self.kernel.apply_denied(&self.state, &self.view, self.config.node.xdp) {
            // Not half done: what the kernel does not do is not in the list.
            let changes = self.state.undo_deny(&added);
            self.pending.extend(changes);
            self.flush_pending().await;
            self.apply_denied();
            return Err(Refusal::Failed(error));
        }
        self.note(DENIED, Ok(()));
        info!("denied: {}", request.sources.join(" "));
        Ok(())
    }

    pub(super) async fn allow(&mut self, request: &DenyRequest) -> Result<(), Refusal> {
        let (removed, changes) = self.state.allow(&request.sources)?;
        if let Err(error) = self.commit(changes).await {
            self.state.undo_allow(removed);
            return Err(Refusal::Failed(error.context("cannot keep the list of denied sources")));
        }
        // What is wrong with the others of the list is no reason to keep these.
        self.apply_denied();
        info!("no longer denied: {}", request.sources.join(" "));
        Ok(())
    }

    /// Makes the uplink drop what the list says; where that cannot be, it is a trouble, and tried again.
    pub(super) fn apply_denied(&mut self) {
        let applied = self.kernel.apply_denied(&self.state, &self.view, self.config.node.xdp);
        self.note(DENIED, applied);
    }

    pub(super) fn denied(&self) -> Result<DeniedList, Refusal> {
        let datapath = self.kernel.datapath();
        let shown = self.state.denied().iter().map(|(source, slot)| {
            Ok(DeniedView { source: *source, packets: datapath.denied_packets(*slot)? })
        });
        Ok(DeniedList { denied: shown.collect::<Result<_, Refusal>>()? })
    }
}
