//! bpf-linker, which turns the compiler's bitcode into one eBPF object.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt::Apt;
use crate::progress;
use crate::system::{self, Version};
use crate::toolchain::Toolchain;
use crate::workspace;

/// The version that is installed, and the oldest that is used.
const VERSION: Version = Version(0, 13, 0);

/// The newest LLVM that this version can be built against.
const NEWEST_LLVM: u32 = 23;

/// What linking against Debian's LLVM needs besides the LLVM package itself.
const LIBRARIES: [&str; 2] = ["libzstd-dev", "zlib1g-dev"];

/// Finds bpf-linker; installs it if it is missing, too old or does not start.
pub(crate) fn ensure(toolchain: &Toolchain, apt: &mut Apt) -> Result<PathBuf> {
    let found = find();
    if let Some((path, version)) = &found
        && *version >= VERSION
    {
        return Ok(path.clone());
    }
    let state = found.map_or_else(|| "it is missing".into(), |(_, version)| format!("{version} is too old"));
    eprintln!("set-up: bpf-linker {VERSION}, which links the eBPF programs: {state}");
    install(toolchain, apt).with_context(|| {
        format!("bpf-linker {VERSION} is needed; its prebuilt program for this machine, put into PATH, will do as well")
    })?;
    match find() {
        Some((path, version)) if version >= VERSION => Ok(path),
        _ => bail!("bpf-linker was installed but is not found: add cargo's bin directory to PATH"),
    }
}

fn find() -> Option<(PathBuf, Version)> {
    let path = system::find("bpf-linker")?;
    let text = system::output_of(Command::new(&path).arg("--version"))?;
    Some((path, parse(&text)?))
}

/// Reads `bpf-linker 0.13.0`.
fn parse(text: &str) -> Option<Version> {
    Version::parse(text.trim().strip_prefix("bpf-linker ")?)
}

fn install(toolchain: &Toolchain, apt: &mut Apt) -> Result<()> {
    let llvm = ensure_llvm(toolchain.llvm, apt)?;
    let mut command = workspace::cargo();
    command.args(["install", "bpf-linker", "--locked", "--force", "--version", &VERSION.to_string()]);
    let what = if let Some(major) = llvm {
        command.args(["--no-default-features", "--features", &format!("llvm-{major}")]);
        command.env("LLVM_PREFIX", prefix(major));
        format!("cargo install bpf-linker {VERSION} (LLVM {major}, a minute or two)")
    } else {
        // Where LLVM is not Debian's, bpf-linker's build looks for llvm-config and says what it wants.
        format!("cargo install bpf-linker {VERSION} (a minute or two)")
    };
    progress::run(&what, &mut command)
}

/// The LLVM to build against, with its files installed. bpf-linker has to understand the compiler's bitcode: its LLVM
/// may be newer than the compiler's, not older.
fn ensure_llvm(compiler: u32, apt: &mut Apt) -> Result<Option<u32>> {
    for major in compiler..=NEWEST_LLVM {
        let (dev, polly) = (format!("llvm-{major}-dev"), format!("libpolly-{major}-dev"));
        let packages: Vec<&str> = [dev.as_str(), polly.as_str()].into_iter().chain(LIBRARIES).collect();
        // Whoever is not root may still have what it takes.
        if !apt.usable() && Path::new(&prefix(major)).join("lib/libLLVM.so").exists() {
            return Ok(Some(major));
        }
        if apt.has_all(&packages)? {
            eprintln!("  {}: the LLVM that bpf-linker is built against", packages.join(", "));
            apt.install(&packages)?;
            return Ok(Some(major));
        }
    }
    Ok(None)
}

fn prefix(llvm: u32) -> String {
    format!("/usr/lib/llvm-{llvm}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_and_compared() {
        assert_eq!(parse("bpf-linker 0.13.0\n"), Some(VERSION));
        assert!(parse("bpf-linker 0.9.15\n").expect("a version") < VERSION);
        assert!(parse("bpf-linker 0.14.1").expect("a version") > VERSION);
        assert_eq!(parse("ld 2.40"), None);
    }
}
