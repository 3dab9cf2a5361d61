//! Files that only root reads: which containers a host has, and who they talk to, is nobody else's business.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context, Result};

use super::lock;
use crate::store::{REDB_FILE, REDB_FRESH};

/// Makes a state directory, for root alone. One that is there with nothing in it but netd's becomes so; another one may be
/// shared with others, and stays as it is.
pub(super) fn directory(path: &Path) -> Result<()> {
    let what = || format!("cannot create the state directory {}", path.display());
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(what)?;
    let mut entries = fs::read_dir(path).with_context(what)?;
    let is_own = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| {
            [REDB_FILE, REDB_FRESH, lock::FILE].iter().any(|own| entry.file_name() == *own)
        })
    };
    match entries.all(is_own) {
        true => restrict(path, 0o700),
        false => Ok(()),
    }
}

/// Takes a file from all but root.
pub(super) fn file(path: &Path) -> Result<()> {
    restrict(path, 0o600)
}

fn restrict(path: &Path, mode: u32) -> Result<()> {
    let what = || format!("cannot make {} private", path.display());
    let now = fs::metadata(path).with_context(what)?.permissions().mode();
    if now & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(mode)).with_context(what)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_netds_is_for_root_alone() {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let top = tempfile::tempdir().unwrap();
        let fresh = top.path().join("a/state");
        directory(&fresh).unwrap();
        assert_eq!(mode(&fresh), 0o700);
        // That of an earlier version.
        let old = top.path().join("old");
        fs::create_dir(&old).unwrap();
        fs::set_permissions(&old, Permissions::from_mode(0o755)).unwrap();
        fs::write(old.join(REDB_FILE), "x").unwrap();
        fs::set_permissions(old.join(REDB_FILE), Permissions::from_mode(0o644)).unwrap();
        directory(&old).unwrap();
        file(&old.join(REDB_FILE)).unwrap();
        assert_eq!((mode(&old), mode(&old.join(REDB_FILE))), (0o700, 0o600));
        // One that others use too.
        fs::set_permissions(&old, Permissions::from_mode(0o755)).unwrap();
        fs::write(old.join("another's"), "x").unwrap();
        directory(&old).unwrap();
        assert_eq!(mode(&old), 0o755);
    }
}
