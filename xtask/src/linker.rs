//! bpf-linker, which turns the compiler's bitcode into one eBPF object.

use std::fs::File;
use std::io::Read as _;
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

/// How much of the program is searched for the name of the LLVM library, which is near its start.
const NAMES: u64 = 1 << 20;

/// A bpf-linker that was found.
struct Linker {
    path: PathBuf,
    version: Version,
    /// The major version of the LLVM library that it loads; `None` if LLVM is inside it.
    llvm: Option<u32>,
}

impl Linker {
    fn find() -> Option<Self> {
        let path = system::find("bpf-linker")?;
        let text = system::output_of(Command::new(&path).arg("--version"))?;
        let mut start = Vec::new();
        File::open(&path).ok()?.take(NAMES).read_to_end(&mut start).ok()?;
        Some(Self { version: parse(&text)?, llvm: loaded_llvm(&start), path })
    }

    /// Why this one will not do.
    fn defect(&self, toolchain: &Toolchain) -> Option<String> {
        if self.version < VERSION {
            return Some(format!("{} is too old", self.version));
        }
        let llvm = self.llvm.filter(|llvm| *llvm < toolchain.llvm)?;
        Some(format!("the installed one has LLVM {llvm}, too old for {toolchain}"))
    }
}

/// Finds bpf-linker; installs it if it is missing, too old or does not start.
pub(crate) fn ensure(toolchain: &Toolchain, apt: &mut Apt) -> Result<PathBuf> {
    let defect = match Linker::find() {
        None => "it is missing".into(),
        Some(linker) => match linker.defect(toolchain) {
            None => return Ok(linker.path),
            Some(defect) => defect,
        },
    };
    eprintln!("set-up: bpf-linker {VERSION}, which links the eBPF programs: {defect}");
    install(toolchain, apt).with_context(|| {
        let llvm = toolchain.llvm;
        format!(
            "bpf-linker {VERSION} for LLVM {llvm} is needed; put its prebuilt program into PATH, or mend this"
        )
    })?;
    match Linker::find().map(|linker| (linker.defect(toolchain), linker)) {
        Some((None, linker)) => Ok(linker.path),
        Some((Some(defect), linker)) => {
            bail!("bpf-linker was installed, but {} is in its way: {defect}", linker.path.display())
        }
        None => bail!("bpf-linker was installed but is not found: add cargo's bin directory to PATH"),
    }
}

/// Reads `bpf-linker 0.13.0`.
fn parse(text: &str) -> Option<Version> {
    Version::parse(text.trim().strip_prefix("bpf-linker ")?)
}

/// The major version in the name of the LLVM library that a program loads: `libLLVM.so.22.1`, or `libLLVM-17.so`.
fn loaded_llvm(program: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"libLLVM";
    let at = program.windows(NAME.len()).position(|window| window == NAME)?;
    let name = program[at + NAME.len()..].split(|byte| *byte == 0).next()?;
    let name = str::from_utf8(name).ok()?;
    Some(Version::parse(name.trim_start_matches(|c: char| !c.is_ascii_digit()))?.0)
}

fn install(toolchain: &Toolchain, apt: &mut Apt) -> Result<()> {
    let (major, prefix) = ensure_llvm(toolchain.llvm, apt)?;
    progress::run(
        &format!("cargo install bpf-linker {VERSION} (LLVM {major}, about a minute)"),
        workspace::cargo()
            .args(["install", "bpf-linker", "--locked", "--force", "--version", &VERSION.to_string()])
            .args(["--no-default-features", "--features", &format!("llvm-{major}")])
            .env("LLVM_PREFIX", prefix),
    )
}

/// The major version and the place of an LLVM to build against, installed if it must be. Its library has to understand the
/// compiler's bitcode: it may be newer than the compiler's own, not older.
fn ensure_llvm(compiler: u32, apt: &mut Apt) -> Result<(u32, String)> {
    for major in compiler..=NEWEST_LLVM {
        let prefix = format!("/usr/lib/llvm-{major}");
        if Path::new(&prefix).join("lib/libLLVM.so").exists() {
            return Ok((major, prefix));
        }
        let package = format!("llvm-{major}-dev");
        if apt.has(&package)? {
            eprintln!("  {package}: the LLVM that bpf-linker is built against");
            apt.install(&[&package])?;
            return Ok((major, prefix));
        }
    }
    // Where there is no such package, LLVM says itself where it is.
    let ask = |option| system::output_of(Command::new("llvm-config").arg(option));
    let (Some(version), Some(prefix)) = (ask("--version"), ask("--prefix")) else {
        bail!(
            "there is no LLVM {compiler} with development files: no package of it, and no llvm-config in PATH"
        );
    };
    match Version::parse(&version) {
        Some(Version(major, ..)) if (compiler..=NEWEST_LLVM).contains(&major) => {
            Ok((major, prefix.trim().into()))
        }
        _ => bail!("LLVM {compiler} to {NEWEST_LLVM} is needed, and llvm-config is of {}", version.trim()),
    }
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

    #[test]
    fn the_llvm_library_is_found_by_its_name() {
        assert_eq!(loaded_llvm(b"\x7fELF\0libc.so.6\0libLLVM.so.22.1\0_start\0"), Some(22));
        assert_eq!(loaded_llvm(b"\0libLLVM-17.so.1\0"), Some(17));
        assert_eq!(loaded_llvm(b"\0libc.so.6\0"), None);
    }
}
