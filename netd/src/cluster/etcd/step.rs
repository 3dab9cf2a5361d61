//! A change of what is in etcd: one transaction.
//!
//! Each names what it was decided on; where that has changed meanwhile, nothing happens, and it is decided anew.

use serde::Serialize;

use super::keys::{Key, SliceRecord};

/// What must be so for a step to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// A key was changed last at this revision; 0: it is not there.
    Revision(String, i64),
    /// A key goes with this lease.
    Lease(String, i64),
    /// No key that begins so was changed after this revision.
    Unchanged(&'static str, i64),
}

/// What then happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// A key gets a value, and a lease (0: none).
    Put(String, Vec<u8>, i64),
    /// A key goes.
    Delete(String),
    /// All keys go that begin so.
    DeleteBelow(String),
}

/// A transaction. It changes at least one key that is there, so that the change is seen when it has happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) guards: Vec<Guard>,
    pub(super) writes: Vec<Write>,
}

impl Step {
    pub(super) fn when(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    /// If the key is at this revision (0: not there).
    pub(super) fn at(self, key: &Key, revision: i64) -> Self {
        self.when(Guard::Revision(key.to_string(), revision))
    }

    /// Puts a record, with a lease (0: none).
    pub(super) fn put(mut self, key: &Key, record: &impl Serialize, lease: i64) -> Self {
        // Our records are structs of numbers and texts, which can all be written.
        let value = serde_json::to_vec(record).unwrap_or_default();
        self.writes.push(Write::Put(key.to_string(), value, lease));
        self
    }

    pub(super) fn delete(mut self, key: &Key) -> Self {
        self.writes.push(Write::Delete(key.to_string()));
        self
    }

    pub(super) fn delete_below(mut self, start: String) -> Self {
        self.writes.push(Write::DeleteBelow(start));
        self
    }

    /// Takes a slice for a node.
    pub(super) fn take(self, key: &Key, node: &str) -> Self {
        self.at(key, 0).put(key, &SliceRecord { node: node.to_owned() }, 0)
    }
}
