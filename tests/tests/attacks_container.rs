//! Crafted frames out of a container, on real links: what of them gets through the kernel around the programs, which takes tags off,
//! forwards, follows routes that senders choose and opens tunnels. What the programs decide by themselves is in the table of cases
//! (`netd-common/src/host/attack*.rs`).

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, ensure};
use netd_common::host::build::{Body, Ip, Ip6, ethernet, frame, frame6, icmp_error, ipv4_of, ipv6_of};
use netd_tests::{
    attempts::{Attempts, CONFIG, Trio, careless, mac_on, options, routing_headers, udp, wrappings},
    frames,
    watch::Watch,
    with_site,
};

/// What a container can send past its own stack reaches whom it may reach, and nobody else, whatever the host's stack would do with it.
#[test]
fn out_of_a_container() {
    with_site("out_of_a_container", CONFIG, |site| {
        careless(&site.host.namespace)?;
        let trio = Trio::new(site)?;
        let [(a, a6), (b, b6), (c, c6)] = trio.addresses()?;
        let watch = Watch::new([
            ("b", &trio.b.namespace),
            ("c", &trio.c.namespace),
            ("the wire", &site.world.router),
        ])?;
        let own = frames::mac(&trio.a.mac)?;
        let host_mac = mac_on(&site.host.namespace, &trio.a.host_interface)?;
        let (gateway, gateway6) =
            (trio.a.gateway.octets(), trio.a.gateway6.context("no IPv6 gateway")?.octets());
        let node = site.host.address.octets();
        let node6 = site.host.address6.context("no IPv6")?.octets();
        let server = site.world.address.octets();
        let server6 = site.world.address6.context("no IPv6")?.octets();
        let v4 = |ip: &Ip, body: &Body| frame(host_mac, own, ip, body);
        let v6 = |ip: &Ip6, body: &Body| frame6(host_mac, own, ip, body);
        let mut all = Attempts::default();

        // These arrive, or nothing that follows would mean anything.
        all.add("a packet to b", &["b"], |mark| vec![v4(&Ip::new(a, b), &udp(mark))]);
        all.add("IPv6 to b", &["b"], |mark| vec![v6(&Ip6::new(a6, b6), &udp(mark))]);
        all.add("a packet to the world", &["the wire"], |mark| vec![v4(&Ip::new(a, server), &udp(mark))]);
        all.add("IPv6 to the world", &["the wire"], |mark| vec![v6(&Ip6::new(a6, server6), &udp(mark))]);

        for (whom, to) in [("b", b), ("c", c), ("the server", server), ("the host", node)] {
            for number in 0..wrappings(&[]).len() {
                let what = format!("{} to {whom}", wrappings(&[])[number].0);
                all.nobody(what, |mark| {
                    let (_, kind, bytes) =
                        wrappings(&ipv4_of(&Ip::new(a, to), &udp(mark))).swap_remove(number);
                    ethernet(host_mac, own, kind, &bytes)
                });
            }
        }
        // To the world, the host forwards what it is told to: that is its own doing.
        for station in [b, c] {
            for (what, options) in options(station) {
                for (whom, by) in
                    [("the gateway", gateway), ("the host", node), ("c", c), ("loopback", [127, 0, 0, 1])]
                {
                    all.nobody(format!("{what} by {whom} to {station:?}"), |mark| {
                        v4(&Ip { options: options.clone(), ..Ip::new(a, by) }, &udp(mark))
                    });
                }
            }
        }
        for station in [b6, c6, server6] {
            for (kind, header) in routing_headers(station) {
                for by in [gateway6, node6, b6, c6, server6] {
                    let by_ = Ipv6Addr::from(by);
                    all.nobody(format!("a routing header of type {kind} by {by_}"), |mark| {
                        v6(&Ip6 { extensions: vec![(43, header.clone())], ..Ip6::new(a6, by) }, &udp(mark))
                    });
                }
            }
        }
        // Tunnels that end at the host, by each of its addresses.
        for (protocol, head) in
            [(4, &[][..]), (47, &[0, 0, 8, 0]), (94, &[]), (50, &[0; 8]), (137, &[0, 0, 0x11, 0x40])]
        {
            for (by, inner_source) in [(gateway, a), (node, a), (gateway, b), (node, server)] {
                for to in [b, c, server] {
                    all.nobody(format!("protocol {protocol} by {by:?} to {to:?}"), |mark| {
                        let inner = ipv4_of(&Ip::new(inner_source, to), &udp(mark));
                        v4(&Ip::new(a, by), &Body::Other(protocol, [head, &inner].concat()))
                    });
                }
            }
        }
        for by in [gateway, node] {
            for to in [b6, c6, server6] {
                all.nobody(format!("6in4 by {by:?}"), |mark| {
                    v4(&Ip::new(a, by), &Body::Other(41, ipv6_of(&Ip6::new(a6, to), &udp(mark))))
                });
            }
        }
        for by in [gateway6, node6] {
            for to in [b, c, server] {
                all.nobody("IPv4 in IPv6", |mark| {
                    v6(&Ip6::new(a6, by), &Body::Other(4, ipv4_of(&Ip::new(a, to), &udp(mark))))
                });
            }
        }
        // What is for many, or for nobody.
        for to in
            ["0.0.0.0", "127.0.0.1", "224.0.0.1", "224.0.0.251", "239.1.1.1", "240.0.0.1", "255.255.255.255"]
        {
            let to_: Ipv4Addr = to.parse()?;
            for mac in [host_mac, [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
                all.nobody(format!("to {to}"), |mark| frame(mac, own, &Ip::new(a, to_.octets()), &udp(mark)));
            }
        }
        for to in [
            "::",
            "::1",
            "ff02::1",
            "ff02::1:2",
            "ff02::fb",
            "ff05::1",
            "ff0e::1",
            "fe80::1",
            "::ffff:127.0.0.1",
        ] {
            let to_: Ipv6Addr = to.parse()?;
            for mac in [host_mac, [0x33, 0x33, 0, 0, 0, 1]] {
                all.nobody(format!("to {to}"), |mark| {
                    frame6(mac, own, &Ip6::new(a6, to_.octets()), &udp(mark))
                });
            }
        }
        // In another's name, by way of the host's stack.
        for source in [b, c, gateway, node, server, [127, 0, 0, 1]] {
            for to in [gateway, node, b, server] {
                all.nobody(format!("as {source:?} to {to:?}"), |mark| v4(&Ip::new(source, to), &udp(mark)));
            }
        }
        // Errors, that the host's stack or a neighbour would act on.
        for (to, about) in [(b, [b, server]), (gateway, [node, server]), (node, [node, b])] {
            for kind in
                [(3, 1, 0), (3, 3, 0), (3, 4, 576), (11, 0, 0), (12, 0, 0), (4, 0, 0), (5, 1, 0x0a58_0002)]
            {
                all.nobody(format!("an ICMP error of type {} to {to:?}", kind.0), |mark| {
                    let quote = ipv4_of(&Ip::new(about[0], about[1]), &udp(mark));
                    v4(&Ip::new(a, to), &icmp_error(kind, &quote))
                });
            }
        }
        // Neighbour discovery, to a neighbour and to all.
        for kind in [133, 134, 135, 136, 137] {
            for to in [b6, gateway6, node6, "ff02::1".parse::<Ipv6Addr>()?.octets()] {
                for mac in [host_mac, frames::mac(&trio.b.mac)?, [0x33, 0x33, 0, 0, 0, 1]] {
                    all.nobody(format!("neighbour discovery of type {kind}"), |mark| {
                        let ip = Ip6 { hops: 255, ..Ip6::new(a6, to) };
                        frame6(mac, own, &ip, &Body::Icmp6(kind, 0, 0, [&gateway6[..], &mark].concat()))
                    });
                }
            }
        }
        all.run(&trio.a.namespace, "eth0", &watch, || trio.work(site))?;
        let log = site.host.log();
        ensure!(!log.contains("panicked"), "the daemon has panicked: {log}");
        Ok(())
    });
}
