//! What a node does next because somebody has asked for it.

use super::*;
use crate::cluster::etcd::goal::{Goal, Next};

/// What comes next, in short: the writes of a step, with `last` where nothing follows; `done`; or why not.
fn next(records: &[(&str, &str, i64)], goal: &Goal, tried: bool) -> String {
    let model = model(records);
    match goal.next(&model, &model.cluster().0, &me("one"), tried) {
        Next::Step(step) => writes(&step.writes).join(" "),
        Next::Last(step, _) => format!("last: {}", writes(&step.writes).join(" ")),
        Next::Done(_) => "done".to_owned(),
        Next::Refused(refusal) => refusal.to_string(),
    }
}

#[test]
fn networks_are_made_and_removed() {
    let there = network(1, "10.88.0.0/16", 24);
    let nonsense = network(0, "10.88.0.0/16", 24);
    let using = node("x", "192.0.2.2").replace("[]", r#"["default"]"#);
    let counter = ("last-network", r#"{"last":1}"#, 0);
    let default = ("networks/default", there.as_str(), 0);
    let create = |name: &str, subnet: &str| Goal::CreateNetwork(definition(name, subnet));
    let remove = |name: &str| Goal::RemoveNetwork(name.to_owned());
    for (records, goal, tried, expected) in [
        (&[][..], create("a", "10.0.0.0/16"), false, "last: +last-network +networks/a"),
        (&[counter, default], create("a", "10.0.0.0/16"), false, "last: +last-network +networks/a"),
        (
            &[counter, default],
            create("default", "10.0.0.0/16"),
            false,
            "network `default` exists already in the cluster (10.88.0.0/16)",
        ),
        (
            &[counter, default],
            create("default", "10.88.0.0/16"),
            false,
            "network `default` exists already in the cluster (10.88.0.0/16)",
        ),
        // Its own, whose answer was lost.
        (&[counter, default], create("default", "10.88.0.0/16"), true, "done"),
        (
            &[counter, default],
            create("a", "10.88.1.0/24"),
            false,
            "10.88.1.0/24 overlaps 10.88.0.0/16 of network `default` of the cluster",
        ),
        (
            &[("networks/a", nonsense.as_str(), 0)],
            create("a", "10.0.0.0/16"),
            false,
            "what etcd has of network `a` does not count: `netd network rm a` removes it",
        ),
        (&[default], remove("default"), false, "last: -networks/default -slices/default/*"),
        (&[("networks/a", nonsense.as_str(), 0)], remove("a"), false, "last: -networks/a -slices/a/*"),
        (
            &[default, ("nodes/two", using.as_str(), 5)],
            remove("default"),
            false,
            "network `default` is used on node `two`: detach its endpoints there, or remove it from the configuration",
        ),
        // What this node itself uses is for its own daemon to know.
        (
            &[default, ("nodes/one", using.as_str(), 5)],
            remove("default"),
            false,
            "last: -networks/default -slices/default/*",
        ),
        (&[], remove("a"), false, "no network `a` in the cluster: `netd network ls` shows all"),
        (&[], remove("a"), true, "done"),
    ] {
        assert_eq!(next(records, &goal, tried), expected, "{goal:?}");
    }
}

#[test]
fn nodes_go() {
    let there = network(1, "10.88.0.0/16", 24);
    let default = ("networks/default", there.as_str(), 0);
    let slice = ("slices/default/10.88.1.0-24", r#"{"node":"two"}"#, 0);
    let own_slice = ("slices/default/10.88.2.0-24", r#"{"node":"one"}"#, 0);
    let (two, one) = (node("x", "192.0.2.2"), node("id of one", "192.0.2.1"));
    let remove = Goal::RemoveNode("two".to_owned());
    for (records, goal, tried, expected) in [
        (&[default, slice, own_slice][..], &remove, false, "last: -slices/default/10.88.1.0-24"),
        (
            &[default, slice, ("nodes/two", two.as_str(), 5)],
            &remove,
            false,
            "node `two` is there (192.0.2.2): stop its netd first",
        ),
        (
            &[default, slice, ("nodes/two", "?", 5)],
            &remove,
            false,
            "last: -nodes/two -slices/default/10.88.1.0-24",
        ),
        (&[default], &remove, false, "no node `two` in the cluster: `netd nodes` shows all"),
        (&[default], &remove, true, "done"),
        (
            &[default, slice, own_slice, ("nodes/one", one.as_str(), LEASE)],
            &Goal::Leave,
            false,
            "last: -nodes/one -slices/default/10.88.2.0-24",
        ),
        (&[default, slice], &Goal::Leave, false, "done"),
        // Another node of the name: its slices are not this one's to give back.
        (&[default, own_slice, ("nodes/one", two.as_str(), 5)], &Goal::Leave, false, "done"),
    ] {
        assert_eq!(next(records, goal, tried), expected, "{goal:?} {records:?}");
    }
}

#[test]
fn many_slices_go_in_parts() {
    let keys: Vec<String> = (0..150).map(|number| format!("slices/default/10.88.{number}.0-24")).collect();
    let there = network(1, "10.88.0.0/16", 24);
    let mut records = vec![("networks/default", there.as_str(), 0)];
    records.extend(keys.iter().map(|key| (key.as_str(), r#"{"node":"one"}"#, 0)));
    let first = next(&records, &Goal::Leave, false);
    assert!(!first.starts_with("last") && first.split(' ').count() == 100, "{first}");
    records.truncate(51);
    let rest = next(&records, &Goal::Leave, true);
    assert!(rest.starts_with("last: ") && rest.split(' ').count() == 51, "{rest}");
}
