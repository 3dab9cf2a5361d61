//! Nodes whose address is somebody else's.

use std::net::IpAddr;

use super::{Remote, Remotes};
use crate::{netlink::UplinkInfo, state::State};

impl Remote {
    /// Its address that belongs to a network, or to this node, and to whom, in words. One with such an address would take packets
    /// from those that it belongs to: there are no routes to it.
    pub(super) fn misplaced(&self, state: &State, uplink: &UplinkInfo) -> Option<(IpAddr, String)> {
        self.addresses().find_map(|address| {
            let subnet = || state.subnets().find(|(subnet, _)| subnet.contains(&address));
            match uplink.is_own(address) {
                true => Some((address, "this node's own".to_owned())),
                false => subnet().map(|(subnet, _)| (address, format!("of the network with {subnet}"))),
            }
        })
    }
}

impl Remotes {
    /// The nodes that no packet goes to because of their address, in words.
    pub fn misplaced<'a>(
        &'a self,
        state: &'a State,
        uplink: &'a UplinkInfo,
    ) -> impl Iterator<Item = String> + 'a {
        let there = self.nodes.iter().filter(|(_, remote)| remote.is_routed());
        there.filter_map(|(name, remote)| {
            let (address, whose) = remote.misplaced(state, uplink)?;
            Some(format!("node `{name}` is not reached: its address {address} is {whose}"))
        })
    }
}
