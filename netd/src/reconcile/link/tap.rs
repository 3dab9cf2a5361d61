//! Taps. Their other side is a virtual machine, which configures itself.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Doing, Driver, Patience, Wanted};
use crate::{
    endpoint::Endpoint,
    netlink::{Netlink, Netns, TapOwner, TapSpec},
};

/// See the module.
pub(super) struct Tap;

impl Driver for Tap {
    fn make<'a>(&'a self, nl: &'a Netlink, wanted: &'a Wanted<'a>) -> Doing<'a, u32> {
        let Wanted { endpoint, network, mtu, alias, .. } = *wanted;
        Box::pin(async move {
            let own = endpoint.tap.unwrap_or_default();
            let owner = TapOwner { user: own.user, group: own.group, multi_queue: own.multi_queue };
            let mac = endpoint.host_mac(network).0;
            nl.create_tap(&TapSpec { name: &endpoint.host_interface, mac, mtu, owner, alias }).await
        })
    }

    fn configure<'a>(
        &'a self,
        _: &'a Netns,
        _: &'a Endpoint,
        _: &'a [(IpNet, IpAddr)],
        _: Patience,
    ) -> Doing<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}
