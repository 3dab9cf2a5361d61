//! Packets above 64 KiB: how long those are that come by an interface, and interfaces that take such.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use netd::lab::{Namespace, socket};

/// How often to look whether it is to stop.
const TICK: Duration = Duration::from_millis(50);
/// `PACKET_OUTGOING` of packet(7).
const OUTGOING: u8 = 4;

/// A packet socket that measures what comes in by an interface.
#[derive(Debug)]
pub struct Lengths {
    stop: Arc<AtomicBool>,
    longest: Arc<AtomicUsize>,
    thread: JoinHandle<Result<()>>,
}

impl Lengths {
    /// Listens from now on.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn watch(namespace: &Namespace, interface: &str) -> Result<Self> {
        let socket = namespace.run(|| listener(interface))?;
        let (stop, longest) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&longest));
        let thread = thread::spawn(move || {
            loop {
                if let [true] = socket::readable([&socket], Some(TICK))? {
                    seen.fetch_max(incoming(&socket)?.unwrap_or(0), Ordering::Relaxed);
                } else if stopped.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
        });
        Ok(Self { stop, longest, thread })
    }

    /// The longest packet so far, without its Ethernet header. (Under load the kernel does not show all of them.)
    ///
    /// # Errors
    /// The socket fails.
    pub fn longest(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the listener panicked"))??;
        Ok(self.longest.load(Ordering::Relaxed))
    }
}

fn listener(interface: &str) -> Result<OwnedFd> {
    let every = (libc::ETH_P_ALL as u16).to_be();
    let socket = socket::open(libc::AF_PACKET, libc::SOCK_DGRAM, every.into())
        .context("cannot open a packet socket")?;
    let name = CString::new(interface).context("an interface's name")?;
    // SAFETY: `name` is a string that ends with zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "no interface {interface}");
    let mut address = address();
    address.sll_protocol = every;
    address.sll_ifindex = index.cast_signed();
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` is a sockaddr_ll of that length.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    ensure!(bound == 0, "cannot bind to {interface}: {}", io::Error::last_os_error());
    Ok(socket)
}

/// The length of the next packet, unless it goes out.
fn incoming(socket: &OwnedFd) -> Result<Option<usize>> {
    let mut from = address();
    let mut length = size_of_val(&from) as libc::socklen_t;
    let mut start = [0u8; 64];
    // With MSG_TRUNC the length is that of the packet, not of what fits.
    // SAFETY: the buffer and the address are as long as is said, and live until the call returns.
    let got = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            start.as_mut_ptr().cast(),
            start.len(),
            libc::MSG_TRUNC | libc::MSG_DONTWAIT,
            (&raw mut from).cast(),
            &raw mut length,
        )
    };
    if got < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error.into()) };
    }
    Ok((from.sll_pkttype != OUTGOING).then_some(usize::try_from(got)?))
}

fn address() -> libc::sockaddr_ll {
    // SAFETY: all zeros is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address
}

/// Makes an interface take packets of 192 KiB, of both families. (Older `ip` commands know no such thing for IPv4.)
///
/// # Errors
/// There is no such interface, or the kernel refuses.
pub fn raise(namespace: &Namespace, interface: &str) -> Result<()> {
    /// `IFLA_GSO_MAX_SIZE`, `IFLA_GRO_MAX_SIZE`, `IFLA_GSO_IPV4_MAX_SIZE`, `IFLA_GRO_IPV4_MAX_SIZE` of linux/if_link.h.
    const LIMITS: [u16; 4] = [41, 58, 63, 64];
    const SIZE: u32 = 192 << 10;
    let index = namespace.ip_json(&format!("link show dev {interface}"))?[0]["ifindex"].as_u64();
    let index = u32::try_from(index.context("an interface without an index")?)?;
    // A `nlmsghdr` that asks for an answer, an `ifinfomsg`, attributes of eight bytes each.
    let mut message = Vec::new();
    message.extend((16 + 16 + 8 * LIMITS.len() as u32).to_ne_bytes());
    message.extend(libc::RTM_SETLINK.to_ne_bytes());
    message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    message.extend([0; 8 + 4]);
    message.extend(index.to_ne_bytes());
    message.extend([0; 8]);
    for limit in LIMITS {
        message.extend(8_u16.to_ne_bytes());
        message.extend(limit.to_ne_bytes());
        message.extend(SIZE.to_ne_bytes());
    }
    let mut answer = [0u8; 128];
    let got = namespace.run(|| {
        let socket = socket::open(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
        // SAFETY: the message lives until the call returns, with the length that is given.
        let sent = unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        ensure!(sent >= 0, "netlink takes nothing: {}", io::Error::last_os_error());
        // SAFETY: likewise the answer.
        let got = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
        ensure!(got >= 20, "netlink does not answer: {}", io::Error::last_os_error());
        Ok(got)
    })?;
    // A `nlmsgerr` begins with the error, negative.
    let error = i32::from_ne_bytes(answer[16..20].try_into()?);
    ensure!(error == 0, "{interface}: {} ({got} bytes)", io::Error::from_raw_os_error(-error));
    Ok(())
}
