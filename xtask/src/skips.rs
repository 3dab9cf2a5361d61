//! Where all tests have to run (`NETD_REQUIRE_ALL=1`, as in CI), one that is left out has failed: but for those in this list.

use std::env;

/// Tests that a whole run leaves out, and why that is all right.
const ACCEPTED: [(&str, &str); 4] = [
    ("netlink::container::tests::latency", "a measurement: it has no result that is right or wrong"),
    ("nanoseconds_per_run", "a measurement"),
    ("milliseconds_per_attach", "a measurement"),
    ("a_thousand_endpoints", "half a minute for what a_hundred_endpoints shows with fewer"),
];

/// Tests for what not every machine has, by what their names begin with: where it has, they run.
const BY_MACHINE: [(&str, &str); 4] = [
    ("netkit::", "netkit is of Linux 6.7 and optional"),
    ("netkit_l3::", "likewise"),
    ("a_kind_that_this_kernel_lacks_is_refused", "kernels with netkit lack none"),
    ("a_virtio_nic_drops_natively", "for the two NICs of the VM: `cargo xtask vm` runs it"),
];

/// Whether all tests have to run.
pub(crate) fn all_required() -> bool {
    env::var("NETD_REQUIRE_ALL").is_ok_and(|value| !matches!(value.as_str(), "" | "0"))
}

/// What is wrong with a run that has left out these (see [`crate::summary::Totals::skipped`]). `whole`: nobody asked for a part of the
/// tests, so that what the list has must be among them, or does not belong there any more.
pub(crate) fn faults<'a>(skipped: impl Iterator<Item = &'a str>, whole: bool) -> Vec<String> {
    let skipped: Vec<_> = skipped.map(|line| (test_of(line), line)).collect();
    let is_accepted = |test: &str| {
        ACCEPTED.iter().any(|(accepted, _)| *accepted == test)
            || BY_MACHINE.iter().any(|(begin, _)| test.starts_with(begin))
    };
    let unlisted = skipped.iter().filter(|(test, _)| !is_accepted(test)).map(|(_, line)| {
        format!("left out, though NETD_REQUIRE_ALL is set and xtask/src/skips.rs does not list it: {line}")
    });
    let stale = ACCEPTED
        .iter()
        .filter(|(accepted, _)| whole && skipped.iter().all(|(test, _)| test != accepted))
        .map(|(accepted, _)| format!("{accepted}: was not left out; xtask/src/skips.rs need not list it"));
    unlisted.chain(stale).collect()
}

/// The test that such a line is about: `SKIP TEST: WHY`, or `TEST is ignored: WHY`.
fn test_of(line: &str) -> &str {
    match line.strip_prefix("SKIP ") {
        Some(rest) => rest.split_once(": ").map_or(rest, |(test, _)| test),
        None => line.split_once(" is ignored").map_or(line, |(test, _)| test),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a whole run leaves out.
    fn usual() -> Vec<String> {
        ACCEPTED.iter().map(|(test, why)| format!("{test} is ignored: {why}")).collect()
    }

    fn of(lines: &[String], whole: bool) -> Vec<String> {
        faults(lines.iter().map(String::as_str), whole)
    }

    #[test]
    fn what_the_list_has_may_be_left_out() {
        assert_eq!(of(&usual(), true), [""; 0]);
        let mut more = usual();
        more.push("SKIP netkit::long_packets: this kernel has no netkit".to_owned());
        assert_eq!(of(&more, true), [""; 0]);
        assert_eq!(of(&[], false), [""; 0]);
    }

    #[test]
    fn what_it_has_not_may_not() {
        for skip in
            ["SKIP ipv6::pings: this kernel has no IPv6", "slow is ignored: takes a minute", "x is ignored"]
        {
            let found = of(&[usual(), vec![skip.into()]].concat(), true);
            assert!(matches!(&found[..], [one] if one.ends_with(skip)), "{found:?}");
        }
    }

    #[test]
    fn what_runs_does_not_belong_there() {
        let found = of(&usual()[1..], true);
        assert!(matches!(&found[..], [one] if one.starts_with(ACCEPTED[0].0)), "{found:?}");
        assert_eq!(of(&usual()[1..], false), [""; 0]);
    }
}
