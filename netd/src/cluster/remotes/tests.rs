use super::*;

use std::net::Ipv4Addr;

use ipnet::Ipv6Net;

use crate::state::{Facts, Share};

const NEAR: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
const NEAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 2);

pub(super) fn uplink(ipv6: bool) -> UplinkInfo {
    let address6 = Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 64);
    UplinkInfo {
        name: "eth0".to_owned(),
        ifindex: 2,
        mtu: 1500,
        address: Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, 1), 24),
        address6: ipv6.then_some(address6),
    }
}

fn said(address: Option<IpAddr>, slice: &str) -> Said {
    let there =
        address.map(|address| There { address, address6: None, transport: Transport::Auto, mtu: Some(1500) });
    Said { there, slices: BTreeSet::from([slice.parse().unwrap()]) }
}

fn hear(remotes: &mut Remotes, said: &[(&str, Said)]) -> Update {
    let said = said.iter().map(|(name, said)| ((*name).to_owned(), said.clone())).collect();
    remotes.hear(said, &BTreeSet::new(), true).unwrap()
}

#[test]
fn both_sides_choose_one_transport() {
    use Transport::{Auto, Direct, Vxlan};
    for (own, its, address, expected) in [
        (Auto, Auto, NEAR, Direct),
        (Auto, Auto, FAR, Vxlan),
        (Direct, Auto, FAR, Direct),
        (Auto, Direct, FAR, Direct),
        (Vxlan, Auto, NEAR, Vxlan),
        (Auto, Vxlan, NEAR, Vxlan),
        (Direct, Vxlan, NEAR, Vxlan),
        (Vxlan, Direct, NEAR, Vxlan),
    ] {
        let remote = Remote { address: Some(address), transport: its, ..Remote::new(0) };
        assert_eq!(remote.transport(own, &uplink(true)), expected, "{own:?} {its:?} {address}");
    }
}

#[test]
fn ipv6_may_travel_another_way() {
    use Transport::{Auto, Direct, Vxlan};
    for (own, its, address, address6, expected) in [
        (Auto, Auto, NEAR, Some(NEAR6), [Some(Direct), Some(Vxlan)]),
        (Auto, Auto, FAR, Some(NEAR6), [Some(Direct), Some(Vxlan)]),
        (Auto, Auto, NEAR, Some(FAR6), [Some(Vxlan), Some(Vxlan)]),
        (Auto, Auto, NEAR, None, [Some(Vxlan), Some(Vxlan)]),
        (Direct, Auto, NEAR, Some(FAR6), [Some(Direct), None]),
        (Direct, Direct, NEAR, None, [None, None]),
        (Vxlan, Auto, NEAR, Some(NEAR6), [Some(Vxlan), Some(Vxlan)]),
        (Auto, Auto, NEAR6.into(), None, [Some(Direct), Some(Vxlan)]),
        (Auto, Auto, FAR6.into(), None, [Some(Vxlan), Some(Vxlan)]),
    ] {
        let remote = Remote { address: Some(address), address6, transport: its, ..Remote::new(0) };
        // With an IPv6 address of this node's own, and without.
        let found = [true, false].map(|ipv6| remote.transport6(own, &uplink(ipv6)));
        assert_eq!(found, expected, "{own:?} {its:?} {address} {address6:?}");
    }
}

#[test]
fn a_nodes_packets_keep_its_routes() {
    let mut remotes = Remotes::default();
    let slice = "10.88.1.0/24";
    assert!(hear(&mut remotes, &[("b", said(Some(NEAR), slice))]).changed);
    assert!(!hear(&mut remotes, &[("b", said(Some(NEAR), slice))]).changed, "nothing new");
    let presence = |remotes: &Remotes| remotes.get("b").unwrap().presence;
    assert_eq!(presence(&remotes), Presence::Registered);

    assert!(hear(&mut remotes, &[("b", said(None, slice))]).changed);
    assert_eq!(presence(&remotes), Presence::Unregistered);
    let moment = Duration::ZERO;
    for packets in 1..4 {
        assert!(!remotes.listen(moment, |_| Ok(packets)).unwrap().changed, "it still talks");
        assert!(remotes.get("b").unwrap().is_routed());
    }
    let long = Duration::from_secs(60);
    assert!(!remotes.listen(long, |_| Ok(3)).unwrap().changed, "not silent for long enough");
    assert!(remotes.listen(moment, |_| Ok(3)).unwrap().changed);
    assert_eq!(presence(&remotes), Presence::Lost);
    assert!(!hear(&mut remotes, &[("b", said(None, slice))]).changed, "it stays lost");

    hear(&mut remotes, &[("b", said(Some(FAR), slice))]);
    assert_eq!((presence(&remotes), remotes.get("b").unwrap().address), (Presence::Registered, Some(FAR)));
}

#[test]
fn counters_stay_with_a_node() {
    let mut remotes = Remotes::default();
    let all = [("a", said(Some(NEAR), "10.88.1.0/24")), ("b", said(Some(FAR), "10.88.2.0/24"))];
    let first = hear(&mut remotes, &all);
    assert_eq!(first.reused, [0, 1]);
    let records: Vec<Record> = first
        .changes
        .into_iter()
        .map(|change| match change {
            Change::Put(kind, name, value) => Record { kind, name, value },
            Change::Delete(..) => unreachable!("nothing goes"),
        })
        .collect();
    let mut again = Remotes::load(&records).unwrap();
    // Nobody speaks of it any more, and another has its slice.
    let update = hear(&mut again, &[all[1].clone(), ("c", said(Some(NEAR), "10.88.1.0/24"))]);
    assert_eq!(update.changes[0], Change::delete(Kind::Peer, "a"));
    assert_eq!((again.get("b").unwrap().slot, update.reused), (1, vec![0]), "a's, for c");
}

#[test]
fn a_node_that_the_store_has_lost_stays_while_it_talks() {
    let mut remotes = Remotes::default();
    let b = [("b", said(Some(NEAR), "10.88.1.0/24"))];
    hear(&mut remotes, &b);
    assert!(!hear(&mut remotes, &[]).changed);
    assert_eq!(remotes.get("b").unwrap().presence, Presence::Unregistered);
    hear(&mut remotes, &b);
    assert_eq!(remotes.get("b").unwrap().presence, Presence::Registered);
    hear(&mut remotes, &[]);
    for (packets, there) in [(1, true), (2, true), (2, false)] {
        let update = remotes.listen(Duration::ZERO, |_| Ok(packets)).unwrap();
        assert_eq!((remotes.get("b").is_some(), update.changed), (there, !there));
    }
    // One that gets its slices back one by one.
    hear(&mut remotes, &b);
    hear(&mut remotes, &[("b", Said { slices: BTreeSet::new(), ..said(Some(NEAR), "10.88.1.0/24") })]);
    assert!(remotes.any_unsettled() && remotes.get("b").unwrap().fading.len() == 1);
    hear(&mut remotes, &b);
    assert!(!remotes.any_unsettled());
    // A configuration that is read anew means what it says.
    remotes.hear(said_by_configuration(&[], Transport::Auto), &BTreeSet::new(), false).unwrap();
    assert_eq!(remotes.iter().len(), 0);
}

#[test]
fn a_node_that_was_never_there_is_known_by_its_slices() {
    let mut remotes = Remotes::default();
    hear(&mut remotes, &[("b", said(None, "10.88.1.0/24"))]);
    let node = remotes.get("b").unwrap();
    assert_eq!((node.address, node.presence, node.last_seen()), (None, Presence::Lost, None));
}

#[test]
fn the_mtu_of_a_path() {
    use Transport::{Direct, Vxlan};
    for (own, its, address, transport, expected) in [
        (1500, None, NEAR, Direct, 1500),
        (1500, Some(1400), NEAR, Direct, 1400),
        (1400, Some(1500), NEAR, Vxlan, 1350),
        (1500, None, NEAR6.into(), Vxlan, 1430),
        (1500, None, NEAR6.into(), Direct, 1500),
        (65536, None, NEAR, Direct, 65535),
    ] {
        let remote = Remote { mtu: its, ..Remote::new(0) };
        assert_eq!(mtu(own, &remote, address, transport), expected);
    }
}

/// A node with somebody else's address gets nothing, and it is said why.
#[test]
fn an_address_of_somebody_else() {
    let facts: Facts =
        serde_json::from_str(r#"{"identity":"","boot":"","ports":[1,2],"next_network":1}"#).unwrap();
    let state = State::new(facts, Share::OfCluster);
    let mut remotes = Remotes::default();
    let own = uplink(true).address.addr().into();
    hear(&mut remotes, &[("b", said(Some(own), "10.88.1.0/24")), ("c", said(Some(FAR), "10.88.2.0/24"))]);
    let uplink = uplink(true);
    let said: Vec<String> = remotes.misplaced(&state, &uplink).collect();
    assert_eq!(said, ["node `b` is not reached: its address 192.0.2.1 is this node's own"]);
    let peers: Vec<_> =
        remotes.routes(Transport::Auto, &state, &uplink).map(|(prefix, _)| prefix.addr()).collect();
    assert_eq!(peers, [FAR]);
}
