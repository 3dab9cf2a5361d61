//! A record beside what etcd knows of its key.

use super::{
    keys::{Key, Record},
    model::Problem,
    room::Kind,
};

/// What etcd knows of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Version {
    /// The revision at which it came to be.
    pub(super) created: i64,
    /// The revision at which it was last changed.
    pub(super) revision: i64,
    /// The lease that it goes with; 0: none.
    pub(super) lease: i64,
}

impl Version {
    pub(super) fn of(record: &etcd_client::KeyValue) -> Self {
        Self { created: record.create_revision(), revision: record.mod_revision(), lease: record.lease() }
    }
}

/// A record and what etcd knows of its key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stored<T> {
    /// The revision at which it came to be.
    pub(super) created: i64,
    /// The revision at which it was last changed.
    pub(super) revision: i64,
    /// The lease that it goes with; 0: none.
    pub(super) lease: i64,
    /// What is there, or what was there when it was last understood; none: nothing that ever was.
    pub(super) record: Option<T>,
    /// Why what is there now does not count; none: it does.
    pub(super) wrong: Option<String>,
    /// The room that it takes: of which kind, and how many bytes.
    pub(super) place: (Kind, usize),
}

impl<T> Stored<T> {
    pub(super) fn new(
        version: Version,
        place: (Kind, usize),
        read: Result<Record, String>,
        narrow: impl Fn(Record) -> Option<T>,
    ) -> Self {
        let Version { created, revision, lease } = version;
        let (record, wrong) = match read {
            Ok(record) => (narrow(record), None),
            Err(why) => (None, Some(why)),
        };
        Self { created, revision, lease, record, wrong, place }
    }

    /// Keeps what was understood of the same record before, where the value makes no sense now, or says something that
    /// `another` finds (in words) to be another record's.
    pub(super) fn keeping(
        mut self,
        before: Option<Self>,
        another: impl Fn(&T, &T) -> Option<String>,
    ) -> Self {
        let Some(before) = before else { return self };
        // One that was removed meanwhile and made anew is another one. Of what this node itself remembers, nobody knows
        // when it was made.
        if self.created != before.created && before.created != UNKNOWN {
            return self;
        }
        let Some(old) = before.record else { return self };
        match &self.record {
            None => self.record = Some(old),
            Some(new) if self.created == before.created => {
                if let Some(why) = another(&old, new) {
                    (self.record, self.wrong) = (Some(old), Some(why));
                }
            }
            Some(_) => {}
        }
        self
    }

    /// What is wrong with it.
    pub(super) fn problem(&self, key: impl Fn() -> Key) -> Option<Problem> {
        let why = self.wrong.as_ref()?;
        let what = match self.record {
            Some(_) => format!("{why}; what was there before still counts: correct the key in etcd"),
            None => why.clone(),
        };
        Some(Problem { key: key(), revision: self.revision, what })
    }
}

/// The revision of what etcd was not asked about.
pub(super) const UNKNOWN: i64 = 0;
