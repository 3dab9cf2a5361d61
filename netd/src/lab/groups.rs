//! Control groups of a lab: those that a container engine which runs in it has made.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// Where they are: each hierarchy of version 1 in a directory of its own, that of version 2 in one or here itself.
const DIRECTORY: &str = "/sys/fs/cgroup";

/// Removes the groups whose names begin with this, and those inside. Goes on past errors.
pub(super) fn remove(start: &str) {
    remove_below(Path::new(DIRECTORY), start);
}

fn remove_below(top: &Path, start: &str) {
    let hierarchies = directories(top).into_iter().chain([top.to_owned()]);
    let is_ours = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(start))
    };
    for group in hierarchies.flat_map(|hierarchy| directories(&hierarchy)).filter(is_ours) {
        remove_group(&group);
    }
}

fn remove_group(group: &Path) {
    for inner in directories(group) {
        remove_group(&inner);
    }
    // A process that was killed may take a moment to leave it.
    for _ in 0..50 {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                thread::sleep(Duration::from_millis(10));
            }
            _ => break,
        }
    }
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    // Not what a link names: that would be another one's.
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_a_lab_go_and_others_stay() {
        let top = tempfile::tempdir().expect("a directory");
        for group in
            ["memory/nd-x-1-docker/one/two", "memory/nd-x-12-docker", "nd-x-1-docker", "cpu/other/one"]
        {
            fs::create_dir_all(top.path().join(group)).expect("a group");
        }
        remove_below(top.path(), "nd-x-1-");
        for (group, stays) in [
            ("memory/nd-x-1-docker", false),
            ("nd-x-1-docker", false),
            ("memory/nd-x-12-docker", true),
            ("cpu/other/one", true),
        ] {
            assert_eq!(top.path().join(group).exists(), stays, "{group}");
        }
    }
}
