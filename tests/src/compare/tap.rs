//! A packet socket: what a party sends and what it gets, past its own stack.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use netd::lab::{Namespace, socket};

const IPV4: u16 = 0x0800;
/// `PACKET_HOST` of packet(7): addressed to us.
const TO_US: u8 = 0;

/// A packet socket on an interface; IPv4 packets, without their Ethernet headers.
#[derive(Debug)]
pub(super) struct Tap {
    socket: OwnedFd,
    interface: i32,
}

impl Tap {
    pub(super) fn new(namespace: &Namespace, interface: &str) -> Result<Self> {
        let name = CString::new(interface).context("an interface's name")?;
        namespace.run(|| {
            let protocol = i32::from(IPV4.to_be());
            let socket = socket::open(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, protocol)
                .context("cannot open a packet socket")?;
            // SAFETY: `name` is a string that ends with zero.
            let interface = unsafe { libc::if_nametoindex(name.as_ptr()) }.cast_signed();
            ensure!(interface != 0, "no interface {name:?}");
            Ok(Self { socket, interface })
        })
    }

    /// Sends a packet to a MAC on the link.
    pub(super) fn send(&self, to: [u8; 6], packet: &[u8]) -> Result<()> {
        let mut address = self.address();
        address.sll_halen = 6;
        address.sll_addr[..6].copy_from_slice(&to);
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
                return Ok(Some(packet));
            }
        }
    }

    fn address(&self) -> libc::sockaddr_ll {
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = IPV4.to_be();
        address.sll_ifindex = self.interface;
        address
    }
}
