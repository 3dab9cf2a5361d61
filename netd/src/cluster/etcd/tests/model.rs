//! What records mean beside each other, in whatever order they come.

use super::*;

/// The keys that do not count, with the reasons.
fn problems(records: &[(&str, &str, i64)]) -> Vec<String> {
    let (_, problems) = model(records).cluster();
    problems.into_iter().map(|problem| format!("{}: {}", problem.key, problem.what)).collect()
}

#[test]
fn what_does_not_count() {
    let (first, second) = (network(1, "10.88.0.0/16", 24), network(2, "10.89.0.0/16", 24));
    let slice = r#"{"node":"one"}"#;
    let (one, two) = (node("x", "192.0.2.1"), node("y", "192.0.2.1"));
    let again = network(1, "10.90.0.0/16", 24);
    let within = network(3, "10.88.4.0/24", 28);
    for (records, expected) in [
        (&[("networks/a", first.as_str(), 0), ("networks/b", &second, 0)][..], vec![]),
        (
            &[("networks/b", first.as_str(), 0), ("networks/a", &again, 0)],
            vec!["networks/b: its number 1 is that of network a"],
        ),
        // The one that was first stays, whatever it is called.
        (
            &[("networks/z", first.as_str(), 0), ("networks/a", &within, 0)],
            vec!["networks/a: its subnet 10.88.4.0/24 overlaps 10.88.0.0/16"],
        ),
        (&[("slices/a/10.88.1.0-24", slice, 0)], vec!["slices/a/10.88.1.0-24: there is no network a"]),
        (
            &[("networks/a", first.as_str(), 0), ("slices/a/10.89.1.0-24", slice, 0)],
            vec!["slices/a/10.89.1.0-24: it is not within 10.88.0.0/16"],
        ),
        (
            &[("networks/a", first.as_str(), 0), ("slices/a/10.88.0.0-16", slice, 0)],
            vec!["slices/a/10.88.0.0-16: slices of network a are /24"],
        ),
        (
            &[("nodes/two", two.as_str(), 5), ("nodes/one", &one, 6)],
            vec!["nodes/one: its address 192.0.2.1 is that of node two"],
        ),
    ] {
        assert_eq!(problems(records), expected, "{records:?}");
    }
}

#[test]
fn a_slice_may_come_before_its_network() {
    let there = network(1, "10.88.0.0/16", 24);
    let slice = ("slices/a/10.88.1.0-24", r#"{"node":"one"}"#, 0);
    let mut early = model(&[slice]);
    assert!(early.cluster().0.slices.is_empty());
    early.put("networks/a", there.as_bytes(), Version::default()).unwrap();
    assert_eq!(early.cluster(), model(&[("networks/a", &there, 0), slice]).cluster());
    assert_eq!(early.cluster().0.slices.len(), 1);
    early.delete("networks/a");
    assert!(early.cluster().0.slices.is_empty());
    early.delete(slice.0);
    early.delete("no key of ours");
    assert_eq!(early.cluster(), Default::default());
}
