//! Numbers of outer packets to one node, from several CPUs.

use std::collections::HashMap;

use netd_common::abi::NodeCounters;
use proptest::prelude::*;

/// Packets that went out since the one that had the same number.
const APART: u64 = 1 << 15;

/// Plays packets of CPUs: which one, and how many segments. The least distance of two packets with one number.
fn play(packets: impl IntoIterator<Item = (usize, u32)>) -> u64 {
    let mut cpus = vec![NodeCounters::default(); 64];
    let (mut given, mut sent, mut least) = (0u32, 0u64, u64::MAX);
    let mut last: HashMap<u16, u64> = HashMap::new();
    for (cpu, segments) in packets {
        let before = given;
        let first = cpus[cpu].number(segments, before, |more| {
            given = before.wrapping_add(more);
            before
        });
        for segment in 0..segments {
            sent += 1;
            if let Some(before) = last.insert(first.wrapping_add(segment as u16), sent) {
                least = least.min(sent - before);
            }
        }
    }
    least
}

#[test]
fn one_cpu_uses_all_numbers_in_a_row() {
    assert_eq!(play((0..200_000).map(|_| (5, 1))), 1 << 16);
}

#[test]
fn cpus_do_not_number_alike() {
    // Eight apart, in step; and all of them.
    assert!(play((0..300_000).map(|n| (n % 2 * 8, 1))) > APART);
    assert!(play((0..300_000).map(|n| (n % 64, 1))) > APART);
}

#[test]
fn a_cpu_that_was_idle_does_not_use_what_it_had_left() {
    let busy = |count| (0..count).map(|_| (1, 1));
    let packets = [(0, 1)].into_iter().chain(busy(65_536 - 300)).chain((0..100).map(|_| (0, 1)));
    assert!(play(packets.chain(busy(10_000))) > 1 << 14);
}

proptest! {
    #[test]
    fn a_number_comes_again_late(packets in prop::collection::vec((0usize..16, 1u32..60), 4000)) {
        prop_assert!(play(packets) > APART);
    }
}
