//! What a daemon and its maps hold of the machine's memory, in MiB.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use anyhow::{Context, Result};
use aya::maps::MapData;

const MIB: f64 = 1024.0 * 1024.0;

/// Resident memory of a process.
///
/// # Errors
/// There is no such process.
pub(super) fn resident(pid: u32) -> Result<f64> {
    let path = Path::new("/proc").join(pid.to_string()).join("status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    kibibytes(&status, "VmRSS:")
        .map(|value| value / 1024.0)
        .with_context(|| format!("{}: no VmRSS", path.display()))
}

/// Resident memory of a process and of all that it has started.
///
/// # Errors
/// As [`resident`].
pub(super) fn resident_with_children(pid: u32) -> Result<f64> {
    let mut total = resident(pid)?;
    let threads = fs::read_dir(format!("/proc/{pid}/task")).context("the process has ended")?;
    for thread in threads.flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            // One that has ended since holds nothing.
            total += resident_with_children(child).unwrap_or(0.0);
        }
    }
    Ok(total)
}

/// What the kernel holds for the maps that are pinned below a directory.
///
/// # Errors
/// A map cannot be opened.
pub(super) fn maps(pins: &Path) -> Result<f64> {
    let mut total = 0.0;
    let mut directories = vec![pins.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                directories.push(path);
            } else if directory.ends_with("maps") {
                total += map(&path)?;
            }
        }
    }
    Ok(total)
}

fn map(path: &Path) -> Result<f64> {
    let map = MapData::from_pin(path).with_context(|| format!("cannot open {}", path.display()))?;
    let fd = map.fd().as_fd().as_raw_fd();
    let info =
        fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).context("cannot read the map's fdinfo")?;
    let bytes = field(&info, "memlock:").and_then(|text| text.parse::<f64>().ok()).context("no memlock")?;
    Ok(bytes / MIB)
}

fn kibibytes(status: &str, name: &str) -> Option<f64> {
    field(status, name)?.trim_end_matches("kB").trim().parse().ok()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read() {
        let status = "Name:\tnetd\nVmRSS:\t    2048 kB\nThreads:\t3\n";
        assert_eq!(kibibytes(status, "VmRSS:"), Some(2048.0));
        assert_eq!(kibibytes(status, "VmHWM:"), None);
        assert_eq!(field("pos:\t0\nmemlock:\t4096\n", "memlock:"), Some("4096"));
    }

    #[test]
    fn this_process_has_memory() {
        let own = resident(std::process::id()).expect("memory");
        assert!(own > 0.1 && resident_with_children(std::process::id()).expect("memory") >= own, "{own}");
        assert!(maps(Path::new("/nowhere")).is_err());
    }
}
