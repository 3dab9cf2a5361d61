//! netd's eBPF programs: one entry point a hook. They hand the packet and the maps to the decision core in `netd-common`
//! and turn its verdict into the hook's return code; what happens to a packet is written there.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the classifier macro passes the context by value")]

mod flow_gc;
mod maps;
mod skb;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh},
    helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer},
    macros::classifier,
    programs::TcContext,
};
use netd_common::{
    Addr as _, To, V6, Verdict,
    abi::{STEP_FROM_CONTAINER6, STEP_FROM_UPLINK6},
    from_container::{Step6, Told},
    from_uplink::Step6 as Uplink6,
};

use crate::{maps::Maps, skb::Skb};

/// The host side of a container's link, ingress: what the container sends.
#[classifier]
fn from_container(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    if skb.is_ipv6() {
        step(&ctx, STEP_FROM_CONTAINER6);
        return TC_ACT_SHOT;
    }
    let hook = skb.hook();
    verdict(netd_common::from_container(&mut skb, &Maps, hook), hook.ifindex)
}

/// The uplink, ingress: what comes from the world.
#[classifier]
fn from_uplink(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let hook = skb.uplink_hook();
    if let Some(done) = netd_common::from_uplink(&mut skb, &Maps, hook) {
        return verdict(done, hook.ifindex);
    }
    step(&ctx, STEP_FROM_UPLINK6);
    TC_ACT_UNSPEC
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
}

#[inline(always)]
fn from_container6_step(ctx: &TcContext, this: Step6) -> i32 {
    let mut skb = Skb::new(ctx);
    let hook = skb.hook();
    let mut told = if matches!(this, Step6::Refuse) { skb.told() } else { Told::default() };
    match netd_common::from_container::step6(&mut skb, &Maps, hook, this, &mut told) {
        Ok(done) => verdict(done, hook.ifindex),
        Err(next) => {
            if matches!(next, Step6::Refuse) {
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

#[inline(always)]
fn from_uplink6_step(ctx: &TcContext, this: Uplink6) -> i32 {
    let mut skb = Skb::new(ctx);
    let hook = skb.uplink_hook();
    match netd_common::from_uplink::step6(&mut skb, &Maps, hook, this) {
        Ok(done) => verdict(done, hook.ifindex),
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
            To::Neighbour if verdict.via == V6::ZERO => {
                bpf_redirect_neigh(verdict.ifindex, core::ptr::null_mut(), 0, 0) as i32
            }
            To::Neighbour => redirect_via(verdict.ifindex, &verdict.via) as i32,
            To::Reflect => bpf_redirect(ifindex, 0) as i32,
        }
    }
}

/// Out of an interface by a next hop.
///
/// A subprogram: what it needs of stack, all would pay for.
#[inline(never)]
fn redirect_via(ifindex: u32, via: &V6) -> i64 {
    // SAFETY: plain data, for which zero is valid.
    let mut next: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    if let Some(via) = via.unmapped() {
        next.nh_family = AF_INET;
        next.__bindgen_anon_1.ipv4_nh = via.0;
    } else {
        next.nh_family = AF_INET6;
        next.__bindgen_anon_1.ipv6_nh = via.0;
    }
    // SAFETY: a helper without preconditions; the parameters are as long as we say.
    unsafe { bpf_redirect_neigh(ifindex, &mut next, size_of_val(&next) as i32, 0) }
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
