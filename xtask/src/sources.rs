//! Whether the eBPF programs are those of their sources. Also a part of netd's build script, which embeds them: it has the standard
//! library only.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// What the programs are compiled of, in the workspace's root.
pub(crate) const SOURCES: [&str; 4] =
    ["netd-ebpf/src", "netd-ebpf/Cargo.toml", "netd-common/src", "netd-common/Cargo.toml"];

/// The file beside the objects that is as old as the sources were at least when they were compiled last. The objects themselves stay as
/// they are where nothing changes in them.
pub(crate) const STAMP: &str = "built";

/// A file at or below `path` that was written after `built`, if there is one.
///
/// # Errors
/// What is there cannot be looked at.
pub(crate) fn newer(path: &Path, built: SystemTime) -> io::Result<Option<PathBuf>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        return Ok((metadata.modified()? > built).then(|| path.to_owned()));
    }
    for entry in fs::read_dir(path)? {
        if let Some(found) = newer(&entry?.path(), built)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
