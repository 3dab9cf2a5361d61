//! The eBPF object that sends frames and drops them (`netd-ebpf/src/bin/frames.rs`).

/// The object, in the binary.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/frames.o"));
