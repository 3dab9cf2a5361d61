//! Taps: devices of the host's that a virtual machine monitor opens. What is behind one, the guest, sets itself up.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Doing, Driver, Wanted};
use crate::{
    endpoint::Endpoint,
    netlink::{Netlink, Netns, TapSpec},
    reconcile::Patience,
};

/// See the module.
pub(super) struct Tap;

impl Driver for Tap {
    fn make<'a>(&'a self, nl: &'a Netlink, wanted: &'a Wanted<'a>) -> Doing<'a, u32> {
        let Wanted { endpoint, network, mtu, alias, netns: _ } = *wanted;
        Box::pin(async move {
            let spec = TapSpec {
                name: &endpoint.host_interface,
                mac: endpoint.host_mac(network).0,
                mtu,
                alias,
                tap: endpoint.tap.unwrap_or_default(),
            };
            nl.create_tap(&spec).await
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

    /// It gets one when somebody opens it, which may be never.
    fn has_carrier(&self) -> bool {
        false
    }
}
