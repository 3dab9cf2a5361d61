//! Keeps what the programs remember of next hops true.

use anyhow::Result;
use tracing::{info, warn};

use crate::{bpf::NextHopsTurn, netlink::NextHops};

/// Tells the programs of each change, until the daemon ends. If that fails they remember nothing, and ask the kernel for each packet.
pub(super) async fn watch(mut changes: NextHops, mut turn: NextHopsTurn) {
    if let Err(error) = follow(&mut changes, &mut turn).await {
        warn!("next hops are no longer remembered, which costs some speed: {error:#}");
        if let Err(error) = turn.stop() {
            warn!("{error:#}");
        }
    }
}

async fn follow(changes: &mut NextHops, turn: &mut NextHopsTurn) -> Result<()> {
    let mut before = true;
    loop {
        let remember = changes.by_destination()?;
        if remember {
            turn.forget()?;
        } else {
            turn.stop()?;
        }
        if remember != before {
            before = remember;
            info!(
                "next hops are {}remembered: the host has {}routing rules of its own",
                if remember { "" } else { "not " },
                if remember { "no " } else { "" }
            );
        }
        changes.changed().await?;
    }
}
