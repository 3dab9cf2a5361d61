//! Medians, percentiles and ratios.

use super::case::Better;

/// The middle value, or the mean of the two in the middle; `None` of nothing.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The smallest value that at least `percent` per cent of the values do not exceed (nearest rank).
pub(super) fn percentile(values: &[f64], percent: f64) -> Option<f64> {
    let sorted = sorted(values);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// The smallest and the largest.
pub(super) fn range(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().fold(None, |range, value| {
        Some(range.map_or((value, value), |(low, high): (f64, f64)| (low.min(value), high.max(value))))
    })
}

/// How many times better `ours` is than `theirs`: above 1, `ours` is better, whichever direction is.
pub(super) fn ratio(ours: f64, theirs: f64, better: Better) -> f64 {
    match better {
        Better::Lower => theirs / ours,
        Better::Higher => ours / theirs,
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        for (values, expected) in [
            (&[][..], None),
            (&[3.0], Some(3.0)),
            (&[9.0, 1.0], Some(5.0)),
            (&[9.0, 1.0, 2.0], Some(2.0)),
            (&[4.0, 1.0, 100.0, 2.0], Some(3.0)),
        ] {
            assert_eq!(median(values), expected, "{values:?}");
        }
    }

    #[test]
    fn percentiles() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        for (values, percent, expected) in [
            (&[][..], 90.0, None),
            (&[7.0], 90.0, Some(7.0)),
            (&[7.0, 8.0], 0.0, Some(7.0)),
            (&hundred, 90.0, Some(90.0)),
            (&hundred, 100.0, Some(100.0)),
            (&hundred[..10], 90.0, Some(99.0)),
        ] {
            assert_eq!(percentile(values, percent), expected, "{percent} of {values:?}");
        }
    }

    #[test]
    fn ranges() {
        assert_eq!(range([]), None);
        assert_eq!(range([2.0]), Some((2.0, 2.0)));
        assert_eq!(range([2.0, 9.0, 1.0]), Some((1.0, 9.0)));
    }

    #[test]
    fn a_ratio_above_one_means_that_ours_is_better() {
        for (ours, theirs, better, expected) in [
            (10.0, 15.0, Better::Lower, 1.5),
            (15.0, 10.0, Better::Higher, 1.5),
            (10.0, 5.0, Better::Lower, 0.5),
            (5.0, 10.0, Better::Higher, 0.5),
        ] {
            assert!((ratio(ours, theirs, better) - expected).abs() < 1e-9, "{ours} {theirs} {better:?}");
        }
    }
}
