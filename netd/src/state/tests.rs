use std::{net::Ipv4Addr, path::PathBuf};

use super::*;
use crate::{
    cluster::{Cluster, SharedNetwork, Slice},
    endpoint::host_interface,
    link::LinkChoice,
    netlink::NetnsId,
    network::{Definition, Origin},
    node::Occupied,
    request::AttachRequest,
};

fn facts() -> Facts {
    Facts {
        identity: "1234abcd".to_owned(),
        boot: "b".to_owned(),
        ports: (49152, 65535),
        next_network: 1,
        id: "0".to_owned(),
        before: None,
    }
}

fn network(name: &str, subnet: &str) -> Definition {
    Definition {
        name: name.to_owned(),
        subnet: subnet.parse().unwrap(),
        subnet6: None,
        masquerade: true,
        link: LinkChoice::Auto,
        mtu: None,
        big_tcp: false,
        slice: None,
        lan: None,
    }
}

fn request(name: &str) -> AttachRequest {
    AttachRequest {
        publish: Vec::new(),
        name: name.to_owned(),
        netns: Some("ns".to_owned()),
        network: None,
        addresses: Vec::new(),
        link: None,
        tap: None,
    }
}

fn place(name: &str) -> Place {
    Place {
        netns: NetnsRef {
            path: PathBuf::from("/run/netns").join(name),
            id: NetnsId { dev: 4, inode: 1 },
            cookie: 1,
        },
        interface: "eth0".to_owned(),
        host_interface: host_interface(name, 0),
        without_ipv6: None,
        reserved: Vec::new(),
    }
}

/// A state with the network `default`, and what its making commits.
fn start() -> (State, Vec<Change>) {
    let mut state = State::new(facts(), Share::Fixed(Vec::new()));
    let config = [network("default", "10.88.0.0/24")];
    let (removed, changes) = state.configure(config.iter(), &Occupied::default()).unwrap();
    assert_eq!(removed, []);
    (state, changes)
}

fn attach(state: &mut State, request: &AttachRequest) -> Result<(Endpoint, Vec<Change>), Refusal> {
    state.attach(request, place(&request.name))
}

/// What the store has after some commits.
fn records(changes: &[Change]) -> Vec<Record> {
    let mut all = BTreeMap::new();
    for change in changes {
        match change.clone() {
            Change::Put(kind, name, value) => drop(all.insert((kind, name), value)),
            Change::Delete(kind, name) => drop(all.remove(&(kind, name))),
        }
    }
    all.into_iter().map(|((kind, name), value)| Record { kind, name, value }).collect()
}

fn load(changes: &[Change], alive: impl Fn(&Endpoint) -> bool) -> (State, Vec<Change>) {
    let records = records(changes);
    let facts = State::facts_of(&records).unwrap().unwrap();
    State::load(&records, facts, Share::Fixed(Vec::new()), alive).unwrap()
}

#[test]
fn what_is_committed_is_loaded() {
    let (mut state, mut committed) = start();
    for name in ["a", "b", "c"] {
        committed.extend(attach(&mut state, &request(name)).unwrap().1);
    }
    committed.extend(state.remove("b").unwrap().1);
    let (loaded, changes) = load(&committed, |_| true);
    assert_eq!(changes, []);
    assert!(loaded.endpoints().eq(state.endpoints()));
    assert_eq!(loaded.facts(), state.facts());
    // The search for addresses goes on where it was, and the slot of `b` is free.
    let (d, _) = attach(&mut { loaded }, &request("d")).unwrap();
    assert_eq!((d.address, d.slot), (Ipv4Addr::new(10, 88, 0, 5), 1));
}

/// What was changed while no container lived, say over a reboot, is no reason not to start.
#[test]
fn endpoints_that_are_gone_need_not_fit() {
    let (mut state, mut committed) = start();
    for name in ["a", "b"] {
        committed.extend(attach(&mut state, &request(name)).unwrap().1);
    }
    let records = records(&committed);
    let facts = || State::facts_of(&records).unwrap().unwrap();
    let slice = || Share::Fixed(vec!["10.88.0.128/25".parse().unwrap()]);
    let error = State::load(&records, facts(), slice(), |_| true).unwrap_err();
    assert!(format!("{error:#}").contains("endpoint `a` of the stored state"), "{error:#}");
    let (loaded, changes) = State::load(&records, facts(), slice(), |_| false).unwrap();
    assert_eq!(loaded.endpoints().len(), 0);
    assert_eq!(changes, [Change::delete(Kind::Endpoint, "a"), Change::delete(Kind::Endpoint, "b")]);
}

#[test]
fn endpoints_that_are_gone_are_freed() {
    let (mut state, mut committed) = start();
    for name in ["a", "b"] {
        committed.extend(attach(&mut state, &request(name)).unwrap().1);
    }
    let (loaded, changes) = load(&committed, |endpoint| endpoint.name == "b");
    assert_eq!(loaded.endpoints().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(changes, [Change::delete(Kind::Endpoint, "a")]);
}

#[test]
fn refusals_of_attachments() {
    let (mut state, _) = start();
    attach(&mut state, &request("web")).unwrap();
    let with = |name: &str, network: Option<&str>, addresses: &[&str]| AttachRequest {
        network: network.map(str::to_owned),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        ..request(name)
    };
    for (request, expected) in [
        (
            with("web", None, &[]),
            "endpoint `web` exists already (10.88.0.2 in network `default`): detach it first, or choose another name",
        ),
        (
            with("a/b", None, &[]),
            "endpoint name: `a/b` contains '/': a name is made of letters, digits, `-`, `_` and `.`",
        ),
        (with("a", Some("blue"), &[]), "no network `blue`: there is `default`"),
        (with("a", None, &["10.88.0.2"]), "10.88.0.2 is in use by endpoint `web`"),
        (with("a", None, &["10.88.0.1"]), "10.88.0.1 is the gateway of 10.88.0.0/24 (network `default`)"),
        (with("a", None, &["10.89.0.9"]), "10.89.0.9 is not in 10.88.0.0/24 (network `default`)"),
        (with("a", None, &["fd88::1"]), "fd88::1: there is no IPv6 subnet (network `default`)"),
        (
            with("a", None, &["10.88.0.8", "10.88.0.9"]),
            "an endpoint has one IPv4 address and one IPv6 address: choose at most one of each",
        ),
    ] {
        let before = state.endpoints().len();
        assert_eq!(attach(&mut state, &request).unwrap_err().to_string(), expected);
        assert_eq!(state.endpoints().len(), before);
    }
    // Nothing was taken by those that were refused.
    let (next, _) = attach(&mut state, &request("b")).unwrap();
    assert_eq!((next.address, next.slot), (Ipv4Addr::new(10, 88, 0, 3), 1));
}

#[test]
fn a_full_network_is_refused_and_costs_no_slot() {
    let mut state = State::new(facts(), Share::Fixed(Vec::new()));
    let config = [network("default", "10.88.0.0/30")];
    state.configure(config.iter(), &Occupied::default()).unwrap();
    attach(&mut state, &request("a")).unwrap();
    for _ in 0..3 {
        let error = attach(&mut state, &request("b")).unwrap_err().to_string();
        assert_eq!(error, "all 1 addresses of 10.88.0.0/30 are in use (network `default`)");
    }
    state.remove("a").unwrap();
    assert_eq!(attach(&mut state, &request("b")).unwrap().0.slot, 0);
}

#[test]
fn networks_by_command() {
    let (mut state, mut committed) = start();
    let free = Occupied::default();
    let (blue, changes) = state.create_network(network("blue", "10.89.0.0/24"), &free).unwrap();
    committed.extend(changes);
    assert_eq!((blue.number, blue.origin), (2, Origin::Command));
    for (definition, expected) in [
        (network("blue", "10.90.0.0/24"), "network `blue` exists already (10.89.0.0/24)"),
        (network("red", "10.88.0.0/16"), "10.88.0.0/16 overlaps 10.88.0.0/24 of network `default`"),
    ] {
        let error = state.create_network(definition, &free).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let in_blue = AttachRequest { network: Some("blue".to_owned()), ..request("a") };
    let error = |state: &State, name: &str| state.check_removable(name).unwrap_err().to_string();
    attach(&mut state, &in_blue).unwrap();
    assert_eq!(error(&state, "blue"), "network `blue` is in use by `a`: detach them first");
    assert_eq!(
        error(&state, "default"),
        "network `default` is defined in the configuration file: remove it there and restart netd"
    );
    assert_eq!(error(&state, "red"), "no network `red`: there is `blue`, `default`");

    // It is there after a restart, and its number is never given out again.
    let (mut state, _) = load(&committed, |_| true);
    state.check_removable("blue").unwrap();
    committed.extend(state.remove_network("blue"));
    let (mut state, _) = load(&committed, |_| true);
    assert_eq!(state.create_network(network("red", "10.89.0.0/24"), &free).unwrap().0.number, 3);
}

#[test]
fn a_changed_configuration() {
    let (mut state, mut committed) = start();
    committed.extend(attach(&mut state, &request("web")).unwrap().1);
    let free = Occupied::default();

    // What changes nothing for endpoints is taken over, under the same number.
    let (mut state, _) = load(&committed, |_| true);
    let routed = Definition { masquerade: false, ..network("default", "10.88.0.0/24") };
    state.configure([routed].iter(), &free).unwrap();
    let default = state.network("default").unwrap();
    assert_eq!((default.masquerade, default.number), (false, 1));

    // What would take addresses from endpoints is refused.
    let moved = [network("default", "10.90.0.0/24")];
    let (mut state, _) = load(&committed, |_| true);
    assert_eq!(
        state.configure(moved.iter(), &free).unwrap_err().to_string(),
        "network `default` is in use by `web`: leave networks.default.subnets at 10.88.0.0/24, or detach them first"
    );
    let (mut state, _) = load(&committed, |_| true);
    assert_eq!(
        state.configure([network("blue", "10.89.0.0/24")].iter(), &free).unwrap_err().to_string(),
        "network `default` is in use by `web`: put it back into the configuration file, or detach them first"
    );

    // When their containers are gone, it is fine.
    let (mut state, _) = load(&committed, |_| false);
    let (removed, changes) = state.configure(moved.iter(), &free).unwrap();
    assert_eq!(removed.iter().map(Network::gateway).collect::<Vec<_>>(), [Ipv4Addr::new(10, 88, 0, 1)]);
    committed.push(Change::delete(Kind::Endpoint, "web"));
    committed.extend(changes);
    let (state, _) = load(&committed, |_| true);
    assert_eq!(state.network("default").unwrap().number, 2);
}

#[test]
fn a_command_and_the_configuration_cannot_both_have_a_name() {
    let (mut state, _) = start();
    let free = Occupied::default();
    state.create_network(network("blue", "10.89.0.0/24"), &free).unwrap();
    let config = [network("default", "10.88.0.0/24"), network("blue", "10.91.0.0/24")];
    let error = state.configure(config.iter(), &free).unwrap_err().to_string();
    assert!(error.starts_with("networks.blue: `netd network create` has made a network"), "{error}");
}

#[test]
fn a_network_under_an_endpoint_that_is_missing_is_an_error() {
    let (mut state, mut committed) = start();
    committed.extend(attach(&mut state, &request("web")).unwrap().1);
    committed.push(Change::delete(Kind::Network, "default"));
    let records = records(&committed);
    let error = State::load(&records, facts(), Share::Fixed(Vec::new()), |_| true).unwrap_err().to_string();
    assert_eq!(error, "endpoint `web` of the stored state: no network `default`");
}

fn shared(number: u32, subnet: &str) -> SharedNetwork {
    let subnet = subnet.parse().unwrap();
    SharedNetwork {
        number,
        subnet,
        subnet6: None,
        slice: 28,
        masquerade: true,
        link: LinkChoice::Auto,
        mtu: None,
        big_tcp: false,
    }
}

/// A cluster with these networks, and slices of them for node `one`.
fn cluster(networks: &[(&str, u32, &str)], slices: &[(&str, &str)]) -> Cluster {
    let networks =
        networks.iter().map(|(name, number, subnet)| ((*name).to_owned(), shared(*number, subnet)));
    let slice = |network: &str| Slice { network: network.to_owned(), node: "one".to_owned() };
    Cluster {
        networks: networks.collect(),
        slices: slices.iter().map(|(name, prefix)| (prefix.parse().unwrap(), slice(name))).collect(),
        ..Cluster::default()
    }
}

fn synchronise(state: &mut State, cluster: &Cluster) -> Synchronised {
    let configured = BTreeMap::from([("default".to_owned(), network("default", "10.88.0.0/24"))]);
    state.synchronise(cluster, "one", &configured, &Occupied::default()).unwrap()
}

#[test]
fn the_networks_of_a_cluster() {
    let mut state = State::new(facts(), Share::OfCluster);
    let both = [("default", 4, "10.88.0.0/24"), ("blue", 5, "10.89.0.0/24")];
    let first = synchronise(&mut state, &cluster(&both, &[("default", "10.88.0.16/28")]));
    assert!(first.changed && first.problems.is_empty() && first.removed.is_empty());
    let origin = |state: &State, name: &str| state.network(name).map(|n| (n.number, n.origin)).unwrap();
    assert_eq!(origin(&state, "default"), (4, Origin::Config));
    assert_eq!(origin(&state, "blue"), (5, Origin::Cluster));
    assert!(!state.lacks_network_of(&cluster(&both, &[])));

    // Addresses are those of the slice; without one there are none.
    let (a, _) = attach(&mut state, &request("a")).unwrap();
    assert_eq!(a.address, Ipv4Addr::new(10, 88, 0, 17));
    let in_blue = AttachRequest { network: Some("blue".to_owned()), ..request("b") };
    assert_eq!(
        attach(&mut state, &in_blue).unwrap_err().to_string(),
        "this node has no slice of 10.89.0.0/24 yet: `netd status` says why (network `blue`)"
    );
    let slices = [("default", "10.88.0.16/28"), ("blue", "10.89.0.32/28")];
    assert!(synchronise(&mut state, &cluster(&both, &slices)).changed);
    assert_eq!(attach(&mut state, &in_blue).unwrap().0.address, Ipv4Addr::new(10, 89, 0, 33));
    assert_eq!(synchronise(&mut state, &cluster(&both, &slices)), Synchronised::default(), "nothing new");
}

#[test]
fn a_cluster_takes_nothing_from_endpoints() {
    let mut state = State::new(facts(), Share::OfCluster);
    let both = [("default", 4, "10.88.0.0/24"), ("blue", 5, "10.89.0.0/24")];
    let slices = [("default", "10.88.0.16/28"), ("blue", "10.89.0.32/28")];
    synchronise(&mut state, &cluster(&both, &slices));
    let in_blue = AttachRequest { network: Some("blue".to_owned()), ..request("b") };
    attach(&mut state, &in_blue).unwrap();

    for (networks, slices, expected) in [
        (
            &both[..1],
            &slices[..1],
            "network `blue` is gone from the cluster, but is in use by `b`: detach them",
        ),
        (
            &[both[0], ("blue", 6, "10.90.0.0/24")],
            &slices[..1],
            "network `blue` is another one in the cluster (10.90.0.0/24), but is in use by `b`: detach them",
        ),
        (
            &both,
            &[slices[0], ("blue", "10.89.0.64/28")],
            "network `blue`: 10.89.0.33 is not in 10.89.0.64/28, this node's slice of 10.89.0.0/24, held since before: \
             detach it",
        ),
    ] {
        let cluster = cluster(networks, slices);
        let done = synchronise(&mut state, &cluster);
        assert_eq!(done.problems, [expected]);
        assert_eq!(done.removed, []);
        assert_eq!(state.network("blue").unwrap().number, 5);
        assert_eq!(state.endpoints().len(), 1);
    }
    // When they are detached, it goes; the configuration's stays though the cluster has lost it.
    state.remove("b").unwrap();
    let done = synchronise(&mut state, &cluster(&[], &[]));
    assert_eq!(done.removed.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["blue"]);
    assert_eq!((done.problems, state.networks().len()), (Vec::<String>::new(), 1));
}

/// A state whose network `default` has IPv6, and what its making commits.
fn start6() -> (State, Vec<Change>) {
    let mut state = State::new(facts(), Share::Fixed(Vec::new()));
    let (_, changes) =
        state.configure([network6("10.88.0.0/24", "fd88::/48")].iter(), &Occupied::default()).unwrap();
    (state, changes)
}

fn network6(subnet: &str, subnet6: &str) -> Definition {
    Definition { subnet6: Some(subnet6.parse().unwrap()), ..network("default", subnet) }
}

fn choosing(name: &str, addresses: &[&str]) -> AttachRequest {
    AttachRequest { addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(), ..request(name) }
}

#[test]
fn addresses_go_in_pairs() {
    let (mut state, _) = start6();
    for (name, chosen, expected) in [
        ("a", &[][..], "10.88.0.2 fd88::2"),
        ("b", &["fd88::7"], "10.88.0.7 fd88::7"),
        ("c", &["10.88.0.8"], "10.88.0.8 fd88::8"),
        ("d", &["fd88::9", "10.88.0.9"], "10.88.0.9 fd88::9"),
        ("e", &[], "10.88.0.3 fd88::3"),
    ] {
        let (endpoint, _) = attach(&mut state, &choosing(name, chosen)).unwrap();
        let addresses: Vec<String> = endpoint.addresses().map(|address| address.to_string()).collect();
        assert_eq!(addresses.join(" "), expected);
    }
    for (chosen, expected) in [
        (&["fd88::2"][..], "10.88.0.2 is in use by endpoint `a`"),
        (&["fd88::1"], "10.88.0.1 is the gateway of 10.88.0.0/24 (network `default`)"),
        (&["fd89::4"], "fd89::4 is not in fd88::/48 (network `default`)"),
        (
            &["fd88::100"],
            "fd88::100 goes with no address of 10.88.0.0/24: those up to fd88::ff do (network `default`)",
        ),
        (
            &["10.88.0.4", "fd88::5"],
            "10.88.0.4 goes with fd88::4, not with fd88::5, which goes with 10.88.0.5 (network `default`)",
        ),
        (&["10.89.0.4", "fd88::5"], "10.89.0.4 is not in 10.88.0.0/24 (network `default`)"),
        (
            &["fd88::4", "fd88::5"],
            "an endpoint has one IPv4 address and one IPv6 address: choose at most one of each",
        ),
    ] {
        let error = attach(&mut state, &choosing("f", chosen)).unwrap_err().to_string();
        assert_eq!(error, expected);
    }
}

#[test]
fn a_namespace_without_ipv6() {
    let (mut state, _) = start6();
    let place = |name| Place { without_ipv6: Some("IPv6 is switched off"), ..place(name) };
    let (endpoint, _) = state.attach(&request("a"), place("a")).unwrap();
    assert_eq!((endpoint.address, endpoint.address6), (Ipv4Addr::new(10, 88, 0, 2), None));
    let error = state.attach(&choosing("b", &["fd88::7"]), place("b")).unwrap_err().to_string();
    assert_eq!(error, "fd88::7: IPv6 is switched off");
    assert_eq!(state.endpoints().len(), 1);
}

#[test]
fn ipv6_comes_to_a_network_that_is_in_use() {
    let (mut state, mut committed) = start();
    committed.extend(attach(&mut state, &request("old")).unwrap().1);
    let free = Occupied::default();
    let (mut state, _) = load(&committed, |_| true);
    let with = [network6("10.88.0.0/24", "fd88::/48")];
    let (removed, changes) = state.configure(with.iter(), &free).unwrap();
    committed.extend(changes);
    assert_eq!((removed, state.network("default").unwrap().number), (Vec::new(), 1));
    committed.extend(attach(&mut state, &request("new")).unwrap().1);
    let has_ipv6 = |state: &State, name: &str| state.endpoint(name).unwrap().address6.is_some();
    let (mut state, _) = load(&committed, |_| true);
    assert!(!has_ipv6(&state, "old") && has_ipv6(&state, "new"));

    // It does not go, or change, under them.
    let mend = "leave networks.default.subnets at 10.88.0.0/24 fd88::/48, or detach them first";
    let expected = format!("network `default` is in use by `new`, `old`: {mend}");
    for other in [network("default", "10.88.0.0/24"), network6("10.88.0.0/24", "fd89::/48")] {
        assert_eq!(state.configure([other].iter(), &free).unwrap_err().to_string(), expected);
        state = load(&committed, |_| true).0;
    }
}

#[test]
fn a_cluster_gives_ipv6_to_a_network() {
    let mut state = State::new(facts(), Share::OfCluster);
    let mut all = cluster(&[("default", 4, "10.88.0.0/24")], &[("default", "10.88.0.16/28")]);
    synchronise(&mut state, &all);
    assert_eq!(attach(&mut state, &request("a")).unwrap().0.address6, None);
    all.networks.get_mut("default").unwrap().subnet6 = Some("fd88::/64".parse().unwrap());
    assert!(state.lacks_network_of(&all));
    let done = synchronise(&mut state, &all);
    assert!(done.changed && done.problems.is_empty() && done.removed.is_empty());
    let (b, _) = attach(&mut state, &request("b")).unwrap();
    assert_eq!(b.address6.unwrap().to_string(), "fd88::12");
    // It does not take it away from those that have it.
    all.networks.get_mut("default").unwrap().subnet6 = None;
    let problem = "network `default` is another one in the cluster (10.88.0.0/24), but is in use by `a`, `b`: detach them";
    assert_eq!(synchronise(&mut state, &all).problems, [problem]);
}

#[test]
fn published_ports_are_one_endpoints_each() {
    let (mut state, mut committed) = start();
    let with = |name: &str, publish: &[&str]| AttachRequest {
        publish: publish.iter().map(|text| (*text).to_owned()).collect(),
        ..request(name)
    };
    committed.extend(attach(&mut state, &with("web", &["8080:80", "9000-9010:1-11/udp"])).unwrap().1);
    let refused = attach(&mut state, &with("two", &["81:81", "127.0.0.1:8080:80"])).unwrap_err();
    assert!(matches!(&refused, Refusal::Conflict(why) if why.contains("`web`")), "{refused}");
    assert!(matches!(attach(&mut state, &with("two", &["81"])), Err(Refusal::Invalid(_))));
    // Nothing of a refused one stays.
    committed.extend(attach(&mut state, &with("two", &["81:81"])).unwrap().1);

    let ports = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let (_, gone, changes) = state.unpublish("web", &ports(&["9003:4/udp"])).unwrap();
    committed.extend(changes);
    assert_eq!(gone.len(), 1);
    assert!(state.unpublish("web", &ports(&["9003:4/udp"])).is_err());
    let (two, _, changes) = state.publish("two", &ports(&["9003:53/udp"])).unwrap();
    committed.extend(changes);
    assert_eq!(two.publish.len(), 2);
    assert!(state.publish("two", &ports(&["9004:53/udp"])).is_err());
    assert!(state.publish("none", &ports(&["1:1"])).is_err());

    // All of it is there after a restart, and free when its endpoint goes.
    let (mut state, _) = load(&committed, |_| true);
    assert_eq!(state.endpoint("web").unwrap().publish.len(), 3);
    assert!(state.publish("two", &ports(&["8080:80"])).is_err());
    state.remove("web").unwrap();
    state.publish("two", &ports(&["8080:80", "9004:53/udp"])).unwrap();
}
