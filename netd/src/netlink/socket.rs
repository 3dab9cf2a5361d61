//! One netlink socket: requests out, answers in.
//!
//! The kernel works through a request to routing netlink inside the `send` that brings it, and has queued the answers when
//! `send` returns; a dump continues inside the `recv`s. So there is nothing to wait for: an event loop around such a
//! socket (as rtnetlink has it) only adds wake-ups. Instead, a socket is used where blocking is allowed (`send` may wait
//! for the kernel's RTNL lock), and several requests go out in one `send`.

use std::io;

use nix::errno::Errno;
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
        NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator, parse_i32, parse_string,
    },
    packet_route::RouteNetlinkMessage,
    sys::{self, protocols::NETLINK_ROUTE},
};

use super::error::Refusal;

/// The kernel never sends a datagram beyond 32 KiB.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// A dump during which something changed is repeated, but not for ever on a busy host.
const DUMP_ATTEMPTS: usize = 8;
/// `NLMSGERR_ATTR_MSG`: what the kernel says about an error, in words.
const ERROR_ATTRIBUTE_MESSAGE: u16 = 1;
/// Length of `struct nlmsghdr`.
const HEADER_LENGTH: usize = 16;

/// A request and its flags beyond `NLM_F_REQUEST | NLM_F_ACK`.
pub(super) struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
}

impl Request {
    pub(super) fn new(message: RouteNetlinkMessage) -> Self {
        Self { message, flags: 0 }
    }

    pub(super) fn with_flags(message: RouteNetlinkMessage, flags: u16) -> Self {
        Self { message, flags }
    }
}

/// What came for one request: the payloads of its data messages (behind the netlink header), or the kernel's refusal.
pub(super) type Answer = Result<Vec<Vec<u8>>, Refusal>;

/// A netlink socket, in the namespace of the thread that opened it, wherever it is used later.
#[derive(Debug)]
pub(super) struct Socket {
    inner: sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut inner = sys::Socket::new(NETLINK_ROUTE)?;
        inner.bind_auto()?;
        inner.connect(&sys::SocketAddr::new(0, 0))?;
        inner.set_ext_ack(true)?;
        // The answer need not repeat the request.
        inner.set_cap_ack(true)?;
        // The kernel leaves out of a dump what its header does not ask for (Linux 4.20). Where it does not, we do.
        let _ = inner.set_netlink_get_strict_chk(true);
        Ok(Self { inner, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BUFFER) })
    }

    /// As on a kernel that leaves nothing out of a dump.
    #[cfg(test)]
    pub(super) fn unfiltered() -> io::Result<Self> {
        let socket = Self::open()?;
        socket.inner.set_netlink_get_strict_chk(false)?;
        Ok(socket)
    }

    /// Sends one request and returns its answer.
    pub(super) fn request(&mut self, request: Request) -> Answer {
        let mut answers = self.batch(vec![request])?;
        answers.pop().unwrap_or_else(|| Err(Refusal::new(Errno::EPROTO)))
    }

    /// Sends the requests as one datagram. The kernel works through them in order, also past one that it refuses.
    /// Returns one answer for each; an error is one of the socket itself.
    pub(super) fn batch(&mut self, requests: Vec<Request>) -> Result<Vec<Answer>, Refusal> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::with_capacity(256 * requests.len());
        let count = requests.len();
        for request in requests {
            self.append(&mut datagram, request.message, request.flags | NLM_F_ACK);
        }
        self.inner.send(&datagram, 0)?;

        let mut answers: Vec<Answer> = Vec::with_capacity(count);
        let mut data = Vec::new();
        while answers.len() < count {
            self.receive(|sequence, kind, flags, payload| {
                // What a request that failed half-way left behind.
                if sequence.wrapping_sub(first) as usize >= count {
                    return;
                }
                if kind == NLMSG_ERROR {
                    answers.push(match refusal(flags, payload) {
                        None => Ok(std::mem::take(&mut data)),
                        Some(refusal) => Err(refusal),
                    });
                    data.clear();
                } else {
                    data.push(payload.to_vec());
                }
            })?;
        }
        Ok(answers)
    }

    /// Asks for all objects of a kind; returns the payloads of the messages. Repeats itself if the kernel says that
    /// something changed meanwhile.
    pub(super) fn dump(&mut self, message: &RouteNetlinkMessage) -> Answer {
        self.pick(message, |payload, objects| objects.push(payload.to_vec()))
    }

    /// The same, of which `pick` keeps what is wanted: where there are a million objects, the others take no memory.
    pub(super) fn pick<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        mut pick: impl FnMut(&[u8], &mut Vec<T>),
    ) -> Result<Vec<T>, Refusal> {
        for attempt in 1.. {
            let mut datagram = Vec::new();
            self.append(&mut datagram, message.clone(), NLM_F_DUMP);
            let expected = self.sequence;
            self.inner.send(&datagram, 0)?;

            let (mut objects, mut interrupted, mut end) = (Vec::new(), false, None);
            while end.is_none() {
                self.receive(|sequence, kind, flags, payload| {
                    if sequence != expected {
                        return;
                    }
                    interrupted |= flags & NLM_F_DUMP_INTR != 0;
                    match kind {
                        NLMSG_ERROR | NLMSG_DONE => end = Some(refusal(flags, payload)),
                        _ => pick(payload, &mut objects),
                    }
                })?;
            }
            if let Some(Some(refusal)) = end {
                return Err(refusal);
            }
            if !interrupted || attempt == DUMP_ATTEMPTS {
                return Ok(objects);
            }
        }
        unreachable!("the loop above returns")
    }

    fn append(&mut self, datagram: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let start = datagram.len();
        datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut datagram[start..]);
    }

    /// Reads one datagram and shows each message in it: sequence number, type, flags, payload.
    fn receive(&mut self, mut see: impl FnMut(u32, u16, u16, &[u8])) -> Result<(), Refusal> {
        self.buffer.clear();
        // Never waits: if nothing is there, nothing will come.
        self.inner.recv(&mut self.buffer, libc::MSG_DONTWAIT).map_err(|error| {
            if error.kind() == io::ErrorKind::WouldBlock {
                Refusal { errno: Errno::EPROTO, reason: Some("the kernel did not answer".into()) }
            } else {
                error.into()
            }
        })?;
        for message in messages(&self.buffer) {
            see(message.sequence_number(), message.message_type(), message.flags(), message.payload());
        }
        Ok(())
    }
}

/// The messages in a datagram.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(rest).ok()?;
        let length = (message.length() as usize).next_multiple_of(4).min(rest.len());
        rest = &rest[length..];
        Some(message)
    })
}

/// Reads `NLMSG_ERROR` or `NLMSG_DONE`: none if it says that all went well.
fn refusal(flags: u16, payload: &[u8]) -> Option<Refusal> {
    let code = parse_i32(payload.get(..4)?).ok()?;
    if code == 0 {
        return None;
    }
    let reason = (flags & NLM_F_ACK_TLVS != 0)
        .then(|| {
            let attributes = payload.get(4 + HEADER_LENGTH..)?;
            let message =
                NlasIterator::new(attributes).flatten().find(|a| a.kind() == ERROR_ATTRIBUTE_MESSAGE)?;
            parse_string(message.value()).ok()
        })
        .flatten();
    Some(Refusal { errno: Errno::from_raw(code.wrapping_neg()), reason })
}
