//! What a node does next for itself.

use super::*;
use crate::cluster::etcd::plan::{Plan, next};

fn plan(records: &[(&str, &str, i64)], me: &Me, wanted: &Announcement) -> Plan {
    let model = model(records);
    next(&model, &model.cluster().0, me, wanted)
}

/// The first step, in short, and what is refused.
fn shown(plan: &Plan) -> (Vec<String>, Vec<String>) {
    (plan.step.as_ref().map(|step| writes(&step.writes)).unwrap_or_default(), plan.refused.clone())
}

#[test]
fn a_node_and_its_name() {
    let one = me("one");
    let wanted = announcement("192.0.2.1", &[]);
    let taken = vec!["node name `one` is taken in the cluster by 192.0.2.9: set node.name".to_owned()];
    let register = vec![format!("+nodes/one ({LEASE})")];
    let at =
        |place: &str, id: &str, address: &str| node(id, address).replace("\"here\"", &format!("\"{place}\""));
    let copied = vec![
        "node name `one` is taken in the cluster by 192.0.2.9, of whose state directory this one's is a copy: set \
         node.name"
            .to_owned(),
    ];
    let reinstalled = vec!["node name `one` is taken in the cluster by 192.0.2.1: set node.name".to_owned()];
    let own = at("here", "id of one", "192.0.2.1");
    // (what is there, with which lease) and (what is done, what is refused, whether that may end by itself)
    for (what, record, lease, expected, may_return) in [
        ("nobody has it", None, 0, (register.clone(), vec![]), false),
        ("it is there", Some(own.clone()), LEASE, (vec![], vec![]), false),
        ("of an earlier process", Some(own.clone()), 5, (register.clone(), vec![]), false),
        (
            "of a state that was lost",
            Some(at("here", "x", "192.0.2.1")),
            5,
            (register.clone(), vec![]),
            false,
        ),
        ("it has moved", Some(at("here", "id of one", "192.0.2.9")), 5, (register.clone(), vec![]), false),
        (
            "before a reboot",
            Some(at("there", "id of one", "192.0.2.1")),
            5,
            (register.clone(), vec![]),
            false,
        ),
        (
            "of an earlier version",
            Some(at("", "id of one", "192.0.2.1")),
            5,
            (register.clone(), vec![]),
            false,
        ),
        ("a copy's", Some(at("there", "id of one", "192.0.2.9")), 5, (vec![], copied), true),
        ("of a machine that is new", Some(at("there", "x", "192.0.2.1")), 5, (vec![], reinstalled), true),
        ("another node's", Some(at("there", "x", "192.0.2.9")), 5, (vec![], taken.clone()), false),
        ("another node's of the same machine", Some(at("here", "x", "192.0.2.9")), 5, (vec![], taken), false),
        ("nonsense", Some("?".to_owned()), 5, (register, vec![]), false),
    ] {
        let records: Vec<_> = record.iter().map(|value| ("nodes/one", value.as_str(), lease)).collect();
        let plan = plan(&records, &one, &wanted);
        assert_eq!(shown(&plan), expected, "{what}");
        assert_eq!(plan.may_return, may_return, "{what}");
        assert_eq!(plan.taken, !plan.refused.is_empty(), "{what}");
    }
    // One that has had the name does not take it back from its copy.
    let named = Me { named: true, ..one.clone() };
    assert!(plan(&[("nodes/one", &own, 5)], &named, &wanted).taken);
    // Without an uplink it is not there.
    let nowhere = Announcement::default();
    assert_eq!(shown(&plan(&[("nodes/one", &own, LEASE)], &one, &nowhere)).0, ["-nodes/one"]);
    let other = node("x", "192.0.2.1");
    let refused = shown(&plan(&[("nodes/a", &other, 5), ("nodes/one", &own, LEASE)], &one, &wanted)).1;
    assert_eq!(refused, ["address 192.0.2.1 is that of node `a` too: set node.address"]);
}

#[test]
fn networks_of_the_configuration() {
    let own = node("id of one", "192.0.2.1");
    let there = network(3, "10.88.0.0/16", 24);
    let slice = r#"{"node":"one"}"#;
    let records = [
        ("nodes/one", own.as_str(), LEASE),
        ("last-network", r#"{"last":3}"#, 0),
        ("networks/default", &there, 0),
        ("slices/default/10.88.0.0-24", slice, 0),
    ];
    let make = |name: &str| vec!["+last-network".to_owned(), format!("+networks/{name}")];
    for (networks, expected) in [
        (&[("default", "10.88.0.0/16", Some(3))][..], (vec![], vec![])),
        // The number that it has here does not count where it is there.
        (&[("default", "10.88.0.0/16", Some(9))], (vec![], vec![])),
        (&[("blue", "10.89.0.0/16", None)], (make("blue"), vec![])),
        (
            &[("default", "10.87.0.0/16", None)],
            (
                vec![],
                vec!["networks.default.subnets: the cluster has network `default` with 10.88.0.0/16".to_owned()],
            ),
        ),
        (
            &[("blue", "10.88.4.0/24", None)],
            (
                vec![],
                vec![
                    "networks.blue.subnets: 10.88.4.0/24 overlaps 10.88.0.0/16 of network `default` of the cluster"
                        .to_owned(),
                ],
            ),
        ),
        // One by one, in the order of their numbers.
        (&[("blue", "10.89.0.0/16", Some(8)), ("red", "10.90.0.0/16", Some(7))], (make("red"), vec![])),
    ] {
        let wanted = announcement("192.0.2.1", networks);
        assert_eq!(shown(&plan(&records, &me("one"), &wanted)), expected, "{networks:?}");
    }
    let mut other = announcement("192.0.2.1", &[("default", "10.88.0.0/16", None)]);
    other.networks[0].0.slice = Some(26);
    let refused = shown(&plan(&records, &me("one"), &other)).1;
    assert_eq!(refused, ["networks.default.slice: the cluster has network `default` with slices of /24"]);
}

#[test]
fn ipv6_comes_to_a_network_once() {
    let own = node("id of one", "192.0.2.1");
    let dual = |subnet6: &str| {
        network(3, "10.88.0.0/16", 24).replace("\"slice\"", &format!("\"subnet6\":\"{subnet6}\",\"slice\""))
    };
    let give = vec!["+last-network".to_owned(), "+networks/default".to_owned()];
    let is = |subnets: &str| {
        vec![format!("networks.default.subnets: the cluster has network `default` with {subnets}")]
    };
    let overlap =
        "networks.default.subnets: fd89::/64 overlaps fd89::/48 of network `blue` of the cluster".to_owned();
    for (there, wanted, expected) in [
        (network(3, "10.88.0.0/16", 24), Some("fd88::/48"), (give, vec![])),
        (network(3, "10.88.0.0/16", 24), Some("fd89::/64"), (vec![], vec![overlap])),
        (network(3, "10.88.0.0/16", 24), None, (vec![], vec![])),
        (dual("fd88::/48"), Some("fd88::/48"), (vec![], vec![])),
        (dual("fd88::/48"), Some("fd87::/48"), (vec![], is("10.88.0.0/16 fd88::/48"))),
        (dual("fd88::/48"), None, (vec![], is("10.88.0.0/16 fd88::/48"))),
    ] {
        let blue = dual("fd89::/48").replace("10.88.", "10.89.").replace(":3,", ":4,");
        let slice = r#"{"node":"one"}"#;
        let records = [
            ("nodes/one", own.as_str(), LEASE),
            ("last-network", r#"{"last":4}"#, 0),
            ("networks/default", &there, 0),
            ("networks/blue", &blue, 0),
            ("slices/default/10.88.0.0-24", slice, 0),
            ("slices/blue/10.89.0.0-24", slice, 0),
        ];
        let mut announced = announcement("192.0.2.1", &[("default", "10.88.0.0/16", Some(3))]);
        announced.networks[0].0.subnet6 = wanted.map(|subnet6| subnet6.parse().unwrap());
        let plan = plan(&records, &me("one"), &announced);
        assert_eq!(shown(&plan), expected, "{there} {wanted:?}");
        if let Some(step) = plan.step {
            let Write::Put(_, value, _) = &step.writes[1] else { panic!("{step:?}") };
            let text = String::from_utf8_lossy(value);
            assert!(text.contains("\"subnet6\":\"fd88::/48\"") && text.contains("\"number\":3"), "{text}");
        }
    }
}

#[test]
fn a_slice_of_each_network() {
    let own = node("id of one", "192.0.2.1");
    let there = network(3, "10.88.0.0/24", 25);
    let (low, high) = ("slices/default/10.88.0.0-25", "slices/default/10.88.0.128-25");
    let two = r#"{"node":"two"}"#;
    let wanted = |earlier: Option<&str>| {
        let slices = earlier.map(|slice| ("default".to_owned(), slice.parse().unwrap()));
        Announcement { slices: slices.into_iter().collect(), ..announcement("192.0.2.1", &[]) }
    };
    let all = "all 2 slices of network `default` are taken: `netd nodes` shows by whom, and `netd nodes rm NAME` frees \
               those of a node that is gone";
    for (taken, earlier, expected) in [
        (&[][..], Some("10.88.0.0/25"), Ok(low)),
        (&[][..], Some("10.88.0.128/25"), Ok(high)),
        (&[low], Some("10.88.0.0/25"), Ok(high)),
        (&[high], None, Ok(low)),
        // Of another length, of another subnet.
        (&[high], Some("10.88.0.0/26"), Ok(low)),
        (&[low], Some("10.87.0.0/25"), Ok(high)),
        (&[low, high], Some("10.88.0.0/25"), Err(all)),
    ] {
        let mut records = vec![("nodes/one", own.as_str(), LEASE), ("networks/default", there.as_str(), 0)];
        records.extend(taken.iter().map(|key| (*key, two, 0)));
        let (step, refused) = shown(&plan(&records, &me("one"), &wanted(earlier)));
        match expected {
            Ok(key) => assert_eq!(step, [format!("+{key}")]),
            Err(why) => assert_eq!((step, refused), (vec![], vec![why.to_owned()])),
        }
    }
    // Not before the name is its own: a slice is by the node's name.
    assert_eq!(
        shown(&plan(&[("networks/default", &there, 0)], &me("one"), &wanted(None))).0,
        [format!("+nodes/one ({LEASE})")]
    );
}
