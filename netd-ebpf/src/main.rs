//! netd's eBPF programs: one entry point a hook. They hand the packet and the maps to the decision core in `netd-common`
//! and turn its verdict into the hook's return code; what happens to a packet is written there.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the classifier macro passes the context by value")]

mod flow_gc;
mod functions;
mod maps;
mod skb;
mod sockets;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh},
    helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer},
    macros::{cgroup_sock_addr, classifier},
    programs::{SockAddrContext, TcContext},
};
use netd_common::{To, V4, Verdict};

use crate::{maps::Maps, skb::Skb, sockets::Call};

/// The host side of a container's link, ingress: what the container sends.
#[classifier]
fn from_container(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let hook = skb.hook();
    verdict(netd_common::from_container(&mut skb, &Maps, hook), hook.ifindex)
}

/// The uplink, ingress: what comes from the world.
#[classifier]
fn from_uplink(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let hook = skb.uplink_hook();
    verdict(netd_common::from_uplink(&mut skb, &Maps, hook), hook.ifindex)
}

/// The host side of a container's link, egress: what the host's own stack sends to the container.
#[classifier]
fn to_container(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let hook = skb.hook();
    verdict(netd_common::to_container(&skb, &Maps, hook), hook.ifindex)
}

/// The VXLAN device, ingress: what the kernel has decapsulated.
#[classifier]
fn from_overlay(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let hook = skb.tunnel_hook();
    verdict(netd_common::from_overlay(&mut skb, &Maps, hook), hook.ifindex)
}

/// Removes flows from a list that the daemon hands over as a packet (BPF_PROG_TEST_RUN); attached to nothing. Returns how
/// many it removed.
#[classifier]
fn flow_gc(ctx: TcContext) -> i32 {
    flow_gc::run(&Skb::new(&ctx)) as i32
}

/// A socket of the host's connects to an IPv4 address.
#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    sockets::to4(&Call(ctx.sock_addr))
}

/// A socket of the host's connects to an IPv6 address.
#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    sockets::to6(&Call(ctx.sock_addr))
}

/// A UDP socket of the host's sends to an IPv4 address that it is not connected to.
#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    sockets::to4(&Call(ctx.sock_addr))
}

/// It is told from where an answer comes.
#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    sockets::from4(&Call(ctx.sock_addr))
}

/// The same with an IPv6 socket.
#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    sockets::from6(&Call(ctx.sock_addr))
}

/// A socket of the host's asks whom it talks to.
#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    sockets::from4(&Call(ctx.sock_addr))
}

/// The same with an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    sockets::from6(&Call(ctx.sock_addr))
}

#[inline(always)]
fn verdict(verdict: Verdict, ifindex: u32) -> i32 {
    // SAFETY: helpers without preconditions; a wrong interface index makes the kernel drop the packet. redirect_neigh
    // without parameters looks up the next hop by the packet's destination.
    unsafe {
        match verdict.to {
            To::Drop => TC_ACT_SHOT,
            // Not TC_ACT_OK: other programs on the hook are to have their say (TCX_NEXT; clsact goes on likewise).
            To::Stack => TC_ACT_UNSPEC,
            To::Peer => bpf_redirect_peer(verdict.ifindex, 0) as i32,
            To::Neighbour if verdict.via == V4(0) => {
                bpf_redirect_neigh(verdict.ifindex, core::ptr::null_mut(), 0, 0) as i32
            }
            To::Neighbour => {
                let mut next: bpf_redir_neigh = core::mem::zeroed();
                next.nh_family = AF_INET;
                next.__bindgen_anon_1.ipv4_nh = verdict.via.0;
                bpf_redirect_neigh(verdict.ifindex, &mut next, size_of_val(&next) as i32, 0) as i32
            }
            To::Reflect => bpf_redirect(ifindex, 0) as i32,
        }
    }
}

/// The licence that the kernel sees: some helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The core has no panics: were one to appear, this loop is what the verifier would refuse.
    loop {}
}

/// Address family of IPv4.
const AF_INET: u32 = 2;

/// The raw context of a program.
type Context = *mut __sk_buff;
