//! The embedded engine: one redb file in the state directory.

use std::{
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, anyhow, bail};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Change, Kind, Record, Store, StoreFuture};

/// The file's name in the state directory.
pub const FILE: &str = "netd.redb";

/// The file's name while it is made.
pub const FRESH: &str = "netd.redb.new";

/// (kind, name) -> [`Envelope`] as JSON.
const RECORDS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("records");

/// The version of the records. A later netd that changes them reads this one too; an earlier one refuses a later one's.
const SCHEMA: u32 = 1;

/// Pages that are kept in memory. The whole state of a host is a few megabytes at most.
const CACHE: usize = 8 << 20;

#[derive(Serialize, Deserialize)]
struct Envelope {
    schema: u32,
    record: Value,
}

/// The embedded store.
#[derive(Debug)]
pub struct RedbStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// None: the last use failed, and the file is opened anew by the next. redb refuses all further work on a database
    /// after an I/O error, also when the disk has room again.
    database: Mutex<Option<Database>>,
}

impl RedbStore {
    /// Opens the store of a state directory, or makes it.
    ///
    /// # Errors
    /// The file cannot be written, is damaged, or is in use.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join(FILE);
        let database = guarded(&path, || {
            create(&path)?;
            open(&path)
        })?;
        Ok(Self(Arc::new(Inner { path, database: Mutex::new(Some(database)) })))
    }

    /// Runs `work` with the database on a thread that may block: a commit waits for the disk.
    fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            tokio::task::spawn_blocking(move || inner.with(work)).await.context("the store's thread ended")?
        })
    }
}

impl Inner {
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let mut slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        guarded(&self.path, || {
            // Taken out, and put back only after success.
            let database = match slot.take() {
                Some(database) => database,
                None => open(&self.path)?,
            };
            let done = work(&database)?;
            *slot = Some(database);
            Ok(done)
        })
    }
}

impl Store for RedbStore {
    fn load(&mut self) -> StoreFuture<'_, Vec<Record>> {
        self.with(load)
    }

    fn commit(&mut self, changes: Vec<Change>) -> StoreFuture<'_, ()> {
        self.with(move |database| commit(database, &changes))
    }

    fn describe(&self) -> String {
        self.0.path.display().to_string()
    }
}

/// Makes the file, if there is none or an empty one. It gets its name when it is complete: a crash leaves no half of it.
fn create(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() || metadata.len() > 0 => return Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let fresh = path.with_file_name(FRESH);
    remove(&fresh)?;
    let created = (|| {
        drop(Database::builder().create(&fresh).map_err(refused)?);
        File::open(&fresh)?.sync_all()?;
        fs::rename(&fresh, path)?;
        let directory = path.parent().context("it is in no directory")?;
        Ok(File::open(directory)?.sync_all()?)
    })();
    if created.is_err() {
        remove(&fresh)?;
    }
    created
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Opens the file. Never makes one: after an error, that would be one without what was there before.
fn open(path: &Path) -> Result<Database> {
    let mut builder = Database::builder();
    // Without the check, a file that something else wrote to is trusted.
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    builder.open(path).map_err(refused)
}

fn refused(error: DatabaseError) -> anyhow::Error {
    match error {
        DatabaseError::DatabaseAlreadyOpen => anyhow!("another process has it open"),
        error => plain(error.into()),
    }
}

fn load(database: &Database) -> Result<Vec<Record>> {
    let transaction = database.begin_read().map_err(plain_from)?;
    let table = match transaction.open_table(RECORDS) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        table => table.map_err(plain_from)?,
    };
    let mut records = Vec::new();
    for entry in table.iter().map_err(plain_from)? {
        let (key, value) = entry.map_err(plain_from)?;
        let (kind, name) = key.value();
        records.push(decode(kind, name, value.value())?);
    }
    Ok(records)
}

fn decode(kind: &str, name: &str, bytes: &[u8]) -> Result<Record> {
    let what = || format!("record {kind} `{name}`");
    let envelope: Envelope = serde_json::from_slice(bytes).with_context(what)?;
    let (true, Some(kind)) = (envelope.schema <= SCHEMA, Kind::parse(kind)) else {
        bail!("{} was written by a later version of netd: use that one", what());
    };
    Ok(Record { kind, name: name.to_owned(), value: envelope.record })
}

fn commit(database: &Database, changes: &[Change]) -> Result<()> {
    // Durable by default: commit() returns when the data is on the disk.
    let transaction = database.begin_write().map_err(plain_from)?;
    {
        let mut table = transaction.open_table(RECORDS).map_err(plain_from)?;
        for change in changes {
            match change {
                Change::Put(kind, name, record) => {
                    let envelope = Envelope { schema: SCHEMA, record: record.clone() };
                    let bytes = serde_json::to_vec(&envelope).context("cannot write JSON")?;
                    table.insert((kind.as_str(), name.as_str()), bytes.as_slice()).map_err(plain_from)?;
                }
                Change::Delete(kind, name) => {
                    table.remove((kind.as_str(), name.as_str())).map_err(plain_from)?;
                }
            }
        }
    }
    transaction.commit().map_err(plain_from)
}

fn plain_from(error: impl Into<redb::Error>) -> anyhow::Error {
    plain(error.into())
}

/// redb's errors, without the words that only redb's users understand.
fn plain(error: redb::Error) -> anyhow::Error {
    match error {
        redb::Error::Io(error) => match error.kind() {
            // What redb says about a file that does not begin as its files do.
            io::ErrorKind::InvalidData => damaged(&error.to_string()),
            _ => error.into(),
        },
        redb::Error::Corrupted(what) => damaged(&what),
        error => error.into(),
    }
}

fn damaged(what: &str) -> anyhow::Error {
    anyhow!("the file is damaged ({what}): `netd run --purge` removes it, and everything of netd with it")
}

/// Names the file in all errors, and turns a panic into one: redb panics over some damaged files.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(damaged("unreadable")));
    result.with_context(|| format!("state file {}", path.display()))
}

#[cfg(test)]
mod tests;
