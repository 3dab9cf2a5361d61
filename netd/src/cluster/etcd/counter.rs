//! The numbers of networks: each is given once, also when the network that had it is gone.

use super::keys::{Counter, NUMBERS};

/// More ranges of free numbers than this are not remembered: their numbers are lost.
const MAX_RANGES: usize = 256;

impl Counter {
    /// Gives a number: `wanted`, if it was never given, or else the next one. `used` are those of the networks that there
    /// are, which say so themselves if the counter was tampered with. None: all are given.
    ///
    /// A node wants the number that a network has on it already: so an etcd that has lost its data is filled again with
    /// the same numbers, whichever node comes first.
    pub(super) fn give(&self, wanted: Option<u32>, used: impl Fn(u32) -> bool) -> Option<(u32, Self)> {
        let is_free = |number: &u32| {
            NUMBERS.contains(number)
                && !used(*number)
                && (*number > self.last || self.ranges().any(|(first, last)| (first..=last).contains(number)))
        };
        let number = wanted.filter(is_free).or_else(|| {
            let mut next = (self.last + 1)..=*NUMBERS.end();
            // Only where somebody has wanted the largest of all.
            next.find(is_free).or_else(|| self.ranges().flat_map(|(a, b)| a..=b).find(is_free))
        })?;
        let skipped = (self.last + 1, number.saturating_sub(1));
        let mut free: Vec<(u32, u32)> = self
            .ranges()
            .chain((number > self.last).then_some(skipped))
            .flat_map(|(first, last)| match (first..=last).contains(&number) {
                true => [(first, number - 1), (number + 1, last)],
                false => [(first, last), (1, 0)],
            })
            .filter(|(first, last)| first <= last)
            .collect();
        let surplus = free.len().saturating_sub(MAX_RANGES);
        free.drain(..surplus);
        Some((number, Self { last: self.last.max(number), free, store: self.store.clone() }))
    }

    fn ranges(&self) -> impl Iterator<Item = (u32, u32)> {
        self.free.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::cluster::etcd::keys::Key;

    #[test]
    fn numbers() {
        for (last, free, wanted, used, expected) in [
            (0, vec![], None, vec![], Some((1, 1, vec![]))),
            (1, vec![], None, vec![], Some((2, 2, vec![]))),
            // What a node has already.
            (0, vec![], Some(1), vec![], Some((1, 1, vec![]))),
            (0, vec![], Some(4), vec![], Some((4, 4, vec![(1, 3)]))),
            (4, vec![(1, 3)], Some(2), vec![], Some((2, 4, vec![(1, 1), (3, 3)]))),
            (4, vec![(1, 1), (3, 3)], Some(3), vec![], Some((3, 4, vec![(1, 1)]))),
            (4, vec![(1, 3)], Some(9), vec![], Some((9, 9, vec![(1, 3), (5, 8)]))),
            // Given before.
            (4, vec![(1, 1)], Some(3), vec![], Some((5, 5, vec![(1, 1)]))),
            (4, vec![(1, 3)], None, vec![], Some((5, 5, vec![(1, 3)]))),
            // Nonsense.
            (0, vec![], Some(0), vec![], Some((1, 1, vec![]))),
            (0, vec![], Some(65536), vec![], Some((1, 1, vec![]))),
            // A counter that was set back.
            (0, vec![], None, vec![1, 2], Some((3, 3, vec![(1, 2)]))),
            (4, vec![(1, 3)], Some(2), vec![2], Some((5, 5, vec![(1, 3)]))),
            // The end.
            (65534, vec![], None, vec![], Some((65535, 65535, vec![]))),
            (65535, vec![(7, 8)], None, vec![7], Some((8, 65535, vec![(7, 7)]))),
            (65535, vec![], None, vec![], None),
        ] {
            let counter = Counter { last, free, store: "x".to_owned() };
            let given = counter.give(wanted, |number| used.contains(&number));
            let seen = given.map(|(number, next)| (number, next.last, next.free));
            assert_eq!(seen, expected, "{counter:?} {wanted:?} {used:?}");
        }
    }

    proptest! {
        #[test]
        fn none_is_given_twice(wanted in prop::collection::vec(prop::option::of(0_u32..40), 0..60)) {
            let (mut counter, mut given) = (Counter::default(), BTreeSet::new());
            for wanted in wanted {
                let (number, next) = counter.give(wanted, |_| false).unwrap();
                prop_assert!(given.insert(number), "{number} twice: {counter:?}");
                let text = serde_json::to_vec(&next).unwrap();
                prop_assert!(Key::LastNetwork.read(&text).is_ok(), "{next:?}");
                counter = next;
            }
        }
    }
}
