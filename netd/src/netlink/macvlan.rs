//! Macvlan devices: further stations on the LAN of an interface.

use std::os::fd::AsRawFd;

use anyhow::Result;
use nix::errno::Errno;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoData, InfoKind, InfoMacVlan, LinkAttribute, LinkInfo, LinkMessage, MacVlanMode},
    },
};

use super::{
    Netlink, Netns,
    links::{indexed, without_ipv6_addresses},
    socket::Request,
};

/// A macvlan device to be made, in bridge mode: those of one parent reach each other.
#[derive(Clone, Copy, Debug)]
pub struct MacvlanSpec<'a> {
    /// Index of the interface whose LAN it is on.
    pub parent: u32,
    /// That interface's name, for messages.
    pub parent_name: &'a str,
    /// Its name where it is born; at most 15 bytes.
    pub name: &'a str,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its MTU, bytes: at most the parent's.
    pub mtu: u32,
    /// Where it is born; none: in this namespace.
    pub netns: Option<&'a Netns>,
}

impl Netlink {
    /// Makes a macvlan device, down. It has no alias yet: see [`Self::set_alias`].
    ///
    /// # Errors
    /// The name is taken there ([`exists`](super::exists)), or the parent cannot have such devices.
    pub async fn create_macvlan(&self, spec: &MacvlanSpec<'_>) -> Result<()> {
        let what = format!("creating link {} (macvlan) on {}", spec.name, spec.parent_name);
        let netns = spec.netns.map(Netns::file).transpose()?;
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(spec.name.to_owned()),
            LinkAttribute::Link(spec.parent),
            LinkAttribute::Address(spec.mac.to_vec()),
            LinkAttribute::Mtu(spec.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::MacVlan),
                LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)])),
            ]),
        ];
        if let Some(netns) = &netns {
            message.attributes.push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
        }
        let create = RouteNetlinkMessage::NewLink(message);
        let parent = spec.parent_name.to_owned();
        self.call(move |socket| {
            let created = socket.request(Request::with_flags(create, NLM_F_CREATE | NLM_F_EXCL));
            drop(netns);
            created.map(drop).map_err(|refusal| {
                // macvlan_port_create: another's receive handler (a bridge's, ipvlan's) is there already.
                let what = match refusal.errno {
                    Errno::EBUSY => format!(
                        "{what}: {parent} is a port of a bridge, a bond or ipvlan: take it out, or name another parent"
                    ),
                    _ => what,
                };
                refusal.while_doing(what).into()
            })
        })
        .await
    }

    /// Gives a link an alias, and keeps the kernel from giving it IPv6 addresses of its own making.
    pub async fn set_alias(&self, ifindex: u32, alias: &str) -> Result<()> {
        let mut message = indexed(ifindex);
        message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        self.call(move |socket| {
            // Without IPv6, there is nothing to do.
            let _ = socket.request(without_ipv6_addresses(ifindex));
            socket
                .request(Request::new(RouteNetlinkMessage::SetLink(message)))
                .map_err(|refusal| refusal.while_doing(format!("naming link number {ifindex}")))?;
            Ok(())
        })
        .await
    }
}
