//! Frames as a container could write them, past its own stack.

use std::{
    ffi::CString,
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use netd::lab::{Namespace, socket};

/// The MAC address in a text like `02:00:00:00:00:01`.
///
/// # Errors
/// It is not one.
pub fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .context("not a MAC")?;
    bytes.try_into().ok().context("a MAC has six bytes")
}

/// A UDP packet over IPv4 in an Ethernet frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// Ethernet destination.
    pub destination_mac: [u8; 6],
    /// VLAN tag, if it has one.
    pub vlan: Option<u16>,
    /// IP source.
    pub source: Ipv4Addr,
    /// IP destination.
    pub destination: Ipv4Addr,
    /// UDP destination port; the source port is 1000.
    pub port: u16,
}

impl Frame {
    /// Its bytes.
    ///
    /// # Errors
    /// They cannot be built.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let ethernet = PacketBuilder::ethernet2(self.source_mac, self.destination_mac);
        let (source, destination) = (self.source.octets(), self.destination.octets());
        let mut bytes = Vec::new();
        match self.vlan {
            None => {
                ethernet.ipv4(source, destination, 64).udp(1000, self.port).write(&mut bytes, b"frame")?;
            }
            Some(tag) => {
                let tagged = ethernet.single_vlan(tag.try_into().ok().context("not a VLAN id")?);
                tagged.ipv4(source, destination, 64).udp(1000, self.port).write(&mut bytes, b"frame")?;
            }
        }
        Ok(bytes)
    }
}

/// An ARP request: who has `target`, says `sender`.
///
/// # Errors
/// It cannot be built.
pub fn arp_request(
    source_mac: [u8; 6],
    sender_mac: [u8; 6],
    sender: Ipv4Addr,
    target: Ipv4Addr,
) -> Result<Vec<u8>> {
    let request = etherparse::ArpPacket::new(
        etherparse::ArpHardwareId::ETHERNET,
        etherparse::EtherType::IPV4,
        etherparse::ArpOperation::REQUEST,
        &sender_mac,
        &sender.octets(),
        &[0; 6],
        &target.octets(),
    )?;
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(source_mac, [0xff; 6]).arp(request).write(&mut bytes)?;
    Ok(bytes)
}

/// Sends frames out of an interface, past the stack.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
    to: libc::sockaddr_ll,
}

impl Sender {
    /// For an interface of a namespace.
    ///
    /// # Errors
    /// The interface is not there.
    pub fn new(namespace: &Namespace, interface: &str) -> Result<Self> {
        let name = CString::new(interface).context("an interface's name")?;
        namespace.run(|| {
            let socket =
                socket::open(libc::AF_PACKET, libc::SOCK_RAW, 0).context("cannot open a packet socket")?;
            // SAFETY: `name` is a string that ends with zero.
            let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
            ensure!(index != 0, "no interface {interface}");
            // SAFETY: all zeros is a valid sockaddr_ll.
            let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            to.sll_family = libc::AF_PACKET as u16;
            to.sll_ifindex = index.cast_signed();
            Ok(Self { socket, to })
        })
    }

    /// The same for frames that begin with a `virtio_net_hdr` (linux/virtio_net.h), which says what is left to be done: checksums,
    /// segmentation.
    ///
    /// # Errors
    /// As [`Sender::new`].
    pub fn with_offloads(namespace: &Namespace, interface: &str) -> Result<Self> {
        let sender = Self::new(namespace, interface)?;
        socket::set_option(&sender.socket, libc::SOL_PACKET, PACKET_VNET_HDR, &1i32)?;
        Ok(sender)
    }

    /// Sends one. That it is dropped at once, which netkit says, is no error.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: `frame` and `to` live until the call returns, with the lengths that are given.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const self.to).cast(),
                size_of_val(&self.to) as libc::socklen_t,
            )
        };
        match io::Error::last_os_error() {
            error if sent < 0 && error.raw_os_error() != Some(libc::ENOBUFS) => Err(error),
            _ => Ok(()),
        }
    }
}

/// `PACKET_VNET_HDR` of linux/if_packet.h.
const PACKET_VNET_HDR: i32 = 15;

/// Sends a frame several times out of an interface of a namespace.
///
/// # Errors
/// The interface is not there, or the kernel does not take the frame.
pub fn send(namespace: &Namespace, interface: &str, frame: &[u8], times: usize) -> Result<()> {
    send_all(namespace, interface, std::iter::repeat_n(frame, times))
}

/// Sends frames out of an interface of a namespace.
///
/// # Errors
/// The interface is not there, or the kernel does not take a frame.
pub fn send_all(
    namespace: &Namespace,
    interface: &str,
    mut frames: impl Iterator<Item = impl AsRef<[u8]>>,
) -> Result<()> {
    let sender = Sender::new(namespace, interface)?;
    frames.try_for_each(|frame| sender.send(frame.as_ref())).context("cannot send a frame")
}

/// Counts the datagrams that a UDP port gets.
#[derive(Debug)]
pub struct Catcher(UdpSocket);

impl Catcher {
    /// Listens on all addresses of a namespace.
    ///
    /// # Errors
    /// The port is taken.
    pub fn new(namespace: &Namespace, port: u16) -> Result<Self> {
        let socket = namespace.run(|| UdpSocket::bind(("0.0.0.0", port)).context("cannot bind"))?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// How many have come since the last call. Waits a little for the last ones.
    ///
    /// # Errors
    /// The socket fails.
    pub fn count(&self) -> Result<usize> {
        // From one container to another a packet takes no time: it is delivered within the call that sends it.
        thread::sleep(Duration::from_millis(30));
        let mut count = 0;
        let mut buffer = [0; 2048];
        loop {
            match self.0.recv(&mut buffer) {
                Ok(_) => count += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(count),
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
    }
}
