//! The other nodes, as the datapath knows them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Result;
use ipnet::Ipv4Net;

use super::Reconciler;
use crate::{
    cluster::{Remotes, Said, TooBig, Transport, Update},
    netlink::UplinkInfo,
    state::State,
};

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

    /// Takes in what the other nodes say of themselves; `own` are this node's slices. Routes are to be set afterwards.
    ///
    /// # Errors
    /// Counters that have a new owner cannot be zeroed.
    pub fn hear_nodes(&mut self, said: BTreeMap<String, Said>, own: &BTreeSet<Ipv4Net>) -> Result<Update> {
        let update = self.remotes.hear(said, own, true)?;
        for slot in &update.reused {
            self.datapath.reset_node_counters(*slot)?;
        }
        Ok(update)
    }

    /// Looks whether packets come from nodes of which nobody says that they are there. Routes are to be set
    /// afterwards, if one has been silent for so long.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn listen_to_nodes(&mut self, silence: Duration) -> Result<Update> {
        let datapath = &self.datapath;
        self.remotes.listen(silence, |slot| Ok(datapath.node_counters(slot)?.rx_packets))
    }

    /// Takes in what a router says of packets to a node. Returns the node's name if that is new and can be true: routes are to be
    /// set then.
    pub fn learn(&mut self, told: &TooBig, state: &State, uplink: &UplinkInfo) -> Option<&str> {
        self.remotes.take_in(told, self.transport, state, uplink)
    }
}
