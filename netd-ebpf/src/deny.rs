//! The list of denied sources.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{LpmTrie, PerCpuArray, lpm_trie::Key},
    macros::btf_map,
};
use netd_common::{V4, V6, abi::Denied, xdp_uplink::DenyList};

use crate::maps::Maps;

const ENTRIES: usize = Denied::ENTRIES as usize;

/// Denied IPv4 prefixes.
#[btf_map]
static DENIED4: LpmTrie<V4, Denied, ENTRIES, { BPF_F_NO_PREALLOC as usize }> = LpmTrie::new();
/// Denied IPv6 prefixes.
#[btf_map]
static DENIED6: LpmTrie<V6, Denied, ENTRIES, { BPF_F_NO_PREALLOC as usize }> = LpmTrie::new();
/// Packets that each entry has dropped, one counter a CPU.
#[btf_map]
static DENIED_COUNTERS: PerCpuArray<u64, ENTRIES> = PerCpuArray::new();

impl DenyList for Maps {
    #[inline(always)]
    fn denied4(&self, source: &V4) -> Option<Denied> {
        DENIED4.get(&Key::new(32, *source)).copied()
    }

    #[inline(always)]
    fn denied6(&self, source: &V6) -> Option<Denied> {
        DENIED6.get(&Key::new(128, *source)).copied()
    }

    #[inline(always)]
    fn count_denied(&self, entry: Denied) {
        if let Some(counter) = DENIED_COUNTERS.get_ptr_mut(entry.slot) {
            // SAFETY: the entry of this CPU, which no other writes.
            unsafe { *counter += 1 };
        }
    }
}
