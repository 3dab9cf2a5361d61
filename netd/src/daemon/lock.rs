//! One daemon at a time for a state directory, and for a directory of pins.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{MetadataExt, OpenOptionsExt as _},
    path::Path,
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// The lock's file in the state directory.
pub(super) const FILE: &str = "lock";

/// A lock that is held until it is dropped; the kernel gives it back when the process ends, in whatever way.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Flock<File>,
}

/// Locks a directory of state by the file [`FILE`] in it.
///
/// # Errors
/// Another process has it; the error says which.
pub(super) fn state_directory(directory: &Path) -> Result<Lock> {
    let path = directory.join(FILE);
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let lock = lock(file, &format!("state directory {}", directory.display()))?;
        // Who purges removes the file while holding the lock; then this is the lock on nothing.
        let held = lock._file.metadata()?.ino();
        if fs::metadata(&path).is_ok_and(|now| now.ino() == held) {
            return Ok(lock);
        }
    }
}

/// Locks a directory of pins. (A bpffs has no ordinary files, but a directory can be locked itself.)
///
/// # Errors
/// As [`state_directory`].
pub(super) fn pin_directory(directory: &Path) -> Result<Lock> {
    let file = File::open(directory).with_context(|| format!("cannot open {}", directory.display()))?;
    lock(file, &format!("bpffs directory {}", directory.display()))
}

/// Waits for a lock on any directory.
///
/// # Errors
/// It cannot be opened.
pub(super) fn wait(directory: &Path) -> Result<Lock> {
    let what = || format!("cannot lock {}", directory.display());
    let file = File::open(directory).with_context(what)?;
    match Flock::lock(file, FlockArg::LockExclusive) {
        Ok(file) => Ok(Lock { _file: file }),
        Err((_, errno)) => Err(errno).with_context(what),
    }
}

fn lock(file: File, what: &str) -> Result<Lock> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(Lock { _file: file }),
        Err((file, Errno::EWOULDBLOCK)) => match holder(&file) {
            Some(pid) => bail!("{what} is in use by netd (pid {pid})"),
            None => bail!("{what} is in use by another netd"),
        },
        Err((_, errno)) => Err(errno).with_context(|| format!("cannot lock {what}")),
    }
}

/// The process that holds the lock on a file.
fn holder(file: &File) -> Option<u32> {
    let inode = file.metadata().ok()?.ino();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| holder_in(line, inode))
}

/// Reads a line of /proc/locks: `1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF`. Devices are not compared: the kernel
/// prints that of the superblock, which is another one than stat's on some file systems.
fn holder_in(line: &str, inode: u64) -> Option<u32> {
    let mut fields = line.split_whitespace().skip(1);
    let kind = fields.next()?;
    let pid = fields.nth(2)?;
    let file = fields.next()?;
    let same = kind == "FLOCK" && file.rsplit(':').next()?.parse() == Ok(inode);
    same.then(|| pid.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let lock = state_directory(directory.path()).unwrap();
        let pins = pin_directory(directory.path()).unwrap();
        let path = directory.path().display();
        let pid = std::process::id();
        assert_eq!(
            state_directory(directory.path()).unwrap_err().to_string(),
            format!("state directory {path} is in use by netd (pid {pid})")
        );
        assert_eq!(
            pin_directory(directory.path()).unwrap_err().to_string(),
            format!("bpffs directory {path} is in use by netd (pid {pid})")
        );
        drop((lock, pins));
        state_directory(directory.path()).unwrap();
        pin_directory(directory.path()).unwrap();
    }

    #[test]
    fn the_holder_is_read() {
        let line = "12: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF";
        assert_eq!(holder_in(line, 1234), Some(4711));
        assert_eq!(holder_in(line, 1235), None);
        assert_eq!(holder_in("3: POSIX  ADVISORY  WRITE 4711 fe:00:1234 0 EOF", 1234), None);
        // One that waits for it.
        assert_eq!(holder_in("12: -> FLOCK  ADVISORY  WRITE 9 fe:00:1234 0 EOF", 1234), None);
        assert_eq!(holder_in("", 1), None);
    }
}
