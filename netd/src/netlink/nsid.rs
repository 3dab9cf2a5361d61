//! The numbers that a namespace has for other namespaces: a link's other end is told by them.

use std::os::fd::AsRawFd;

use anyhow::Result;
use rtnetlink::{
    packet_core::{NlasIterator, parse_i32},
    packet_route::{
        RouteNetlinkMessage,
        nsid::{NsidAttribute, NsidMessage},
    },
};

use super::{Netlink, Netns, error::Refusal, socket::Request};

/// Length of `struct rtgenmsg` with its padding, which precedes the attributes.
const HEADER: usize = 4;
/// `NETNSA_NSID`.
const NSID: u16 = 1;

impl Netlink {
    /// The number of a namespace in this one, which is in [`Link::peer_netns`](super::Link::peer_netns) of the links that lead there;
    /// none: no link does.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn number_of(&self, netns: &Netns) -> Result<Option<i32>> {
        let what = format!("asking for the number of namespace {}", netns.path().display());
        // A descriptor of its own: the caller's may be closed before the request is made.
        let file = netns.file().map_err(|e| Refusal::from(e).while_doing(&*what))?;
        self.call(move |socket| {
            let mut message = NsidMessage::default();
            message.attributes.push(NsidAttribute::Fd(file.as_raw_fd().unsigned_abs()));
            let answer = socket.request(Request::new(RouteNetlinkMessage::GetNsId(message)));
            drop(file);
            let payloads = answer.map_err(|refusal| refusal.while_doing(what))?;
            let attributes = payloads.first().and_then(|payload| payload.get(HEADER..)).unwrap_or_default();
            let found = NlasIterator::new(attributes).flatten().find(|attribute| attribute.kind() == NSID);
            let number = found.and_then(|attribute| parse_i32(attribute.value()).ok());
            Ok(number.filter(|number| *number >= 0))
        })
        .await
    }
}
