//! Compiles and lints the eBPF programs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::setup::Ebpf;
use crate::sources::STAMP;
use crate::toolchain::TARGET;
use crate::workspace;

/// Compiles the eBPF programs and puts the objects where netd's build script finds them.
pub(crate) fn build(ebpf: &Ebpf) -> Result<()> {
    let directory = workspace::root().join("target/bpf");
    let stamp = directory.join(STAMP);
    // From before the sources are read: who writes to them meanwhile has to build again.
    let begun = stamp.with_extension("part");
    fs::create_dir_all(&directory)
        .and_then(|()| fs::write(&begun, ""))
        .with_context(|| format!("writing {}", begun.display()))?;
    workspace::run("building the eBPF programs", cargo(ebpf, "build").args(["-p", "netd-ebpf"]))?;
    for (binary, object) in workspace::ebpf_objects() {
        let built = target_dir().join(TARGET).join("release").join(binary);
        let changed = replace(&built, &object).with_context(|| format!("copying {}", built.display()))?;
        let state = if changed { "written" } else { "up to date" };
        eprintln!("eBPF object: {} ({state})", object.display());
    }
    fs::rename(&begun, &stamp).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(())
}

/// Lints the eBPF programs, and netd-common as it is compiled into them.
pub(crate) fn clippy(ebpf: &Ebpf) -> Result<()> {
    let mut command = cargo(ebpf, "clippy");
    command.args(["-p", "netd-ebpf", "-p", "netd-common", "--", "-D", "warnings"]);
    workspace::run("clippy of the eBPF programs", &mut command)
}

/// A directory of its own: two versions of cargo that share one would fight over its lock and rebuild what the other has
/// built.
fn target_dir() -> std::path::PathBuf {
    workspace::root().join("target/ebpf")
}

fn cargo(ebpf: &Ebpf, subcommand: &str) -> Command {
    let flags = [
        // The maps' definitions and the line numbers in the verifier's log are BTF, which comes from the debug info.
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        format!("-Clinker={}", ebpf.linker.display()),
        // Copies of a few bytes as loads and stores: as loops they cost the verifier three times the instructions.
        "-Clink-arg=--disable-expand-memcpy-in-order".into(),
    ];
    let mut command = ebpf.toolchain.cargo(subcommand);
    // Encoded flags may hold spaces, as the linker's path may.
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    command.arg("--release").arg("--target-dir").arg(target_dir());
    command
}

/// Makes `to` a copy of `from`; leaves it alone, and says so, if it is one already: cargo goes by the time of writing,
/// and would compile netd anew.
fn replace(from: &Path, to: &Path) -> Result<bool> {
    let new = fs::read(from)?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    // By renaming, so that a build at the same time never reads half an object.
    let part = to.with_extension("o.part");
    fs::write(&part, new)?;
    fs::rename(&part, to)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::{SOURCES, newer};

    #[test]
    fn sources_that_were_written_after_a_build_are_found() {
        let dir = std::env::temp_dir().join(format!("netd-xtask-sources-{}", std::process::id()));
        let (old, new) = (dir.join("src/a.rs"), dir.join("src/deep/b.rs"));
        fs::create_dir_all(dir.join("src/deep")).expect("a directory");
        let at = |path: &Path, seconds| {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            let file = fs::File::create(path).expect("a file");
            file.set_modified(time).expect("a time");
            time
        };
        let built = at(&dir.join(STAMP), 20);
        at(&old, 10);
        at(&new, 20);
        assert_eq!(newer(&dir.join("src"), built).expect("looked at"), None);
        at(&new, 21);
        assert_eq!(newer(&dir.join("src"), built).expect("looked at"), Some(new));
        assert_eq!(newer(&old, built).expect("looked at"), None);
        newer(&dir.join("none"), built).expect_err("nothing is there");
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn all_sources_are_there() {
        for source in SOURCES {
            assert!(workspace::root().join(source).exists(), "{source}");
        }
    }

    #[test]
    fn an_object_is_written_only_when_it_changed() {
        let dir = std::env::temp_dir().join(format!("netd-xtask-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let (from, to) = (dir.join("built"), dir.join("bpf/netd.o"));
        fs::write(&from, "one").expect("written");
        assert!(replace(&from, &to).expect("copied"));
        assert!(!replace(&from, &to).expect("compared"));
        fs::write(&from, "two").expect("written");
        assert!(replace(&from, &to).expect("copied"));
        assert_eq!(fs::read(&to).expect("read"), b"two");
        fs::remove_dir_all(&dir).expect("removed");
    }
}
