//! The other nodes, as the datapath knows them.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;

use super::Reconciler;
use crate::cluster::{Remotes, Said, Transport, Update};

impl Reconciler {
    /// The other nodes.
    #[must_use]
    pub fn remotes(&self) -> &Remotes {
        &self.remotes
    }

    /// How this node wants packets to travel.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Takes in what is said of the other nodes, by themselves (`registers`) or by the configuration. Routes are to be set
    /// afterwards.
    ///
    /// # Errors
    /// Counters that have a new owner cannot be zeroed.
    pub fn hear_nodes(&mut self, said: BTreeMap<String, Said>, registers: bool) -> Result<Update> {
        let update = self.remotes.hear(said, registers)?;
        for slot in &update.reused {
            self.datapath.reset_node_counters(*slot)?;
        }
        Ok(update)
    }

    /// Looks whether packets come from nodes of which nobody says that they are there. Returns whether routes are to be
    /// set, because one has been silent for so long.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn listen_to_nodes(&mut self, silence: Duration) -> Result<bool> {
        let datapath = &self.datapath;
        self.remotes.listen(silence, |slot| Ok(datapath.node_counters(slot)?.rx_packets))
    }
}
