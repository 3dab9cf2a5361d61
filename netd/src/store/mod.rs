//! The desired state, kept where it survives the daemon.
//!
//! An engine keeps small JSON records by kind and name, and knows nothing of what they mean. Whatever belongs together is
//! committed together: after a crash at any moment, either all of a commit is there or nothing of it.

mod redb;

use std::{fmt, future::Future, pin::Pin};

use anyhow::{Context, Result};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

pub use self::redb::{FILE as REDB_FILE, FRESH as REDB_FRESH, RedbStore};

/// What a record is about. The text of it is part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A network, by its name.
    Network,
    /// An endpoint, by its name.
    Endpoint,
    /// Where the search for a free address goes on, by the network's name.
    Cursor,
    /// Facts about the node, by their names.
    Node,
    /// Another node as it was last known, by its name.
    Peer,
    /// An endpoint that has been detached, by its name, while its link may be there still.
    Leaving,
    /// A source that is denied, by its prefix: the number of its counter.
    Denied,
}

impl Kind {
    const ALL: [Self; 7] =
        [Self::Network, Self::Endpoint, Self::Cursor, Self::Node, Self::Peer, Self::Leaving, Self::Denied];

    /// The text that stands for it in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Endpoint => "endpoint",
            Self::Cursor => "cursor",
            Self::Node => "node",
            Self::Peer => "peer",
            Self::Leaving => "leaving",
            Self::Denied => "denied",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One step of a commit.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Adds a record or replaces the one of that kind and name.
    Put(Kind, String, Value),
    /// Removes a record; fine if there is none.
    Delete(Kind, String),
}

impl Change {
    /// A [`Change::Put`] of anything that can be JSON.
    ///
    /// # Errors
    /// It cannot be.
    pub fn put(kind: Kind, name: &str, record: &impl Serialize) -> Result<Self> {
        let value =
            serde_json::to_value(record).with_context(|| format!("cannot write {kind} `{name}` as JSON"))?;
        Ok(Self::Put(kind, name.to_owned(), value))
    }

    /// A [`Change::Delete`].
    #[must_use]
    pub fn delete(kind: Kind, name: &str) -> Self {
        Self::Delete(kind, name.to_owned())
    }
}

/// A record as it was loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What it is about.
    pub kind: Kind,
    /// Its name within its kind.
    pub name: String,
    /// What it says.
    pub value: Value,
}

impl Record {
    /// The record as the type that its kind has.
    ///
    /// # Errors
    /// It is not of that shape: another version of netd wrote it, or something else did.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.value.clone())
            .with_context(|| format!("cannot read {} `{}` of the stored state", self.kind, self.name))
    }
}

/// What an engine's methods return.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// An engine.
pub trait Store: Send + Sync {
    /// All records, in no order.
    fn load(&mut self) -> StoreFuture<'_, Vec<Record>>;

    /// Carries out all changes, in their order, in one transaction, and returns when they are durable.
    ///
    /// After an error none of them is there, and a later commit may succeed (e.g. when the disk is no longer full).
    fn commit(&mut self, changes: Vec<Change>) -> StoreFuture<'_, ()>;

    /// What it is and where, for people, e.g. `/var/lib/netd/netd.redb`.
    fn describe(&self) -> String;
}
