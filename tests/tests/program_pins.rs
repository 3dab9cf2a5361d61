//! What outlives the daemon: pinned maps and links, taken over, checked, replaced, removed.

#[expect(dead_code, reason = "what this file does not need, the other one that shares the module does")]
mod world;

use std::{collections::BTreeMap, fs, path::Path};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData},
    programs::{
        ProgramInfo, SchedClassifier, TcAttachType,
        links::{FdLink, LinkType, PinnedLink},
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

/// The pins of what is attached, by name: the link's own id (0 where it is a filter, which has none) and the program's.
fn links(directory: &Path) -> BTreeMap<String, (u32, u32)> {
    fs::read_dir(directory.join(format!("v{ABI_VERSION}/links")))
        .expect("links")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let ids = match PinnedLink::from_pin(&path).map(|link| FdLink::from(link).info()) {
                // Of a program, the kernel tells other things; its type is no link's.
                Ok(Ok(info)) if matches!(info.link_type(), Ok(LinkType::Tcx)) => {
                    (info.id(), info.program_id())
                }
                _ => (0, ProgramInfo::from_pin(&path).expect("a program").id()),
            };
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, ids)
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
        let ports = (loaded.world.ports().len() + loaded.world.ports6().len()) as u64;
        assert_eq!(fill.iter().map(|map| map.entries).collect::<Vec<_>>(), [2, 0, 0, ports], "{fill:?}");
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
        let ports = (loaded.world.ports().len() + loaded.world.ports6().len()) as u64;
        assert_eq!(fill.iter().map(|map| map.entries).collect::<Vec<_>>(), [1, 0, 0, ports], "{fill:?}");
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

/// An interface that is gone, and another that has got its index.
#[test]
fn what_was_attached_to_an_interface_that_is_gone_is_attached_anew() {
    in_a_world("what_was_attached_to_an_interface_that_is_gone_is_attached_anew", |loaded| {
        let a = endpoint(&loaded.world.a);
        loaded.datapath.attach_uplink(a.ifindex).expect("attach");
        let before = links(&loaded.directory);
        ip(&["link", "del", "dev", "a"]);
        let index = a.ifindex.to_string();
        ip(&["link", "add", "name", "a", "index", &index, "type", "veth", "peer", "name", "another"]);
        assert_eq!((attached("a", "ingress"), filters("a", "ingress").0), (0, 0));
        loaded.datapath.attach_endpoint(&a).expect("attach");
        loaded.datapath.attach_uplink(a.ifindex).expect("attach");
        assert_eq!((attached("a", "ingress"), filters("a", "ingress").0), (1, 1));
        let name = format!("{index}-uplink");
        assert_ne!(
            before[&name].0,
            links(&loaded.directory)[&name].0,
            "the link of the interface that is gone"
        );
    });
}

/// Filters of others on an interface that got the index of an endpoint's are not ours to remove.
#[test]
fn anothers_filter_stays() {
    in_a_world("anothers_filter_stays", |loaded| {
        let a = endpoint(&loaded.world.a);
        ip(&["link", "del", "dev", "a"]);
        let index = a.ifindex.to_string();
        ip(&["link", "add", "name", "a", "index", &index, "type", "veth", "peer", "name", "another"]);
        // Another program stands for another's: what counts is its name.
        let other = loaded.directory.join("other");
        let mut others =
            Datapath::open_with(&options(&other), Attachment::Clsact, Attachment::Clsact).expect("opened");
        others.attach_uplink(a.ifindex).expect("attach");
        assert_eq!(filters("a", "ingress").0, 1);
        loaded.datapath.detach_endpoint(&a).expect("detach");
        assert_eq!(filters("a", "ingress").0, 1);
        Datapath::purge(&other).expect("purge");
        assert_eq!(filters("a", "ingress").0, 0);
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
        pin_another::<u32, [u32; 12]>(&path);
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
            fill.iter().any(|map| map.name == "flows" && map.capacity == 2 * u64::from(world::MAX_FLOWS)),
            "{fill:?}"
        );
        assert_eq!(send(loaded), sent);
    });
}

#[test]
fn purge_leaves_nothing() {
    in_a_world("purge_leaves_nothing", |loaded| {
        loaded.datapath.attach_uplink(loaded.world.uplink).expect("attach");
        // What is attached is asked of the kernel, not of the pins.
        let count = || attached("uplink", "ingress") + filters("a", "ingress").0 + filters("a", "egress").0;
        assert_eq!(count(), 3);
        Datapath::purge(&loaded.directory).expect("purge");
        Datapath::purge(&loaded.directory).expect("purge again");
        assert!(!loaded.directory.exists());
        assert_eq!(count(), 0, "a program is still attached");
    });
}

/// Endpoints' links run filters, which TCX links may be used instead of; before kernel 6.6 the uplink has a filter too.
#[test]
fn filters_and_links_do_the_same() {
    in_a_world("filters_and_links_do_the_same", |loaded| {
        let (a, uplink) = (endpoint(&loaded.world.a), loaded.world.uplink);
        let count = |device, hook| (attached(device, hook), filters(device, hook).0);
        for (endpoints, others) in [
            (Attachment::Tcx, Attachment::Tcx),
            (Attachment::Clsact, Attachment::Clsact),
            (Attachment::Clsact, Attachment::Tcx),
        ] {
            let expected = |attachment| if attachment == Attachment::Tcx { (1, 0) } else { (0, 1) };
            Datapath::purge(&loaded.directory).expect("purge");
            let open =
                || Datapath::open_with(&options(&loaded.directory), endpoints, others).expect("opened");
            for _ in 0..2 {
                loaded.datapath = open();
                loaded.datapath.configure(&loaded.config).expect("configure");
                for _ in 0..2 {
                    loaded.datapath.attach_endpoint(&a).expect("attach");
                    loaded.datapath.attach_uplink(uplink).expect("attach");
                }
                assert_eq!(count("a", "ingress"), expected(endpoints));
                assert_eq!(count("a", "egress"), expected(endpoints));
                assert_eq!(count("uplink", "ingress"), expected(others));
            }
            let status = loaded.datapath.programs().expect("programs");
            let alone = ["from_overlay", "xdp_uplink"];
            let expected = |name: &str| u32::from(!alone.contains(&name));
            assert!(status.iter().all(|program| program.attached == expected(&program.name)), "{status:?}");
            loaded.datapath.detach_endpoint(&a).expect("detach");
            assert_eq!((count("a", "ingress"), count("a", "egress")), ((0, 0), (0, 0)));
        }
    });
}

/// An endpoint's programs are moved from filters to links when there is time, and stay there, also under the next daemon.
#[test]
fn an_endpoint_is_moved_to_a_link() {
    in_a_world("an_endpoint_is_moved_to_a_link", |loaded| {
        let a = endpoint(&loaded.world.a);
        Datapath::purge(&loaded.directory).expect("purge");
        let options = options(&loaded.directory);
        let hooks =
            |loaded: &Loaded| [0, 1].map(|at| loaded.datapath.programs().expect("programs")[at].hook.clone());
        let count = || ["ingress", "egress"].map(|hook| (attached("a", hook), filters("a", hook).0));
        let put_back =
            |ifindex, datapath: &mut Datapath| datapath.put_back(|at| at == ifindex).expect("put back");
        loaded.datapath = Datapath::open(&options).expect("opened");
        loaded.datapath.attach_endpoint(&a).expect("attach");
        assert_eq!((count(), hooks(loaded)), ([(0, 1); 2], ["clsact".to_owned(), "clsact".to_owned()]));
        assert!(put_back(a.ifindex + 1000, &mut loaded.datapath).is_empty());
        run("tc", &["qdisc", "del", "dev", "a", "clsact"]);
        assert_eq!(count(), [(0, 0); 2]);
        assert!(put_back(a.ifindex, &mut loaded.datapath).contains(&a.ifindex));
        assert_eq!(count(), [(0, 1); 2]);
        assert!(loaded.datapath.promote_endpoint(a.ifindex).expect("moved"));
        assert!(!loaded.datapath.promote_endpoint(a.ifindex).expect("there already"));
        for _ in 0..2 {
            assert_eq!((count(), hooks(loaded)), ([(1, 0); 2], ["tcx".to_owned(), "tcx".to_owned()]));
            assert!(put_back(a.ifindex, &mut loaded.datapath).is_empty());
            loaded.datapath = Datapath::open(&options).expect("opened");
            loaded.datapath.attach_endpoint(&a).expect("attach");
        }
        loaded.datapath.detach_endpoint(&a).expect("detach");
        assert_eq!(count(), [(0, 0); 2]);
    });
}

/// Programs that the kernel runs on TCX links of an interface.
fn attached(device: &str, hook: &str) -> usize {
    let hook = if hook == "ingress" { TcAttachType::Ingress } else { TcAttachType::Egress };
    SchedClassifier::query_tcx(device, hook).expect("query").1.len()
}

/// Programs that the kernel runs as filters of an interface: how many, and the id of the first.
fn filters(device: &str, hook: &str) -> (usize, Option<String>) {
    let shown = run("tc", &["filter", "show", "dev", device, hook]);
    let id = shown.split_whitespace().skip_while(|word| *word != "id").nth(1).map(str::to_owned);
    (shown.matches("direct-action").count(), id)
}

fn ip(arguments: &[&str]) {
    run("ip", arguments);
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().expect("the program runs");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
