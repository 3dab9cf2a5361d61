//! Frames at the uplink before all else: what goes no further, and that nothing else is touched.

use netd_common::{
    Drop, V4, V6,
    abi::Denied,
    host::{
        Frame, Memory,
        build::{Body, Ip, ethernet, frame},
        cases::{FAR_NODE, NODE, SERVER, UPLINK_MACS, World},
    },
    xdp_uplink,
};

const WORLD: World = World::new([11, 12, 13, 20, 30]);
/// 2001:db8::7
const SERVER6: V6 = V6([0x2001_0db8_u32.to_be(), 0, 0, 7_u32.to_be()]);

/// The world, in which 198.51.100.0/24 and 2001:db8::/32 are denied.
fn tables() -> Memory<V4> {
    let mut tables = WORLD.tables();
    tables.denied4 = vec![(V4::new([198, 51, 100, 0]), V4::new([255, 255, 255, 0]), Denied { slot: 3 })];
    let (prefix, mask) = (V6([SERVER6.0[0], 0, 0, 0]), V6([u32::MAX, 0, 0, 0]));
    tables.denied6 = vec![(prefix, mask, Denied { slot: 4 })];
    tables
}

fn udp() -> Body {
    Body::Udp(53, 50_000, vec![1, 2, 3])
}

/// From the router to the node.
fn from(source: [u8; 4], body: &Body) -> Vec<u8> {
    let (node, router) = UPLINK_MACS;
    frame(node, router, &Ip::new(source, NODE), body)
}

fn ipv6(source: V6, length: u16) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([59, 64]);
    packet.extend(source.0.iter().flat_map(|word| word.to_ne_bytes()));
    packet.extend([0; 16]);
    packet.extend([0; 8]);
    let (node, router) = UPLINK_MACS;
    ethernet(node, router, 0x86dd, &packet)
}

fn tagged(frame: Vec<u8>) -> Vec<u8> {
    with_tags(frame, &[5])
}

/// With these VLAN tags, the first of them outermost; a service provider's and a customer's in turn.
fn with_tags(mut frame: Vec<u8>, tags: &[u8]) -> Vec<u8> {
    for (number, tag) in tags.iter().enumerate().rev() {
        let kind = if number % 2 == 0 { [0x81, 0x00] } else { [0x88, 0xa8] };
        frame.splice(12..12, [kind[0], kind[1], 0x00, *tag]);
    }
    frame
}

/// Whether it passes; else why not, and what the list's entries have counted.
fn run(bytes: &[u8]) -> Result<(), (Drop, Vec<(u32, u64)>)> {
    let tables = tables();
    let frame = Frame::new(bytes.to_vec());
    let passes = xdp_uplink(&frame, &tables);
    assert_eq!(frame.bytes, bytes, "nothing is written");
    let drops: Vec<Drop> = Drop::ALL.iter().copied().filter(|reason| tables.dropped(*reason) > 0).collect();
    match drops[..] {
        [] => {
            assert!(passes);
            Ok(())
        }
        [reason] => {
            assert!(!passes && tables.dropped(reason) == 1);
            Err((reason, tables.denied.borrow().iter().map(|(slot, count)| (*slot, *count)).collect()))
        }
        _ => panic!("counted for several reasons: {drops:?}"),
    }
}

#[test]
fn denied_sources() {
    let other = [203, 0, 113, 9];
    assert_eq!(run(&from(SERVER, &udp())), Err((Drop::Denied, vec![(3, 1)])));
    assert_eq!(run(&tagged(from(SERVER, &udp()))), Err((Drop::Denied, vec![(3, 1)])));
    assert_eq!(run(&from(other, &udp())), Ok(()));
    assert_eq!(run(&tagged(from(other, &udp()))), Ok(()));
    assert_eq!(run(&ipv6(SERVER6, 8)), Err((Drop::Denied, vec![(4, 1)])));
    assert_eq!(run(&ipv6(V6([0xfd88_0000_u32.to_be(), 0, 0, 1]), 8)), Ok(()));
}

#[test]
fn malformed_headers() {
    let good = from([203, 0, 113, 9], &udp());
    let with = |offset: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[offset] = value;
        run(&bytes)
    };
    let malformed = Err((Drop::Malformed, vec![]));
    assert_eq!(with(14, 0x44), malformed, "a header shorter than a header");
    assert_eq!(with(14, 0x65), malformed, "another version");
    assert_eq!(with(16, 0xff), malformed, "longer than the frame");
    assert_eq!(run(&good[..30]), malformed, "cut off");
    let other6 = V6([0xfd88_0000_u32.to_be(), 0, 0, 1]);
    assert_eq!(run(&ipv6(other6, 9)), malformed, "longer than the frame");
    let (node, router) = UPLINK_MACS;
    assert_eq!(run(&ethernet(node, router, 0x0806, &[0; 28])), Ok(()), "no IP");
    assert_eq!(run(&good[..10]), Ok(()), "no frame: the driver's");
}

#[test]
fn overlay_packets_that_no_node_has_sent() {
    let inner = |source| {
        let ip = Ip::new(source, WORLD.a.address);
        frame(WORLD.a.mac, WORLD.a.host_mac, &ip, &udp())
    };
    let vxlan = |vni: u32, inner: Vec<u8>| {
        let mut payload = vec![8, 0, 0, 0];
        payload.extend((vni << 8).to_be_bytes());
        payload.extend(inner);
        Body::Udp(50_000, 4789, payload)
    };
    let far = [10, 88, 64, 5];
    assert_eq!(run(&from(FAR_NODE, &vxlan(0x6e_0001, inner(far)))), Ok(()), "a node's");
    let other = [203, 0, 113, 9];
    assert_eq!(run(&from(other, &vxlan(0x6e_0001, inner(far)))), Err((Drop::OverlayNode, vec![])));
    assert_eq!(run(&from(FAR_NODE, &vxlan(0x6e_0002, inner(far)))), Err((Drop::OverlayNetwork, vec![])));
    assert_eq!(run(&from(other, &vxlan(7, inner(far)))), Ok(()), "not netd's VNI");
}

/// The kernel takes any number of tags off that only give a priority, and looks at what is behind them.
#[test]
fn behind_vlan_tags() {
    let other = [203, 0, 113, 9];
    for tags in [&[0][..], &[0, 0], &[7, 0, 0], &[0, 0, 0, 0]] {
        let denied = Err((Drop::Denied, vec![(3, 1)]));
        assert_eq!(run(&with_tags(from(SERVER, &udp()), tags)), denied, "{tags:?}");
        assert_eq!(run(&with_tags(ipv6(SERVER6, 8), tags)), Err((Drop::Denied, vec![(4, 1)])), "{tags:?}");
        assert_eq!(run(&with_tags(from(other, &udp()), tags)), Ok(()), "{tags:?}");
        let arp = ethernet(UPLINK_MACS.0, UPLINK_MACS.1, 0x0806, &[0; 28]);
        assert_eq!(run(&with_tags(arp, tags)), Ok(()), "{tags:?}");
    }
    for source in [SERVER, other] {
        let five = with_tags(from(source, &udp()), &[0; 5]);
        assert_eq!(run(&five), Err((Drop::Vlan, vec![])), "who knows what is behind them");
    }
    // Cut within the tags: there is nothing that the kernel could take it for.
    assert_eq!(run(&with_tags(from(SERVER, &udp()), &[0, 0])[..18]), Ok(()));
}
