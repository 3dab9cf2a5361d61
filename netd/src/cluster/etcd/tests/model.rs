//! What records mean beside each other, in whatever order they come.

use std::collections::BTreeMap;

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
        // The one that was first stays, whatever it is called, and whatever its number is.
        (
            &[("networks/b", second.as_str(), 0), ("networks/a", &first.replace("88", "89"), 0)],
            vec!["networks/a: its subnet 10.89.0.0/16 overlaps 10.89.0.0/16"],
        ),
        (
            &[("networks/z", first.as_str(), 0), ("networks/a", &again, 0)],
            vec!["networks/a: its number 1 is that of network z"],
        ),
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

/// A network that has been there does not go because of what somebody writes: neither its own record's end nor another's
/// beginning takes its slices away.
#[test]
fn a_bad_record_costs_no_network() {
    let (default, blue) = (network(7, "10.88.0.0/16", 24), network(8, "10.89.0.0/16", 24));
    let good = [
        ("networks/default", default.as_str(), 0),
        ("networks/blue", blue.as_str(), 0),
        ("slices/default/10.88.1.0-24", r#"{"node":"one"}"#, 0),
        ("slices/blue/10.89.1.0-24", r#"{"node":"one"}"#, 0),
        ("nodes/one", &node("x", "192.0.2.1"), 5),
    ];
    let before = model(&good).cluster().0;
    assert_eq!((before.networks.len(), before.slices.len(), before.nodes.len()), (2, 2, 1));
    for (key, value) in [
        ("networks/aaa", network(7, "10.77.0.0/16", 24)),
        ("networks/aaa", network(1, "10.88.0.0/24", 26)),
        ("networks/aaa", network(1, "10.0.0.0/8", 24)),
        ("networks/default", "garbage".to_owned()),
        ("networks/default", String::new()),
        // A network never gets another number, subnet or length of slices.
        ("networks/default", network(9, "10.88.0.0/16", 24)),
        ("networks/default", network(7, "10.77.0.0/16", 24)),
        ("networks/default", network(7, "10.88.0.0/16", 25)),
        ("slices/default/10.88.1.0-24", "[]".to_owned()),
        ("nodes/one", "?".to_owned()),
    ] {
        let mut model = model(&good);
        let created = good.iter().position(|record| record.0 == key).map_or(100, |index| index as i64 + 1);
        let _ = model.put(key, value.as_bytes(), Version { created, revision: 100, lease: 0 });
        let (after, problems) = model.cluster();
        assert_eq!(after, before, "{key} {value}");
        assert_eq!(problems.len(), 1, "{key} {value}: {problems:?}");
        assert_eq!(problems[0].key.to_string(), key);
    }
}

/// What is known of a network outlives that all is read anew, and what is not the same network does not.
#[test]
fn a_network_is_what_it_was_when_all_is_read_anew() {
    let default = network(7, "10.88.0.0/16", 24);
    let moved = network(7, "10.77.0.0/16", 24);
    let known =
        model(&[("networks/default", &default, 0), ("slices/default/10.88.1.0-24", r#"{"node":"one"}"#, 0)]);
    let memory = Model::of_memory("one", &known.cluster().0);
    let forgotten = {
        let mut model = known.clone();
        model.forget_ages();
        model
    };
    // (what was known, the revision that the record is of now, its value, the subnet that counts)
    for (what, before, created, value, expected) in [
        ("garbage", &known, 1, "garbage", Some("10.88.0.0/16")),
        ("garbage after a restart", &memory, 1, "garbage", Some("10.88.0.0/16")),
        ("garbage in an etcd that counts anew", &forgotten, 9, "garbage", Some("10.88.0.0/16")),
        ("another subnet", &known, 1, moved.as_str(), Some("10.88.0.0/16")),
        ("removed and made anew", &known, 9, &moved, Some("10.77.0.0/16")),
        ("removed and made anew, as garbage", &known, 9, "garbage", None),
        ("removed and made anew while the daemon was away", &memory, 9, &moved, Some("10.77.0.0/16")),
        ("another history", &forgotten, 1, &moved, Some("10.77.0.0/16")),
    ] {
        let mut model = Model::after(before);
        model
            .put_known(
                "networks/default",
                value.as_bytes(),
                Version { created, ..Version::default() },
                before,
            )
            .unwrap();
        let slice = Version { created: 2, ..Version::default() };
        model.put_known("slices/default/10.88.1.0-24", br"?", slice, before).unwrap();
        model.complete();
        let cluster = model.cluster().0;
        let subnet = cluster.networks.get("default").map(|network| network.subnet.to_string());
        assert_eq!(subnet.as_deref(), expected, "{what}");
        assert_eq!(cluster.slices.len(), usize::from(expected == Some("10.88.0.0/16")), "{what}");
    }
}

/// Somebody who writes without end takes no room from what is known or this node's own, nor without end.
#[test]
fn there_is_room_for_so_much() {
    const EVIL: &[u8] = br#"{"node":"evil"}"#;
    let there = network(1, "10.0.0.0/8", 28);
    let slice = |network: &str, number: u32| {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + (number << 4));
        format!("slices/{network}/{address}-28")
    };
    let version = Version { created: 1, revision: 1, lease: 0 };
    let last = slice("b", 120_000);
    let good = model(&[("networks/b", there.as_str(), 0), (&last, r#"{"node":"one"}"#, 0)]);
    let fill = |model: &mut Model, before: &Model| {
        let padded = format!("{}{}", node("x", "192.0.2.1"), " ".repeat(60_000));
        for number in 0..1000 {
            model.put_known(&format!("nodes/evil-{number}"), padded.as_bytes(), version, before).unwrap();
        }
        for number in 0..1000 {
            let small = node("x", "192.0.2.1");
            model.put_known(&format!("nodes/small-{number}"), small.as_bytes(), version, before).unwrap();
        }
        for (network, slices) in [("a", 20_000), ("b", 120_000)] {
            for number in 0..slices {
                model.put_known(&slice(network, number), EVIL, version, before).unwrap();
            }
        }
    };
    let counted = |model: &Model| {
        let slices = |network| model.slices.get(network).map_or(0, BTreeMap::len);
        (slices("a"), slices("b"), model.nodes.len())
    };
    // While it is watched.
    let mut watched = good.clone();
    fill(&mut watched, &Model::default());
    let (strays, slices, nodes) = counted(&watched);
    assert_eq!((strays, slices, nodes < 1000), (10_000, 100_000, true), "{nodes}");
    assert!(watched.left_out() > 30_000 && !watched.has_room_again());
    // Where all is read anew, with what is good behind all that is not; and by one who knows nothing.
    let fresh = Model::of_memory("me", &Default::default());
    for (before, owner) in [(&good, Some("one")), (&fresh, None)] {
        let mut again = Model::after(before);
        again.put_known("networks/b", there.as_bytes(), version, before).unwrap();
        fill(&mut again, before);
        again.put_known(&last, br#"{"node":"one"}"#, version, before).unwrap();
        let own = slice("b", 120_001);
        let full = again.left_out();
        again.put_known(&own, br#"{"node":"me"}"#, version, before).unwrap();
        again.put_known("nodes/me", node("x", "192.0.2.9").as_bytes(), version, before).unwrap();
        again.complete();
        let found = |model: &Model, key: &str| {
            let key = key.rsplit('/').next().unwrap().replace('-', "/");
            model.slices["b"].get(&key.parse().unwrap()).map(|stored| stored.record.clone().unwrap().node)
        };
        assert_eq!(found(&again, &last).as_deref(), owner);
        let is_own = before.me() == "me";
        assert_eq!((found(&again, &own).is_some(), again.nodes.contains_key("me")), (is_own, is_own));
        assert_eq!(again.left_out() - full, if is_own { 0 } else { 2 });
        assert_eq!(counted(&again).1, if is_own { 100_001 } else { 100_000 });
        // What is there may change, though there is no room for more.
        again.put(&slice("b", 0), br#"{"node":"two"}"#, version).unwrap();
        assert_eq!(found(&again, &slice("b", 0)).as_deref(), Some("two"));
        // And there is room again when something is gone.
        again.delete(&slice("b", 0));
        assert!(again.has_room_again());
        let before = again.left_out();
        again.put(&slice("b", 0), EVIL, version).unwrap();
        assert_eq!(again.left_out(), before);
    }
}
