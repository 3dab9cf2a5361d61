//! The world of the cases with real interfaces and loaded programs, in a network namespace of a thread's own.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, lpm_trie::Key};
use netd::bpf::{
    Datapath, Endpoint, Mac, NodeConfig, Options, PublishedPort, Route, TestRun, Uplink, Wiring,
};
use netd_common::{
    V4, V6,
    abi::{self, Tuple},
    host::{
        cases::{At, MTU, Member, NODE, PORTS, QUOTA, UPLINK_MACS, World},
        ipv6::NODE6,
    },
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// Flows that the table has room for.
pub(crate) const MAX_FLOWS: u32 = 64;

/// The world, loaded.
pub(crate) struct Loaded {
    pub(crate) world: World,
    pub(crate) directory: PathBuf,
    pub(crate) datapath: Datapath,
    pub(crate) config: NodeConfig,
}

impl Loaded {
    /// Runs a packet through the program that it meets there.
    pub(crate) fn run(&self, at: At, frame: &[u8]) -> TestRun {
        self.repeat(at, frame, 1)
    }

    /// The same many times over, on what the run before left.
    pub(crate) fn repeat(&self, at: At, frame: &[u8], times: u32) -> TestRun {
        let (program, ifindex, from) = match at {
            At::FromContainer(ifindex) => ("from_container", ifindex, 0),
            At::FromUplink => ("from_uplink", self.world.uplink, 0),
            At::ToContainer(ifindex, from) => ("to_container", ifindex, from),
            At::FromOverlay(..) => unreachable!("a test run has no tunnel metadata"),
        };
        self.datapath.test_run(program, frame, ifindex, from, times).expect("a test run")
    }

    /// Changes what the programs know of the node.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut NodeConfig)) {
        change(&mut self.config);
        self.datapath.configure(&self.config).expect("configure");
    }

    /// Removes all flows. Returns how many.
    pub(crate) fn flush(&mut self) -> usize {
        self.flush6();
        let World { a, b, c, .. } = self.world;
        let addresses = [a, b, c].map(|member| member.address);
        addresses.into_iter().map(|address| self.datapath.flush_flows(address.into()).expect("flush")).sum()
    }

    /// Removes all flows of IPv6, by the program that removes flows. Returns how many.
    pub(crate) fn flush6(&self) -> usize {
        let pin = self.directory.join(format!("v{}/maps/FLOWS6", abi::ABI_VERSION));
        let map = MapData::from_pin(pin).expect("a pinned map");
        let flows: HashMap<_, [u32; 10], [u32; 9]> = Map::HashMap(map).try_into().expect("FLOWS6");
        let inward: Vec<[u32; 10]> = flows
            .keys()
            .map(|key| key.expect("a key"))
            // Protocol, direction, zero.
            .filter(|key| key[9].to_ne_bytes()[1] == Tuple::<V6>::IN)
            .collect();
        let words = |list: &[u32]| list.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
        let removed = |list: &[[u32; 10]]| {
            let head = [abi::FlowList::REMOVE, list.len() as u32, abi::FlowList::IPV6, 0];
            let list = [words(&head), words(list.as_flattened())].concat();
            self.datapath.test_run("flow_gc", &list, self.world.uplink, 0, 1).expect("a run").verdict as usize
        };
        inward.chunks(abi::FlowList::MAX).map(removed).sum()
    }
}

/// Builds the world, runs the test in it, and leaves nothing of it. SKIPs where there is no root.
pub(crate) fn in_a_world(test: &str, body: impl FnOnce(&mut Loaded) + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP {test}: needs root, to load programs");
        return;
    }
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("nd-program-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    mount_bpffs();
    let directory = Path::new("/sys/fs/bpf").join(name);
    // A namespace of its own that goes with the thread, and the links in it with the namespace.
    let result = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            let world = World::new([link("a"), link("b"), link("c"), uplink(), link("stranger")]);
            body(&mut load(world, &directory));
        });
        thread.join()
    });
    let removed = fs::remove_dir_all(&directory);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
    if let Err(error) = removed {
        assert_eq!(error.kind(), ErrorKind::NotFound, "removing {}: {error}", directory.display());
    }
}

/// The options that the world is loaded with.
pub(crate) fn options(directory: &Path) -> Options {
    Options { directory: directory.to_owned(), max_flows: MAX_FLOWS, max_endpoints: 16 }
}

fn load(world: World, directory: &Path) -> Loaded {
    let options = options(directory);
    let mut datapath = Datapath::open(&options).expect("the programs load");
    let config = NodeConfig {
        uplink: Some(Uplink { ifindex: world.uplink, address: NODE.into(), address6: Some(NODE6.into()) }),
        away: [false; 2],
        mtu: MTU,
        ports: PORTS,
        max_flows_per_endpoint: QUOTA,
        in_cluster: true,
    };
    datapath.configure(&config).expect("configure");
    for member in [world.a, world.b, world.c] {
        datapath.attach_endpoint(&endpoint(&member)).expect("attach");
    }
    let routes: Vec<_> = world
        .routes()
        .into_iter()
        .map(|(prefix, bits, route)| {
            let route = match route.kind {
                abi::Route::HOST => Route::Host,
                abi::Route::NETWORK => Route::Network(route.network),
                abi::Route::DIRECT | abi::Route::VXLAN => Route::Node {
                    network: route.network,
                    address: std::net::Ipv4Addr::from(route.node.unmapped().expect("an IPv4 node").bytes())
                        .into(),
                    slot: route.slot,
                    vxlan: route.kind == abi::Route::VXLAN,
                    mtu: route.mtu,
                    routed: route.flags & abi::Route::ROUTED != 0,
                },
                _ => route
                    .node
                    .unmapped()
                    .map_or(Route::Uplink, |node| Route::Peer(std::net::Ipv4Addr::from(node.bytes()).into())),
            };
            (ipnet::Ipv4Net::new(prefix.into(), bits).expect("a prefix").into(), route)
        })
        .collect();
    datapath.set_routes(&routes).expect("routes");
    let ports: Vec<_> = world
        .ports()
        .into_iter()
        .map(|port| PublishedPort {
            host: port.host.into(),
            host_port: port.host_port,
            protocol: port.protocol,
            address: port.member.address.into(),
            port: port.port,
            slot: port.member.slot,
        })
        .chain(world.ports6().into_iter().map(|(key, port)| PublishedPort {
            host: key.address.bytes().into(),
            host_port: key.port.host(),
            protocol: key.protocol,
            address: port.address.bytes().into(),
            port: port.port.host(),
            slot: port.slot,
        }))
        .collect();
    datapath.publish(&ports).expect("published ports");
    load6(&world, &directory.join(format!("v{}/maps", abi::ABI_VERSION)));
    Loaded { world, directory: directory.to_owned(), datapath, config }
}

/// What of the world is IPv6, written to the maps themselves.
fn load6(world: &World, pins: &Path) {
    let open = |name| MapData::from_pin(pins.join(name)).expect("a pinned map");
    let mut config: Array<_, abi::Configs<V6>> = Map::Array(open("CONFIG6")).try_into().expect("CONFIG6");
    let node = abi::Configs { current: 0, places: [world.config6(); 2] };
    config.set(0, node, 0).expect("the node");
    let mut interfaces: HashMap<_, u32, abi::Interface<V6>> =
        Map::HashMap(open("INTERFACES6")).try_into().expect("INTERFACES6");
    let mut endpoints: HashMap<_, V6, abi::Endpoint> =
        Map::HashMap(open("ENDPOINTS6")).try_into().expect("ENDPOINTS6");
    for (ifindex, interface, address, endpoint) in world.members6() {
        interfaces.insert(ifindex, interface, 0).expect("an interface");
        endpoints.insert(address, endpoint, 0).expect("an endpoint");
    }
    let mut routes: LpmTrie<_, V6, abi::Route> = Map::LpmTrie(open("ROUTES6")).try_into().expect("ROUTES6");
    for (prefix, bits, route) in world.routes6() {
        routes.insert(&Key::new(bits.into(), prefix), route, 0).expect("a route");
    }
    let mut routes: LpmTrie<_, V4, abi::Route> = Map::LpmTrie(open("ROUTES4")).try_into().expect("ROUTES4");
    let (prefix, bits, route) = world.route_over_ipv6();
    routes.insert(&Key::new(bits.into(), V4::new(prefix)), route, 0).expect("a route");
}

/// An endpoint of the world as the datapath wants it.
pub(crate) fn endpoint(member: &Member) -> Endpoint {
    let network = member.network;
    Endpoint {
        slot: member.slot,
        network: network.number,
        ifindex: member.ifindex,
        address: member.address.into(),
        subnet: ipnet::Ipv4Net::new(network.subnet.into(), network.prefix).expect("a prefix"),
        gateway: network.gateway.into(),
        v6: None,
        mac: Mac(member.mac),
        host_mac: Mac(member.host_mac),
        masquerade: network.masquerade,
        published: true,
        wiring: Wiring::Pair,
    }
}

/// Makes sure that there is a bpf file system to pin to.
fn mount_bpffs() {
    let is_bpffs = statfs("/sys/fs/bpf").is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    if !is_bpffs {
        let none = None::<&str>;
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).expect("mounting a bpffs");
    }
}

/// Makes the uplink, with the MAC address that the cases' frames are for.
fn uplink() -> u32 {
    let index = link("uplink");
    let mac = UPLINK_MACS.0.map(|byte| format!("{byte:02x}")).join(":");
    ip(&["link", "set", "uplink", "address", &mac]);
    index
}

/// Makes an interface in the calling thread's namespace; its index.
fn link(name: &str) -> u32 {
    ip(&["link", "add", "name", name, "type", "veth", "peer", "name", &format!("{name}-peer")]);
    nix::net::if_::if_nametoindex(name).expect("the link that was just made")
}

/// Runs ip(8) in the calling thread's namespace.
fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).status().expect("ip runs");
    assert!(done.success(), "ip {}", arguments.join(" "));
}
