//! A packet socket: what a party sends and what it gets, past its own stack.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use netd::lab::{Namespace, socket};
use netd_common::host::build::internet_checksum;

use super::Family;
use crate::frames;

/// `PACKET_HOST` of packet(7): addressed to us.
const TO_US: u8 = 0;
/// `PACKET_VNET_HDR` of linux/if_packet.h: before each packet is what a device has still to do, a `virtio_net_hdr`.
const PACKET_VNET_HDR: i32 = 15;
const VNET_HDR: usize = 10;
const ETHERNET: usize = 14;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` of linux/virtio_net.h: a kernel leaves the checksum to the device; on a cable of veth nobody does.
const NEEDS_CSUM: u8 = 1;

/// A packet socket on an interface; packets of one family, without their Ethernet headers.
#[derive(Debug)]
pub(super) struct Tap {
    socket: OwnedFd,
    ethertype: u16,
    mac: [u8; 6],
    interface: i32,
}

impl Tap {
    pub(super) fn new(namespace: &Namespace, interface: &str, family: Family) -> Result<Self> {
        let ethertype: u16 = match family {
            Family::V4 => 0x0800,
            Family::V6 => 0x86dd,
        };
        let link = namespace.ip_json(&format!("link show dev {interface}"))?;
        let mac = frames::mac(link[0]["address"].as_str().context("an interface without a MAC")?)?;
        let name = CString::new(interface).context("an interface's name")?;
        namespace.run(|| {
            let protocol = i32::from(ethertype.to_be());
            let socket = socket::open(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, protocol)
                .context("cannot open a packet socket")?;
            socket::set_option(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, &1_i32)?;
            // SAFETY: `name` is a string that ends with zero.
            let interface = unsafe { libc::if_nametoindex(name.as_ptr()) }.cast_signed();
            ensure!(interface != 0, "no interface {name:?}");
            Ok(Self { socket, ethertype, mac, interface })
        })
    }

    /// Sends a packet to a MAC on the link.
    pub(super) fn send(&self, to: [u8; 6], packet: &[u8]) -> Result<()> {
        let ethertype = self.ethertype.to_be_bytes();
        let packet = &[&[0; VNET_HDR][..], &to, &self.mac, &ethertype, packet].concat()[..];
        let address = self.address();
        // SAFETY: `packet` and `address` live until the call returns, with the lengths that are given.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        ensure!(sent >= 0, "cannot send {} bytes: {}", packet.len(), io::Error::last_os_error());
        Ok(())
    }

    /// The next packet that has come, if one has.
    pub(super) fn receive(&self) -> Result<Option<Vec<u8>>> {
        let mut packet = vec![0; 65_536];
        loop {
            let mut from = self.address();
            let mut length = size_of_val(&from) as libc::socklen_t;
            // SAFETY: the buffer and the address are as long as is said, and live until the call returns.
            let got = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    packet.as_mut_ptr().cast(),
                    packet.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut length,
                )
            };
            if got < 0 {
                let error = io::Error::last_os_error();
                return match error.kind() {
                    io::ErrorKind::WouldBlock => Ok(None),
                    _ => Err(error).context("cannot receive"),
                };
            }
            if from.sll_pkttype == TO_US && from.sll_ifindex == self.interface {
                packet.truncate(usize::try_from(got)?);
                return summed(packet).context("a packet without its header").map(Some);
            }
        }
    }

    fn address(&self) -> libc::sockaddr_ll {
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = self.ethertype.to_be();
        address.sll_ifindex = self.interface;
        address
    }
}

/// The packet, with its checksum, if that was left to a device: so it is in packets of the host's own, which have come from its kernel.
fn summed(mut packet: Vec<u8>) -> Option<Vec<u8>> {
    let head: Vec<u8> = packet.drain(..VNET_HDR.min(packet.len())).collect();
    // In the order of the machine's bytes.
    let half = |at: usize| Some(usize::from(u16::from_ne_bytes([*head.get(at)?, *head.get(at + 1)?])));
    if head.first()? & NEEDS_CSUM != 0 {
        let (start, offset) = (half(6)?, half(8)?);
        // The field has the sum of the pseudo-header already.
        let sum = internet_checksum(&[packet.get(start..)?]);
        packet.get_mut(start + offset..start + offset + 2)?.copy_from_slice(&sum.to_be_bytes());
    }
    packet.drain(..ETHERNET.min(packet.len()));
    Some(packet)
}
