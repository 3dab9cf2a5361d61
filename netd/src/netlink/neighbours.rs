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

#[cfg(test)]
mod tests {
    use super::{
        super::{
            is_gone,
            testing::{ip, isolated, netns, veth},
        },
        *,
    };

    #[test]
    fn added_and_replaced() {
        isolated("neighbours::added_and_replaced", || async {
            let (host, ns) = (Netlink::host()?, netns());
            let ifindex = host.create_pair(&veth(&ns)).await?;
            host.set_up(ifindex).await?;
            for last in [2, 3] {
                host.add_neighbour(ifindex, ip("10.88.0.2"), [2, 0, 0, 0, 0, last]).await?;
                host.add_neighbour(ifindex, ip("fd88::2"), [2, 0, 0, 0, 0, last]).await?;
            }
            // ATF_COM and ATF_PERM: complete and permanent.
            let table = std::fs::read_to_string("/proc/thread-self/net/arp")?;
            let entries: Vec<Vec<_>> =
                table.lines().skip(1).map(|l| l.split_whitespace().collect()).collect();
            assert_eq!(entries, [["10.88.0.2", "0x1", "0x6", "02:00:00:00:00:03", "*", "ndtest"]]);

            assert!(is_gone(&host.add_neighbour(77, ip("10.88.0.2"), [2; 6]).await.unwrap_err()));
            Ok(())
        });
    }
}
