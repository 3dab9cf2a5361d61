//! Who gets to see which packets: packet sockets on all interfaces of namespaces.

use std::{
    collections::BTreeSet,
    io, mem,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context, Result};
use netd::lab::{Namespace, socket};

/// What a socket holds until it is looked at, bytes.
const BUFFER: i32 = 16 << 20;
/// `PACKET_OUTGOING` of linux/if_packet.h: the packet is on its way out.
const OUTGOING: u8 = 4;
/// Longer than any packet.
const LONGEST: usize = 256 << 10;

/// Looks at what comes in at places.
#[derive(Debug)]
pub struct Watch {
    places: Vec<(&'static str, OwnedFd)>,
}

impl Watch {
    /// Begins to look at the interfaces of these namespaces, by the names of the places.
    ///
    /// # Errors
    /// A packet socket cannot be made.
    pub fn new<'a>(places: impl IntoIterator<Item = (&'static str, &'a Namespace)>) -> Result<Self> {
        let places = places.into_iter().map(|(place, namespace)| {
            let all = i32::from((libc::ETH_P_ALL as u16).to_be());
            let socket = namespace.run(|| {
                socket::open(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, all)
                    .context("cannot open a packet socket")
            })?;
            socket::set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &BUFFER)?;
            Ok((place, socket))
        });
        Ok(Self { places: places.collect::<Result<_>>()? })
    }

    /// The places where packets have come in since the last call that hold one of `marks`, and the mark's index.
    ///
    /// # Errors
    /// A socket fails.
    pub fn seen(&self, marks: &[Vec<u8>]) -> Result<BTreeSet<(usize, &'static str)>> {
        let mut seen = BTreeSet::new();
        let mut buffer = vec![0; LONGEST];
        for (place, socket) in &self.places {
            while let Some(length) = receive(socket, &mut buffer)? {
                let frame = &buffer[..length];
                let holds = |mark: &Vec<u8>| frame.windows(mark.len()).any(|window| window == mark);
                seen.extend(
                    marks
                        .iter()
                        .enumerate()
                        .filter(|(_, mark)| holds(mark))
                        .map(|(index, _)| (index, *place)),
                );
            }
        }
        Ok(seen)
    }
}

/// The next packet that came in, if there is one.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Option<usize>> {
    loop {
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut from: libc::sockaddr_ll = unsafe { mem::zeroed() };
        let mut size = size_of_val(&from) as libc::socklen_t;
        // SAFETY: `buffer`, `from` and `size` live until the call returns, with the lengths that are given.
        let length = unsafe {
            libc::recvfrom(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                (&raw mut from).cast(),
                &raw mut size,
            )
        };
        match usize::try_from(length) {
            Ok(_) if from.sll_pkttype == OUTGOING => {}
            Ok(length) => return Ok(Some(length)),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::WouldBlock {
                    return Ok(None);
                }
                return Err(error).context("cannot receive from a packet socket");
            }
        }
    }
}
