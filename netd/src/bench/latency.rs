//! How long single requests take: an HDR histogram, so that the rare slow ones are seen.

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Digits of a time that are kept: an error of at most 0.1 %.
const DIGITS: u8 = 3;
/// What takes longer counts as this, in nanoseconds: no load waits so long. With a limit nothing is allocated while it runs.
const LONGEST: u64 = 60_000_000_000;

/// Times of single requests, in nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "Vec<(u64, u64)>", try_from = "Vec<(u64, u64)>")]
pub(super) struct Latency(Histogram<u64>);

impl Latency {
    /// Nothing yet.
    ///
    /// # Panics
    /// Never: the digits are 0 to 5, and the limit is above 1.
    pub(super) fn new() -> Self {
        Self(Histogram::new_with_max(LONGEST, DIGITS).expect("0 to 5 digits, and a limit above 1"))
    }

    /// Adds a request that took so many nanoseconds.
    pub(super) fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    /// Adds so many requests that took so many nanoseconds each.
    ///
    /// # Errors
    /// The time is out of the histogram's range.
    fn record_n(&mut self, nanoseconds: u64, count: u64) -> Result<()> {
        self.0.record_n(nanoseconds, count).with_context(|| format!("bad latency {nanoseconds} ns"))
    }

    /// Adds what another one has recorded.
    pub(super) fn add(&mut self, other: &Self) {
        for (value, count) in Vec::from(other.clone()) {
            self.0.saturating_record_n(value, count);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The time in µs that this part of the requests, in per cent, did not exceed.
    pub(super) fn percentile(&self, percent: f64) -> f64 {
        self.0.value_at_percentile(percent) as f64 / 1e3
    }

    /// For the JSON, times in µs.
    pub(super) fn json(&self) -> Value {
        json!({
            "unit": "µs",
            "count": self.0.len(),
            "p50": self.percentile(50.0),
            "p90": self.percentile(90.0),
            "p99": self.percentile(99.0),
            "p99.9": self.percentile(99.9),
            "max": self.percentile(100.0),
        })
    }
}

impl From<Latency> for Vec<(u64, u64)> {
    fn from(latency: Latency) -> Self {
        latency.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
    }
}

impl TryFrom<Vec<(u64, u64)>> for Latency {
    type Error = anyhow::Error;

    fn try_from(pairs: Vec<(u64, u64)>) -> Result<Self> {
        let mut latency = Self::new();
        pairs.into_iter().try_for_each(|(value, count)| latency.record_n(value, count))?;
        Ok(latency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thousand() -> Latency {
        let mut latency = Latency::new();
        (1..=1000).for_each(|microseconds| latency.record(microseconds * 1000));
        latency
    }

    #[test]
    fn percentiles_are_those_of_the_requests() {
        let latency = thousand();
        for (percent, expected) in [(50.0, 500.0), (90.0, 900.0), (99.0, 990.0), (100.0, 1000.0)] {
            let found = latency.percentile(percent);
            assert!((found - expected).abs() <= expected / 1000.0, "{percent}: {found}");
        }
    }

    #[test]
    fn they_survive_their_way_from_the_worker() {
        let latency = thousand();
        let text = serde_json::to_string(&latency).expect("JSON");
        let back: Latency = serde_json::from_str(&text).expect("a histogram");
        for percent in [0.0, 50.0, 99.9, 100.0] {
            assert_eq!(
                back.percentile(percent).to_bits(),
                latency.percentile(percent).to_bits(),
                "{percent}"
            );
        }
        assert_eq!(back.json()["count"], 1000);
    }

    #[test]
    fn rounds_add_up() {
        let mut sum = Latency::new();
        assert!(sum.is_empty());
        sum.add(&thousand());
        sum.add(&thousand());
        assert_eq!(sum.json()["count"], 2000);
        assert!((sum.percentile(50.0) - 500.0).abs() < 1.0);
    }
}
