//! In which order samples are taken.

/// The order of `count` variants in a round. It begins one further in each round, and runs backwards in every other, so that
/// none always comes first, or always after the same one: what one leaves behind (a warm cache, a busy neighbour) falls on all.
pub(super) fn order(round: usize, count: usize) -> Vec<usize> {
    let backwards = round % 2 == 1;
    (0..count).map(|step| (round + if backwards { count - step } else { step }) % count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_rotated_and_turned() {
        assert_eq!(order(0, 4), [0, 1, 2, 3]);
        assert_eq!(order(1, 4), [1, 0, 3, 2]);
        assert_eq!(order(2, 4), [2, 3, 0, 1]);
        assert_eq!(order(7, 1), [0]);
        assert_eq!(order(3, 0), [0_usize; 0]);
    }

    #[test]
    fn everyone_has_a_turn_in_each_round() {
        for round in 0..9 {
            let mut all = order(round, 5);
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4]);
        }
    }
}
