//! The cluster's state in etcd: who is there, the networks, and who has which slice of them.
//!
//! One background task keeps all of it in memory ([`model`]), as etcd's watch tells it, and brings etcd to what this node
//! wants: what comes next is decided on what was read ([`plan`], [`goal`]) and carried out as a transaction that happens
//! only if nothing of that has changed ([`step`]). So of two nodes that want one thing exactly one gets it.

mod config;
mod counter;
mod directory;
mod goal;
mod keys;
mod model;
mod notes;
mod plan;
mod room;
mod session;
mod step;
mod stored;
mod task;

pub use self::{
    config::{EtcdConfig, TlsFiles},
    directory::{Directory, Identity},
};

#[cfg(test)]
mod tests;
