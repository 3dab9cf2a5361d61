//! The arrays in front of the maps of interfaces and endpoints: who has no place of its own is found all the same, and who is gone
//! is not.

#[expect(dead_code, reason = "what this file does not need, the others that share the module do")]
mod world;

use std::net::Ipv4Addr;

use netd::bpf::Endpoint;
use netd_common::{
    Addr as _, Drop, To, V4,
    abi::place_of,
    host::{
        build::{Body, Ip, frame},
        cases::At,
    },
};
use world::{Loaded, endpoint, in_a_world};

/// Addresses of the network of `a` and `b` whose place is that of `b`, without `b` itself.
fn that_meet(loaded: &Loaded) -> impl Iterator<Item = Ipv4Addr> {
    let b = loaded.world.b;
    let place = |address: Ipv4Addr| place_of(V4::new(address.octets()).folded());
    let (own, subnet) = (Ipv4Addr::from(b.address), endpoint(&b).subnet);
    subnet.hosts().filter(move |address| *address != own && place(*address) == place(own))
}

/// Whether what `a` sends there reaches a container. If not, nobody has the address.
fn reached(loaded: &Loaded, address: Ipv4Addr) -> bool {
    match sent(loaded, address) {
        Ok(()) => true,
        Err(nobody) => {
            assert!(nobody, "dropped, and not because nobody has {address}");
            false
        }
    }
}

/// Error: it is dropped; whether because nobody has that address.
fn sent(loaded: &Loaded, address: Ipv4Addr) -> Result<(), bool> {
    let a = loaded.world.a;
    let packet =
        frame(a.host_mac, a.mac, &Ip::new(a.address, address.octets()), &Body::Udp(1000, 7, vec![0; 8]));
    let before = dropped(loaded);
    let run = loaded.run(At::FromContainer(a.ifindex), &packet);
    // TC_ACT_REDIRECT and TC_ACT_SHOT.
    match run.verdict {
        7 => Ok(()),
        2 => Err(dropped(loaded) == before + 1),
        other => panic!("verdict {other} ({:?} is 7)", To::Peer),
    }
}

fn dropped(loaded: &Loaded) -> u64 {
    let (_, counters) = loaded.datapath.counters().expect("counters");
    let name = Drop::NoEndpoint.label();
    counters.iter().find(|counter| counter.name == name).map_or(0, |counter| counter.packets)
}

#[test]
fn two_that_meet_in_a_place() {
    in_a_world("two_that_meet_in_a_place", |loaded| {
        let b = endpoint(&loaded.world.b);
        let other =
            that_meet(loaded).next().expect("a /16 has four times as many addresses as there are places");
        // At b's link: what matters is where packets are sent, and that they are.
        let other = Endpoint { address: other, slot: 9, ..b };
        assert!(reached(loaded, b.address) && !reached(loaded, other.address));
        loaded.datapath.attach_endpoint(&other).expect("attach");
        assert!(reached(loaded, b.address) && reached(loaded, other.address), "both");
        // The one that has the place goes; then the other comes anew, and gets it; then the first has none.
        let c = loaded.world.c;
        loaded.datapath.close_endpoint(&b).expect("detach");
        assert!(!reached(loaded, b.address) && reached(loaded, other.address), "the other one");
        let elsewhere = Endpoint { ifindex: c.ifindex, ..other };
        loaded.datapath.attach_endpoint(&elsewhere).expect("attach");
        loaded.datapath.attach_endpoint(&b).expect("attach");
        assert!(reached(loaded, b.address) && reached(loaded, other.address), "both again");
        loaded.datapath.close_endpoint(&elsewhere).expect("detach");
        assert!(reached(loaded, b.address) && !reached(loaded, other.address), "the first one");
        // What a daemon that starts does not find in its store goes from either.
        loaded.datapath.retain_endpoints(&[endpoint(&loaded.world.a)]).expect("retain");
        assert!(!reached(loaded, b.address), "nobody");
    });
}

#[test]
fn flags_of_an_interface_change_in_its_place() {
    in_a_world("flags_of_an_interface_change_in_its_place", |loaded| {
        let a = loaded.world.a;
        let outside =
            frame(a.host_mac, a.mac, &Ip::new(a.address, [203, 0, 113, 7]), &Body::Udp(1000, 7, vec![0; 8]));
        let source = |loaded: &Loaded| {
            let run = loaded.run(At::FromContainer(a.ifindex), &outside);
            assert_eq!(run.verdict, 7);
            <[u8; 4]>::try_from(&run.frame[26..30]).expect("an address")
        };
        assert_ne!(source(loaded), a.address, "masqueraded");
        let routed = Endpoint { masquerade: false, published: false, ..endpoint(&a) };
        loaded.datapath.set_interface(&routed).expect("another flag");
        assert_eq!(source(loaded), a.address, "as it is");
        loaded.datapath.set_interface(&endpoint(&a)).expect("the flag again");
        assert_ne!(source(loaded), a.address, "masqueraded again");
    });
}
