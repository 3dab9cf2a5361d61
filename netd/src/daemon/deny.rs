//! Denied sources: added, removed, shown.

use tracing::info;

use super::owner::Owner;
use crate::request::{DeniedList, DeniedView, DenyRequest, Refusal};

impl Owner {
    pub(super) async fn deny(&mut self, request: &DenyRequest) -> Result<(), Refusal> {
        let before = self.state.denied().clone();
        let changes = self.state.deny(&request.sources)?;
        if let Err(error) = self.commit(changes).await {
            self.state.undo_denied(before);
            return Err(Refusal::Failed(error.context("cannot keep the list of denied sources")));
        }
        if let Err(error) = self.kernel.apply_denied(&self.state, &self.view) {
            // Not half done: what the kernel does not do is not in the list.
            let changes = self.state.denied().keys().filter(|source| !before.contains_key(*source));
            let sources: Vec<String> = changes.map(ToString::to_string).collect();
            let changes = self.state.allow(&sources)?;
            self.pending.extend(changes);
            self.flush_pending().await;
            let _ = self.kernel.apply_denied(&self.state, &self.view);
            return Err(Refusal::Failed(error));
        }
        info!("denied: {}", request.sources.join(" "));
        Ok(())
    }

    pub(super) async fn allow(&mut self, request: &DenyRequest) -> Result<(), Refusal> {
        let before = self.state.denied().clone();
        let changes = self.state.allow(&request.sources)?;
        if let Err(error) = self.commit(changes).await {
            self.state.undo_denied(before);
            return Err(Refusal::Failed(error.context("cannot keep the list of denied sources")));
        }
        self.kernel.apply_denied(&self.state, &self.view)?;
        info!("no longer denied: {}", request.sources.join(" "));
        Ok(())
    }

    pub(super) fn denied(&self) -> Result<DeniedList, Refusal> {
        let datapath = self.kernel.datapath();
        let shown = self.state.denied().iter().map(|(source, slot)| {
            Ok(DeniedView { source: *source, packets: datapath.denied_packets(*slot)? })
        });
        Ok(DeniedList { denied: shown.collect::<Result<_, Refusal>>()? })
    }
}
