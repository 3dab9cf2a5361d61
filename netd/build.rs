//! Hands the compiled eBPF programs to the crate, in `OUT_DIR`: the daemon's as `netd.o`, and as `metadata.o`, `redirect.o` and
//! `frames.o` those that `netd bench` needs besides.
//!
//! They are compiled by `cargo xtask build-ebpf` and not from here: that takes another toolchain, and a build script that
//! ran it would do so in every `cargo check`.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Names another object than the workspace's own for the daemon; a relative path starts at the directory of this crate.
const OBJECT: &str = "NETD_EBPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    let objects = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target/bpf");
    embed(&env::var_os(OBJECT).map_or_else(|| objects.join("netd.o"), PathBuf::from), "netd.o");
    for name in ["metadata.o", "redirect.o", "frames.o"] {
        embed(&objects.join(name), name);
    }
}

fn embed(object: &Path, name: &str) {
    println!("cargo::rerun-if-changed={}", object.display());
    let out = env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    if let Err(error) = fs::copy(object, out.join(name)) {
        println!("cargo::error={}: {error}: run `cargo xtask build-ebpf` first", object.display());
    }
}
