//! How an interface runs an XDP program.

use anyhow::{Context as _, Result};
use rtnetlink::{
    packet_core::NlasIterator,
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkExtentMask},
    },
};

use super::{
    links::{HEADER, indexed},
    socket::{Request, Socket},
};
use crate::bpf::XdpMode;

/// Asks the kernel how an interface of the calling thread's network namespace runs an XDP program; none: it runs none, or is
/// gone. Blocks for as long as the kernel needs.
///
/// # Errors
/// There is no socket, or the kernel refuses.
pub fn xdp_mode(ifindex: u32) -> Result<Option<XdpMode>> {
    let mut message = indexed(ifindex);
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let mut socket = Socket::open().context("opening a netlink socket")?;
    match socket.request(Request::new(RouteNetlinkMessage::GetLink(message))) {
        Ok(payloads) => Ok(payloads.first().and_then(|payload| parse(payload))),
        Err(refusal) if refusal.is_gone() => Ok(None),
        Err(refusal) => Err(refusal.while_doing(format!("asking link number {ifindex} for XDP")).into()),
    }
}

/// Reads it from a link message's payload (`IFLA_XDP_ATTACHED` in `IFLA_XDP`, linux/if_link.h).
fn parse(payload: &[u8]) -> Option<XdpMode> {
    const XDP: u16 = 43;
    const XDP_ATTACHED: u16 = 2;
    const DRIVER: u8 = 1;
    const SKB: u8 = 2;
    const HARDWARE: u8 = 3;
    let find = |attributes: &[u8], kind: u16| -> Option<Vec<u8>> {
        let mut all = NlasIterator::new(attributes).flatten();
        all.find(|attribute| attribute.kind() == kind).map(|found| found.value().to_vec())
    };
    let xdp = find(payload.get(HEADER..)?, XDP)?;
    match *find(&xdp, XDP_ATTACHED)?.first()? {
        DRIVER => Some(XdpMode::Native),
        SKB => Some(XdpMode::Generic),
        HARDWARE => Some(XdpMode::Offloaded),
        _ => None,
    }
}
