//! Sockets of the host's own that talk to published ports: they are sent to the endpoint right away, when they connect or send, and
//! are told that it was what they asked for. Attached to the root of the cgroups, for processes in the daemon's network namespace.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
};
use netd_common::{
    Addr, Tables, V4, V6,
    abi::{Peer, PeerKey},
    published,
    wire::{Be16, protocol},
};

use crate::maps::{HOST, HOST_PEERS, Maps};

/// The system call goes on.
pub(crate) const GO_ON: i32 = 1;

/// A socket's address that a system call is about.
pub(crate) struct Call(pub(crate) *mut bpf_sock_addr);

impl Call {
    /// Whether it is a process's in the daemon's network namespace.
    #[inline(always)]
    fn is_hosts(&self) -> bool {
        // SAFETY: a helper that takes the context.
        let cookie = unsafe { bpf_get_netns_cookie(self.0.cast()) };
        HOST.get(0).is_some_and(|host| *host == cookie)
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        // SAFETY: loads from the context.
        match unsafe { (&raw const (*self.0).protocol).read_volatile() } {
            6 => protocol::TCP,
            17 => protocol::UDP,
            _ => 0,
        }
    }

    #[inline(always)]
    fn port(&self) -> Be16 {
        // SAFETY: as above. Network byte order in the lower half.
        Be16::from_raw(unsafe { (&raw const (*self.0).user_port).read_volatile() } as u16)
    }

    #[inline(always)]
    fn set_port(&self, port: Be16) {
        // SAFETY: a store to the context, to a field that these programs may write.
        unsafe { (&raw mut (*self.0).user_port).write_volatile(u32::from(port.raw())) };
    }

    #[inline(always)]
    fn ip4(&self) -> V4 {
        // SAFETY: as above.
        V4(unsafe { (&raw const (*self.0).user_ip4).read_volatile() })
    }

    #[inline(always)]
    fn set_ip4(&self, address: V4) {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.0).user_ip4).write_volatile(address.0) };
    }

    #[inline(always)]
    fn ip6(&self) -> V6 {
        // SAFETY: as above.
        let word = |n: usize| unsafe { (&raw const (*self.0).user_ip6[n]).read_volatile() };
        V6([word(0), word(1), word(2), word(3)])
    }

    #[inline(always)]
    fn set_ip6(&self, address: V6) {
        // SAFETY: as above.
        let set = |n: usize| unsafe { (&raw mut (*self.0).user_ip6[n]).write_volatile(address.0[n]) };
        set(0);
        set(1);
        set(2);
        set(3);
    }

    /// The endpoint that a socket is to talk to, if it asks for a published port of its. That it asked is remembered.
    #[inline(always)]
    fn redirect<A: Addr>(&self, asked: A) -> Option<A>
    where
        Maps: Tables<A>,
    {
        let port = self.port();
        let target = published::for_host::<A, _>(&Maps, asked, port, self.protocol())?;
        let key = self.key(target.address.mapped(), target.port);
        let _ = HOST_PEERS.insert(key, Peer { address: asked.mapped(), port, reserved: 0 }, 0);
        self.set_port(target.port);
        Some(target.address)
    }

    /// What a socket asked for, if that is not what it talks to.
    #[inline(always)]
    fn asked(&self, address: V6) -> Option<Peer> {
        // SAFETY: the entry is read at once; should it be another's by then, an address is shown wrong.
        unsafe { HOST_PEERS.get(self.key(address, self.port())) }.copied()
    }

    #[inline(always)]
    fn key(&self, address: V6, port: Be16) -> PeerKey {
        // SAFETY: a helper that takes the context.
        let cookie = unsafe { bpf_get_socket_cookie(self.0.cast()) };
        PeerKey { cookie, address, port, reserved: [0; 3] }
    }
}

/// connect(2), and sendto(2) of an unconnected UDP socket, to an IPv4 address.
#[inline(always)]
pub(crate) fn to4(call: &Call) -> i32 {
    if call.is_hosts()
        && let Some(address) = call.redirect(call.ip4())
    {
        call.set_ip4(address);
    }
    GO_ON
}

/// The same, of an IPv6 socket: it may mean an IPv4 address, and can talk to one.
#[inline(always)]
pub(crate) fn to6(call: &Call) -> i32 {
    if call.is_hosts() {
        let asked = call.ip6();
        let address = match asked.unmapped() {
            Some(ip4) => call.redirect(ip4).map(|address| address.mapped()),
            None => call.redirect(asked),
        };
        if let Some(address) = address {
            call.set_ip6(address);
        }
    }
    GO_ON
}

/// getpeername(2), and recvfrom(2) of an unconnected UDP socket: an IPv4 address.
#[inline(always)]
pub(crate) fn from4(call: &Call) -> i32 {
    if call.is_hosts()
        && let Some(peer) = call.asked(call.ip4().mapped())
    {
        call.set_ip4(V4(peer.address.0[3]));
        call.set_port(peer.port);
    }
    GO_ON
}

/// The same: an IPv6 address.
#[inline(always)]
pub(crate) fn from6(call: &Call) -> i32 {
    if call.is_hosts()
        && let Some(peer) = call.asked(call.ip6())
    {
        call.set_ip6(peer.address);
        call.set_port(peer.port);
    }
    GO_ON
}
