use super::*;
use crate::link::LinkKind;

fn error(text: &str) -> String {
    let error = format!("{:#}", Config::parse(text).expect_err(text));
    assert!(!error.contains(char::is_control), "more than one line: {error:?}");
    error
}

#[test]
fn nothing_is_one_network() {
    let config = Config::parse("").unwrap();
    let default = &config.networks[DEFAULT_NETWORK];
    assert_eq!(config.networks.len(), 1);
    assert_eq!(pair::text(default.subnet, default.subnet6), "10.88.0.0/16 fd88::/48");
    assert!(default.masquerade);
    assert_eq!(config.nat, NatConfig::default());
    // A part of it changes that part.
    let config = Config::parse("[networks.default]\nmasquerade = false").unwrap();
    assert_eq!(config.networks[DEFAULT_NETWORK].subnet.to_string(), "10.88.0.0/16");
    assert!(!config.networks[DEFAULT_NETWORK].masquerade);
}

#[test]
fn everything() {
    let config = Config::parse(
        r#"
        [node]
        name = "host-a"
        uplink = "eth0"
        address = "192.0.2.1"
        address6 = "2001:db8::1"
        [networks.default]
        subnets = ["fd88::/48", "10.88.0.0/16"]
        masquerade = true
        link = "auto"
        mtu = 0
        [networks.blue]
        subnets = ["10.89.0.0/24"]
        masquerade = false
        link = "veth"
        mtu = 1400
        big-tcp = true
        [nat]
        ports = "40000-49999"
        max-flows = 4096
        max-flows-per-endpoint = 1024
        "#,
    )
    .unwrap();
    assert_eq!(config.node.name, "host-a");
    assert_eq!(config.node.address, Some(Ipv4Addr::new(192, 0, 2, 1)));
    assert_eq!(config.node.address6, Some("2001:db8::1".parse().unwrap()));
    assert_eq!(config.networks["default"].subnet6, Some("fd88::/48".parse().unwrap()));
    assert_eq!(config.networks["default"].mtu, None);
    assert_eq!(config.networks["blue"].subnet6, None);
    assert_eq!(config.networks["blue"].mtu, Some(1400));
    assert_eq!(
        [&config.networks["default"], &config.networks["blue"]].map(|network| network.big_tcp),
        [false, true]
    );
    assert_eq!(config.networks["blue"].link, LinkChoice::Kind(LinkKind::Veth));
    assert_eq!(
        config.nat,
        NatConfig { ports: (40000, 49999), max_flows: 4096, max_flows_per_endpoint: 1024 }
    );
}

#[test]
fn without_a_quota_no_endpoint_has_more_than_a_quarter() {
    let config = Config::parse("[nat]\nmax-flows = 4096").unwrap();
    assert_eq!(config.nat.max_flows_per_endpoint, 1024);
}

/// Ports that hold VXLAN's are fine where no VXLAN comes.
#[test]
fn the_port_of_vxlan() {
    let ports = "[nat]\nports = '4000-5000'\n";
    let peer = "[[cluster.peers]]\nname = 'b'\naddress = '192.0.2.2'\nsubnets = []";
    Config::parse(ports).unwrap();
    Config::parse(&format!("{ports}[cluster]\ntransport = 'direct'\n{peer}")).unwrap();
    let error = error(&format!("{ports}[cluster]\nstore = 'etcd'"));
    assert!(error.starts_with("nat.ports: 4000-5000 holds 4789"), "{error}");
}

#[test]
fn a_missing_file_is_an_error_only_if_it_was_named() {
    let missing = Path::new("/nonexistent/netd.toml");
    let error = format!("{:#}", Config::load(Some(missing)).unwrap_err());
    assert!(error.starts_with("cannot read the configuration file /nonexistent/netd.toml: "), "{error}");
}

#[test]
fn slices_of_ipv6_follow() {
    let config = Config::parse(
        "[node]\nsubnets = ['10.88.1.0/24', 'fd88::100/120']\n\
         [[cluster.peers]]\nname = 'b'\naddress = '2001:db8::2'\nsubnets = ['fd88::200/120', '10.88.2.0/24']",
    )
    .unwrap();
    assert_eq!(config.node.subnets, ["10.88.1.0/24".parse().unwrap()]);
    assert_eq!(config.cluster.peers[0].subnets, ["10.88.2.0/24".parse().unwrap()]);
    assert_eq!(config.cluster.peers[0].address.to_string(), "2001:db8::2");
}

#[test]
fn errors_name_the_key() {
    for (text, expected) in [
        // Keys.
        ("[node]\nupink = 'eth0'", "line 2: unknown key `node.upink`: did you mean `uplink`?"),
        ("[nat]\n\nmax_flows = 1", "line 3: unknown key `nat.max_flows`: did you mean `max-flows`?"),
        ("[network.a]", "line 1: unknown key `network`: did you mean `networks`?"),
        (
            "[networks.a]\nsubnet = '10.0.0.0/8'",
            "line 2: unknown key `networks.a.subnet`: did you mean `subnets`?",
        ),
        (
            "[node]\ncolour = 'red'",
            "line 2: unknown key `node.colour`: known here are name, uplink, address, address6, subnets",
        ),
        // Types and syntax.
        (
            "[networks.a]\nsubnets = '10.0.0.0/8'",
            "line 2: networks.a.subnets: invalid type: string \"10.0.0.0/8\", expected a sequence",
        ),
        (
            "[networks.a]\nbig-tcp = 'auto'",
            "line 2: networks.a.big-tcp: invalid type: string \"auto\", expected a boolean",
        ),
        ("[networks.a]\nbig_tcp = true", "line 2: unknown key `networks.a.big_tcp`: did you mean `big-tcp`?"),
        ("[networks.a]\nmtu = 'big'", "line 2: networks.a.mtu: invalid type: string \"big\", expected i64"),
        ("[node]\nname = ", "line 2: string values must be quoted, expected literal string"),
        ("[cluster]\nstore = 'zookeeper'", "cluster.store: \"zookeeper\" is not a store: local or etcd"),
        ("[cluster]\nprefix = '/netd'", "cluster.prefix is for cluster.store = \"etcd\""),
        ("[cluster]\ntransport = 'gre'", "cluster.transport: \"gre\" is not one of auto, direct, vxlan"),
        (
            "[[cluster.peers]]\nname = 'b'\naddress = 'here'\nsubnets = []",
            "cluster.peers.b.address: \"here\" is not an address, such as \"192.0.2.1\"",
        ),
        (
            "[[cluster.peers]]\nname = 'b'\naddress = '192.0.2.2'\nsubnets = ['10.88.1.1/24']",
            "cluster.peers.b.subnets: 10.88.1.1/24 has host bits set: did you mean 10.88.1.0/24?",
        ),
        (
            "[node]\nsubnets = ['10.88.1.0/24']\n\
             [[cluster.peers]]\nname = 'b'\naddress = '192.0.2.2'\nsubnets = ['10.88.1.0/25']",
            "cluster.peers.b.subnets: 10.88.1.0/25 overlaps 10.88.1.0/24 of node.subnets",
        ),
        (
            "[[cluster.peers]]\nname = 'b'\naddress = '192.0.2.2'\nsubnets = ['10.88.1.0/24']\n\
             [[cluster.peers]]\nname = 'c'\naddress = '192.0.2.3'\nsubnets = ['10.88.1.0/25']",
            "cluster.peers.c.subnets: 10.88.1.0/25 overlaps 10.88.1.0/24 of b",
        ),
        (
            "[[cluster.peers]]\nname = 'b'\naddress = '192.0.2.2'\nsubnets = []\n\
             [[cluster.peers]]\nname = 'c'\naddress = '192.0.2.2'\nsubnets = []",
            "cluster.peers.c.address: 192.0.2.2 is that of b too",
        ),
        (
            "[node]\nsubnets = ['10.0.0.0/8']",
            "node.subnets: 10.0.0.0/8 is no slice of a network: it contains 10.88.0.0/16 as a whole",
        ),
        // Peers that cannot be.
        (
            "[node]\nname = 'b'\n[[cluster.peers]]\nname = 'b'\naddress = '192.0.2.2'\nsubnets = []",
            "cluster.peers.b.name: `b` is this node's own name: set node.name here, or another name there",
        ),
        (
            "[node]\nname = 'a'\naddress = '192.0.2.2'\n\
             [[cluster.peers]]\nname = 'b'\naddress = '192.0.2.2'\nsubnets = []",
            "cluster.peers.b.address: 192.0.2.2 is this node's own (node.address)",
        ),
        (
            "[node]\nname = 'a'\naddress6 = '2001:db8::2'\n\
             [[cluster.peers]]\nname = 'b'\naddress = '192.0.2.2'\naddress6 = '2001:db8::2'\nsubnets = []",
            "cluster.peers.b.address6: 2001:db8::2 is this node's own (node.address6)",
        ),
        (
            "[[cluster.peers]]\nname = 'b'\naddress = '10.88.0.1'\nsubnets = []",
            "cluster.peers.b.address: 10.88.0.1 lies within 10.88.0.0/16 of network `default`: a node's address is that \
             of its uplink",
        ),
        (
            "[[cluster.peers]]\nname = 'b'\naddress = '192.0.2.2'\naddress6 = 'fd88::2'\nsubnets = []",
            "cluster.peers.b.address6: fd88::2 lies within fd88::/48 of network `default`: a node's address is that of \
             its uplink",
        ),
        (
            "[[cluster.peers]]\nname = 'b'\naddress = '2001:db8::2'\nsubnets = []\n\
             [[cluster.peers]]\nname = 'c'\naddress = '192.0.2.3'\naddress6 = '2001:db8::2'\nsubnets = []",
            "cluster.peers.c.address6: 2001:db8::2 is that of b too",
        ),
        (
            "[[cluster.peers]]\nname = 'b'\naddress = '192.0.2.2'\nsubnets = ['192.0.2.0/25']",
            "cluster.peers.b.subnets: 192.0.2.0/25 lies in no network of this file",
        ),
        ("[node]\nsubnets = ['10.99.1.0/24']", "node.subnets: 10.99.1.0/24 lies in no network of this file"),
        (
            "[[cluster.peers]]\nname = 'b'\naddress = '192.0.2.2'\nsubnets = ['10.88.1.0/24', '10.88.1.128/25']",
            "cluster.peers.b.subnets: 10.88.1.128/25 overlaps 10.88.1.0/24, which is before it",
        ),
        // What is written as no number is.
        (
            "[networks.a]\nsubnets = ['010.1.0.0/16']",
            "networks.a.subnets: \"010.1.0.0/16\" is not a subnet, such as \"10.88.0.0/16\" (prefix at most /30)",
        ),
        (
            "[networks.a]\nsubnets = ['10.1.0.0/016']",
            "networks.a.subnets: \"10.1.0.0/016\" is not a subnet, such as \"10.88.0.0/16\" (prefix at most /30)",
        ),
        (
            "[node]\nsubnets = ['10.88.01.0/24']",
            "node.subnets: \"10.88.01.0/24\" is not a subnet, such as \"10.88.1.0/24\"",
        ),
        (
            "[nat]\nports = '4000-5000'\n\
             [[cluster.peers]]\nname = 'b'\naddress = '192.0.2.2'\nsubnets = []",
            "nat.ports: 4000-5000 holds 4789, the port of VXLAN between nodes: leave it out, or set cluster.transport to \
             \"direct\"",
        ),
        (
            "[networks.a]\nsubnets = ['10.0.0.0/16', 'fd88::/48']\nmtu = 1279",
            "networks.a.mtu: 1279 is less than the 1280 that IPv6 needs: raise it, or leave out the IPv6 subnet",
        ),
        (
            "[networks.default]\nmtu = 1200",
            "networks.default.mtu: 1200 is less than the 1280 that IPv6 needs: raise it, or \
             leave out the IPv6 subnet",
        ),
        // No name writes a line of its own.
        (
            "[node]\nname = \"a\\nb\\u001b\"",
            "node.name: `a\\nb\\u{1b}` contains '\\n': a name is made of letters, digits, `-`, `_` and `.`",
        ),
        ("[node]\nsubnets = ['10.88.1.0/31']", "node.subnets: 10.88.1.0/31 is too small: at most /30"),
        (
            "[networks.a]\nsubnets = ['fd88::/48']",
            "networks.a.subnets: a network needs an IPv4 subnet beside fd88::/48, such as \"10.89.0.0/16\"",
        ),
        (
            "[networks.a]\nsubnets = ['10.0.0.0/16', 'fd88::/48', 'fd89::/48']",
            "networks.a.subnets: fd88::/48 and fd89::/48 are of one family: a network has one IPv4 subnet and at most \
             one IPv6 subnet",
        ),
        (
            "[networks.a]\nsubnets = ['10.0.0.0/16', '10.1.0.0/16']",
            "networks.a.subnets: 10.0.0.0/16 and 10.1.0.0/16 are of one family: a network has one IPv4 subnet and at \
             most one IPv6 subnet",
        ),
        (
            "[networks.a]\nsubnets = ['10.0.0.0/16', 'fe80::/64']",
            "networks.a.subnets: fe80::/64 is of the link-local range fe80::/10",
        ),
        (
            "[networks.a]\nsubnets = ['10.0.0.0/16', 'fd88::/120']",
            "networks.a.subnets: fd88::/120 has no address for each of 10.0.0.0/16: at most /112",
        ),
        (
            "[networks.a]\nsubnets = ['10.0.0.0/16', 'fd88::/48']\n\
             [networks.b]\nsubnets = ['10.1.0.0/16', 'fd88:0:0:1::/64']",
            "networks.b.subnets: fd88:0:0:1::/64 overlaps fd88::/48 of network `a`",
        ),
        (
            "[node]\nsubnets = ['10.88.1.0/24', 'fd88::200/120']",
            "node.subnets: fd88::200/120 is not fd88::100/120, which goes with the slice of 10.88.0.0/16",
        ),
        (
            "[node]\nsubnets = ['fd88::200/120']",
            "node.subnets: fd88::200/120 goes with no slice of 10.88.0.0/16, from which it follows",
        ),
        (
            "[[cluster.peers]]\nname = 'b'\naddress = '2001:db8::2'\nsubnets = ['10.88.1.0/24', 'fd89::/120']",
            "cluster.peers.b.subnets: fd89::/120 is in no network's IPv6 subnet",
        ),
        (
            "[[cluster.peers]]\nname = 'b'\naddress = 'fe80::2'\nsubnets = []",
            "cluster.peers.b.address: fe80::2 is not an address that a node can have",
        ),
        (
            "[node]\naddress = '2001:db8::1'",
            "node.address: 2001:db8::1 is an IPv6 address: that is for node.address6",
        ),
        (
            "[node]\naddress6 = '192.0.2.1'",
            "node.address6: 192.0.2.1 is an IPv4 address: that is for node.address",
        ),
        ("[node]\naddress6 = 'fe80::1'", "node.address6: fe80::1 is not an address that a node can have"),
        // Values.
        (
            "[networks.a]\nsubnets = ['10.0.0.0/16']\nlink = 'wire'",
            "networks.a.link: \"wire\" is not a kind of link: auto, veth, netkit, netkit-l3, tap, macvlan",
        ),
        ("[networks.a]", "networks.a.subnets: a network needs a subnet, such as [\"10.89.0.0/16\"]"),
        (
            "[networks.a]\nsubnets = ['10.0.0.1/16']",
            "networks.a.subnets: 10.0.0.1/16 has host bits set: did you mean 10.0.0.0/16?",
        ),
        (
            "[networks.a]\nsubnets = ['10.0.0.0/31']",
            "networks.a.subnets: 10.0.0.0/31 has no room for a gateway and an endpoint: at most /30",
        ),
        (
            "[networks.a]\nsubnets = ['10.0.0.0/7']",
            "networks.a.subnets: 10.0.0.0/7 is too large: at least /8",
        ),
        (
            "[networks.a]\nsubnets = ['127.0.0.0/24']",
            "networks.a.subnets: 127.0.0.0/24 is of the loopback range 127.0.0.0/8",
        ),
        (
            "[networks.a]\nsubnets = ['10.0.0.0/33']",
            "networks.a.subnets: \"10.0.0.0/33\" is not a subnet, such as \"10.88.0.0/16\" (prefix at most /30)",
        ),
        (
            "[networks.a]\nsubnets = ['10.0.0.0/8']\n[networks.b]\nsubnets = ['10.1.0.0/16']",
            "networks.b.subnets: 10.1.0.0/16 overlaps 10.0.0.0/8 of network `a`",
        ),
        (
            "[networks.a]\nsubnets = ['10.0.0.0/16']\nmtu = 100",
            "networks.a.mtu: 100 is not between 576 and 65535 (0: the uplink's)",
        ),
        (
            "[networks.a]\nsubnets = ['10.0.0.0/16']\nslice = 15",
            "networks.a.slice: 15 is not between 16 and 30",
        ),
        (
            "[networks.a]\nsubnets = ['10.0.0.0/16']\nslice = 24",
            "networks.a.slice is for cluster.store = \"etcd\"",
        ),
        (
            "[networks.'a b']\nsubnets = ['10.0.0.0/16']",
            "networks.a b: `a b` contains ' ': a name is made of letters, digits, `-`, `_` and `.`",
        ),
        (
            "[node]\nname = 'a/b'",
            "node.name: `a/b` contains '/': a name is made of letters, digits, `-`, `_` and `.`",
        ),
        (
            "[node]\nuplink = 'an interface'",
            "node.uplink: \"an interface\" is not the name of an interface, such as \"eth0\"",
        ),
        ("[node]\naddress = 'here'", "node.address: \"here\" is not an address, such as \"192.0.2.1\""),
        ("[node]\naddress = '127.0.0.1'", "node.address: 127.0.0.1 is not an address that a node can have"),
        ("[nat]\nports = '80'", "nat.ports: \"80\" is not a range of ports, such as \"49152-65535\""),
        (
            "[nat]\nports = '1-65536'",
            "nat.ports: \"1-65536\" is not a range of ports, such as \"49152-65535\"",
        ),
        (
            "[nat]\nports = '80-2000'",
            "nat.ports: 80-2000 begins below 1024: those ports are for the host's own services",
        ),
        ("[nat]\nports = '6000-5000'", "nat.ports: 6000-5000 ends before it begins"),
        ("[nat]\nports = '6000-6001'", "nat.ports: 6000-6001 is only 2 ports: at least 256 are needed"),
        ("[nat]\nmax-flows = 0", "nat.max-flows: 0 is not between 1024 and 16777216"),
        ("[nat]\nmax-flows = -1", "nat.max-flows: -1 is not between 1024 and 16777216"),
        (
            "[nat]\nmax-flows = 2000\nmax-flows-per-endpoint = 2001",
            "nat.max-flows-per-endpoint: 2001 is not between 1 and 2000",
        ),
    ] {
        assert_eq!(error(text), expected, "for {text}");
    }
}
