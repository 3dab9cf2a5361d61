//! A virtual machine as its host sees it: somebody opens its tap and carries frames. Its guest is a network namespace here, with a kernel's
//! own stack behind a tap of its own; frames go from one tap to the other as they are, virtio headers and all.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    mem,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, ensure};

use super::{Container, Host, Namespace, socket::readable};

/// Length of the virtio header before each frame: `virtio_net_hdr_v1`, as virtio 1.0 has it.
pub const HEADER: usize = 12;
/// The longest frame with its header.
const LONGEST: usize = HEADER + (64 << 10) + 256;
/// What a guest can do itself (`TUN_F_*` in linux/if_tun.h): checksums, segmentation of TCP over IPv4, IPv6 and with ECN; and of UDP, since
/// Linux 6.2.
const OFFLOADS: [u32; 2] = [0x0f | 0x60, 0x0f];

/// How a tap is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Whether the guest takes packets that are to be cut and summed yet.
    pub offloads: bool,
    /// Whether it is one queue of several.
    pub multi_queue: bool,
}

/// A tap that is open: what is read is what the host sends to the guest.
#[derive(Debug)]
pub struct Tap(File);

impl Tap {
    /// Opens a tap of a namespace, or makes it if there is none: that goes with the last file then.
    ///
    /// # Errors
    /// There are no taps, or it is not for the caller to open.
    pub fn open(namespace: &Namespace, name: &str, opening: Opening) -> Result<Self> {
        namespace.run(|| {
            let opened = Self::file().and_then(|file| Self::attach(file, name, opening));
            opened.with_context(|| format!("cannot open tap {name}"))
        })
    }

    /// A file for a tap of the calling thread's namespace.
    ///
    /// # Errors
    /// There are no taps, or the file is not for the caller to open.
    pub fn file() -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")
    }

    /// Opens a tap with such a file.
    ///
    /// # Errors
    /// It is not for the caller to open, or not in this way.
    pub fn attach(file: File, name: &str, opening: Opening) -> io::Result<Self> {
        // SAFETY: all zeros is a valid ifreq: an empty name, and a union of numbers and a null pointer.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
            *to = from.cast_signed() as libc::c_char;
        }
        let queues = if opening.multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | queues;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        let length = HEADER as libc::c_int;
        // SAFETY: both requests are given what they read (`__tun_chr_ioctl`), which lives until the calls return.
        unsafe {
            check(libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request))?;
            check(libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const length))?;
        }
        let tap = Self(file);
        if opening.offloads {
            tap.offload(OFFLOADS[0]).or_else(|_| tap.offload(OFFLOADS[1]))?;
        } else {
            tap.offload(0)?;
        }
        Ok(tap)
    }

    fn offload(&self, flags: u32) -> io::Result<()> {
        // SAFETY: the request takes a number, and no pointer.
        check(unsafe {
            libc::ioctl(self.0.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(flags))
        })
    }

    /// Sends a frame, which begins with its header.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        (&self.0).write(frame).map(drop)
    }

    /// The next frame, with its header.
    ///
    /// # Errors
    /// There is none yet ([`io::ErrorKind::WouldBlock`]), or the tap is gone.
    pub fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; LONGEST];
        let length = (&self.0).read(&mut buffer)?;
        buffer.truncate(length);
        Ok(buffer)
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Frames of one direction.
#[derive(Debug, Default)]
pub struct Carried {
    /// Those that the receiver is to cut into segments yet.
    pub uncut: AtomicUsize,
    /// The longest, bytes without the virtio header.
    pub longest: AtomicUsize,
}

impl Carried {
    fn count(&self, frame: &[u8]) {
        // `gso_type`: the second byte (struct virtio_net_hdr).
        if frame[1] != 0 {
            self.uncut.fetch_add(1, Ordering::Relaxed);
        }
        self.longest.fetch_max(frame.len() - HEADER, Ordering::Relaxed);
    }
}

/// A monitor that runs. Ended when dropped.
#[derive(Debug)]
pub struct Vmm {
    /// From the host to the guest, and back.
    pub carried: [Arc<Carried>; 2],
    /// Written to by nobody: that it is closed ends the threads.
    stop: Option<io::PipeWriter>,
    threads: Vec<JoinHandle<()>>,
}

impl Vmm {
    /// Opens a host's tap, and one of the guest's namespace, and carries frames.
    ///
    /// # Errors
    /// One of them cannot be opened.
    pub fn start(host: (&Namespace, &str), guest: (&Namespace, &str), offloads: bool) -> Result<Self> {
        let opening = Opening { offloads, multi_queue: false };
        let host = Arc::new(Tap::open(host.0, host.1, opening)?);
        let guest = Arc::new(Tap::open(guest.0, guest.1, opening)?);
        let (read, write) = io::pipe()?;
        let carried = [Arc::default(), Arc::default()];
        let mut threads = Vec::new();
        for (from, to, count) in [(&host, &guest, &carried[0]), (&guest, &host, &carried[1])] {
            let (from, to, count) = (Arc::clone(from), Arc::clone(to), Arc::clone(count));
            let end: OwnedFd = read.as_fd().try_clone_to_owned()?;
            threads.push(thread::spawn(move || carry(&from, &to, &count, &end)));
        }
        Ok(Self { carried, stop: Some(write), threads })
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Carries frames one way until it is told to end, or a tap is gone.
fn carry(from: &Tap, to: &Tap, count: &Carried, end: &OwnedFd) {
    while let Ok([_, false]) = readable([&from.0, end], None) {
        match from.receive() {
            Ok(frame) if frame.len() > HEADER => {
                count.count(&frame);
                // One that the other side does not take is lost, as on any wire.
                let _ = to.send(&frame);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

impl Host {
    /// Attaches a virtual machine, with more options of `netd attach` in `options`, and starts it: it sets its interface up with what
    /// that prints. Its namespace is called as a container's would be.
    ///
    /// # Errors
    /// The daemon refuses, or the guest cannot be made.
    pub fn guest(&self, name: &str, options: &[&str], offloads: bool) -> Result<(Container, Vmm)> {
        let namespace = self.resources.namespace(&format!("{}-{name}", self.name()))?;
        let arguments = ["attach", name, "--link", "tap", "--json"];
        let answer = self.json(arguments.iter().chain(options))?;
        let tap = Container::parse(&namespace, &answer)?;
        ensure!(tap.interface == tap.host_interface, "a tap has one name: {answer}");
        let guest = Container { interface: "eth0".to_owned(), ..tap };
        let vmm = self.boot(&guest, offloads)?;
        Ok((guest, vmm))
    }

    /// Starts the machine of a guest whose tap is there.
    ///
    /// # Errors
    /// The tap cannot be opened, or the guest does not take its addresses.
    pub fn boot(&self, guest: &Container, offloads: bool) -> Result<Vmm> {
        let tap = &guest.host_interface;
        let shown = self.namespace.ip_json(&format!("link show dev {tap}"))?;
        let mtu = shown[0]["mtu"].as_u64().context("a link has no MTU")?;
        let vmm = Vmm::start((&self.namespace, tap), (&guest.namespace, &guest.interface), offloads)?;
        let (interface, Container { address, prefix, gateway, mac, .. }) = (&guest.interface, guest);
        let mut lines = vec![
            "link set lo up".to_owned(),
            format!("link set {interface} address {mac} mtu {mtu} addrgenmode none"),
            format!("link set {interface} up"),
            format!("address add {address}/{prefix} dev {interface}"),
            format!("route add default via {gateway}"),
        ];
        if let (Some(address), Some(gateway)) = (guest.address6, guest.gateway6) {
            lines.push(format!("address add {address}/64 dev {interface} nodad"));
            lines.push(format!("route add default via {gateway} dev {interface}"));
        }
        guest.namespace.ip(lines)?;
        Ok(vmm)
    }
}
