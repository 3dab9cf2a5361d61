use rtnetlink::packet_route::route::RouteNextHop;

use super::{
    super::testing::{ip, isolated, net, netns, veth},
    *,
};

fn route(destination: &str, gateway: Option<&str>, ifindex: u32) -> Route {
    let gateway = gateway.map(ip);
    Route { destination: net(destination), gateway, ifindex, source: None, onlink: false }
}

#[test]
fn come_and_go() {
    isolated("routes::come_and_go", || async {
        let (host, ns) = (Netlink::host()?, netns());
        let ifindex = host.create_pair(&veth(&ns)).await?;
        host.set_up(ifindex).await?;
        Netlink::enter(&ns).await?.set_up(2).await?;
        host.add_address(ifindex, net("192.0.2.1/24")).await?;
        host.add_address(ifindex, net("fd00::1/64")).await?;
        let before = host.routes(Which::All).await?;
        assert!(
            before.contains(&Route { source: Some(ip("192.0.2.1")), ..route("192.0.2.0/24", None, ifindex) })
        );

        let given = [
            route("10.88.0.2/32", None, ifindex),
            route("10.89.0.0/16", Some("192.0.2.9"), ifindex),
            Route { onlink: true, ..route("10.90.0.0/16", Some("203.0.113.1"), ifindex) },
            Route { source: Some(ip("192.0.2.1")), ..route("0.0.0.0/0", Some("192.0.2.254"), ifindex) },
            route("10.91.0.0/16", Some("fd00::9"), ifindex),
            route("fd88::/48", Some("fd00::9"), ifindex),
            route("::/0", Some("fd00::9"), ifindex),
            route("fd89::2/128", None, ifindex),
        ];
        for _ in 0..2 {
            for route in &given {
                host.add_route(route).await?;
            }
        }
        let after = host.routes(Which::All).await?;
        assert_eq!(after.len(), before.len() + given.len(), "{after:?}");
        for route in &given {
            assert!(after.contains(route), "{route:?} is not in {after:?}");
        }

        // Another gateway takes the place of the first.
        let replaced = route("10.89.0.0/16", Some("192.0.2.10"), ifindex);
        host.add_route(&replaced).await?;
        let after = host.routes(Which::All).await?;
        assert!(after.contains(&replaced) && !after.contains(&given[1]));
        // And what is no longer there is not taken for it.
        assert!(!host.del_route(&given[1]).await?);

        for route in given.iter().filter(|route| **route != given[1]).chain([&replaced]) {
            assert!(host.del_route(route).await?, "{route:?}");
            assert!(!host.del_route(route).await?, "{route:?}");
        }
        assert_eq!(host.routes(Which::All).await?, before);
        assert!(!host.del_route(&route("10.1.0.0/16", None, 77)).await?);

        let error = host.add_route(&route("10.1.0.0/16", Some("203.0.113.1"), ifindex)).await.unwrap_err();
        let expected = format!("adding the route to 10.1.0.0/16 by 203.0.113.1 over link number {ifindex}: ");
        assert!(error.to_string().starts_with(&expected), "{error}");
        Ok(())
    });
}

#[test]
fn only_what_is_asked_for() {
    isolated("only_what_is_asked_for", || async {
        let (host, ns) = (Netlink::host()?, netns());
        assert_eq!(host.routes(Which::All).await?, [], "there is no table yet");
        let ifindex = host.create_pair(&veth(&ns)).await?;
        host.set_up(ifindex).await?;
        Netlink::enter(&ns).await?.set_up(2).await?;
        host.add_address(ifindex, net("192.0.2.1/24")).await?;
        let single = ["10.88.0.2/32", "fd89::2/128"].map(|to| route(to, None, ifindex));
        let default = route("0.0.0.0/0", Some("192.0.2.254"), ifindex);
        for route in single.iter().chain([&default, &route("10.89.0.0/16", None, ifindex)]) {
            host.add_route(route).await?;
        }
        // One to a single address that another has made.
        let mut other = message(&route("10.88.0.3/32", None, ifindex));
        other.header.protocol = RouteProtocol::Boot;
        let add = Request::with_flags(RouteNetlinkMessage::NewRoute(other), NLM_F_CREATE);
        // By a kernel that leaves out what is not asked for, and by one that does not.
        let mut sockets = [Socket::open()?, Socket::unfiltered()?];
        sockets[0].request(add).map_err(|refusal| refusal.while_doing("adding"))?;
        for socket in &mut sockets {
            let mut found = |which| {
                let of = [AddressFamily::Inet, AddressFamily::Inet6];
                let lists = of.map(|family| list(socket, family, which, |candidate| candidate.route));
                lists.into_iter().flat_map(Result::unwrap).collect::<Vec<_>>()
            };
            assert_eq!(found(Which::Single), single);
            assert_eq!(found(Which::Default), [default]);
            let all = found(Which::All);
            assert!(all.len() >= 6 && all.iter().any(|route| route.destination == net("10.88.0.3/32")));
        }
        Ok(())
    });
}

#[test]
fn several_next_hops_and_other_tables() {
    let hop = |ifindex, gateway: &str| {
        let mut hop = RouteNextHop::default();
        hop.interface_index = ifindex;
        hop.attributes.push(RouteAttribute::Gateway(ip(gateway).into()));
        hop
    };
    let mut message = message(&route("10.0.0.0/8", None, 3));
    message.attributes = vec![
        RouteAttribute::Destination(ip("10.0.0.0").into()),
        RouteAttribute::Priority(7),
        RouteAttribute::MultiPath(vec![hop(3, "192.0.2.1"), hop(4, "192.0.2.2")]),
    ];
    let read = |message: &RouteMessage| {
        use rtnetlink::packet_core::Emitable;
        let mut payload = vec![0; message.buffer_len()];
        message.emit(&mut payload);
        candidates(&payload)
    };
    let found = read(&message);
    let expected = [("192.0.2.1", 3), ("192.0.2.2", 4)].map(|(gateway, ifindex)| Candidate {
        route: route("10.0.0.0/8", Some(gateway), ifindex),
        metric: 7,
        dead: false,
    });
    assert_eq!(found, expected);

    message.header.table = 100;
    assert_eq!(read(&message), []);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.kind = RouteType::BlackHole;
    assert_eq!(read(&message), []);
    // What cannot be read is passed over.
    assert_eq!(candidates(&[2, 8, 0]), []);
}
