//! Hands the compiled eBPF programs to the crate, as `netd.o` in `OUT_DIR`.
//!
//! They are compiled by `cargo xtask build-ebpf` and not from here: that takes another toolchain, and a build script that
//! ran it would do so in every `cargo check`.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Names another object than the workspace's own; a relative path starts at the directory of this crate.
const OBJECT: &str = "NETD_EBPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let object =
        env::var_os(OBJECT).map_or_else(|| crate_dir.with_file_name("target/bpf/netd.o"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let out = env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    if let Err(error) = fs::copy(&object, out.join("netd.o")) {
        println!("cargo::error={}: {error}: run `cargo xtask build-ebpf` first", object.display());
    }
}
