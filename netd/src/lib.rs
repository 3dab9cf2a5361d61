//! netd: container networking on eBPF, without the Linux bridge and without iptables.
//!
//! Floors, lowest first; a lower one never calls a higher one: [`netlink`] and [`bpf`] talk to the kernel, [`store`] keeps
//! the desired state, the domain ([`network`], [`endpoint`], [`publish`], [`node`], [`ipam`], and [`state`], which holds them together)
//! says what it means, [`reconcile`] brings the kernel to it, [`daemon`] owns all of that, [`api`] offers it on a unix
//! socket, and [`cli`] is what people type.

pub mod api;
pub mod bench;
pub mod bpf;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod endpoint;
pub mod held;
pub mod holders;
pub mod ipam;
pub mod lab;
pub mod link;
pub mod mac;
pub mod names;
pub mod netlink;
pub mod network;
pub mod node;
pub mod pair;
pub mod publish;
pub mod reconcile;
pub mod request;
pub mod slots;
pub mod state;
pub mod store;
