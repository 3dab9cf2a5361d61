//! The cluster's state in etcd: who is there, the networks, and who has which slice of them.

mod config;

pub use self::config::{EtcdConfig, TlsFiles};
