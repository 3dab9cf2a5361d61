//! Hands the compiled eBPF programs to the crate, in `OUT_DIR`: the daemon's as `netd.o`, and as `metadata.o`, `redirect.o` and
//! `frames.o` those that `netd bench` needs besides.
//!
//! They are compiled by `cargo xtask build-ebpf` and not from here: that takes another toolchain, and a build script that
//! ran it would do so in every `cargo check`.

use std::path::{Path, PathBuf};
use std::{env, fs};

use sources::{SOURCES, STAMP, newer};

#[path = "../xtask/src/sources.rs"]
mod sources;

/// Names another object than the workspace's own for the daemon; a relative path starts at the directory of this crate.
const OBJECT: &str = "NETD_EBPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    let objects = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target/bpf");
    if env::var_os(OBJECT).is_none() {
        check(&objects);
    }
    embed(&env::var_os(OBJECT).map_or_else(|| objects.join("netd.o"), PathBuf::from), "netd.o");
    for name in ["metadata.o", "redirect.o", "frames.o"] {
        embed(&objects.join(name), name);
    }
}

/// Refuses programs that are not those of the sources beside them: a daemon that is built with such finds other tables than it expects.
fn check(objects: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let modified =
        |name: &str| fs::metadata(objects.join(name)).and_then(|metadata| metadata.modified()).ok();
    // Without both there is nothing to embed, which is said there.
    let Some(built) = modified(STAMP).or_else(|| modified("netd.o")) else { return };
    for source in SOURCES {
        println!("cargo::rerun-if-changed=../{source}");
        if let Ok(Some(file)) = newer(&root.join(source), built) {
            let file = file.strip_prefix(&root).unwrap_or(&file).display();
            println!(
                "cargo::error={file} is newer than the eBPF programs: run `cargo xtask build-ebpf` first"
            );
            return;
        }
    }
}

fn embed(object: &Path, name: &str) {
    println!("cargo::rerun-if-changed={}", object.display());
    let out = env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    if let Err(error) = fs::copy(object, out.join(name)) {
        println!("cargo::error={}: {error}: run `cargo xtask build-ebpf` first", object.display());
    }
}
