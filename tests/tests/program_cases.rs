//! The loaded programs, run by the kernel on frames of ours (`BPF_PROG_TEST_RUN`): the table of cases that the core goes
//! through on the host too, and what only the real maps can show.

mod world;

use std::time::Duration;

use netd::bpf::{Attachment, Counter, Datapath, Endpoint, Mac, NodeConfig, Uplink};
use netd_common::{
    Drop, To, Way,
    host::{
        build::{Body, Ip, Ip6, frame, frame6},
        cases::{self, At, Case, Fate, NODE, SERVER, Step, World},
        ipv6::SERVER6,
    },
};
use world::{Loaded, endpoint, in_a_world};

/// Return codes of a TC program (linux/pkt_cls.h).
const fn code(to: To) -> i32 {
    match to {
        To::Drop => 2,
        To::Stack => -1,
        To::Peer | To::Link | To::Neighbour | To::Out => 7,
    }
}

/// Packets and bytes of each counter that is not zero, by name.
fn moved(before: &[Counter], after: &[Counter]) -> Vec<(String, u64, u64)> {
    before
        .iter()
        .zip(after)
        .map(|(before, after)| {
            (after.name.clone(), after.packets - before.packets, after.bytes - before.bytes)
        })
        .filter(|(_, packets, bytes)| (*packets, *bytes) != (0, 0))
        .collect()
}

fn check(loaded: &mut Loaded, case: &Case) {
    let mut before = loaded.datapath.counters().expect("counters");
    for (number, step) in case.steps.iter().enumerate() {
        let what = format!("{}, packet {}", case.name, number + 1);
        let run = loaded.run(step.at, &step.frame);
        let after = loaded.datapath.counters().expect("counters");
        let bytes = step.frame.len() as u64;
        let (verdict, ways, drops) = match step.fate {
            Fate::Goes(to, way) => (code(to), vec![(way.label().to_owned(), 1, bytes)], vec![]),
            Fate::Passes => (code(To::Stack), vec![], vec![]),
            Fate::Answered(reason) => (
                code(To::Peer),
                vec![(Way::ErrorSent.label().to_owned(), 1, bytes)],
                vec![(reason.label().to_owned(), 1, bytes)],
            ),
            Fate::Dropped(reason) => (code(To::Drop), vec![], vec![(reason.label().to_owned(), 1, bytes)]),
        };
        assert_eq!(moved(&before.1, &after.1), drops, "{what}: drops");
        assert_eq!(moved(&before.0, &after.0), ways, "{what}: ways");
        assert_eq!(run.verdict, verdict, "{what}: verdict");
        assert_eq!(step.fixed(&run.frame), step.fixed(&step.after), "{what}: bytes");
        before = after;
    }
}

#[test]
fn every_case_goes_as_the_table_says() {
    in_a_world("every_case_goes_as_the_table_says", |loaded| {
        for case in cases::cases(&loaded.world) {
            // TEST_RUN takes no frame that is cut before the end of an IP header (EINVAL), and gives none the metadata of a
            // tunnel: those cases are the host's.
            let runs = |step: &Step| {
                let header = if step.frame.get(12..14) == Some(&[0x86, 0xdd]) { 54 } else { 34 };
                step.frame.len() >= header && !matches!(step.at, At::FromOverlay(..))
            };
            if case.steps.iter().all(runs) {
                check(loaded, &case);
                loaded.flush();
            }
        }
    });
}

#[test]
fn flows_of_ipv6_are_removed_by_the_program() {
    in_a_world("flows_of_ipv6_are_removed_by_the_program", |loaded| {
        let a = loaded.world.a;
        let ip = Ip6::new(a.address6(), SERVER6);
        let packet = |port| frame6(a.host_mac, a.mac, &ip, &Body::Udp(port, 53, vec![1]));
        // The quota in the entry of IPv6 is the world's.
        for port in 50_000..50_000 + cases::QUOTA as u16 {
            assert_eq!(loaded.run(At::FromContainer(a.ifindex), &packet(port)).verdict, code(To::Neighbour));
        }
        assert_eq!(loaded.flush6(), cases::QUOTA as usize);
        assert_eq!(loaded.flush6(), 0);
        // They count no longer.
        assert_eq!(loaded.run(At::FromContainer(a.ifindex), &packet(51_000)).verdict, code(To::Neighbour));
    });
}

/// A packet of `a`'s to a server's port.
fn to_server(world: &World, source: u16, port: u16) -> Vec<u8> {
    let a = world.a;
    frame(a.host_mac, a.mac, &Ip::new(a.address, SERVER), &Body::Udp(source, port, vec![1]))
}

/// Sends it; the reason if it is dropped.
fn send(loaded: &Loaded, source: u16, port: u16) -> Option<String> {
    let before = loaded.datapath.counters().expect("counters");
    let run = loaded.run(At::FromContainer(loaded.world.a.ifindex), &to_server(&loaded.world, source, port));
    let after = loaded.datapath.counters().expect("counters");
    let reason = moved(&before.1, &after.1).first().map(|(name, ..)| name.clone());
    // Who is refused is told.
    let dropped = reason == label(Drop::NoRoute);
    assert_eq!(run.verdict, code(if dropped { To::Drop } else { To::Neighbour }));
    reason
}

fn label(reason: Drop) -> Option<String> {
    Some(reason.label().to_owned())
}

#[test]
fn without_an_uplink_nothing_leaves() {
    in_a_world("without_an_uplink_nothing_leaves", |loaded| {
        let config = loaded.config;
        loaded.datapath.configure(&NodeConfig { uplink: None, ..config }).expect("configure");
        assert_eq!(send(loaded, 50_000, 53), label(Drop::NoRoute));
    });
}

#[test]
fn nobody_takes_all_of_the_table() {
    in_a_world("nobody_takes_all_of_the_table", |loaded| {
        loaded.configure(|config| config.max_flows_per_endpoint = 1 << 20);
        // Half as many as are left free: a third.
        let share = (world::MAX_FLOWS / 3 + 1) as u16;
        for n in 0..share {
            assert_eq!(send(loaded, 49_152 + n, 53), None, "flow {n}");
        }
        assert_eq!(send(loaded, 65_000, 53), label(Drop::FlowTableFull));
        assert_eq!(send(loaded, 49_152, 53), None, "a flow that there is goes on");
        // Another endpoint has as many as are left for two.
        let b = loaded.world.b;
        for n in 0..world::MAX_FLOWS as u16 / 5 {
            let body = Body::Udp(49_152 + n, 53, vec![1]);
            let packet = frame(b.host_mac, b.mac, &Ip::new(b.address, SERVER), &body);
            let run = loaded.run(At::FromContainer(b.ifindex), &packet);
            assert_eq!(run.verdict, code(To::Neighbour), "flow {n} of another endpoint");
        }
        let all = u64::from(share) + u64::from(world::MAX_FLOWS / 5);
        let fill = loaded.datapath.maps().expect("maps");
        assert!(fill.iter().any(|map| map.name == "flows" && map.entries == all), "{fill:?}");
        assert_eq!(loaded.flush(), all as usize);
        assert_eq!(send(loaded, 65_000, 53), None);
    });
}

#[test]
fn no_port_left_towards_one_destination() {
    in_a_world("no_port_left_towards_one_destination", |loaded| {
        loaded.configure(|config| {
            config.ports = (50_000, 50_003);
            config.max_flows_per_endpoint = 100;
        });
        // Random probing finds the last of four ports in 256 tries. With each flow there, one more is for others, down to half.
        let got = (1..=4).filter(|source| send(loaded, *source, 53).is_none()).count();
        assert!((2..=4).contains(&got), "{got} ports");
        assert_eq!(send(loaded, 5, 53), label(Drop::PortsExhausted));
        assert_eq!(send(loaded, 5, 54), None, "another destination has ports of its own");
        assert_eq!(send(loaded, 1, 53), None, "a flow that there is goes on");
    });
}

#[test]
fn flows_that_have_timed_out_go_and_others_stay() {
    in_a_world("flows_that_have_timed_out_go_and_others_stay", |loaded| {
        assert_eq!(send(loaded, 50_000, 53), None);
        assert_eq!(loaded.datapath.expire_flows().expect("expire").removed, 0, "a flow just made");
        assert_eq!(loaded.datapath.flush_flows(SERVER.into()).expect("flush"), 0, "no address of ours");
        assert_eq!(loaded.datapath.flush_flows(loaded.world.b.address.into()).expect("flush"), 0);
        assert_eq!(loaded.datapath.flush_flows(loaded.world.a.address.into()).expect("flush"), 1);
        assert_eq!(send(loaded, 50_000, 53), None);
        assert_eq!(loaded.datapath.flush_flows(NODE.into()).expect("flush"), 1, "the uplink's address");
    });
}

#[test]
fn closed_connections_go_when_the_quota_is_pressed() {
    in_a_world("closed_connections_go_when_the_quota_is_pressed", |loaded| {
        let a = loaded.world.a;
        let ip = Ip::new(a.address, SERVER);
        for port in 50_000..50_000 + cases::QUOTA as u16 {
            for flags in [0x02, 0x14] {
                let packet = frame(a.host_mac, a.mac, &ip, &Body::Tcp(port, 80, flags, vec![]));
                assert_eq!(loaded.run(At::FromContainer(a.ifindex), &packet).verdict, code(To::Neighbour));
            }
        }
        assert_eq!(send(loaded, 60_000, 53), label(Drop::FlowQuota));
        std::thread::sleep(Duration::from_millis(1700));
        assert_eq!(loaded.datapath.expire_flows().expect("expire").removed, cases::QUOTA as usize);
        assert_eq!(send(loaded, 60_000, 53), None);
    });
}

/// Not a test of anything: what a run of each program costs, with the kernel's own timer.
#[test]
#[ignore = "a measurement"]
fn nanoseconds_per_run() {
    in_a_world("nanoseconds_per_run", |loaded| {
        let (a, b) = (loaded.world.a, loaded.world.b);
        loaded.configure(|config| config.max_flows_per_endpoint = 1000);
        let body = Body::Udp(50_000, 53, vec![0; 64]);
        let local = frame(a.host_mac, a.mac, &Ip::new(a.address, b.address), &body);
        let host = frame(a.host_mac, a.mac, &Ip::new(a.address, NODE), &body);
        for (name, frame, at) in [
            ("to the host", &host, At::FromContainer(a.ifindex)),
            (
                "host to container",
                &frame(a.mac, a.host_mac, &Ip::new(NODE, a.address), &body),
                At::ToContainer(a.ifindex, 0),
            ),
        ] {
            let times: Vec<_> =
                (0..5).map(|_| loaded.repeat(at, frame, 1_000_000).duration.as_nanos()).collect();
            println!("{name}: {times:?} ns");
        }
        // Each run works on what the one before left, so what it writes has to be what was there: a neighbour that is called
        // as the gateway is.
        let twin = Endpoint { mac: Mac(a.host_mac), host_mac: Mac(a.mac), ..endpoint(&b) };
        loaded.datapath.attach_endpoint(&twin).expect("attach");
        let times: Vec<_> = (0..5)
            .map(|_| {
                let run = loaded.repeat(At::FromContainer(a.ifindex), &local, 1_000_000);
                assert_eq!(run.verdict, code(To::Peer));
                run.duration.as_nanos()
            })
            .collect();
        println!("to a neighbour: {times:?} ns");

        // Likewise a container that has the node's address and a port of the range. What stays is that the time to live counts
        // down.
        let address = a.address.into();
        let uplink = Uplink { address, address6: None, ifindex: loaded.world.uplink };
        loaded.configure(|config| config.uplink = Some(uplink));
        let body = |source, destination| Body::Udp(source, destination, vec![0; 64]);
        let segment = |source, destination| Body::Tcp(source, destination, 0x10, vec![0; 64]);
        let there = Ip { ttl: 255, ..Ip::new(a.address, SERVER) };
        let here = Ip { ttl: 255, ..Ip::new(SERVER, a.address) };
        for (name, at, frame, to) in [
            (
                "UDP out",
                At::FromContainer(a.ifindex),
                frame(a.host_mac, a.mac, &there, &body(50_000, 53)),
                To::Neighbour,
            ),
            ("UDP back", At::FromUplink, frame(a.mac, a.host_mac, &here, &body(53, 50_000)), To::Peer),
            (
                "TCP out",
                At::FromContainer(a.ifindex),
                frame(a.host_mac, a.mac, &there, &segment(50_000, 80)),
                To::Neighbour,
            ),
            ("TCP back", At::FromUplink, frame(a.mac, a.host_mac, &here, &segment(80, 50_000)), To::Peer),
            (
                "the host's own",
                At::FromUplink,
                frame(a.mac, a.host_mac, &here, &segment(80, 40_000)),
                To::Stack,
            ),
        ] {
            let mut times: Vec<_> = (0..4000)
                .map(|_| {
                    let run = loaded.repeat(at, &frame, 250);
                    assert_eq!(run.verdict, code(to), "{name}");
                    run.duration.as_nanos()
                })
                .collect();
            times.sort_unstable();
            println!("{name}: {} to {}, median {} ns", times[0], times[3600], times[2000]);
        }
    });
}

/// Likewise: what attaching an endpoint's programs costs, which is most of what an attach costs.
#[test]
#[ignore = "a measurement"]
fn milliseconds_per_attach() {
    in_a_world("milliseconds_per_attach", |loaded| {
        let a = endpoint(&loaded.world.a);
        for attachment in [Attachment::Tcx, Attachment::Clsact] {
            Datapath::purge(&loaded.directory).expect("purge");
            let options = world::options(&loaded.directory);
            loaded.datapath = Datapath::open_with(&options, attachment, attachment).expect("opened");
            loaded.datapath.configure(&loaded.config).expect("configure");
            let mut times = [Vec::new(), Vec::new(), Vec::new()];
            let time = |times: &mut Vec<_>, body: &mut dyn FnMut()| {
                let start = std::time::Instant::now();
                body();
                times.push(start.elapsed().as_micros());
            };
            for _ in 0..20 {
                for (kind, times) in times.iter_mut().enumerate() {
                    time(times, &mut || match kind {
                        2 => loaded.datapath.detach_endpoint(&a).expect("detach"),
                        _ => loaded.datapath.attach_endpoint(&a).expect("attach"),
                    });
                }
            }
            for (what, times) in ["attach", "replace", "detach"].iter().zip(&mut times) {
                times.sort_unstable();
                println!(
                    "{}: {what}: median {} us, {} to {}",
                    attachment.label(),
                    times[10],
                    times[0],
                    times[19]
                );
            }
        }
    });
}
