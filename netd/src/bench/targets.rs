//! What netd is to reach: each target is a case, what is measured, what it is compared with, and how many times better it is to
//! be. `netd bench --targets` measures what these need, and no more.

use serde_json::{Value, json};

use super::{
    report::{Outcome, Ratio},
    scene::OURS,
};

/// How much better one variant is to be than another in a case, on one CPU.
#[derive(Debug, PartialEq)]
pub(super) struct Target {
    case: &'static str,
    variant: &'static str,
    against: &'static str,
    /// The medians' ratio is to be this or more; above 1, `variant` is the better one.
    ratio: f64,
}

/// The case of `netd bench attach` that is among them.
const ATTACH: &str = "attach";
/// Kernel, bridge and Docker's rules; between hosts, as flannel connects them.
const BRIDGE: &str = "bridge";
/// netd with much of something, which is to cost a packet nothing.
const PORTS: &str = "netd-10000-ports";
const ENDPOINTS: &str = "netd-10000-endpoints";

/// In the order of the report.
pub(super) const TARGETS: &[Target] = &[
    target("tcp-rr", OURS, BRIDGE, 1.4),
    target("tcp-rr", OURS, "veth", 0.97),
    target("udp-64", OURS, BRIDGE, 1.4),
    target("tcp-stream", OURS, BRIDGE, 1.25),
    target("tcp-stream", "netd-big-tcp", BRIDGE, 1.6),
    target("tcp-crr", OURS, BRIDGE, 1.4),
    target("egress-udp-64", OURS, BRIDGE, 1.5),
    target("egress-tcp-crr", OURS, BRIDGE, 1.5),
    target("published-tcp-crr", OURS, BRIDGE, 1.5),
    target("vxlan-tcp-rr", OURS, BRIDGE, 1.8),
    target("vxlan-udp-64", OURS, BRIDGE, 1.8),
    target("vxlan-tcp-stream", OURS, BRIDGE, 1.75),
    target("vxlan-tcp-stream-mtu", OURS, BRIDGE, 1.3),
    target("direct-tcp-rr", OURS, BRIDGE, 1.4),
    target("denied-udp-64", OURS, BRIDGE, 1.3),
    target("tcp-rr", PORTS, OURS, 0.95),
    target("udp-64", PORTS, OURS, 0.95),
    target("published-udp-64", PORTS, OURS, 0.95),
    target("published-tcp-crr", PORTS, OURS, 0.95),
    target("tcp-rr", ENDPOINTS, OURS, 0.95),
    target("udp-64", ENDPOINTS, OURS, 0.95),
    target("published-udp-64", ENDPOINTS, OURS, 0.95),
    target("published-tcp-crr", ENDPOINTS, OURS, 0.95),
    target(ATTACH, OURS, "cni-bridge", 3.0),
];

const fn target(case: &'static str, variant: &'static str, against: &'static str, ratio: f64) -> Target {
    Target { case, variant, against, ratio }
}

/// Whether any of them needs this case.
#[must_use]
pub fn is_case(case: &str) -> bool {
    TARGETS.iter().any(|target| target.case == case)
}

/// Whether any of them needs this variant, in whichever case.
#[must_use]
pub fn is_variant(variant: &str) -> bool {
    TARGETS.iter().any(|target| target.is_of(variant))
}

/// Whether any of them needs this variant in this case.
pub(super) fn needs(case: &str, variant: &str) -> bool {
    TARGETS.iter().any(|target| target.case == case && target.is_of(variant))
}

/// The same, of the variants of `netd bench attach`.
pub(super) fn needs_attached(variant: &str) -> bool {
    needs(ATTACH, variant)
}

/// What came of a target.
#[derive(Debug)]
pub(super) struct Verdict {
    target: &'static Target,
    /// `None`: one of the two was not measured.
    reached: Option<Ratio>,
}

/// Compares what was measured with every target.
pub(super) fn judge(outcomes: &[Outcome]) -> Vec<Verdict> {
    let reached = |target: &Target| {
        let outcome = outcomes.iter().find(|one| one.case == target.case && one.count.is_none())?;
        outcome.compare(outcome.series_of(target.variant)?, outcome.series_of(target.against)?)
    };
    TARGETS.iter().map(|target| Verdict { target, reached: reached(target) }).collect()
}

impl Target {
    fn is_of(&self, variant: &str) -> bool {
        [self.variant, self.against].contains(&variant)
    }
}

impl Verdict {
    /// Case, variant, against what, at least how much; as columns of a table.
    pub(super) fn names(&self) -> [String; 4] {
        let Target { case, variant, against, ratio } = self.target;
        [case.to_string(), variant.to_string(), against.to_string(), format!("{ratio:.2}×")]
    }

    /// What was reached, if both were measured.
    pub(super) fn reached(&self) -> Option<Ratio> {
        self.reached
    }

    /// Whether that is enough; `None` where it was not measured.
    pub(super) fn is_met(&self) -> Option<bool> {
        self.reached.map(|reached| reached.ratio >= self.target.ratio)
    }

    pub(super) fn json(&self) -> Value {
        let Target { case, variant, against, ratio } = self.target;
        json!({
            "case": case,
            "variant": variant,
            "against": against,
            "target": ratio,
            "ratio": self.reached.map(|reached| reached.ratio),
            "min": self.reached.map(|reached| reached.range.0),
            "max": self.reached.map(|reached| reached.range.1),
            "met": self.is_met(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{CASES, VARIANTS, report::tests::example},
        *,
    };

    #[test]
    fn each_names_what_there_is_and_none_stands_twice() {
        for (index, target) in TARGETS.iter().enumerate() {
            let same = |other: &Target| {
                (other.case, other.variant, other.against) == (target.case, target.variant, target.against)
            };
            assert!(!TARGETS[..index].iter().any(same), "{target:?}");
            assert!(target.variant != target.against && target.ratio > 0.0, "{target:?}");
            for name in [target.variant, target.against] {
                assert!(VARIANTS.iter().any(|variant| variant.name == name), "{target:?}");
            }
            assert!(target.case == ATTACH || CASES.iter().any(|case| case.name == target.case), "{target:?}");
        }
    }

    #[test]
    fn a_target_is_met_from_its_ratio_on() {
        let verdicts = judge(&example().outcomes);
        let verdict = |against| {
            let is_it = |one: &&Verdict| one.target.case == "tcp-rr" && one.target.against == against;
            verdicts.iter().find(is_it).expect("a verdict")
        };
        // The example's bridge is 1.68 times as slow; there is no veth.
        assert_eq!(verdict(BRIDGE).is_met(), Some(true));
        assert_eq!(verdict(BRIDGE).json()["met"], true);
        assert_eq!(verdict("veth").is_met(), None);
        assert_eq!(verdict("veth").json()["ratio"], Value::Null);
        let higher = Target { ratio: 1.7, ..target("tcp-rr", OURS, BRIDGE, 0.0) };
        let missed = Verdict { target: Box::leak(Box::new(higher)), reached: verdict(BRIDGE).reached };
        assert_eq!(missed.is_met(), Some(false));
    }

    #[test]
    fn only_what_is_compared_is_measured() {
        assert!(needs("tcp-rr", "veth") && needs("tcp-rr", PORTS) && needs("tcp-crr", OURS));
        assert!(!needs("tcp-crr", "veth") && !needs("vxlan-tcp-rr", PORTS) && !needs("udp-rr", OURS));
        assert!(is_case("denied-udp-64") && !is_case("udp-rr"));
        assert!(is_variant("veth") && !is_variant("loopback"));
        assert!(needs_attached("cni-bridge") && !needs_attached("docker"));
    }
}
