//! What netd's network tests share. The tests are in `tests/tests`: one file a subject.
//!
//! They are black boxes: hosts and containers are network namespaces, the daemon is the real binary, and what counts is
//! which packets arrive and what the kernel and the daemon say afterwards. All of it is removed again, also when a test
//! fails, and two runs at once do not meet.

pub mod attempts;
pub mod big_tcp;
pub mod certificates;
pub mod cluster;
pub mod compare;
pub mod error_queue;
pub mod frames;
pub mod ports;
pub mod refusals;
pub mod segments;
pub mod site;
pub mod snapshot;
pub mod streams;
pub mod watch;

pub use cluster::{Cluster, with_cluster};
pub use site::{Site, with_site};
