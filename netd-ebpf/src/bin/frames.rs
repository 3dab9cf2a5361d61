//! Frames for `netd bench` only: one program that puts them on a link, and one that drops them all.
//!
//! The first is run by the bench itself (`BPF_PROG_RUN` with live frames), the second at the other end of the link, as the
//! least that dropping can cost.
#![no_std]
#![no_main]

use core::ptr::read_volatile;

use aya_ebpf::{bindings::xdp_action, helpers::generated::bpf_redirect, macros::xdp, programs::XdpContext};

/// Index of the link that frames are put on; set when the program is loaded.
#[unsafe(no_mangle)]
static LINK: u32 = 0;

/// Sends the frame.
#[xdp]
fn send(_ctx: XdpContext) -> u32 {
    // SAFETY: the global is written before the program is loaded. Volatile: the compiler would take the zero above for its
    // value.
    unsafe { bpf_redirect(read_volatile(&raw const LINK), 0) as u32 }
}

/// Drops the frame.
#[xdp]
fn drop(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// The licence that the kernel sees.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
