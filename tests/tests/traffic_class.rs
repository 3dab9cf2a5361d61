//! DSCP and ECN of containers' packets between nodes (RFC 2983, RFC 6040): into a tunnel, and out of one with what happened on the way.

use std::{
    ffi::CString,
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use netd::lab::{Container, Namespace, socket};
use netd_common::host::build::{Body, Ip, Ip6, frame, frame6};
use netd_tests::{
    cluster::{mac_of, with_cluster},
    frames,
    site::{PATIENCE, eventually},
};

/// The VNI of the default network.
const VNI: u32 = 0x6e_0001;
const VXLAN_PORT: u16 = 4789;
const PORT: u16 = 4500;
/// Expedited forwarding.
const DSCP: u8 = 46 << 2;
const CE: u8 = 3;

/// What comes to an interface.
struct Capture(OwnedFd);

impl Capture {
    fn new(namespace: &Namespace, interface: &str) -> Result<Self> {
        let name = CString::new(interface)?;
        namespace.run(|| {
            let all = i32::from((libc::ETH_P_ALL as u16).to_be());
            let socket = socket::open(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, all)?;
            // SAFETY: all zeros is a valid sockaddr_ll.
            let mut at: libc::sockaddr_ll = unsafe { mem::zeroed() };
            at.sll_family = libc::AF_PACKET as u16;
            at.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            // SAFETY: `name` is a string that ends with zero.
            at.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) }.cast_signed();
            // SAFETY: the address lives until the call returns, with the length that is given.
            let bound = unsafe {
                libc::bind(socket.as_raw_fd(), (&raw const at).cast(), size_of_val(&at) as libc::socklen_t)
            };
            ensure!(bound == 0, "cannot bind to {interface}: {}", io::Error::last_os_error());
            Ok(Self(socket))
        })
    }

    /// The class of the next VXLAN packet over IPv4 whose payload ends so.
    fn class(&self, end: &[u8]) -> Result<u8> {
        let until = Instant::now() + PATIENCE;
        let mut buffer = [0_u8; 2048];
        while Instant::now() < until {
            // SAFETY: the buffer is as long as we say.
            let length =
                unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            let Ok(length) = usize::try_from(length) else {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            let frame = &buffer[..length];
            if frame.len() > 50 && frame[36..38] == VXLAN_PORT.to_be_bytes() && frame.ends_with(end) {
                return Ok(frame[15]);
            }
        }
        bail!("no such packet")
    }
}

/// A socket that is told of the class of what it gets.
fn listen(at: &Namespace, any: IpAddr) -> Result<UdpSocket> {
    // A program that another test starts has the socket of before for a moment, between fork and exec.
    let mut bound = None;
    eventually("the port is free", PATIENCE, || match at.run(|| Ok(UdpSocket::bind((any, PORT))))? {
        Ok(socket) => {
            bound = Some(socket);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(false),
        Err(error) => Err(error).context("cannot bind"),
    })?;
    let socket = bound.context("no socket")?;
    socket.set_nonblocking(true)?;
    if any.is_ipv4() {
        socket::set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVTOS, &1)?;
    } else {
        socket::set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, &1)?;
    }
    Ok(socket)
}

/// The class of the next datagram.
fn class(socket: &UdpSocket) -> Result<Option<u8>> {
    let (mut data, mut control) = ([0_u8; 2048], [0_u64; 8]);
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: all zeros is a valid msghdr.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: all that the message points to lives until the call returns.
    if unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, 0) } < 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has filled in the message.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    ensure!(!header.is_null(), "a datagram without its class");
    // SAFETY: the message's data is at least a byte (IPv4) or an int of the machine's byte order (IPv6), of which the first byte counts.
    Ok(Some(unsafe { *libc::CMSG_DATA(header) }))
}

fn waits(socket: &UdpSocket) -> Result<u8> {
    let mut found = None;
    eventually("a datagram", PATIENCE, || {
        found = class(socket)?;
        Ok(found.is_some())
    })?;
    found.context("no datagram")
}

/// Sends a datagram of a class.
fn send(from: &Namespace, to: IpAddr, class: u8, data: &[u8]) -> Result<()> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = from.run(|| UdpSocket::bind((any, 0)).context("cannot bind"))?;
    let class = i32::from(class);
    if to.is_ipv4() {
        socket::set_option(&socket, libc::IPPROTO_IP, libc::IP_TOS, &class)?;
    } else {
        socket::set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class)?;
    }
    socket.send_to(data, SocketAddr::new(to, PORT))?;
    Ok(())
}

/// A container's addresses.
fn addresses(container: &Container) -> impl Iterator<Item = IpAddr> {
    [Some(container.address.into()), container.address6.map(IpAddr::from)].into_iter().flatten()
}

#[test]
fn the_outer_packet_has_the_inner_ones() {
    with_cluster("the_outer_packet_has_the_inner_ones", "vxlan", |cluster| {
        let (a, b) = cluster.pair()?;
        let capture = Capture::new(&cluster.world.router, "host1")?;
        for to in addresses(&b) {
            let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
            let receiver = listen(&b.namespace, any.parse()?)?;
            for wanted in [0, 1, 2, CE, DSCP, DSCP | 2] {
                let data = format!("class {wanted} to {to}");
                send(&a.namespace, to, wanted, data.as_bytes())?;
                let outer = capture.class(data.as_bytes()).context(data.clone())?;
                ensure!(outer == wanted, "{data}: the outer packet has {outer}");
                let inner = waits(&receiver).context(data.clone())?;
                ensure!(inner == wanted, "{data}: it arrives with {inner}");
            }
        }
        cluster.nothing_dropped()
    });
}

#[test]
fn congestion_on_the_way_is_told() {
    with_cluster("congestion_on_the_way_is_told", "vxlan", |cluster| {
        let (a, b) = cluster.pair()?;
        let links = cluster.nodes[1].namespace.ip_json("link show eth0")?;
        let mac = frames::mac(links[0]["address"].as_str().context("no MAC")?)?;
        let [one, two] = [0, 1].map(|node| cluster.nodes[node].address.octets());
        // As a router passes it on that has marked it.
        let marked = |inner: &[u8]| {
            let header = [&[8, 0, 0, 0][..], &(VNI << 8).to_be_bytes()].concat();
            let ip = Ip { class: CE, ..Ip::new(one, two) };
            frame(mac, [2; 6], &ip, &Body::UdpUnchecked(50_000, VXLAN_PORT, [&header, inner].concat()))
        };
        let body = Body::Udp(1000, PORT, b"congested".to_vec());
        let (to, from) = (mac_of(b.address), mac_of(a.address));
        for address in addresses(&b) {
            let any = if address.is_ipv4() { "0.0.0.0" } else { "::" };
            let receiver = listen(&b.namespace, any.parse()?)?;
            for class in [0, 1, 2, CE, DSCP | 2] {
                let inner = match (address, a.address6) {
                    (IpAddr::V4(b), _) => {
                        let ip = Ip { class, ..Ip::new(a.address.octets(), b.octets()) };
                        frame(to, from, &ip, &body)
                    }
                    (IpAddr::V6(b), Some(a)) => {
                        let ip = Ip6 { class, ..Ip6::new(a.octets(), b.octets()) };
                        frame6(to, from, &ip, &body)
                    }
                    _ => bail!("one container has IPv6, the other has not"),
                };
                let before = cluster.counter(1, "drops", "overlay-congested")?;
                frames::send(&cluster.world.router, "host2", &marked(&inner), 1)?;
                if class & CE == 0 {
                    eventually("it is dropped", PATIENCE, || {
                        Ok(cluster.counter(1, "drops", "overlay-congested")? == before + 1)
                    })?;
                    continue;
                }
                let seen = waits(&receiver).with_context(|| format!("class {class} to {address}"))?;
                ensure!(seen == class | CE, "class {class} to {address}: it arrives with {seen}");
            }
            ensure!(class(&receiver)?.is_none(), "what was to be dropped has arrived");
        }
        Ok(())
    });
}
