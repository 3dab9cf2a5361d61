//! Taps: network devices whose other side is a process with `/dev/net/tun`, such as a virtual machine's.

use std::{
    fs::{File, OpenOptions},
    io, mem,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
};

use anyhow::{Context, Result, anyhow};
use rtnetlink::packet_route::{RouteNetlinkMessage, link::LinkAttribute};

use super::{
    Netlink,
    links::{indexed, no_ipv6, without_ipv6_addresses},
    socket::Request,
};

/// Who may open a tap besides root, and how many queues it can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapOwner {
    /// A user's id.
    pub user: Option<u32>,
    /// A group's id.
    pub group: Option<u32>,
    /// Whether a process may open several queues of it. It must say so then, too (`IFF_MULTI_QUEUE`).
    pub multi_queue: bool,
}

/// A tap to be made.
#[derive(Clone, Copy, Debug)]
pub struct TapSpec<'a> {
    /// Its name; at most 15 bytes.
    pub name: &'a str,
    /// The MAC address of the kernel's side.
    pub mac: [u8; 6],
    /// Its MTU, bytes.
    pub mtu: u32,
    /// Whose it is.
    pub owner: TapOwner,
    /// `IFLA_IFALIAS`.
    pub alias: &'a str,
}

/// Opens a queue of the tap of that name in the calling thread's namespace; makes the tap if it is not there. It does not wait when there
/// is no frame to read. Each frame has a `struct virtio_net_hdr` of 10 bytes before it (`IFF_VNET_HDR`), so that offloads survive.
///
/// # Errors
/// The tap is another's, has no queue left, or has several queues and is not opened so, or the other way round.
pub fn open_tap(name: &str, multi_queue: bool) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: all zeros is a valid ifreq: an empty name, and a union of numbers and a null pointer.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // The name ends with a zero.
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    let queues = if multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | queues;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the request has a name and flags, which are what the call reads, and lives until it returns.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// Says which offloaded packets may be read from a tap, as flags (`TUN_F_*`).
///
/// # Errors
/// The kernel does not know one of them.
pub fn set_tap_offload(tap: &File, flags: u32) -> io::Result<()> {
    set(tap, libc::TUNSETOFFLOAD, flags)
}

/// Calls an ioctl that takes a number.
fn set(tap: &File, what: libc::Ioctl, value: u32) -> io::Result<()> {
    // SAFETY: these calls take a number in the place of a pointer, and touch no memory of ours.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), what, libc::c_ulong::from(value)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Netlink {
    /// Makes a tap that stays when nobody has it open; returns its index. It is down. This is for the namespace that the process itself
    /// is in.
    ///
    /// # Errors
    /// The name is taken, or the kernel refuses, as where there is no `/dev/net/tun`. Nothing is left then.
    pub async fn create_tap(&self, spec: &TapSpec<'_>) -> Result<u32> {
        let what = format!("creating link {} (tap)", spec.name);
        if self.link_by_name(spec.name).await?.is_some() {
            return Err(anyhow!("{what}: there is a link of that name"));
        }
        let (name, owner) = (spec.name.to_owned(), spec.owner);
        let made = tokio::task::spawn_blocking(move || make(&name, owner)).await;
        // Until it is dropped, the tap is there in any case.
        let tap = made.context("a task ended")?.with_context(|| what.clone())?;
        let link =
            self.link_by_name(spec.name).await?.with_context(|| format!("{what}: it is gone at once"))?;
        let (ifindex, mut message) = (link.ifindex, indexed(link.ifindex));
        message.attributes = vec![LinkAttribute::Address(spec.mac.to_vec()), LinkAttribute::Mtu(spec.mtu)];
        let mut alias = indexed(ifindex);
        alias.attributes.push(LinkAttribute::IfAlias(spec.alias.to_owned()));
        self.call(move |socket| {
            let requests = vec![
                without_ipv6_addresses(ifindex),
                Request::new(RouteNetlinkMessage::SetLink(message)),
                Request::new(RouteNetlinkMessage::SetLink(alias)),
            ];
            let answers = socket.batch(requests).map_err(|refusal| refusal.while_doing(&*what))?;
            match answers.into_iter().filter_map(Result::err).find(|refusal| !no_ipv6(refusal)) {
                Some(refusal) => Err(refusal.while_doing(what).into()),
                None => Ok(()),
            }
        })
        .await?;
        // Last: before, it goes with its descriptor.
        set(&tap, libc::TUNSETPERSIST, 1).context("making a tap persistent")?;
        Ok(ifindex)
    }
}

fn make(name: &str, owner: TapOwner) -> io::Result<File> {
    let tap = open_tap(name, owner.multi_queue)?;
    if let Some(user) = owner.user {
        set(&tap, libc::TUNSETOWNER, user)?;
    }
    if let Some(group) = owner.group {
        set(&tap, libc::TUNSETGROUP, group)?;
    }
    Ok(tap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::testing::isolated;

    #[test]
    fn a_tap_stays_and_can_be_opened() {
        isolated("a_tap_stays_and_can_be_opened", || async {
            let host = Netlink::host()?;
            let owner = TapOwner { user: Some(1234), group: None, multi_queue: false };
            let spec = TapSpec { name: "ndtap", mac: [2, 0, 0, 0, 0, 1], mtu: 1400, owner, alias: "one" };
            let ifindex = host.create_tap(&spec).await?;
            let link = host.link_by_index(ifindex).await?.expect("the tap");
            assert_eq!((link.mac, link.mtu, link.up), (Some(spec.mac), 1400, false));
            assert_eq!((link.kind.as_deref(), link.alias.as_deref()), (Some("tun"), Some("one")));
            assert!(host.create_tap(&spec).await.is_err(), "twice");
            open_tap("ndtap", true).expect_err("it has one queue");
            let tap = open_tap("ndtap", false)?;
            set_tap_offload(&tap, libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6)?;
            open_tap("ndtap", false).expect_err("its queue is in use");
            drop(tap);
            assert!(host.link_by_index(ifindex).await?.is_some());
            assert!(host.delete_link(ifindex).await?);
            // Nothing is left of one that cannot be made.
            let bad = TapSpec { mtu: 1, ..spec };
            assert!(host.create_tap(&bad).await.is_err());
            assert!(host.link_by_name("ndtap").await?.is_none());
            Ok(())
        });
    }
}
