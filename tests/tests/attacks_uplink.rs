//! Crafted frames from outside, at the uplink: as from the world, and as from another node.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, ensure};
use netd::lab::Container;
use netd_common::host::build::{Body, Ip, Ip6, ethernet, fragments, frame, frame6, ipv4_of, ipv6_of};
use netd_tests::{
    attempts::{Attempts, CONFIG, Trio, careless, mac_on, options, routing_headers, udp, vxlan, wrappings},
    cluster::{Cluster, mac_of, with_cluster},
    frames,
    site::reach,
    watch::Watch,
    with_site,
};

/// From the wire nothing gets to a container that has not asked, though the host forwards.
#[test]
fn in_at_the_uplink() {
    with_site("in_at_the_uplink", CONFIG, |site| {
        careless(&site.host.namespace)?;
        let trio = Trio::new(site)?;
        let published = site.host.netd(["publish", "a", "-p", "5353:9/udp"])?;
        ensure!(published.status.success(), "{}", String::from_utf8_lossy(&published.stderr));
        let [(a, a6), (b, b6), (c, c6)] = trio.addresses()?;
        let watch =
            Watch::new([("a", &trio.a.namespace), ("b", &trio.b.namespace), ("c", &trio.c.namespace)])?;
        let host_mac = mac_on(&site.host.namespace, "eth0")?;
        let own = mac_on(&site.world.router, "host1")?;
        let node = site.host.address.octets();
        let node6 = site.host.address6.context("no IPv6")?.octets();
        let server = site.world.address.octets();
        let server6 = site.world.address6.context("no IPv6")?.octets();
        let gateway = trio.a.gateway.octets();
        let v4 = |ip: &Ip, body: &Body| frame(host_mac, own, ip, body);
        let v6 = |ip: &Ip6, body: &Body| frame6(host_mac, own, ip, body);
        let mut all = Attempts::default();

        all.add("a published port", &["a"], |mark| {
            vec![v4(&Ip::new(server, node), &Body::Udp(40_000, 5353, mark))]
        });
        all.add("a published port of IPv6", &["a"], |mark| {
            vec![v6(&Ip6::new(server6, node6), &Body::Udp(40_000, 5353, mark))]
        });
        let router = [node[0], node[1], node[2], 1];
        for to in [a, b, c, [10, 88, 7, 7], [10, 88, 255, 255]] {
            for source in [
                router,
                server,
                a,
                b,
                c,
                gateway,
                node,
                [10, 88, 7, 7],
                [127, 0, 0, 1],
                [0; 4],
                [255; 4],
                [224, 0, 0, 1],
                [169, 254, 1, 1],
            ] {
                all.nobody(format!("from {source:?} to {to:?}"), |mark| v4(&Ip::new(source, to), &udp(mark)));
            }
        }
        for to in [a6, b6, c6] {
            for source in [
                server6,
                a6,
                b6,
                c6,
                node6,
                [0; 16],
                "::1".parse::<Ipv6Addr>()?.octets(),
                "fe80::1".parse::<Ipv6Addr>()?.octets(),
            ] {
                let source_ = Ipv6Addr::from(source);
                all.nobody(format!("from {source_}"), |mark| v6(&Ip6::new(source, to), &udp(mark)));
                all.nobody(format!("neighbour discovery from {source_}"), |mark| {
                    let ip = Ip6 { hops: 255, ..Ip6::new(source, to) };
                    v6(&ip, &Body::Icmp6(136, 0, 0x2000_0000, [&a6[..], &mark].concat()))
                });
            }
        }
        for to in [a, b, c] {
            for number in 0..wrappings(&[]).len() {
                let what = format!("{} to {to:?}", wrappings(&[])[number].0);
                all.nobody(what, |mark| {
                    let packet = ipv4_of(&Ip::new(server, to), &udp(mark));
                    let (_, kind, bytes) = wrappings(&packet).swap_remove(number);
                    ethernet(host_mac, own, kind, &bytes)
                });
            }
            for (what, options) in options(to) {
                all.nobody(format!("{what} by the host to {to:?}"), |mark| {
                    v4(&Ip { options, ..Ip::new(server, node) }, &udp(mark))
                });
            }
            for (protocol, head) in [(4, &[][..]), (47, &[0, 0, 8, 0]), (94, &[]), (50, &[0; 8])] {
                all.nobody(format!("protocol {protocol} by the host to {to:?}"), |mark| {
                    let inner = ipv4_of(&Ip::new(server, to), &udp(mark));
                    v4(&Ip::new(server, node), &Body::Other(protocol, [head, &inner].concat()))
                });
            }
        }
        for to in [a6, b6, c6] {
            for (kind, header) in routing_headers(to) {
                all.nobody(format!("a routing header of type {kind} by the host"), |mark| {
                    v6(&Ip6 { extensions: vec![(43, header)], ..Ip6::new(server6, node6) }, &udp(mark))
                });
            }
            all.nobody("6in4 by the host", |mark| {
                v4(&Ip::new(server, node), &Body::Other(41, ipv6_of(&Ip6::new(server6, to), &udp(mark))))
            });
        }
        // Ports of the range that stand for nobody, VXLAN where there are no other nodes.
        for port in [49_152, 50_000, 65_535] {
            all.nobody(format!("port {port}"), |mark| v4(&Ip::new(server, node), &Body::Udp(53, port, mark)));
        }
        for vni in [0x6e_0001u32, 0x6e_0002, 0x6e_0000, 5] {
            all.nobody(format!("VXLAN with VNI {vni:#x}"), |mark| {
                let inner =
                    frame(frames::mac(&trio.a.mac).unwrap_or_default(), own, &Ip::new(b, a), &udp(mark));
                vxlan(host_mac, own, &Ip::new(server, node), vni, &inner)
            });
        }
        all.run(&site.world.router, "host1", &watch, || trio.work(site))
    });
}

/// What only the kernel's VXLAN device decapsulates, or puts together before that, is asked the same as the rest.
#[test]
fn vxlan_by_way_of_the_kernel() {
    with_cluster("vxlan_by_way_of_the_kernel", "vxlan", |cluster: &mut Cluster| {
        const VNI: u32 = 0x6e_0001;
        let (a, b) = cluster.pair()?;
        let guest = cluster.container(0, "guest", "other")?;
        let watch = Watch::new([("a", &a.namespace), ("guest", &guest.namespace)])?;
        let router = cluster.world.router.clone();
        let (host_mac, own) = (mac_on(&cluster.nodes[0].namespace, "eth0")?, mac_on(&router, "host1")?);
        let (node, friend) = (cluster.nodes[0].address.octets(), cluster.nodes[1].address.octets());
        let stranger = cluster.world.address.octets();
        let inner = |source: Ipv4Addr, to: &Container, mark: Vec<u8>| {
            frame(
                mac_of(to.address),
                mac_of(source),
                &Ip::new(source.octets(), to.address.octets()),
                &udp(mark),
            )
        };
        let outer = |source| Ip::new(source, node);
        // Options are the kernel's to look at; fragments are the kernel's to put together.
        let with_options = |source| Ip { options: vec![1; 8], ..outer(source) };
        let in_pieces = |source, vni, inner: &[u8]| -> Vec<Vec<u8>> {
            let whole = vxlan(host_mac, own, &Ip { id: 77, ..outer(source) }, vni, inner);
            let pieces = fragments(&whole[14..], 40);
            pieces.iter().map(|piece| ethernet(host_mac, own, 0x0800, piece)).collect()
        };
        let mut all = Attempts::default();
        all.add("as a node sends it", &["a"], |mark| {
            vec![vxlan(host_mac, own, &outer(friend), VNI, &inner(b.address, &a, mark))]
        });
        all.add("with options, as a node could send it", &["a"], |mark| {
            vec![vxlan(host_mac, own, &with_options(friend), VNI, &inner(b.address, &a, mark))]
        });
        let elsewhere = Ipv4Addr::new(10, 88, 77, 1);
        let of_other = Ipv4Addr::new(10, 89, 2, 1);
        for (what, source, vni, inner_source, to) in [
            ("from no node", stranger, VNI, b.address, &a),
            ("from itself", node, VNI, b.address, &a),
            ("as nobody's container", friend, VNI, elsewhere, &a),
            ("as the node's own container", friend, VNI, guest.address, &a),
            ("as the gateway", friend, VNI, a.gateway, &a),
            ("as the world", friend, VNI, cluster.world.address, &a),
            ("with the VNI of another network", friend, VNI + 1, b.address, &a),
            ("with the VNI of no network", friend, VNI + 77, b.address, &a),
            ("with another's VNI", friend, 42, b.address, &a),
            ("into another network", friend, VNI, b.address, &guest),
            ("into another network by its VNI", friend, VNI + 1, b.address, &guest),
            ("from another network", friend, VNI, of_other, &a),
        ] {
            all.nobody(format!("{what}, with options"), |mark| {
                vxlan(host_mac, own, &with_options(source), vni, &inner(inner_source, to, mark))
            });
            all.add(format!("{what}, in fragments"), &[], |mark| {
                in_pieces(source, vni, &inner(inner_source, to, mark))
            });
        }
        let good = |mark| inner(b.address, &a, mark);
        all.add("cut at each length", &[], |mark| {
            let whole = vxlan(host_mac, own, &outer(friend), VNI, &good(mark));
            (14..whole.len()).map(|length| whole[..length].to_vec()).collect()
        });
        all.nobody("to another port", |mark| {
            let mut bytes = vxlan(host_mac, own, &outer(friend), VNI, &good(mark));
            bytes[36..38].copy_from_slice(&8472u16.to_be_bytes());
            bytes
        });
        all.nobody("without a VNI", |mark| {
            let mut bytes = vxlan(host_mac, own, &outer(friend), VNI, &good(mark));
            bytes[42] = 0;
            bytes
        });
        all.nobody("VXLAN to the node in VXLAN", |mark| {
            let nested = vxlan(host_mac, own, &outer(friend), VNI, &good(mark));
            vxlan(host_mac, own, &outer(friend), VNI, &nested)
        });
        for (number, (what, ..)) in wrappings(&[]).into_iter().enumerate() {
            for options in [vec![], vec![1; 8]] {
                all.nobody(format!("{what} inside, {} bytes of options", options.len()), |mark| {
                    let packet = ipv4_of(&Ip::new(b.address.octets(), a.address.octets()), &udp(mark));
                    let (_, kind, bytes) = wrappings(&packet).swap_remove(number);
                    let inner = ethernet(mac_of(a.address), mac_of(b.address), kind, &bytes);
                    vxlan(host_mac, own, &Ip { options, ..outer(friend) }, VNI, &inner)
                });
            }
        }
        all.nobody("a slice's packet without VXLAN", |mark| {
            frame(host_mac, own, &Ip::new(b.address.octets(), a.address.octets()), &udp(mark))
        });
        all.run(&router, "host1", &watch, || reach(&b.namespace, a.address, b.address))
    });
}
