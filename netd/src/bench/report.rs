//! What was measured, and the JSON that says it.

use serde_json::{Value, json};

use super::{
    case::Unit,
    latency::Latency,
    machine::Machine,
    sample::Sample,
    scene::OURS,
    stats::{median, percentile, range, ratio},
    targets::Verdict,
    text::whole,
};

/// All that a run of the bench has found.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) outcomes: Vec<Outcome>,
    /// Variants that this machine cannot have, and why.
    pub(super) unavailable: Vec<(&'static str, String)>,
    /// What carried a variant's traffic.
    pub(super) evidence: Vec<(&'static str, String)>,
    /// Which of the targets were reached, if that was asked.
    pub(super) targets: Vec<Verdict>,
    /// How the samples were taken, e.g. the number of rounds; for the JSON.
    pub(super) settings: Value,
}

/// A case, measured with all its variants.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Outcomes that have this in common are a table of their own.
    pub(super) group: &'static str,
    pub(super) case: &'static str,
    pub(super) what: &'static str,
    pub(super) unit: Unit,
    /// How many CPUs the two ends had.
    pub(super) cpus: usize,
    /// What costs are a cost of, e.g. a round trip.
    pub(super) operation: &'static str,
    /// Of what there was so much at the time, where that is what is varied.
    pub(super) count: Option<u32>,
    pub(super) series: Vec<Series>,
}

/// The samples of one variant, one for each round.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) variant: &'static str,
    pub(super) samples: Vec<Result<Sample, String>>,
}

/// How a variant, mostly netd, compares with another one in one case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ratio {
    /// That of the medians; above 1, the first one is better.
    pub(super) ratio: f64,
    /// The smallest and the largest of the single rounds.
    pub(super) range: (f64, f64),
}

impl Series {
    pub(super) fn new(variant: &'static str) -> Self {
        Self { variant, samples: Vec::new() }
    }

    /// The samples that did not fail.
    fn taken(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter_map(|sample| sample.as_ref().ok())
    }

    /// Their values.
    pub(super) fn values(&self) -> Vec<f64> {
        self.taken().map(|sample| sample.value).collect()
    }

    /// The latencies of all requests of all rounds.
    pub(super) fn latency(&self) -> Option<Latency> {
        let mut all = self.taken().filter_map(|sample| sample.latency.as_ref());
        let mut sum = all.next()?.clone();
        all.for_each(|one| sum.add(one));
        Some(sum)
    }

    /// The median of what an operation costs, of one kind of cost.
    pub(super) fn cost(&self, kind: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        median(&self.taken().filter_map(kind).collect::<Vec<_>>())
    }

    pub(super) fn failures(&self) -> impl Iterator<Item = &str> {
        self.samples.iter().filter_map(|sample| sample.as_ref().err().map(String::as_str))
    }

    pub(super) fn median(&self) -> Option<f64> {
        median(&self.values())
    }

    pub(super) fn p90(&self) -> Option<f64> {
        percentile(&self.values(), 90.0)
    }

    pub(super) fn range(&self) -> Option<(f64, f64)> {
        range(self.values())
    }

    fn json(&self, unit: Unit) -> Value {
        let range = self.range();
        json!({
            "variant": self.variant,
            "unit": unit.text(),
            "samples": self.values(),
            "median": self.median(),
            "min": range.map(|range| range.0),
            "max": range.map(|range| range.1),
            "p90": self.p90(),
            "failures": self.failures().collect::<Vec<_>>(),
            "latency": self.latency().map(|latency| latency.json()),
            "cpu_microseconds": self.cost(|sample| sample.cpu),
            "instructions": self.cost(|sample| sample.instructions),
            "cycles": self.cost(|sample| sample.cycles),
            "rounds": self.rounds_json(),
        })
    }

    /// Each sample with all that is known of it; `null` for one that failed.
    fn rounds_json(&self) -> Vec<Value> {
        let round = |sample: &Result<Sample, String>| match sample {
            Ok(sample) => json!({
                "value": sample.value,
                "latency": sample.latency.as_ref().map(Latency::json),
                "cpu_microseconds": sample.cpu,
                "instructions": sample.instructions,
                "cycles": sample.cycles,
            }),
            Err(_) => Value::Null,
        };
        self.samples.iter().map(round).collect()
    }
}

impl Outcome {
    /// The case, and the count if there is one.
    pub(super) fn name(&self) -> String {
        let at = |count| format!("{} at {}", self.case, whole(f64::from(count)));
        self.count.map_or_else(|| self.case.to_owned(), at)
    }

    /// How netd compares with a variant; `None` for itself, and where one of the two has no sample.
    pub(super) fn ratio(&self, against: &Series) -> Option<Ratio> {
        if against.variant == OURS {
            return None;
        }
        self.compare(self.series_of(OURS)?, against)
    }

    /// The samples of a variant.
    pub(super) fn series_of(&self, variant: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.variant == variant)
    }

    /// How one variant compares with another; `None` where one of the two has no sample.
    pub(super) fn compare(&self, ours: &Series, against: &Series) -> Option<Ratio> {
        let better = self.unit.better();
        let rounds = ours.samples.iter().zip(&against.samples).filter_map(|pair| match pair {
            (Ok(ours), Ok(theirs)) => Some(ratio(ours.value, theirs.value, better)),
            _ => None,
        });
        let ratio = ratio(ours.median()?, against.median()?, better);
        // No round in which both have a sample: then the medians are all that there is.
        Some(Ratio { ratio, range: range(rounds).unwrap_or((ratio, ratio)) })
    }

    fn json(&self) -> Value {
        json!({
            "case": self.case,
            "what": self.what,
            "group": self.group,
            "cpus": self.cpus,
            "operation": self.operation,
            "count": self.count,
            "better": self.unit.better().text(),
            "variants": self.series.iter().map(|series| series.json(self.unit)).collect::<Vec<_>>(),
        })
    }

    fn ratios_json(&self) -> impl Iterator<Item = Value> {
        self.series.iter().filter_map(|series| {
            let Ratio { ratio, range } = self.ratio(series)?;
            Some(json!({
                "case": self.case,
                "cpus": self.cpus,
                "count": self.count,
                "against": series.variant,
                "ratio": ratio,
                "min": range.0,
                "max": range.1,
            }))
        })
    }
}

impl Report {
    /// Whether netd ran, and no sample failed.
    pub(super) fn complete(&self) -> bool {
        let ours_ran = self.unavailable.iter().all(|(variant, _)| *variant != OURS);
        ours_ran
            && self
                .outcomes
                .iter()
                .flat_map(|outcome| &outcome.series)
                .all(|series| series.failures().next().is_none())
    }

    pub(super) fn json(&self) -> Value {
        let named = |list: &[(&'static str, String)], key: &str| -> Vec<Value> {
            list.iter().map(|(variant, text)| json!({ "variant": variant, key: text })).collect()
        };
        json!({
            "machine": self.machine,
            "settings": self.settings,
            "cases": self.outcomes.iter().map(Outcome::json).collect::<Vec<_>>(),
            "ratios": self.outcomes.iter().flat_map(Outcome::ratios_json).collect::<Vec<_>>(),
            "unavailable": named(&self.unavailable, "reason"),
            "evidence": named(&self.evidence, "text"),
            "targets": self.targets.iter().map(Verdict::json).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A report with one case of times: netd 10, 12 and 11 µs, the bridge 15 µs, failed, 22 µs; no veth.
    pub(in super::super) fn example() -> Report {
        let series = |variant, samples: [Option<f64>; 3]| Series {
            variant,
            samples: samples
                .map(|sample| sample.map(Sample::from).ok_or_else(|| "no answer".to_owned()))
                .to_vec(),
        };
        Report {
            machine: Machine::default(),
            outcomes: vec![Outcome {
                group: "two containers",
                case: "tcp-rr",
                what: "TCP, there and back",
                unit: Unit::Microseconds,
                cpus: 1,
                operation: "round trip",
                count: None,
                series: vec![
                    series(OURS, [Some(10.0), Some(12.0), Some(11.0)]),
                    series("bridge", [Some(15.0), None, Some(22.0)]),
                    series("loopback", [None, None, None]),
                ],
            }],
            unavailable: vec![("veth", "no veth in this kernel".to_owned())],
            targets: Vec::new(),
            evidence: vec![("bridge", "7 packets".to_owned())],
            settings: json!({ "rounds": 3 }),
        }
    }

    #[test]
    fn ratios_are_of_medians_with_the_range_of_the_rounds() {
        let report = example();
        let outcome = &report.outcomes[0];
        assert_eq!(outcome.ratio(&outcome.series[0]), None, "netd against itself");
        let against = outcome.ratio(&outcome.series[1]).expect("a ratio");
        assert!((against.ratio - 18.5 / 11.0).abs() < 1e-9, "{against:?}");
        assert_eq!(against.range, (1.5, 2.0));
        assert_eq!(outcome.ratio(&outcome.series[2]), None, "no sample");
    }

    #[test]
    fn the_json_is_as_others_expect_it() {
        let json = example().json();
        let case = &json["cases"][0];
        assert_eq!((&case["case"], &case["cpus"]), (&json!("tcp-rr"), &json!(1)));
        let netd = &case["variants"][0];
        assert_eq!(netd["variant"], "netd");
        assert_eq!(netd["unit"], "µs");
        assert_eq!(netd["samples"], json!([10.0, 12.0, 11.0]));
        assert_eq!(netd["median"], 11.0);
        assert_eq!(case["variants"][1]["samples"], json!([15.0, 22.0]));
        assert_eq!(case["variants"][1]["failures"], json!(["no answer"]));
        assert_eq!(case["variants"][2]["median"], Value::Null);
        assert_eq!(json["ratios"].as_array().map(Vec::len), Some(1));
        assert_eq!(json["ratios"][0]["against"], "bridge");
        assert_eq!(json["unavailable"][0]["reason"], "no veth in this kernel");
        assert_eq!(netd["rounds"][0]["value"], 10.0);
        assert_eq!(case["variants"][1]["rounds"][1], Value::Null);
        assert_eq!(netd["latency"], Value::Null);
        assert!(json["machine"].is_object());
    }

    #[test]
    fn latencies_are_of_all_rounds_and_costs_are_medians() {
        let mut series = Series::new(OURS);
        for (cpu, nanoseconds) in [(3.0, 1000), (9.0, 2000), (4.0, 3000)] {
            let mut latency = Latency::new();
            latency.record(nanoseconds);
            series.samples.push(Ok(Sample { latency: Some(latency), cpu: Some(cpu), ..Sample::from(1.0) }));
        }
        series.samples.push(Err("no answer".to_owned()));
        let json = series.json(Unit::Microseconds);
        assert_eq!(json["latency"]["count"], 3);
        let middle = json["latency"]["p50"].as_f64().expect("a time");
        assert!((middle - 2.0).abs() < 0.01, "{middle}");
        assert_eq!(json["cpu_microseconds"], 4.0);
        assert_eq!(json["cycles"], Value::Null);
    }

    #[test]
    fn a_report_is_complete_without_failures_and_with_netd() {
        let mut report = example();
        assert!(!report.complete(), "samples failed");
        report.outcomes[0].series.truncate(1);
        assert!(report.complete());
        report.unavailable.push((OURS, "no daemon".to_owned()));
        assert!(!report.complete());
    }
}
