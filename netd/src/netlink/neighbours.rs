//! Neighbour entries: which MAC address an IP address has.

use std::net::IpAddr;

use anyhow::Result;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_REPLACE},
    packet_route::{
        RouteNetlinkMessage,
        neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::RouteType,
    },
};

use super::{Netlink, addresses::family, socket::Request};

impl Netlink {
    /// Adds a permanent neighbour entry, or replaces the one of that address.
    pub async fn add_neighbour(&self, ifindex: u32, address: IpAddr, mac: [u8; 6]) -> Result<()> {
        self.call(move |socket| {
            let mut message = NeighbourMessage::default();
            message.header.family = family(address);
            message.header.ifindex = ifindex;
            message.header.state = NeighbourState::Permanent;
            message.header.kind = RouteType::Unicast;
            message.attributes = vec![
                NeighbourAttribute::Destination(address.into()),
                NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
            ];
            let message = RouteNetlinkMessage::NewNeighbour(message);
            socket.request(Request::with_flags(message, NLM_F_CREATE | NLM_F_REPLACE)).map_err(
                |refusal| refusal.while_doing(format!("adding neighbour {address} to link number {ifindex}")),
            )?;
            Ok(())
        })
        .await
    }
}
