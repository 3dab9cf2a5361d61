//! Tap devices.

use std::{
    fs::{File, OpenOptions},
    io, mem,
    os::fd::AsRawFd,
};

use anyhow::{Context, Result};
use nix::errno::Errno;
use rtnetlink::packet_route::{RouteNetlinkMessage, link::LinkAttribute};

use super::{
    Netlink,
    error::Refusal,
    links::{by_name, indexed, no_ipv6, only, without_ipv6_addresses},
    socket::Request,
};
use crate::link::Tap;

/// What makes taps.
const DEVICE: &str = "/dev/net/tun";

/// A tap to be made.
#[derive(Clone, Copy, Debug)]
pub struct TapSpec<'a> {
    /// Its name; at most 15 bytes.
    pub name: &'a str,
    /// Its own MAC address; the guest has another one.
    pub mac: [u8; 6],
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Its `IFLA_IFALIAS`.
    pub alias: &'a str,
    /// Who may open it, and how.
    pub tap: Tap,
}

impl Netlink {
    /// Makes a tap in the daemon's own namespace, which stays until it is deleted; returns its index. It is down, has no carrier until
    /// somebody opens it, and the kernel gives it no IPv6 address of its own making.
    ///
    /// # Errors
    /// The name is taken, there are no taps, or the kernel refuses. Nothing is left then.
    pub async fn create_tap(&self, spec: &TapSpec<'_>) -> Result<u32> {
        let (what, name) = (format!("creating link {} (tap)", spec.name), spec.name.to_owned());
        let (mac, mtu, alias, tap) = (spec.mac.to_vec(), spec.mtu, spec.alias.to_owned(), spec.tap);
        self.call(move |socket| {
            // Until it is told to stay, the device goes with this file: a daemon that ends half way leaves none.
            let file = open(&name, tap).with_context(|| what.clone())?;
            let refused = |refusal: Refusal| refusal.while_doing(&*what);
            let found = socket.request(Request::new(by_name(&name))).and_then(|found| only(&found));
            let ifindex = found.map_err(refused)?.ifindex;
            let mut message = indexed(ifindex);
            message.attributes =
                vec![LinkAttribute::Address(mac), LinkAttribute::Mtu(mtu), LinkAttribute::IfAlias(alias)];
            let set = Request::new(RouteNetlinkMessage::SetLink(message));
            let answers = socket.batch(vec![without_ipv6_addresses(ifindex), set]).map_err(refused)?;
            if let Some(refusal) =
                answers.into_iter().filter_map(Result::err).find(|refusal| !no_ipv6(refusal))
            {
                return Err(refused(refusal).into());
            }
            number(&file, libc::TUNSETPERSIST as _, 1).with_context(|| what.clone())?;
            Ok(ifindex)
        })
        .await
    }
}

/// Makes a tap that is there as long as the file is open.
fn open(name: &str, tap: Tap) -> Result<File> {
    let opened = OpenOptions::new().read(true).write(true).open(DEVICE);
    let file =
        opened.with_context(|| format!("{DEVICE}: has this kernel taps? (`modprobe tun`, CONFIG_TUN)"))?;
    // SAFETY: all zeros is a valid ifreq: an empty name, and a union of numbers and a null pointer.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    let queues = if tap.queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    // Not one that is there already. Whoever opens it says anew whether packets come with a virtio header.
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL | queues;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the request names a device and has its flags, and lives until the call returns.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error().into());
    }
    number(&file, libc::TUNSETOWNER as _, tap.owner)?;
    if let Some(group) = tap.group {
        number(&file, libc::TUNSETGROUP as _, group)?;
    }
    Ok(file)
}

/// Tells a tap a number.
fn number(file: &File, request: libc::Ioctl, number: u32) -> io::Result<()> {
    // SAFETY: these requests of a tap take a number (`__tun_chr_ioctl`), and no pointer.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, libc::c_ulong::from(number)) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::super::testing::isolated;
    use super::*;

    #[test]
    fn a_tap_stays_and_can_be_opened() {
        isolated("a_tap_stays_and_can_be_opened", || async {
            let host = Netlink::host()?;
            for queues in [1, 3] {
                let tap = Tap { owner: 1000, group: Some(1001), queues };
                let spec =
                    TapSpec { name: "ndtap", mac: [2, 0, 0, 0, 0, 7], mtu: 1400, alias: "netd:vm", tap };
                let ifindex = host.create_tap(&spec).await?;
                let link = host.link_by_name("ndtap").await?.unwrap();
                assert_eq!((link.ifindex, link.mtu, link.up), (ifindex, 1400, false));
                assert_eq!(link.kind.as_deref(), Some("tun"));
                assert_eq!((link.mac, link.alias.as_deref()), (Some(spec.mac), Some("netd:vm")));
                host.create_tap(&spec).await.unwrap_err();
                assert!(host.delete_link(ifindex).await?);
            }
            let long = TapSpec {
                name: "a-name-that-is-too-long",
                mac: [2, 0, 0, 0, 0, 7],
                mtu: 1400,
                alias: "",
                tap: Tap::default(),
            };
            host.create_tap(&long).await.unwrap_err();
            Ok(())
        });
    }
}
