//! What outlives the daemon: pinned maps and links, taken over, checked, replaced, removed.

#[expect(dead_code, reason = "what this file does not need, the other one that shares the module does")]
mod world;

use std::{collections::BTreeMap, fs, path::Path};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData},
    programs::{
        SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
    },
};
use netd::bpf::{Attachment, Datapath};
use netd_common::{
    abi::ABI_VERSION,
    host::{
        build::{Body, Ip, frame},
        cases::{At, SERVER},
    },
};
use world::{Loaded, endpoint, in_a_world, options};

/// The pinned links by name: the link's own id and its program's.
fn links(directory: &Path) -> BTreeMap<String, (u32, u32)> {
    fs::read_dir(directory.join(format!("v{ABI_VERSION}/links")))
        .expect("links")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let info = FdLink::from(PinnedLink::from_pin(&path).expect("a link")).info().expect("its info");
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, (info.id(), info.program_id()))
        })
        .collect()
}

/// Sends a packet of `a`'s through the masquerade; the frame that leaves.
fn send(loaded: &Loaded) -> Vec<u8> {
    let a = loaded.world.a;
    // A source port outside the range, so that the flow alone knows what it became.
    let body = Body::Udp(1234, 53, vec![1]);
    loaded
        .run(At::FromContainer(a.ifindex), &frame(a.host_mac, a.mac, &Ip::new(a.address, SERVER), &body))
        .frame
}

#[test]
fn a_new_daemon_takes_over() {
    in_a_world("a_new_daemon_takes_over", |loaded| {
        loaded.datapath.attach_uplink(loaded.world.uplink).expect("attach");
        let (before, sent) = (links(&loaded.directory), send(loaded));
        assert_eq!(before.len(), 7, "{before:?}");
        loaded.datapath = Datapath::open(&options(&loaded.directory)).expect("opened again");
        assert_eq!(links(&loaded.directory), before, "nothing changes until it is told to");
        for member in [loaded.world.a, loaded.world.b, loaded.world.c] {
            loaded.datapath.attach_endpoint(&endpoint(&member)).expect("attach");
        }
        loaded.datapath.attach_uplink(loaded.world.uplink).expect("attach");
        let after = links(&loaded.directory);
        for (name, (link, program)) in &before {
            assert_eq!(after[name].0, *link, "{name}: another link");
            assert_ne!(after[name].1, *program, "{name}: the old program");
        }
        assert_eq!(send(loaded), sent, "the flow is another");
    });
}

#[test]
fn an_endpoint_comes_and_goes() {
    in_a_world("an_endpoint_comes_and_goes", |loaded| {
        let a = endpoint(&loaded.world.a);
        let first = send(loaded);
        assert_ne!(loaded.datapath.endpoint_counters(a.slot).expect("counters").tx_packets, 0);
        loaded.datapath.detach_endpoint(&a).expect("detach");
        loaded.datapath.detach_endpoint(&a).expect("detach again");
        assert_eq!(loaded.datapath.endpoint_counters(a.slot).expect("counters"), Default::default());
        assert!(!links(&loaded.directory).keys().any(|name| name.starts_with(&format!("{}-", a.ifindex))));
        let fill = loaded.datapath.maps().expect("maps");
        assert_eq!(fill.iter().map(|map| map.entries).collect::<Vec<_>>(), [2, 0], "{fill:?}");
        loaded.datapath.attach_endpoint(&a).expect("attach again");
        assert_ne!(send(loaded), first, "a flow of before (or the same of 16,384 ports, by chance)");
    });
}

#[test]
fn only_the_endpoints_that_are_wanted_stay() {
    in_a_world("only_the_endpoints_that_are_wanted_stay", |loaded| {
        send(loaded);
        loaded.datapath.attach_uplink(loaded.world.uplink).expect("attach");
        let b = endpoint(&loaded.world.b);
        loaded.datapath.retain_endpoints(std::slice::from_ref(&b)).expect("retain");
        let names: Vec<_> = links(&loaded.directory).into_keys().collect();
        let index = b.ifindex;
        let mut expected = vec![
            format!("{index}-egress"),
            format!("{index}-ingress"),
            format!("{}-uplink", loaded.world.uplink),
        ];
        expected.sort();
        assert_eq!(names, expected);
        let fill = loaded.datapath.maps().expect("maps");
        assert_eq!(fill.iter().map(|map| map.entries).collect::<Vec<_>>(), [1, 0], "{fill:?}");
    });
}

#[test]
fn a_new_uplink_replaces_the_old() {
    in_a_world("a_new_uplink_replaces_the_old", |loaded| {
        let uplinks = |loaded: &Loaded| {
            links(&loaded.directory).into_keys().filter(|name| name.ends_with("-uplink")).collect::<Vec<_>>()
        };
        loaded.datapath.attach_uplink(loaded.world.uplink).expect("attach");
        loaded.datapath.attach_uplink(loaded.world.stranger).expect("attach");
        assert_eq!(uplinks(loaded), [format!("{}-uplink", loaded.world.stranger)]);
    });
}

/// A link whose device is gone, and another device that has got its index.
#[test]
fn a_link_whose_device_is_gone_is_made_anew() {
    in_a_world("a_link_whose_device_is_gone_is_made_anew", |loaded| {
        let a = endpoint(&loaded.world.a);
        let index = a.ifindex.to_string();
        let run = |arguments: &[&str]| {
            let done = std::process::Command::new("ip").args(arguments).status().expect("ip runs");
            assert!(done.success(), "ip {arguments:?}");
        };
        run(&["link", "del", "dev", "a"]);
        run(&["link", "add", "name", "again", "index", &index, "type", "veth", "peer", "name", "again-peer"]);
        let before = links(&loaded.directory);
        loaded.datapath.attach_endpoint(&a).expect("attach");
        let after = links(&loaded.directory);
        let name = format!("{index}-ingress");
        assert_ne!(before[&name].0, after[&name].0, "the link of the device that is gone");
    });
}

#[test]
fn the_links_of_another_version_run_until_they_are_replaced() {
    in_a_world("the_links_of_another_version_run_until_they_are_replaced", |loaded| {
        let before = links(&loaded.directory);
        let version = |number| loaded.directory.join(format!("v{number}"));
        fs::rename(version(ABI_VERSION), version(0)).expect("rename");
        loaded.datapath = Datapath::open(&options(&loaded.directory)).expect("opened again");
        assert!(!version(0).exists());
        assert_eq!(links(&loaded.directory), before);
        loaded.datapath.attach_endpoint(&endpoint(&loaded.world.a)).expect("attach");
        let name = format!("{}-ingress", loaded.world.a.ifindex);
        let after = links(&loaded.directory);
        assert_eq!((after[&name].0, after[&name].1 != before[&name].1), (before[&name].0, true));
    });
}

fn pin_another<K: Pod, V: Pod>(path: &Path) {
    // A map of another shape is easiest got from another pin: what counts is what is found under the name.
    fs::remove_file(path).expect("the pin is there");
    let other = path.with_file_name("INTERFACES4");
    let map = Map::HashMap(MapData::from_pin(other).expect("a map"));
    let map: HashMap<MapData, K, V> = map.try_into().expect("a hash map");
    map.pin(path).expect("pin");
}

#[test]
fn a_map_of_another_shape_is_refused() {
    in_a_world("a_map_of_another_shape_is_refused", |loaded| {
        let path = loaded.directory.join(format!("v{ABI_VERSION}/maps/FLOWS4"));
        pin_another::<u32, [u32; 11]>(&path);
        let before = links(&loaded.directory);
        let error = Datapath::open(&options(&loaded.directory)).err().expect("refused");
        let text = format!("{error:#}");
        assert!(text.contains(&path.display().to_string()) && text.contains("--purge"), "{text}");
        assert!(!text.contains('\n'), "{text}");
        assert_eq!(links(&loaded.directory), before, "something was changed before it was refused");
    });
}

/// Another number of entries is no reason to lose the contents.
#[test]
fn a_pinned_map_keeps_its_size() {
    in_a_world("a_pinned_map_keeps_its_size", |loaded| {
        let sent = send(loaded);
        let mut other = options(&loaded.directory);
        other.max_flows *= 2;
        loaded.datapath = Datapath::open(&other).expect("opened again");
        let fill = loaded.datapath.maps().expect("maps");
        assert!(
            fill.iter().any(|map| map.name == "flows" && map.capacity == u64::from(world::MAX_FLOWS)),
            "{fill:?}"
        );
        assert_eq!(send(loaded), sent);
    });
}

#[test]
fn purge_leaves_nothing() {
    in_a_world("purge_leaves_nothing", |loaded| {
        // Interface a's programs: what is attached is asked of the kernel, not of the pins.
        let attached = || {
            [TcAttachType::Ingress, TcAttachType::Egress]
                .map(|hook| SchedClassifier::query_tcx("a", hook).expect("query").1.len())
                .iter()
                .sum::<usize>()
        };
        assert_eq!(attached(), 2);
        Datapath::purge(&loaded.directory).expect("purge");
        Datapath::purge(&loaded.directory).expect("purge again");
        assert!(!loaded.directory.exists());
        assert_eq!(attached(), 0, "a program is still attached");
    });
}

/// Before kernel 6.6 there are no TCX links. The same programs then are filters, which this kernel has too.
#[test]
fn filters_where_there_are_no_links() {
    in_a_world("filters_where_there_are_no_links", |loaded| {
        Datapath::purge(&loaded.directory).expect("purge");
        let filters = |hook: &str| {
            let shown = std::process::Command::new("tc").args(["filter", "show", "dev", "a", hook]).output();
            let shown = String::from_utf8(shown.expect("tc runs").stdout).expect("text");
            let of = |word: &str| {
                let mut words = shown.split_whitespace().skip_while(|other| *other != word);
                words.nth(1).map(str::to_owned)
            };
            (shown.matches("direct-action").count(), of("id"))
        };
        let a = endpoint(&loaded.world.a);
        let open = || Datapath::open_with(&options(&loaded.directory), Attachment::Clsact).expect("opened");
        loaded.datapath = open();
        loaded.datapath.configure(&loaded.config).expect("configure");
        loaded.datapath.attach_endpoint(&a).expect("attach");
        loaded.datapath.attach_endpoint(&a).expect("attach again");
        let before = filters("ingress");
        assert_eq!((before.0, filters("egress").0), (1, 1));
        loaded.datapath = open();
        assert_eq!(filters("ingress"), before, "the daemon's end detaches nothing");
        loaded.datapath.attach_endpoint(&a).expect("attach by the next daemon");
        let after = filters("ingress");
        assert_eq!(after.0, 1);
        assert_ne!(after.1, before.1, "the old program");
        let status = loaded.datapath.programs().expect("programs");
        assert!(status.iter().any(|program| program.hook == "clsact" && program.attached == 1), "{status:?}");
        loaded.datapath.detach_endpoint(&a).expect("detach");
        assert_eq!((filters("ingress").0, filters("egress").0), (0, 0));
    });
}
