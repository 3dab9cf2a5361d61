//! As many datagrams of a size as arrive, counted by the receiver.
//!
//! Both ends hand the kernel many datagrams in one call, so that what is measured is the path and not the calls; and the receiver
//! looks into its queue every now and then instead of waiting there: it would be woken by each datagram, and on one CPU for both
//! ends take that from the sender each time, so that a third of what is measured were the scheduler.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{Load, Measured, Order, repeat::transmit, say, window::Window};
use crate::{bench::latency::Latency, lab::socket};

/// Payload of a small datagram.
pub(super) const SMALL: usize = 64;
/// Payload of one that is cut into three, on links with Ethernet's MTU, a VXLAN's or a little less.
pub(super) const FRAGMENTED: usize = 4000;
/// What the receiver's socket holds, in bytes as the kernel counts them: more than a sender on the same CPU sends before the
/// receiver has its turn, so that nothing is lost there.
const QUEUE: i32 = 16 << 20;
/// How long the receiver looks away when there is nothing: some hundred datagrams.
const PAUSE: Duration = Duration::from_micros(500);
/// How long the sender waits for the result before it asks again, and how many times it asks.
const WAIT: Duration = Duration::from_millis(250);
const TRIES: usize = 20;

pub(super) fn serve(order: &Order, size: usize) -> Result<()> {
    let socket = UdpSocket::bind(order.address).context("cannot listen")?;
    // Beyond what unprivileged programs may have; root's.
    socket::set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &QUEUE)
        .context("cannot enlarge the receive buffer")?;
    say(&socket.local_addr().context("no local address")?.port())?;
    let mut batch = Batch::new(size);
    let (_, client) = socket.peek_from(&mut [0; 1]).context("cannot receive")?;
    socket.connect(client).context("cannot answer the client")?;
    let mut window = Window::new(order);
    loop {
        let lengths = batch.receive(&socket).context("cannot receive")?;
        let data = lengths.iter().filter(|message| message.msg_len as usize == size).count();
        let asked = data < lengths.len();
        if data > 0 {
            window.add(data as u64);
        }
        if asked {
            socket.send(&window.measured().to_bytes()).context("cannot send the result")?;
        }
    }
}

pub(super) fn run(order: &Order, size: usize) -> Result<Load> {
    let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)).context("cannot bind")?;
    socket.connect(order.address).with_context(|| format!("cannot reach {}", order.address))?;
    socket.set_read_timeout(Some(WAIT)).context("cannot set a timeout")?;
    let mut batch = Batch::new(size);
    let cost = transmit(order, || batch.send(&socket).map(drop).context("cannot send"))?;
    let mut result = [0; 16];
    for _ in 0..TRIES {
        // Anything that is not data asks for the result.
        socket.send(&[0]).context("cannot ask for the result")?;
        match socket.recv(&mut result) {
            Ok(_) => {
                let measured = Measured::from_bytes(result);
                if measured.time.is_zero() {
                    bail!("the receiver got nothing after the warm-up");
                }
                return Ok(Load { measured, latency: Latency::new(), cost });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("no result from the receiver"),
        }
    }
    bail!("no result from the receiver")
}

/// Datagrams for one call of sendmmsg(2) or recvmmsg(2).
pub(super) struct Batch {
    messages: Vec<libc::mmsghdr>,
    // What the messages point to: on the heap, where it stays when this is moved.
    _parts: Vec<libc::iovec>,
    _buffers: Vec<Vec<u8>>,
}

impl Batch {
    /// Datagrams in it.
    pub(super) const SIZE: usize = 64;

    /// Of datagrams with so many bytes of payload.
    pub(super) fn new(size: usize) -> Self {
        let mut buffers = vec![vec![0_u8; size]; Self::SIZE];
        let part = |buffer: &mut Vec<u8>| libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        let mut parts: Vec<libc::iovec> = buffers.iter_mut().map(part).collect();
        let message = |part| {
            // SAFETY: plain data, for which zero is valid: no address, no control data.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        };
        let messages = parts.iter_mut().map(|part| message(&raw mut *part)).collect();
        Self { messages, _parts: parts, _buffers: buffers }
    }

    /// Sends all of it, and returns how many that were.
    pub(super) fn send(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let (fd, messages) = (socket.as_raw_fd(), self.messages.as_mut_ptr());
        // SAFETY: SIZE messages, each with one part that is all of a buffer which lives as long as `self`.
        count(unsafe { libc::sendmmsg(fd, messages, Self::SIZE as u32, 0) })
    }

    /// Takes the datagrams that are there, as soon as there are any.
    fn receive(&mut self, socket: &UdpSocket) -> io::Result<&[libc::mmsghdr]> {
        let (fd, messages) = (socket.as_raw_fd(), self.messages.as_mut_ptr());
        let (flags, forever) = (libc::MSG_DONTWAIT, std::ptr::null_mut());
        loop {
            // SAFETY: as above; nothing else refers to the buffers.
            match count(unsafe { libc::recvmmsg(fd, messages, Self::SIZE as u32, flags, forever) }) {
                Ok(count) => return Ok(&self.messages[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
                Err(error) => return Err(error),
            }
        }
    }
}

fn count(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
