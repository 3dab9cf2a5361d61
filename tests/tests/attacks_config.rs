//! Configurations that cannot be meant: each is refused in one line that names what is wrong, before anything on the host is touched. What
//! can be said without a host is in the unit tests of `netd/src/config`.

use std::fs;

use anyhow::{Context, ensure};
use netd::lab::host::binary;
use netd_tests::{
    Site,
    refusals::{each, refused, run, unchanged},
    site::with_stopped_site,
    snapshot::Snapshot,
};

/// A configuration that is refused, and words of the refusal.
type Row = (&'static str, String, &'static [&'static str]);

fn network(subnets: &str, more: &str) -> String {
    format!("[networks.default]\nsubnets = {subnets}\n{more}\n")
}

fn etcd(keys: &str) -> String {
    format!("[cluster]\nstore = \"etcd\"\n{keys}\n")
}

fn table() -> Vec<Row> {
    let long = "x".repeat(300);
    vec![
        // Files that are no configurations.
        ("a brace", "{".into(), &["netd.toml"]),
        ("control characters", "\u{0}\u{1}".into(), &["netd.toml"]),
        ("a section twice", "[node]\n[node]\n".into(), &["netd.toml", "line 2"]),
        ("a key twice", "[nat]\nports = \"50000-60000\"\nports = \"50000-60000\"\n".into(), &["netd.toml", "line 3"]),
        ("a list for a section", "node = []\n".into(), &["node"]),
        ("a section for a list", "[networks.default.subnets]\n".into(), &["subnets"]),
        ("twenty megabytes", format!("a = \"{}\"", "x".repeat(20 << 20)), &["unknown key `a`"]),
        // Names and interfaces.
        ("a number for a name", "[node]\nname = 5\n".into(), &["node.name"]),
        ("no name", "[node]\nname = \"\"\n".into(), &["node.name"]),
        ("a path for a name", "[node]\nname = \"../x\"\n".into(), &["node.name", "../x"]),
        ("a long name", format!("[node]\nname = \"{long}\"\n"), &["node.name"]),
        ("no uplink's name", "[node]\nuplink = \"\"\n".into(), &["node.uplink"]),
        ("a path for an uplink", "[node]\nuplink = \"../eth0\"\n".into(), &["node.uplink", "../eth0"]),
        ("a long name of an uplink", format!("[node]\nuplink = \"{long}\"\n"), &["node.uplink"]),
        ("loopback for an uplink", "[node]\nuplink = \"lo\"\n".into(), &["lo"]),
        ("no address", "[node]\naddress = \"0.0.0.0\"\n".into(), &["node.address", "0.0.0.0"]),
        ("a group's address", "[node]\naddress = \"224.0.0.1\"\n".into(), &["node.address", "224.0.0.1"]),
        ("everybody's address", "[node]\naddress = \"255.255.255.255\"\n".into(), &["node.address"]),
        ("loopback's IPv6 address", "[node]\naddress6 = \"::1\"\n".into(), &["node.address6", "::1"]),
        ("a mapped address", "[node]\naddress6 = \"::ffff:192.0.2.1\"\n".into(), &["node.address6"]),
        // Networks.
        ("no room at all", network("[\"10.1.0.0/32\"]", ""), &["networks.default.subnets", "10.1.0.0/32"]),
        ("everything", network("[\"0.0.0.0/0\"]", ""), &["networks.default.subnets", "0.0.0.0/0"]),
        ("half of everything", network("[\"128.0.0.0/1\"]", ""), &["128.0.0.0/1"]),
        ("no subnets", network("[]", ""), &["networks.default.subnets"]),
        ("groups", network("[\"224.0.0.0/16\"]", ""), &["224.0.0.0/16"]),
        ("reserved addresses", network("[\"240.0.0.0/16\"]", ""), &["240.0.0.0/16"]),
        ("this network", network("[\"0.0.0.0/8\"]", ""), &["0.0.0.0/8"]),
        ("link-local addresses", network("[\"169.254.0.0/16\"]", ""), &["169.254.0.0/16"]),
        ("groups of IPv6", network("[\"10.1.0.0/16\", \"ff02::/64\"]", ""), &["ff02::/64"]),
        ("mapped addresses", network("[\"10.1.0.0/16\", \"::ffff:0:0/96\"]", ""), &["::ffff:0.0.0.0/96"]),
        ("around the uplink's subnet", network("[\"198.0.0.0/8\"]", ""), &["198.0.0.0/8", "eth0"]),
        ("the uplink's subnet", network("[\"198.18.1.0/24\"]", ""), &["198.18.1.0/24", "eth0"]),
        ("within the uplink's subnet", network("[\"198.18.1.128/25\"]", ""), &["198.18.1.128/25", "eth0"]),
        (
            "the uplink's IPv6 subnet",
            network("[\"10.1.0.0/16\", \"2001:db8:0:1::/64\"]", ""),
            &["2001:db8:0:1::/64", "eth0"],
        ),
        (
            "one IPv6 subnet twice",
            network("[\"10.1.0.0/16\", \"fd00::/48\"]", "[networks.b]\nsubnets = [\"10.2.0.0/16\", \"fd00::/48\"]"),
            &["fd00::/48", "`b`"],
        ),
        ("a path for a network", "[networks.\"../x\"]\nsubnets = [\"10.1.0.0/16\"]\n".into(), &["../x"]),
        ("a network without a name", "[networks.\"\"]\nsubnets = [\"10.1.0.0/16\"]\n".into(), &["networks"]),
        ("a network's long name", format!("[networks.{long}]\nsubnets = [\"10.1.0.0/16\"]\n"), &["too long"]),
        ("an MTU below zero", network("[\"10.1.0.0/16\"]", "mtu = -1"), &["networks.default.mtu", "-1"]),
        ("an MTU of no link", network("[\"10.1.0.0/16\"]", "mtu = 70000"), &["networks.default.mtu", "70000"]),
        ("an MTU of no IPv4", network("[\"10.1.0.0/16\"]", "mtu = 575"), &["networks.default.mtu", "575"]),
        ("a link of others", network("[\"10.1.0.0/16\"]", "link = \"macvlan\""), &["networks.default.link"]),
        // Translation.
        ("all ports", "[nat]\nports = \"0-65535\"\n".into(), &["nat.ports", "0-65535"]),
        ("one port", "[nat]\nports = \"50000-50000\"\n".into(), &["nat.ports", "50000-50000"]),
        ("ports in words", "[nat]\nports = \"all\"\n".into(), &["nat.ports", "all"]),
        ("a list of ports", "[nat]\nports = \"50000,60000\"\n".into(), &["nat.ports", "50000,60000"]),
        ("more flows than there is memory", "[nat]\nmax-flows = 1099511627776\n".into(), &["nat.max-flows"]),
        ("more than a number holds", "[nat]\nmax-flows = 99999999999999999999\n".into(), &["max-flows"]),
        // Clusters.
        ("another store", "[cluster]\nstore = \"consul\"\n".into(), &["cluster.store", "consul"]),
        ("a text for an URL", etcd("endpoints = [\"not a url\"]"), &["cluster.endpoints", "not a url"]),
        (
            "an authority that is not there",
            etcd("endpoints = [\"https://198.18.1.1:2379\"]\nca = \"/nonexistent.pem\""),
            &["/nonexistent.pem"],
        ),
        ("no lease", etcd("endpoints = [\"http://198.18.1.1:2379\"]\nlease = 0"), &["cluster.lease", "0"]),
        ("a prefix without a slash", etcd("endpoints = [\"http://198.18.1.1:2379\"]\nprefix = \"netd\""), &["cluster.prefix"]),
        (
            "a peer that has everything",
            "[node]\nsubnets = [\"10.88.1.0/24\"]\n[[cluster.peers]]\nname = \"b\"\naddress = \"198.18.1.3\"\n\
             subnets = [\"0.0.0.0/0\"]\n"
                .into(),
            &["0.0.0.0/0"],
        ),
        (
            "a peer of no name",
            "[[cluster.peers]]\nname = \"\"\naddress = \"198.18.1.3\"\nsubnets = []\n".into(),
            &["cluster.peers"],
        ),
        (
            "a peer at a group's address",
            "[[cluster.peers]]\nname = \"b\"\naddress = \"224.0.0.1\"\nsubnets = []\n".into(),
            &["cluster.peers.b.address", "224.0.0.1"],
        ),
    ]
}

#[test]
fn what_cannot_be_meant_is_refused() {
    with_stopped_site("what_cannot_be_meant_is_refused", "", |site| {
        let netd = binary()?;
        let before = Snapshot::of(&site.host)?;
        let table = table();
        each(&table, |(what, config, words)| {
            site.host.configure(config)?;
            refused(what, &run(site, &[], &netd)?, 1, words)
        })?;
        println!("{} attempts", table.len());
        unchanged("one of them", site, &before)
    });
}

/// A file that is none, or that others could have put there.
#[test]
fn files_that_are_none() {
    with_stopped_site("files_that_are_none", "", |site| {
        let netd = binary()?;
        let before = Snapshot::of(&site.host)?;
        let path = site.host.config();
        fs::remove_file(&path)?;
        fs::create_dir(&path)?;
        refused("a directory", &run(site, &[], &netd)?, 1, &["netd.toml"])?;
        fs::remove_dir(&path)?;
        fs::write(&path, [0xff, 0xfe, 0])?;
        refused("no UTF-8", &run(site, &[], &netd)?, 1, &["netd.toml"])?;
        fs::remove_file(&path)?;
        std::os::unix::fs::symlink("/nonexistent/netd.toml", &path)?;
        refused("a link to nothing", &run(site, &[], &netd)?, 1, &["netd.toml"])?;
        unchanged("one of them", site, &before)
    });
}

/// Where the host is not as the configuration says.
#[test]
fn hosts_that_do_not_fit() {
    with_stopped_site("hosts_that_do_not_fit", "", |site: &mut Site| {
        let netd = binary()?;
        let host = site.host.namespace.clone();
        let router =
            host.ip_json("route show default")?[0]["gateway"].as_str().context("a router")?.to_owned();
        // A route of somebody's into the middle of a network, an address, a subnet on another interface.
        for (what, does, undoes, words) in [
            (
                "a route by another",
                format!("route add 10.88.0.0/16 via {router}"),
                "route del 10.88.0.0/16".to_owned(),
                &["10.88.0.0/16"][..],
            ),
            (
                "a smaller route by another",
                format!("route add 10.88.5.0/24 via {router}"),
                "route del 10.88.5.0/24".to_owned(),
                &["10.88.0.0/16"],
            ),
        ] {
            host.ip([&does])?;
            let before = Snapshot::of(&site.host)?;
            refused(what, &run(site, &[], &netd)?, 1, words)?;
            unchanged(what, site, &before)?;
            host.ip([&undoes])?;
        }
        site.host.start()?;
        let a = site.container("a")?;
        ensure!(!a.host_interface.is_empty());
        netd_tests::site::reach(&a.namespace, site.world.address, site.host.address)
    });
}
