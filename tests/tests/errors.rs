//! What bad input gets: one line that names the thing, a status that is not zero, and nothing changed.

use std::{fs, path::Path, process::Output};

use anyhow::{Context, Result, ensure};
use netd::lab::{Namespace, host::binary};
use netd_tests::{
    Site,
    refusals::{each, refused, run, unchanged},
    site::{on_an_oddly_named_host, reach, with_stopped_site},
    snapshot::{Snapshot, netd_links},
    with_site,
};

/// A host whose name is none that others could ask for: with other nodes it needs one.
#[test]
fn a_host_without_a_name_needs_one_in_a_cluster() {
    with_stopped_site("a_host_without_a_name_needs_one_in_a_cluster", "", |site| {
        site.host.configure(
            "[[cluster.peers]]\nname = \"b\"\naddress = \"198.18.1.9\"\nsubnets = [\"10.88.2.0/24\"]\n",
        )?;
        let mut command = on_an_oddly_named_host(&binary()?);
        command.args(site.host.run_arguments());
        let output = site.host.namespace.run(|| command.output().context("cannot run netd"))?;
        refused("a name with a blank", &output, 1, &["node.name", "my host!"])
    });
}

#[test]
fn a_bad_configuration_is_refused() {
    let table: &[(&str, &str, &[&str])] = &[
        ("an unknown section", "[nod]\n", &["nod"]),
        ("an unknown key", "[nat]\nport = \"50000-60000\"\n", &["port"]),
        ("an unknown key of a network", "[networks.default]\nsubnet = \"10.88.0.0/16\"\n", &["subnet"]),
        ("no TOML", "[nat\n", &["netd.toml"]),
        ("ports that are none", "[nat]\nports = \"70000-80000\"\n", &["nat.ports", "70000-80000"]),
        ("ports backwards", "[nat]\nports = \"60000-50000\"\n", &["nat.ports", "60000-50000"]),
        ("ports of services", "[nat]\nports = \"100-2000\"\n", &["nat.ports", "100-2000"]),
        ("too few flows", "[nat]\nmax-flows = 5\n", &["nat.max-flows", "5"]),
        ("no flows for anybody", "[nat]\nmax-flows-per-endpoint = 0\n", &["nat.max-flows-per-endpoint"]),
        ("another type", "[nat]\nmax-flows = \"many\"\n", &["max-flows"]),
        (
            "subnets that overlap",
            "[networks.default]\n[networks.other]\nsubnets = [\"10.88.5.0/24\"]\n",
            &["networks.other", "10.88.5.0/24", "10.88.0.0/16", "default"],
        ),
        ("the uplink's subnet", "[networks.x]\nsubnets = [\"198.18.0.0/15\"]\n", &["198.18.0.0/15", "eth0"]),
        (
            "a subnet without room",
            "[networks.x]\nsubnets = [\"10.9.9.0/31\"]\n",
            &["networks.x", "10.9.9.0/31"],
        ),
        ("no subnet", "[networks.x]\n", &["networks.x.subnets"]),
        ("a subnet that is none", "[networks.x]\nsubnets = [\"10.9\"]\n", &["networks.x.subnets", "10.9"]),
        ("an unknown link", "[networks.default]\nlink = \"string\"\n", &["networks.default.link", "string"]),
        ("an MTU too small", "[networks.default]\nmtu = 10\n", &["networks.default.mtu", "10"]),
        ("an uplink that is not there", "[node]\nuplink = \"nope0\"\n", &["nope0"]),
        ("an address that the uplink has not", "[node]\naddress = \"192.0.2.77\"\n", &["192.0.2.77"]),
        ("a name that is none", "[node]\nname = \"a b\"\n", &["node.name", "a b"]),
        ("a name with a line in it", "[node]\nname = \"a\\nb\"\n", &["node.name", "a\\nb"]),
        (
            "an MTU too small for IPv6",
            "[networks.default]\nmtu = 1279\n",
            &["networks.default.mtu", "1279", "1280"],
        ),
        (
            "an octal subnet",
            "[networks.x]\nsubnets = [\"010.9.0.0/16\"]\n",
            &["networks.x.subnets", "010.9.0.0/16"],
        ),
        (
            "a peer with this host's address",
            "[[cluster.peers]]\nname = \"b\"\naddress = \"198.18.1.2\"\nsubnets = [\"10.88.2.0/24\"]\n",
            &["cluster.peers.b.address", "198.18.1.2", "this host's own"],
        ),
        (
            "a peer with a slice of no network",
            "[[cluster.peers]]\nname = \"b\"\naddress = \"198.18.1.9\"\nsubnets = [\"198.18.1.0/24\"]\n",
            &["cluster.peers.b.subnets", "198.18.1.0/24", "no network"],
        ),
    ];
    with_stopped_site("a_bad_configuration_is_refused", "", |site| {
        let before = Snapshot::of(&site.host)?;
        let netd = binary()?;
        each(table, |(what, config, words)| {
            site.host.configure(config)?;
            refused(what, &run(site, &[], &netd)?, 1, words)?;
            unchanged(what, site, &before)
        })?;
        fs::remove_file(site.host.config())?;
        refused("no file", &run(site, &[], &netd)?, 1, &["netd.toml"])?;
        unchanged("no file", site, &before)
    });
}

#[test]
fn what_it_cannot_work_with_is_refused() {
    with_stopped_site("what_it_cannot_work_with_is_refused", "", |site| {
        // Where everybody can run it: the build directory may be private.
        let netd = site.lab.directory().join("netd");
        fs::copy(binary()?, &netd).context("cannot copy netd")?;
        let directory = site.lab.directory().display().to_string();
        fs::write(format!("{directory}/file"), "precious")?;
        let before = Snapshot::of(&site.host)?;
        let wrapped: &[(&str, &[&str], &[&str])] = &[
            ("not root", &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], &["root"]),
            ("no capability", &["setpriv", "--bounding-set=-all"], &["CAP_NET_ADMIN", "CAP_BPF"]),
            ("one capability less", &["setpriv", "--bounding-set=-bpf"], &["CAP_BPF"]),
            (
                "too few open files",
                &["prlimit", "--nofile=64:64", "setpriv", "--bounding-set=-sys_resource"],
                &["64", "LimitNOFILE"],
            ),
        ];
        each(wrapped, |(what, before_words, words)| {
            refused(what, &run(site, before_words, &netd)?, 1, words)?;
            unchanged(what, site, &before)
        })?;
        let full = format!("{directory}/full");
        site.lab.tmpfs(Path::new(&full), 4096)?;
        let (pins, file) = (format!("{directory}/pins"), format!("{directory}/file"));
        let options: &[(&str, [&str; 2], &[&str])] = &[
            ("no bpffs", ["--bpffs-dir", &pins], &["pins", "bpf"]),
            ("a file for a socket", ["--socket", &file], &["file", "socket"]),
            ("a file for a state directory", ["--state-dir", &file], &["file"]),
            ("a full disk", ["--state-dir", &full], &["full", "space"]),
        ];
        each(options, |(what, option, words)| {
            refused(what, &run_with(site, &netd, &[*option])?, 1, words)?;
            unchanged(what, site, &before)
        })?;
        ensure!(fs::read(format!("{directory}/file"))? == b"precious", "a file was overwritten");
        Ok(())
    });
}
use nix::sys::signal::Signal;

/// `netd run` with other values for some of its options.
fn run_with(site: &Site, netd: &Path, options: &[[&str; 2]]) -> Result<Output> {
    let mut arguments = site.host.run_arguments();
    for [option, value] in options {
        let place = arguments.iter().position(|word| word == option).context("no such option")?;
        arguments[place + 1] = value.into();
    }
    let mut command = site.host.namespace.command("timeout")?;
    command.arg("20").arg(netd).args(arguments).output().context("cannot run netd")
}

#[test]
fn a_second_daemon_is_refused() {
    with_site("a_second_daemon_is_refused", "", |site| {
        let a = site.container("a")?;
        let before = Snapshot::of(&site.host)?;
        let netd = binary()?;
        let pid = site.host.process().context("no daemon")?.pid().to_string();
        refused("all the same", &run(site, &[], &netd)?, 1, &[&pid])?;
        let other = site.lab.directory().join("other");
        let other = other.to_str().context("a path")?;
        // One thing in common is enough.
        let socket = format!("{other}.sock");
        let options = [["--socket", &socket], ["--state-dir", other]];
        refused("the state", &run_with(site, &netd, &options[..1])?, 1, &["state", "in use", &pid])?;
        refused("the socket", &run_with(site, &netd, &options[1..])?, 1, &["netd.sock"])?;
        refused("the pins", &run_with(site, &netd, &options)?, 1, &["bpf", "in use", &pid])?;
        unchanged("a second daemon", site, &before)?;
        reach(&site.host.namespace, a.address, a.gateway)
    });
}

#[test]
fn a_bad_request_is_refused() {
    let config = "[networks.default]\n[networks.other]\nsubnets = [\"10.89.0.0/24\"]\n";
    with_site("a_bad_request_is_refused", config, |site| {
        let a = site.container("a")?;
        let free = site.lab.namespace("free")?;
        let (netns, address) = (free.name(), a.address.to_string());
        let host_ns = site.host.namespace.name();
        let text = site.lab.directory().join("text");
        fs::write(&text, "no namespace")?;
        let text = text.to_str().context("a path")?;
        let attach = |words: &[&'static str]| [&["attach", "x"], words].concat();
        let long = "x".repeat(129);

        let table: &[(&str, Vec<&str>, &[&str])] = &[
            ("no such namespace", attach(&["--netns", "nd-none"]), &["nd-none"]),
            ("no such path", attach(&["--netns", "/run/netns/nd-none"]), &["/run/netns/nd-none"]),
            ("a file that is no namespace", vec!["attach", "x", "--netns", text], &["text"]),
            ("the host's namespace", vec!["attach", "x", "--netns", host_ns], &[host_ns]),
            (
                "an address in use",
                vec!["attach", "x", "--netns", netns, "--ip", &address],
                &[&address, "`a`"],
            ),
            (
                "the gateway's address",
                vec!["attach", "x", "--netns", netns, "--ip", "10.88.0.1"],
                &["10.88.0.1", "gateway"],
            ),
            (
                "an address of elsewhere",
                vec!["attach", "x", "--netns", netns, "--ip", "10.77.0.5"],
                &["10.77.0.5", "10.88.0.0/16"],
            ),
            (
                "the broadcast address",
                vec!["attach", "x", "--netns", netns, "--ip", "10.88.255.255"],
                &["10.88.255.255"],
            ),
            ("an IPv6 address", vec!["attach", "x", "--netns", netns, "--ip", "fd00::5"], &["fd00::5"]),
            ("no such network", vec!["attach", "x", "--netns", netns, "--network", "nope"], &["nope"]),
            ("a name that is taken", vec!["attach", "a", "--netns", netns], &["`a`"]),
            ("a name that is none", vec!["attach", "x/y", "--netns", netns], &["x/y"]),
            ("a name too long", vec!["attach", &long, "--netns", netns], &["too long"]),
            ("no such endpoint", vec!["detach", "nobody"], &["nobody"]),
            (
                "a network that is taken",
                vec!["network", "create", "other", "--subnet", "10.91.0.0/24"],
                &["other"],
            ),
            (
                "a subnet that is taken",
                vec!["network", "create", "n", "--subnet", "10.89.0.128/25"],
                &["10.89.0.128/25", "other"],
            ),
            (
                "the uplink's subnet",
                vec!["network", "create", "n", "--subnet", "198.18.0.0/15"],
                &["198.18.0.0/15", "eth0"],
            ),
            ("a subnet that is none", vec!["network", "create", "n", "--subnet", "ten"], &["ten"]),
            (
                "an octal subnet",
                vec!["network", "create", "n", "--subnet", "010.91.0.0/24"],
                &["010.91.0.0/24"],
            ),
            (
                "an MTU too small for IPv6",
                vec![
                    "network",
                    "create",
                    "n",
                    "--subnet",
                    "10.91.0.0/24",
                    "--subnet",
                    "fd91::/64",
                    "--mtu",
                    "1200",
                ],
                &["1200", "1280"],
            ),
            ("a name with a line in it", vec!["attach", "x\nnetd: y", "--netns", netns], &["x\\nnetd: y"]),
            ("a network name with a line in it", vec!["network", "rm", "x\ny"], &["x\\ny"]),
            ("a source with a line in it", vec!["deny", "add", "x\ny"], &["x\\ny"]),
            ("a namespace with a line in it", vec!["attach", "x", "--netns", "x\ny"], &["x\\ny"]),
            ("no such network to remove", vec!["network", "rm", "nope"], &["nope"]),
            ("a network of the file", vec!["network", "rm", "other"], &["other"]),
            ("a network in use", vec!["network", "rm", "default"], &["default"]),
        ];
        let (before, list) = (Snapshot::of(&site.host)?, listed(site)?);
        each(table, |(what, words, needles)| {
            refused(what, &site.host.netd(words)?, 1, needles)?;
            unchanged(what, site, &before)?;
            let after = listed(site)?;
            ensure!(after == list, "{what}: listed were {list}, are {after}");
            let inside = free.ip_json("link show type veth")?;
            let left = inside.as_array().into_iter().flatten().any(|link| !link["ifname"].is_null());
            ensure!(!left, "{what}: the container has {inside}");
            Ok(())
        })?;
        // A refused attachment has used up nothing.
        site.container("b")?;
        reach(&a.namespace, std::net::Ipv4Addr::new(10, 88, 0, 3), a.address)
    });
}

/// What `netd ls` and `netd network ls` say, but for the counters.
fn listed(site: &Site) -> Result<String> {
    let mut endpoints = site.endpoints()?;
    for endpoint in &mut endpoints {
        endpoint["counters"].take();
    }
    Ok(format!("{endpoints:?} {}", site.host.json(["network", "ls", "--json"])?))
}

#[test]
fn without_a_daemon_commands_say_so() {
    with_stopped_site("without_a_daemon_commands_say_so", "", |site| {
        let socket = site.host.socket().display().to_string();
        for words in
            [&["ls"][..], &["status"], &["attach", "x", "--netns", "y"], &["detach", "x"], &["network", "ls"]]
        {
            refused(&words.join(" "), &site.host.netd(words)?, 1, &[&socket])?;
        }
        Ok(())
    });
}

#[test]
fn a_disk_that_fills_up_refuses_and_recovers() {
    with_stopped_site("a_disk_that_fills_up_refuses_and_recovers", "", |site| {
        let state = site.host.state();
        site.lab.tmpfs(&state, 16 << 20)?;
        site.host.start()?;
        let (a, b) = (site.container("a")?, site.container("b")?);
        let filler = state.join("filler");
        fill(&filler)?;

        // The store has some room inside. Whatever happens: an attachment works, or it is refused and leaves nothing.
        let mut attached = vec![a.clone()];
        let mut refusal = None;
        for number in 0..200 {
            let namespace = site.lab.namespace(&format!("host-f{number}"))?;
            let name = format!("f{number}");
            let (before, list) = (Snapshot::of(&site.host)?, listed(site)?);
            let output = site.host.netd(["attach", &name, "--netns", namespace.name()])?;
            if output.status.success() {
                let address = site.endpoint(&name)?.context("not listed")?["addresses"][0].clone();
                ensure!(address.is_string());
                continue;
            }
            refused("a full disk", &output, 1, &["space"])?;
            unchanged("a full disk", site, &before)?;
            ensure!(listed(site)? == list, "listed were {list}, are {}", listed(site)?);
            refusal = Some(namespace);
            break;
        }
        let namespace: Namespace = refusal.context("200 endpoints fit on a full disk")?;
        // What is there works on, also under another daemon.
        reach(&site.host.namespace, a.address, a.gateway)?;
        site.host.stop(Signal::SIGKILL)?;
        site.host.start()?;
        reach(&site.host.namespace, a.address, a.gateway)?;
        // What ends can end, though that is not kept yet.
        let output = site.host.netd(["detach", "b"])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ensure!(!netd_links(&site.host.namespace)?.contains(&b.host_interface), "its link is there still");
        let status = site.host.json(["status", "--json"])?;
        ensure!(status["healthy"] == false && status["problems"].to_string().contains("store: "), "{status}");

        let count = site.endpoints()?.len();
        fs::remove_file(&filler)?;
        attached.push(site.host.attach("late", &namespace, &[])?);
        ensure!(site.endpoints()?.len() == count + 1);
        site.serve(&namespace, attached[1].address)?;
        reach(&a.namespace, attached[1].address, a.address)
    });
}

/// Writes a file until the disk is full, to the last byte.
fn fill(path: &Path) -> Result<()> {
    use std::io::Write as _;
    let mut file = fs::File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    for size in [65536, 4096, 1] {
        while file.write(&vec![0; size]).is_ok_and(|written| written > 0) {}
    }
    Ok(())
}
