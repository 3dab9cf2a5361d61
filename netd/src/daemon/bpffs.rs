//! The file system of pins.

use std::{
    fs, io,
    path::{Component, Path},
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::lock;

/// Where a bpffs belongs.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Makes sure that `directory` exists and is on a bpffs, which is mounted if its usual place has none.
///
/// # Errors
/// It is on something else, or cannot be made.
pub(super) fn prepare(directory: &Path) -> Result<()> {
    if !directory.is_absolute() || directory.components().any(|part| part == Component::ParentDir) {
        bail!("bpffs directory {} is not an absolute path without `..`", directory.display());
    }
    if !is_on_bpffs(directory)? {
        if !directory.starts_with(MOUNT_POINT) {
            bail!(
                "{} is not on a bpffs: choose a directory below {MOUNT_POINT}, or mount one there with \
                 `mount -t bpf bpf DIR`",
                directory.display()
            );
        }
        mount_bpffs()?;
    }
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))
}

fn mount_bpffs() -> Result<()> {
    let point = Path::new(MOUNT_POINT);
    // Two daemons that mount at once would hide each other's pins. Both lock what is below the mount.
    let _lock = lock::wait(point)?;
    if !is_on_bpffs(point)? {
        mount(Some("bpf"), point, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .with_context(|| format!("cannot mount a bpffs on {MOUNT_POINT}"))?;
    }
    Ok(())
}

/// Whether a directory, or the nearest one above it that exists, is on a bpffs.
pub(super) fn is_on_bpffs(directory: &Path) -> Result<bool> {
    for ancestor in directory.ancestors() {
        match statfs(ancestor) {
            Ok(found) => return Ok(found.filesystem_type() == BPF_FS_MAGIC),
            Err(nix::errno::Errno::ENOENT) => {}
            Err(errno) => {
                return Err(io::Error::from(errno))
                    .with_context(|| format!("cannot look at {}", ancestor.display()));
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elsewhere_it_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = prepare(&directory.path().join("a/b")).unwrap_err().to_string();
        assert!(error.contains("is not on a bpffs") && error.contains("mount -t bpf"), "{error}");
        assert!(!directory.path().join("a").exists(), "something was made");
        let error = prepare(Path::new("/sys/fs/bpf/../x")).unwrap_err().to_string();
        assert!(error.contains("absolute"), "{error}");
    }
}
