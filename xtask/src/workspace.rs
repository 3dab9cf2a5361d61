//! Where things are, and how cargo is called on the host's crates.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The compiled eBPF programs, where netd's build script looks for them: an object for each binary of netd-ebpf.
pub(crate) fn ebpf_objects() -> [(&'static str, PathBuf); 4] {
    [("netd-ebpf", "netd.o"), ("metadata", "metadata.o"), ("redirect", "redirect.o"), ("frames", "frames.o")]
        .map(|(binary, object)| (binary, root().join("target/bpf").join(object)))
}

/// The release build of the daemon. Cargo puts xtask into `<target>/debug`, so this holds for any target directory.
pub(crate) fn netd_binary() -> Result<PathBuf> {
    let own = env::current_exe().context("where this program is")?;
    let target = own.parent().and_then(Path::parent).context("this program is not in a target directory")?;
    Ok(target.join("release/netd"))
}

/// `cargo` of the toolchain that xtask itself was built with, in the workspace's root.
///
/// `cargo run` describes the package it runs in the environment; a build script of another package must not see that.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(describes_package) {
            command.env_remove(name);
        }
    }
    command
}

/// The compiler that this cargo calls.
pub(crate) fn rustc() -> Command {
    let mut command = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.current_dir(root());
    command
}

/// Whether `cargo run` sets this variable to describe the package that it runs.
fn describes_package(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || matches!(name, "CARGO_MANIFEST_DIR" | "CARGO_MANIFEST_PATH" | "OUT_DIR")
}

/// Runs `command` with this program's output as its own; the error names it by `what`.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<()> {
    let status =
        command.status().with_context(|| format!("{what}: cannot start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// Compiles the daemon in release mode. The eBPF object must be there.
pub(crate) fn build_netd() -> Result<()> {
    run("building netd", cargo().args(["build", "--release", "-p", "netd"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().join("netd-ebpf/Cargo.toml").is_file());
    }

    #[test]
    fn only_the_description_of_the_package_is_removed() {
        assert!(describes_package("CARGO_PKG_NAME"));
        assert!(describes_package("CARGO_MANIFEST_DIR"));
        assert!(!describes_package("CARGO_HOME"));
        assert!(!describes_package("CARGO_TARGET_DIR"));
    }
}
