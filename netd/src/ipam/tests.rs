use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

#[test]
fn the_first_usable_address_is_the_gateway() {
    let mut pool = Pool::new(net("10.88.0.0/16"));
    assert_eq!(gateway(net("10.88.0.0/16")), ip("10.88.0.1"));
    assert_eq!(pool.take_next("a"), Ok(ip("10.88.0.2")));
    assert_eq!(pool.take_next("b"), Ok(ip("10.88.0.3")));
    assert_eq!(pool.capacity(), 65_533);
}

#[test]
fn a_freed_address_is_not_the_next() {
    let mut pool = Pool::new(net("10.88.0.0/29"));
    let first = pool.take_next("a").unwrap();
    pool.free(first);
    assert_ne!(pool.take_next("b"), Ok(first));
    // Also when it was chosen and lies where the search begins.
    let chosen = pool.cursor();
    pool.take(chosen, "c").unwrap();
    pool.free(chosen);
    assert_ne!(pool.take_next("d"), Ok(chosen));
}

#[test]
fn the_smallest_network_holds_one_endpoint() {
    let mut pool = Pool::new(net("10.0.0.4/30"));
    assert_eq!(pool.capacity(), 1);
    assert_eq!(pool.take_next("a"), Ok(ip("10.0.0.6")));
    assert_eq!(pool.take_next("b"), Err(IpamError::Exhausted { count: 1, subnet: net("10.0.0.4/30") }));
    pool.free(ip("10.0.0.6"));
    // With nothing else free, it is given out again at once.
    assert_eq!(pool.take_next("b"), Ok(ip("10.0.0.6")));
}

#[test]
fn why_an_address_cannot_be_chosen() {
    let mut pool = Pool::new(net("10.88.0.0/24"));
    pool.take(ip("10.88.0.9"), "web").unwrap();
    for (address, error) in [
        ("10.88.1.2", "10.88.1.2 is not in 10.88.0.0/24"),
        ("10.88.0.0", "10.88.0.0 is the network address of 10.88.0.0/24"),
        ("10.88.0.255", "10.88.0.255 is the broadcast address of 10.88.0.0/24"),
        ("10.88.0.1", "10.88.0.1 is the gateway of 10.88.0.0/24"),
        ("10.88.0.9", "10.88.0.9 is in use by endpoint `web`"),
    ] {
        assert_eq!(pool.take(ip(address), "x").unwrap_err().to_string(), error);
    }
}

#[test]
fn the_cursor_is_kept() {
    let mut pool = Pool::new(net("10.88.0.0/24"));
    for name in ["a", "b", "c"] {
        pool.take_next(name).unwrap();
    }
    let mut restarted = Pool::new(net("10.88.0.0/24"));
    restarted.set_cursor(pool.cursor());
    assert_eq!(restarted.take_next("d"), Ok(ip("10.88.0.5")));
    // A cursor of another subnet is ignored.
    restarted.set_cursor(ip("192.0.2.1"));
    assert_eq!(restarted.take_next("e"), Ok(ip("10.88.0.6")));
}

#[derive(Clone, Debug)]
enum Step {
    Next,
    Take(u32),
    Free(u32),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Next),
        2 => (0u32..20).prop_map(Step::Take),
        4 => (0u32..20).prop_map(Step::Free),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    /// Against a set and a scan: an address is given out iff it is free and usable, `take_next` fails only when all are
    /// taken, and an address just freed is not the next one given out while there is another.
    #[test]
    fn like_the_model(prefix in 28u8..=30, steps in prop::collection::vec(step(), 1..200)) {
        let subnet = Ipv4Net::new(ip("10.9.8.16"), prefix).unwrap().trunc();
        let base = subnet.network().to_bits();
        let usable: BTreeSet<u32> = (base + 2..subnet.broadcast().to_bits()).collect();
        let mut pool = Pool::new(subnet);
        let mut model = BTreeSet::new();
        let mut freed = None;
        for step in steps {
            match step {
                Step::Next => match pool.take_next("x") {
                    Ok(address) => {
                        let address = address.to_bits();
                        prop_assert!(usable.contains(&address));
                        prop_assert!(model.insert(address), "given out twice");
                        prop_assert!(freed != Some(address) || model.len() == usable.len());
                        freed = None;
                    }
                    Err(error) => {
                        prop_assert_eq!(&model, &usable);
                        let exhausted = matches!(error, IpamError::Exhausted { .. });
                        prop_assert!(exhausted);
                    }
                },
                Step::Take(offset) => {
                    let address = base + offset;
                    let free = usable.contains(&address) && !model.contains(&address);
                    prop_assert_eq!(pool.take(Ipv4Addr::from_bits(address), "x").is_ok(), free);
                    model.extend(free.then_some(address));
                    // Now others may be taken between the cursor and the freed one.
                    freed = None;
                }
                Step::Free(offset) => {
                    let address = base + offset;
                    pool.free(Ipv4Addr::from_bits(address));
                    if model.remove(&address) {
                        freed = Some(address);
                    }
                }
                Step::Restart => {
                    let mut next = Pool::new(subnet);
                    next.set_cursor(pool.cursor());
                    for &address in &model {
                        next.take(Ipv4Addr::from_bits(address), "x").unwrap();
                    }
                    pool = next;
                }
            }
            prop_assert_eq!(pool.used(), model.len());
        }
    }
}
