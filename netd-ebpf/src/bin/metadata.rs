//! The other way to VXLAN, for `netd bench` only: a tunnel device in collect-metadata mode, driven by two programs that do no
//! more than that takes. They look nothing up and check nothing, so they cost less than any datapath that is built this way.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the classifier macro passes the context by value")]

use core::ptr::read_volatile;

use aya_ebpf::{
    bindings::{BPF_F_ZERO_CSUM_TX, TC_ACT_SHOT, bpf_tunnel_key},
    helpers::generated::{bpf_redirect, bpf_redirect_peer, bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key},
    macros::classifier,
    programs::TcContext,
};

/// The part of a tunnel key that kernels since 4.3 know, up to the label.
const KEY: u32 = 28;

// Set when the programs are loaded, once for each host.

/// Index of the tunnel device.
#[unsafe(no_mangle)]
static DEVICE: u32 = 0;
/// Index of the host side of the container's link.
#[unsafe(no_mangle)]
static LINK: u32 = 0;
/// Address of the other host, in host byte order.
#[unsafe(no_mangle)]
static REMOTE: u32 = 0;
/// The network's number.
#[unsafe(no_mangle)]
static VNI: u32 = 0;

/// The host side of the container's link, ingress: all that the container sends goes to the other host.
#[classifier]
fn to_tunnel(ctx: TcContext) -> i32 {
    // SAFETY: the key is plain data, for which zero is valid, and larger than what the helper reads; the globals are
    // written before the program is loaded. Volatile: the compiler would take the zeros above for their values.
    unsafe {
        let mut key: bpf_tunnel_key = core::mem::zeroed();
        key.tunnel_id = read_volatile(&raw const VNI);
        key.__bindgen_anon_1.remote_ipv4 = read_volatile(&raw const REMOTE);
        key.tunnel_ttl = 64;
        if bpf_skb_set_tunnel_key(ctx.skb.skb, &mut key, KEY, BPF_F_ZERO_CSUM_TX.into()) != 0 {
            return TC_ACT_SHOT;
        }
        bpf_redirect(read_volatile(&raw const DEVICE), 0) as i32
    }
}

/// The tunnel device, ingress: all that comes with the network's number goes to the container.
#[classifier]
fn from_tunnel(ctx: TcContext) -> i32 {
    // SAFETY: as above; the helper writes no more than KEY bytes.
    unsafe {
        let mut key: bpf_tunnel_key = core::mem::zeroed();
        if bpf_skb_get_tunnel_key(ctx.skb.skb, &mut key, KEY, 0) != 0
            || key.tunnel_id != read_volatile(&raw const VNI)
        {
            return TC_ACT_SHOT;
        }
        bpf_redirect_peer(read_volatile(&raw const LINK), 0) as i32
    }
}

/// The licence that the kernel sees: some helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
