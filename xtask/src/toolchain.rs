//! The toolchain that compiles the eBPF programs.
//!
//! The BPF targets need a `core` library that rustup does not ship. There are two ways to one:
//!
//! - Debian packages a rustc with a prebuilt core for BPF. Its version is pinned by the distribution, and its LLVM is the
//!   distribution's, which bpf-linker links against as well. This is preferred.
//! - rustup's nightly compiles core itself (`-Z build-std`) if it has the component rust-src.

use std::env;
use std::fmt;
use std::fs;
use std::iter;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::apt::Apt;
use crate::progress;
use crate::system::{self, Version};
use crate::workspace;

/// The BPF target of this machine's byte order.
pub(crate) const TARGET: &str =
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// The channel of rustup's that can build core.
const NIGHTLY: &str = "nightly";

/// The variable with which a user picks the kind of toolchain.
const WISH: &str = "NETD_EBPF_TOOLCHAIN";

/// The sets of Debian packages that bring rustc, cargo and the prebuilt core. Releases that have both carry the newer
/// compiler under the `-web` names, for browsers.
const DEBIAN_SETS: [[&str; 3]; 2] =
    [["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"], ["rustc", "cargo", "libstd-rust-dev-bpf"]];

/// Where a toolchain comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Debian's rustc, with a prebuilt core.
    Debian,
    /// rustup's nightly, which builds core from rust-src.
    Nightly,
}

/// Best first.
const KINDS: [Kind; 2] = [Kind::Debian, Kind::Nightly];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Debian => "Debian's rustc",
            Self::Nightly => "rustup's nightly rustc",
        }
    }

    /// What such a toolchain has to have besides the compiler.
    fn core(self) -> &'static str {
        match self {
            Self::Debian => "a prebuilt core for BPF",
            Self::Nightly => "rust-src to build core from",
        }
    }
}

/// A compiler that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Compiler {
    version: Version,
    /// The major version of its LLVM.
    llvm: u32,
    /// Whether it has a core for BPF, or the means to build one.
    core: bool,
}

/// A toolchain that can compile the eBPF programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    /// Where it comes from.
    pub(crate) kind: Kind,
    version: Version,
    /// The major version of its LLVM, which bpf-linker has to understand.
    pub(crate) llvm: u32,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (LLVM {})", self.kind.name(), self.version, self.llvm)
    }
}

impl Toolchain {
    /// `cargo SUBCOMMAND` of this toolchain for the BPF target, free of what the cargo that runs xtask has put into the
    /// environment.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = match self.kind {
            Kind::Debian => Command::new("/usr/bin/cargo"),
            Kind::Nightly => rustup(),
        };
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|name| !is_inherited(name)) {
                command.env_remove(name);
            }
        }
        match self.kind {
            Kind::Debian => {
                // cargo takes the first rustc in PATH, which would be rustup's.
                let path = env::var_os("PATH").unwrap_or_default();
                let path = env::join_paths(iter::once("/usr/bin".into()).chain(env::split_paths(&path)));
                command.arg(subcommand).env("PATH", path.unwrap_or_else(|_| "/usr/bin".into()));
                // These crates use the unstable inline assembly for BPF, which a stable compiler refuses otherwise.
                command.env("RUSTC_BOOTSTRAP", "aya_ebpf,netd_common,netd_ebpf");
            }
            Kind::Nightly => {
                command.args(["run", NIGHTLY, "cargo", subcommand, "-Zbuild-std=core"]);
            }
        }
        command.args(["--target", TARGET]).current_dir(workspace::root());
        command
    }
}

/// Whether the cargo for BPF gets this variable. It must not get those that name the outer compiler or its options; those
/// that say how to reach the registry and how to print it needs.
fn is_inherited(name: &str) -> bool {
    // How to reach the registry and how to print; RUST_BACKTRACE and RUST_LOG are for people.
    const KEPT: [&str; 9] = [
        "CARGO_HOME",
        "CARGO_BUILD_JOBS",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
        "RUSTUP_",
        "RUST_",
    ];
    match name {
        "RUSTUP_TOOLCHAIN" | "LD_LIBRARY_PATH" => false,
        _ if name.starts_with("CARGO") || name.starts_with("RUST") => {
            KEPT.iter().any(|kept| name.starts_with(kept))
        }
        _ => true,
    }
}

fn rustup() -> Command {
    Command::new(system::find("rustup").unwrap_or_else(|| "rustup".into()))
}

/// Finds the toolchain; installs one if there is none. Says which, and why.
pub(crate) fn ensure(apt: &mut Apt) -> Result<Toolchain> {
    let wish = wish(env::var(WISH).ok().as_deref())?;
    let lacks = match choose(find, wish) {
        Ok(toolchain) => {
            let has = toolchain.kind.core();
            match wish {
                None => eprintln!("eBPF toolchain: {toolchain}, because it has {has}"),
                Some(_) => {
                    eprintln!("eBPF toolchain: {toolchain}, because {WISH} asks for it and it has {has}");
                }
            }
            return Ok(toolchain);
        }
        Err(lacks) => lacks,
    };
    eprintln!("set-up: no toolchain for eBPF: {}", lacks.join("; "));
    for kind in KINDS.into_iter().filter(|kind| wish.is_none_or(|wish| wish == *kind)) {
        let result = match kind {
            Kind::Debian => install_debian(apt),
            Kind::Nightly => install_nightly(),
        };
        // What was installed counts only if it is then found to be what is needed.
        match result.and_then(|()| choose(find, Some(kind)).map_err(|lacks| anyhow!(lacks.join("; ")))) {
            Ok(toolchain) => {
                eprintln!("eBPF toolchain: {toolchain}, because it was missing and could be installed");
                return Ok(toolchain);
            }
            Err(error) => {
                eprintln!("  {} is not to be had: {error:#}", kind.name());
            }
        }
    }
    // Why each is not to be had stands above.
    bail!(
        "no toolchain for eBPF: install Debian's `{}`, or run `rustup toolchain install {NIGHTLY} --component rust-src`",
        DEBIAN_SETS[0].join(" ")
    )
}

/// The kind that the user asks for.
fn wish(value: Option<&str>) -> Result<Option<Kind>> {
    match value {
        None | Some("") => Ok(None),
        Some("debian") => Ok(Some(Kind::Debian)),
        Some("nightly") => Ok(Some(Kind::Nightly)),
        Some(other) => bail!("{WISH}={other}: must be `debian` or `nightly`"),
    }
}

/// The best toolchain of what `find` finds, or what each kind lacks. A kind that is not needed is not looked for.
fn choose(find: impl Fn(Kind) -> Option<Compiler>, wish: Option<Kind>) -> Result<Toolchain, Vec<String>> {
    let mut lacks = Vec::new();
    for kind in KINDS.into_iter().filter(|kind| wish.is_none_or(|wish| wish == *kind)) {
        let name = kind.name();
        match find(kind) {
            None => lacks.push(format!("{name} is not installed")),
            Some(found) if found.version < oldest() => {
                lacks.push(format!("{name} {} is older than {}", found.version, oldest()));
            }
            Some(found) if !found.core => {
                lacks.push(format!("{name} {} lacks {}", found.version, kind.core()));
            }
            Some(found) => return Ok(Toolchain { kind, version: found.version, llvm: found.llvm }),
        }
    }
    Err(lacks)
}

/// The oldest compiler that the workspace builds with.
fn oldest() -> Version {
    Version::parse(env!("CARGO_PKG_RUST_VERSION")).unwrap_or(Version(1, 95, 0))
}

/// Looks for a compiler of this kind on the machine.
fn find(kind: Kind) -> Option<Compiler> {
    match kind {
        Kind::Debian => {
            system::find("/usr/bin/cargo")?;
            let rustc = || {
                let mut command = Command::new(system::find("/usr/bin/rustc")?);
                // Set by the cargo that runs xtask: the path of its toolchain's libraries.
                command.env_remove("LD_LIBRARY_PATH").env_remove("RUSTUP_TOOLCHAIN");
                Some(command)
            };
            let (version, llvm) = describe(rustc()?)?;
            let libs = system::output_of(rustc()?.args(["--print", "target-libdir", "--target", TARGET]));
            Some(Compiler {
                version,
                llvm,
                core: libs.is_some_and(|libs| holds_core(Path::new(libs.trim()))),
            })
        }
        Kind::Nightly => {
            system::find("rustup")?;
            let rustc = || {
                let mut command = rustup();
                command.args(["run", NIGHTLY, "rustc"]);
                command
            };
            let (version, llvm) = describe(rustc())?;
            let sysroot = system::output_of(rustc().args(["--print", "sysroot"]))?;
            let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir();
            Some(Compiler { version, llvm, core })
        }
    }
}

/// A compiler's version and that of its LLVM.
fn describe(mut rustc: Command) -> Option<(Version, u32)> {
    let text = system::output_of(rustc.arg("-vV"))?;
    let field = |name| Version::parse(text.lines().find_map(|line| line.strip_prefix(name))?.trim());
    Some((field("release:")?, field("LLVM version:")?.0))
}

fn holds_core(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

/// Installs the first set of Debian's packages that is new enough.
fn install_debian(apt: &mut Apt) -> Result<()> {
    for set in DEBIAN_SETS {
        let versions = apt.candidates(&set)?;
        if !versions.contains(&None) && versions[0] >= Some(oldest()) {
            eprintln!("  {}: a rustc with {}", set.join(", "), Kind::Debian.core());
            return apt.install(&set);
        }
    }
    bail!("this distribution has no rustc of version {} or later with {}", oldest(), Kind::Debian.core())
}

/// Installs rustup's nightly with rust-src; adds only rust-src to a nightly that is there.
fn install_nightly() -> Result<()> {
    system::find("rustup").context("there is no rustup")?;
    eprintln!("  rustup's nightly with {}", Kind::Nightly.core());
    let mut command = rustup();
    if find(Kind::Nightly).is_some() {
        command.args(["component", "add", "rust-src", "--toolchain", NIGHTLY]);
    } else {
        // rustup itself is the user's, and stays as it is.
        command.args(["toolchain", "install", NIGHTLY, "--profile", "minimal", "--no-self-update"]);
        command.args(["--component", "rust-src"]);
    }
    progress::run("rustup: nightly with rust-src", &mut command)
}

/// Makes sure that [`Toolchain::cargo`] has `clippy`.
pub(crate) fn ensure_clippy(toolchain: &Toolchain, apt: &mut Apt) -> Result<()> {
    match toolchain.kind {
        Kind::Debian => {
            if system::find("/usr/bin/cargo-clippy").is_some() {
                return Ok(());
            }
            // The package has to fit the variant of rustc that is installed.
            let web = Path::new("/usr/share/doc/rustc-web").exists();
            let package = if web { "rust-web-clippy" } else { "rust-clippy" };
            eprintln!("set-up: {package}, to lint the eBPF programs with the compiler that builds them");
            apt.install(&[package])
        }
        Kind::Nightly => ensure_component(NIGHTLY, "clippy", "cargo-clippy"),
    }
}

/// Makes sure that a toolchain of rustup's has `component`, which brings `program`.
fn ensure_component(toolchain: &str, component: &str, program: &str) -> Result<()> {
    if system::output_of(rustup().args(["run", toolchain, program, "--version"])).is_some() {
        return Ok(());
    }
    eprintln!("set-up: rustup's component {component} for {toolchain}, to lint with");
    progress::run(
        &format!("rustup component add {component}"),
        rustup().args(["component", "add", component, "--toolchain", toolchain]),
    )
}

/// Makes sure that the host's toolchain has rustfmt and clippy; rustup's minimal profile has neither.
pub(crate) fn ensure_host_lints() -> Result<()> {
    // Without rustup, the toolchain is a distribution's and its cargo says what it lacks.
    let (Ok(toolchain), Some(_)) = (env::var("RUSTUP_TOOLCHAIN"), system::find("rustup")) else {
        return Ok(());
    };
    ensure_component(&toolchain, "rustfmt", "cargo-fmt")?;
    ensure_component(&toolchain, "clippy", "cargo-clippy")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Compiler = Compiler { version: Version(1, 96, 0), llvm: 22, core: true };
    const OLD: Compiler = Compiler { version: Version(1, 63, 0), llvm: 14, core: false };
    const NO_CORE: Compiler = Compiler { version: Version(1, 97, 0), llvm: 22, core: false };

    fn chosen(
        debian: Option<Compiler>,
        nightly: Option<Compiler>,
        wish: Option<Kind>,
    ) -> Result<Kind, Vec<String>> {
        let find = |kind| match kind {
            Kind::Debian => debian,
            Kind::Nightly => nightly,
        };
        choose(find, wish).map(|toolchain| toolchain.kind)
    }

    #[test]
    fn debian_comes_first_and_either_will_do() {
        assert_eq!(chosen(Some(GOOD), Some(GOOD), None), Ok(Kind::Debian));
        assert_eq!(chosen(None, Some(GOOD), None), Ok(Kind::Nightly));
        assert_eq!(chosen(Some(GOOD), None, None), Ok(Kind::Debian));
    }

    #[test]
    fn a_compiler_that_cannot_do_it_is_passed_over() {
        assert_eq!(chosen(Some(OLD), Some(GOOD), None), Ok(Kind::Nightly));
        assert_eq!(chosen(Some(NO_CORE), Some(GOOD), None), Ok(Kind::Nightly));
        assert_eq!(chosen(Some(GOOD), Some(NO_CORE), None), Ok(Kind::Debian));
    }

    #[test]
    fn a_wish_is_obeyed_and_never_replaced() {
        assert_eq!(chosen(Some(GOOD), Some(GOOD), Some(Kind::Nightly)), Ok(Kind::Nightly));
        assert!(chosen(Some(GOOD), Some(NO_CORE), Some(Kind::Nightly)).is_err());
        assert_eq!(wish(Some("nightly")).expect("valid"), Some(Kind::Nightly));
        assert_eq!(wish(None).expect("valid"), None);
        assert!(wish(Some("gcc")).is_err());
    }

    #[test]
    fn what_is_lacking_is_said_for_each_kind() {
        let lacks = chosen(Some(OLD), None, None).expect_err("neither works");
        assert_eq!(lacks.len(), 2);
        assert!(lacks[0].contains("1.63.0 is older than 1.95"), "{lacks:?}");
        assert!(lacks[1].contains("not installed"), "{lacks:?}");
        let lacks = chosen(None, Some(NO_CORE), None).expect_err("neither works");
        assert!(lacks[1].contains("lacks rust-src"), "{lacks:?}");
    }

    #[test]
    fn the_outer_toolchain_is_kept_out_and_the_registry_kept_in() {
        for name in [
            "CARGO",
            "CARGO_MANIFEST_DIR",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTFLAGS",
            "RUSTDOCFLAGS",
            "RUSTUP_TOOLCHAIN",
            "LD_LIBRARY_PATH",
        ] {
            assert!(!is_inherited(name), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_TERM_COLOR",
            "RUSTUP_HOME",
            "RUST_BACKTRACE",
            "PATH",
            "CI",
        ] {
            assert!(is_inherited(name), "{name}");
        }
    }
}
