//! Packets and tables in memory: what the core runs on in tests on the host, without a kernel. And what such tests share
//! with those of the loaded programs: [`build`] makes frames, [`cases`] says what is to become of them.

mod attack6_cases;
mod attack_cases;
mod attack_overlay_cases;
mod attack_uplink_cases;
pub mod build;
pub mod cases;
mod class_cases;
mod consistent;
mod fragment_cases;
mod frame;
mod hairpin_error_cases;
mod icmp_cases;
pub mod ipv6;
mod ipv6_cases;
mod ipv6_node_cases;
mod memory;
mod overlay_cases;
mod own_overlay_cases;
mod published6_cases;
mod published_cases;
pub mod schedule;
pub mod sync;
mod uplink_cases;

pub use frame::Frame;
pub use memory::{Memory, Repeatable};
