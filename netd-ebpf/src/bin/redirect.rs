//! What any datapath of TC programs over veth costs at least, for `netd bench` only: a program that looks nothing up and checks
//! nothing but the destination, and hands the packet on with the next hop's MAC address, which it knows.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the classifier macro passes the context by value")]

use core::ptr::read_volatile;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_UNSPEC},
    helpers::generated::{bpf_redirect, bpf_redirect_peer},
    macros::classifier,
    programs::TcContext,
};

// Set when the program is loaded, once for each interface that it is attached to.

/// The address of the container that is reached, as it lies in memory.
#[unsafe(no_mangle)]
static ADDRESS: u32 = 0;
/// Index of the host side of its link, and the Ethernet header's addresses on it.
#[unsafe(no_mangle)]
static PEER: u32 = 0;
#[unsafe(no_mangle)]
static PEER_MACS: [u32; 3] = [0; 3];
/// Index of the interface that all else goes out of, with these addresses; 0: it is the host's.
#[unsafe(no_mangle)]
static OUT: u32 = 0;
#[unsafe(no_mangle)]
static OUT_MACS: [u32; 3] = [0; 3];

/// EtherType of IPv4, as it lies in memory.
const IPV4: u16 = 0x0800_u16.to_be();

/// Ethernet, then IPv4 up to its addresses.
#[repr(C, packed)]
struct Head {
    macs: [u32; 3],
    ethertype: u16,
    rest: [u8; 16],
    destination: u32,
}

/// Ingress of the host side of a container's link, and of the uplink.
#[classifier]
fn redirect(ctx: TcContext) -> i32 {
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: loads from the context; the head is read and written only where all of it is in the packet; the globals are written
    // before the program is loaded. Volatile: the compiler would take the zeros above for their values.
    unsafe {
        let head = (*skb).data as usize as *mut Head;
        if head as usize + size_of::<Head>() > (*skb).data_end as usize || (*head).ethertype != IPV4 {
            return TC_ACT_UNSPEC;
        }
        if (*head).destination == read_volatile(&raw const ADDRESS) {
            (*head).macs = read_volatile(&raw const PEER_MACS);
            return bpf_redirect_peer(read_volatile(&raw const PEER), 0) as i32;
        }
        let out = read_volatile(&raw const OUT);
        if out == 0 {
            return TC_ACT_UNSPEC;
        }
        (*head).macs = read_volatile(&raw const OUT_MACS);
        bpf_redirect(out, 0) as i32
    }
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
