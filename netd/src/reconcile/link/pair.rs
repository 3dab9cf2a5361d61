//! Pairs of devices, one of them in the container: veth and netkit.

use super::{Doing, Driver, Wanted};
use crate::{
    link::LinkKind,
    netlink::{Netlink, PairKind, PairSpec},
};

/// See the module.
pub(super) struct Pair;

impl Driver for Pair {
    fn make<'a>(&'a self, nl: &'a Netlink, wanted: &'a Wanted<'a>) -> Doing<'a, u32> {
        let Wanted { endpoint, network, mtu, netns, alias } = *wanted;
        let kind = match endpoint.link {
            LinkKind::Netkit => PairKind::Netkit,
            LinkKind::NetkitL3 => PairKind::NetkitL3,
            _ => PairKind::Veth,
        };
        Box::pin(async move {
            let spec = PairSpec {
                kind,
                host_name: &endpoint.host_interface,
                host_mac: endpoint.host_mac(network).0,
                container_name: &endpoint.interface,
                container_mac: endpoint.mac().0,
                netns,
                mtu,
                big_tcp: network.big_tcp,
                alias,
            };
            nl.create_pair(&spec).await
        })
    }
}
