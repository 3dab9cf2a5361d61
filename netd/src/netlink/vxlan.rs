//! The VXLAN device of an overlay that eBPF programs drive.

use anyhow::Result;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage},
    },
};

use super::{
    Netlink,
    links::{indexed, without_ipv6_addresses},
    socket::Request,
};

/// What a packet through the device may be long before it is cut into segments, bytes: the kernel encapsulates longer ones too, but
/// not right, as no outer header can say the length of what is near 64 KiB. Counts for both families.
const LONGEST: u32 = 60_000;

impl Netlink {
    /// Makes a VXLAN device in collect-metadata mode (`ip link add NAME type vxlan external dstport PORT nolearning
    /// udp6zerocsumrx`): one that receives for every VNI and node, by both families. Returns its index; it is down.
    ///
    /// # Errors
    /// The name is taken ([`exists`](super::exists)), the port is another device's, or the kernel has no VXLAN.
    pub async fn create_vxlan(&self, name: &str, port: u16, alias: &str) -> Result<u32> {
        let what = format!("creating link {name} (vxlan, port {port})");
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::GsoMaxSize(LONGEST),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vxlan),
                LinkInfo::Data(InfoData::Vxlan(vec![
                    InfoVxlan::Port(port),
                    InfoVxlan::CollectMetadata(true),
                    InfoVxlan::Learning(false),
                    // IFLA_VXLAN_UDP_ZERO_CSUM6_RX: over IPv6, too, netd leaves the outer checksum out (RFC 6935).
                    InfoVxlan::UDPZeroCsumRX(true),
                ])),
            ]),
        ];
        let create = RouteNetlinkMessage::NewLink(message);
        let refused = what.clone();
        self.call(move |socket| {
            socket
                .request(Request::with_flags(create, NLM_F_CREATE | NLM_F_EXCL))
                .map(drop)
                .map_err(|refusal| refusal.while_doing(refused).into())
        })
        .await?;
        let made = self.link_by_name(name).await?;
        let ifindex = made.ok_or_else(|| anyhow::anyhow!("{what}: it is gone at once"))?.ifindex;
        let mut message = indexed(ifindex);
        message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        self.call(move |socket| {
            // IPv6's own messages would be the device's only packets, and all of them dropped. Without IPv6, nothing to do.
            let _ = socket.request(without_ipv6_addresses(ifindex));
            socket
                .request(Request::new(RouteNetlinkMessage::SetLink(message)))
                .map(drop)
                .map_err(|refusal| refusal.while_doing(what).into())
        })
        .await?;
        Ok(ifindex)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{exists, testing::isolated};
    use super::*;

    #[test]
    fn a_device_for_all_networks() {
        isolated("a_device_for_all_networks", || async {
            let host = Netlink::host()?;
            let ifindex = host.create_vxlan("ndtest", 4789, "netd:test").await?;
            host.set_up(ifindex).await?;
            let link = host.link_by_name("ndtest").await?.unwrap();
            assert_eq!((link.ifindex, link.up, link.kind.as_deref()), (ifindex, true, Some("vxlan")));
            assert_eq!(link.alias.as_deref(), Some("netd:test"));
            let again = host.create_vxlan("ndtest", 4790, "").await.unwrap_err();
            assert!(exists(&again), "{again:#}");
            Ok(())
        });
    }
}
