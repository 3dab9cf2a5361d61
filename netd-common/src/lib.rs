//! What netd's eBPF programs and its daemon share: the types of the maps ([`abi`]), the drop reasons ([`reason`]), and the
//! decision core: what happens to a packet, in plain Rust over two small traits, [`Packet`] (its bytes) and [`Tables`]
//! (endpoints, routes, flows). The same code runs in the kernel, compiled to BPF, and on the host under property tests.
//!
//! A packet's way, top to bottom: [`from_container()`] or [`from_uplink()`] decides ([`Plan`]), [`Plan::carry_out`] rewrites, and
//! the adapter in `netd-ebpf` turns the [`Verdict`] into the hook's return code.
#![cfg_attr(not(feature = "host"), no_std)]
// For the compare-and-swap in `shared`: aya-ebpf needs the same feature, so no toolchain is asked for more than it.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod abi;
pub mod addr;
pub mod arp;
pub mod checksum;
pub mod class;
pub mod extension;
pub mod flow;
pub mod fragment;
pub mod from_container;
pub mod from_overlay;
pub mod from_uplink;
pub mod hairpin;
pub mod hairpin_error;
pub mod headers;
#[cfg(feature = "host")]
pub mod host;
pub mod icmp_error;
pub mod nat;
pub mod ndp;
pub mod overlay;
pub mod packet;
pub mod plan;
pub mod published;
pub mod quota;
pub mod reason;
pub mod related;
pub mod segment;
pub mod shared;
pub mod tables;
pub mod to_container;

pub mod wire;
pub mod xdp_uplink;

pub use addr::{Addr, V4, V6};
pub use from_container::{from_container, from_container6};
pub use from_overlay::from_overlay;
pub use from_uplink::{from_uplink, from_uplink6};
pub use packet::{Hook, Packet};
pub use plan::{Plan, To, Verdict};
pub use reason::{Drop, Way};
pub use tables::{Common, Tables};
pub use to_container::to_container;
pub use xdp_uplink::xdp_uplink;
