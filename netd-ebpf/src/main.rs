//! netd's eBPF programs: one entry point a hook. They hand the packet and the maps to the decision core in `netd-common`
//! and turn its verdict into the hook's return code; what happens to a packet is written there.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the classifier macro passes the context by value")]

mod deny;
mod features;
mod flow_gc;
mod frame;
mod functions;
mod maps;
mod next_hop;
mod skb;
mod sockets;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    helpers::generated::{bpf_redirect, bpf_redirect_peer},
    macros::{cgroup_sock_addr, classifier, xdp},
    programs::{SockAddrContext, TcContext, XdpContext},
};
use netd_common::{
    Hook, To, Verdict,
    abi::{Endpoint, STEP_FROM_CONTAINER4, STEP_FROM_CONTAINER6, STEP_FROM_UPLINK6},
    from_container::{Step4, Step6, Told},
    from_uplink::Step6 as Uplink6,
};

use crate::{frame::Frame, maps::Maps, skb::Skb, sockets::Call};

/// The host side of a container's link, ingress: what the container sends.
#[classifier]
fn from_container(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    if skb.is_ipv6() {
        step(&ctx, STEP_FROM_CONTAINER6);
        return TC_ACT_SHOT;
    }
    let hook = skb.hook();
    from_container4_step(&mut skb, &ctx, hook, Step4::Begin)
}

/// IPv4 from a container that opens a flow; attached to nothing, as the programs of `steps6`.
#[classifier]
fn open4(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let hook = skb.hook();
    from_container4_step(&mut skb, &ctx, hook, Step4::Open)
}

/// IPv4 from a container to another by a published port.
#[classifier]
fn hairpin4(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let hook = skb.hook();
    from_container4_step(&mut skb, &ctx, hook, Step4::Hairpin)
}

/// ICMP errors about those.
#[classifier]
fn hairpin4_error(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let hook = skb.hook();
    from_container4_step(&mut skb, &ctx, hook, Step4::HairpinError)
}

/// IPv4 from a container to another node that is too long for an outer header.
#[classifier]
fn overlay4(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let hook = skb.hook();
    from_container4_step(&mut skb, &ctx, hook, Step4::Overlay)
}

/// IPv4 from a container through the masquerade that has no ports of its own.
#[classifier]
fn rare4(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let hook = skb.hook();
    from_container4_step(&mut skb, &ctx, hook, Step4::Rare)
}

#[inline(always)]
fn from_container4_step(skb: &mut Skb, ctx: &TcContext, hook: Hook, this: Step4) -> i32 {
    match netd_common::from_container::step4(skb, &Maps, hook, this) {
        Ok(done) => verdict(skb, done),
        Err(next) => {
            step(ctx, STEP_FROM_CONTAINER4 + next as u32);
            TC_ACT_SHOT
        }
    }
}

/// The uplink, ingress: what comes from the world.
#[classifier]
fn from_uplink(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let hook = skb.uplink_hook();
    if let Some(done) = netd_common::from_uplink(&mut skb, &Maps, hook) {
        return verdict(&mut skb, done);
    }
    step(&ctx, STEP_FROM_UPLINK6);
    TC_ACT_UNSPEC
}

/// The uplink before all else, while there is something to deny.
#[xdp(frags)]
fn xdp_uplink(ctx: XdpContext) -> u32 {
    if netd_common::xdp_uplink(&Frame::new(&ctx), &Maps) {
        xdp_action::XDP_PASS
    } else {
        xdp_action::XDP_DROP
    }
}

/// The programs of IPv6's steps, attached to nothing: those above and these go on with them (tail calls).
macro_rules! steps6 {
    ($($(#[$meta:meta])* $name:ident = $step:ident;)+) => {
        $($(#[$meta])* #[classifier] fn $name(ctx: TcContext) -> i32 { from_container6_step(&ctx, Step6::$step) })+
    };
}
steps6! {
    /// Most packets that a container sends.
    from_container6 = Begin;
    /// Fragments through the masquerade.
    rare6 = Rare;
    /// ICMP errors through the masquerade.
    error6 = Error;
    /// Those that open a flow.
    open6 = Open;
    /// Neighbour discovery.
    discover6 = Discover;
    /// Those that are dropped.
    refuse6 = Refuse;
    /// Those to another container by a published port.
    hairpin6 = Hairpin;
    /// Likewise, where the sender's flow is to be made.
    hairpin6_first = HairpinFirst;
    /// Likewise, where the receiver's is.
    hairpin6_second = HairpinSecond;
    /// ICMPv6 errors about those.
    hairpin6_error = HairpinError;
    /// Those to another node that are too long for an outer header.
    overlay6 = Overlay;
}

#[inline(always)]
fn from_container6_step(ctx: &TcContext, this: Step6) -> i32 {
    let mut skb = Skb::new(ctx);
    let hook = skb.hook();
    let is_told = |step| matches!(step, Step6::Refuse | Step6::HairpinFirst | Step6::HairpinSecond);
    let mut told = if is_told(this) { skb.told() } else { Told::default() };
    match netd_common::from_container::step6(&mut skb, &Maps, hook, this, &mut told) {
        Ok(done) => verdict(&mut skb, done),
        Err(next) => {
            if is_told(next) {
                skb.tell(&told);
            }
            step(ctx, STEP_FROM_CONTAINER6 + next as u32);
            TC_ACT_SHOT
        }
    }
}

/// IPv6 from the world.
#[classifier]
fn from_uplink6(ctx: TcContext) -> i32 {
    from_uplink6_step(&ctx, Uplink6::Begin)
}

/// Fragments and ICMP errors from the world.
#[classifier]
fn reply6_rare(ctx: TcContext) -> i32 {
    from_uplink6_step(&ctx, Uplink6::Rare)
}

/// Those from the world that open a flow by a published port.
#[classifier]
fn publish6(ctx: TcContext) -> i32 {
    from_uplink6_step(&ctx, Uplink6::Open)
}

#[inline(always)]
fn from_uplink6_step(ctx: &TcContext, this: Uplink6) -> i32 {
    let mut skb = Skb::new(ctx);
    let hook = skb.uplink_hook();
    match netd_common::from_uplink::step6(&mut skb, &Maps, hook, this) {
        Ok(done) => verdict(&mut skb, done),
        Err(next) => {
            step(ctx, STEP_FROM_UPLINK6 + next as u32);
            TC_ACT_UNSPEC
        }
    }
}

/// Goes on with another program. Returns only if there is none, or too many have gone before.
#[inline(always)]
fn step(ctx: &TcContext, index: u32) {
    // SAFETY: the programs in the map are of this kind.
    unsafe { maps::STEPS.tail_call(ctx, index) };
}

/// The host side of a container's link, egress: what the host's own stack sends to the container.
#[classifier]
fn to_container(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let hook = skb.egress_hook();
    let done = netd_common::to_container(&skb, &Maps, hook);
    verdict(&mut skb, done)
}

/// The VXLAN device, ingress: what the kernel has decapsulated.
#[classifier]
fn from_overlay(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let hook = skb.tunnel_hook();
    let done = netd_common::from_overlay(&mut skb, &Maps, hook);
    // Its inner MAC address is the container's, not the device's. Before 6.15 the kernel would not see that it is the container's.
    if matches!(done.to, To::Peer) {
        skb.count_as_hosts();
    }
    verdict(&mut skb, done)
}

/// Removes flows from a list that the daemon hands over as a packet (BPF_PROG_TEST_RUN); attached to nothing. Returns how
/// many it removed.
#[classifier]
fn flow_gc(ctx: TcContext) -> i32 {
    flow_gc::run(&Skb::new(&ctx)) as i32
}

/// Tells the daemon what this kernel's helpers know ([`netd_common::abi::HelperFlags`]), tried on a frame of the daemon's
/// (BPF_PROG_TEST_RUN); attached to nothing.
#[classifier]
fn features(ctx: TcContext) -> i32 {
    features::run(&mut Skb::new(&ctx)) as i32
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

/// The same to an IPv6 address.
#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    sockets::to6(&Call(ctx.sock_addr))
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
fn verdict(skb: &mut Skb, verdict: Verdict) -> i32 {
    // SAFETY: helpers without preconditions; a wrong interface index makes the kernel drop the packet.
    unsafe {
        match verdict.to {
            To::Drop => TC_ACT_SHOT,
            // Not TC_ACT_OK: other programs on the hook are to have their say (TCX_NEXT; clsact goes on likewise).
            To::Stack => TC_ACT_UNSPEC,
            To::Peer if verdict.ifindex & Endpoint::SINGLE == 0 && skb.is_received() => {
                bpf_redirect_peer(verdict.ifindex, 0) as i32
            }
            To::Peer | To::Link => {
                skb.mark_delivered();
                bpf_redirect(verdict.ifindex & !Endpoint::SINGLE, 0) as i32
            }
            To::Neighbour => next_hop::send(skb, verdict.ifindex, &verdict.via) as i32,
            To::Out => bpf_redirect(verdict.ifindex, 0) as i32,
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

/// Address families of IPv4 and IPv6.
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// The raw context of a program.
type Context = *mut __sk_buff;
