//! Denied sources: nothing of theirs gets past the uplink, for containers and the host itself, while the list says so.

use std::{net::Ipv4Addr, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use netd::{
    bpf::{Datapath, Options, XdpChoice},
    lab::{Container, Host, Lab, Namespace, icmp},
};
use netd_tests::{
    Site,
    site::{PATIENCE, SILENCE, eventually, skipped, with_site},
};
use nix::sys::signal::Signal;

fn reaches(namespace: &Namespace, address: Ipv4Addr) -> bool {
    namespace.run(|| icmp::ping(address, 56, SILENCE)).is_ok()
}

/// A command that must succeed.
fn done(site: &Site, words: &[&str]) -> Result<()> {
    let output = site.host.netd(words)?;
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A command that must be refused with this line.
fn refused(site: &Site, words: &[&str], expected: &str) -> Result<()> {
    let output = site.host.netd(words)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.trim_end() == format!("netd: {expected}"), "{words:?}: {said}");
    Ok(())
}

/// The packets that an entry of the list has dropped; none: there is no such entry.
fn dropped(site: &Site, source: &str) -> Result<Option<u64>> {
    let list = site.host.json(["deny", "ls", "--json"])?;
    let denied = list["denied"].as_array().context("no list")?;
    let found = denied.iter().find(|entry| entry["source"] == source);
    Ok(found.and_then(|entry| entry["packets"].as_u64()))
}

/// Attaches an XDP program that is not the daemon's to its uplink. Returns the directory of its pins.
fn attach_anothers(site: &Site) -> Result<PathBuf> {
    let directory = site.host.bpffs().with_file_name("other");
    let options = Options { directory: directory.clone(), max_flows: 64, max_endpoints: 4 };
    site.host.namespace.run(|| {
        let uplink = nix::net::if_::if_nametoindex("eth0")?;
        Datapath::open(&options)?.attach_xdp(uplink, XdpChoice::Auto)
    })?;
    Ok(directory)
}

/// Starts the daemon with a source to deny where another's program is at the uplink already, as after a reboot. Returns the directory of
/// that one's pins.
fn start_beside_anothers(site: &mut Site) -> Result<PathBuf> {
    done(site, &["deny", "add", "203.0.113.0/24"])?;
    site.host.stop(Signal::SIGKILL)?;
    Datapath::purge(site.host.bpffs())?;
    let directory = attach_anothers(site)?;
    site.host.start()?;
    Ok(directory)
}

/// What `netd status` says is wrong; its exit status goes by it.
fn problems(site: &Site) -> Result<String> {
    let output = site.host.netd(["status", "--json"])?;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let none = status["problems"].as_array().is_some_and(Vec::is_empty);
    ensure!(status["healthy"] == none && output.status.success() == none, "{}: {status}", output.status);
    Ok(status["problems"].to_string())
}

/// How the uplink says that it has an XDP program.
fn has_xdp(site: &Site) -> Result<bool> {
    let link = site.host.namespace.ip_json("link show eth0")?;
    Ok(!link[0]["xdp"].is_null())
}

/// How `netd status` says that the uplink runs XDP, and whether its feature is on.
fn xdp(host: &Host) -> Result<(Option<String>, Option<bool>)> {
    let status = host.json(["status", "--json"])?;
    let features = status["features"].as_array().context("no features")?;
    let feature = features.iter().find(|feature| feature["name"] == "xdp-native");
    let on = feature.and_then(|feature| feature["on"].as_bool());
    Ok((status["uplink"]["xdp"].as_str().map(str::to_owned), on))
}

fn everybody_is_heard(site: &Site, a: &Container, wanted: bool) -> Result<()> {
    let server = site.world.address;
    ensure!(reaches(&a.namespace, server) == wanted, "the container and the server");
    ensure!(reaches(&site.host.namespace, server) == wanted, "the host and the server");
    let router = site.host.namespace.ip_json("route show default")?;
    let router: Ipv4Addr = router[0]["gateway"].as_str().context("a default route")?.parse()?;
    ensure!(reaches(&a.namespace, router), "who is not denied is heard");
    Ok(())
}

#[test]
fn denied_sources_are_not_heard() {
    with_site("denied_sources_are_not_heard", "", |site| {
        let a = site.container("a")?;
        everybody_is_heard(site, &a, true)?;
        ensure!(!has_xdp(site)?, "no program without need");

        ensure!(xdp(&site.host)? == (None, Some(false)), "and none is told of: {:?}", xdp(&site.host)?);
        done(site, &["deny", "add", "203.0.113.0/24", "192.0.2.66"])?;
        ensure!(has_xdp(site)?, "a program at the uplink");
        ensure!(
            xdp(&site.host)? == (Some("native".into()), Some(true)),
            "veth's driver can: {:?}",
            xdp(&site.host)?
        );
        everybody_is_heard(site, &a, false)?;
        ensure!(
            dropped(site, "203.0.113.0/24")? == Some(2),
            "one packet each: {:?}",
            dropped(site, "203.0.113.0/24")?
        );
        ensure!(dropped(site, "192.0.2.66/32")? == Some(0));
        ensure!(site.drops("denied")? == 2);

        // It outlives the daemon, and the next one knows it.
        site.host.stop(Signal::SIGKILL)?;
        ensure!(!reaches(&a.namespace, site.world.address), "without the daemon");
        site.host.start()?;
        everybody_is_heard(site, &a, false)?;
        ensure!(dropped(site, "203.0.113.0/24")? == Some(5), "{:?}", dropped(site, "203.0.113.0/24")?);

        done(site, &["deny", "rm", "203.0.113.0/24"])?;
        everybody_is_heard(site, &a, true)?;
        ensure!(has_xdp(site)?, "the other entry is there still");
        done(site, &["deny", "rm", "192.0.2.66"])?;
        ensure!(!has_xdp(site)?);
        everybody_is_heard(site, &a, true)
    });
}

#[test]
fn ipv6_sources_too() {
    with_site("ipv6_sources_too", "", |site| {
        let host = site.host.namespace.clone();
        host.ip(["address add 2001:db8:1::2/64 dev eth0 nodad"])?;
        site.world.router.ip(["address add 2001:db8:1::1/64 dev host1 nodad"])?;
        let ping = || -> Result<bool> {
            let output = host.command("ping")?.args(["-6", "-c1", "-W1", "2001:db8:1::1"]).output();
            Ok(output.context("cannot run ping")?.status.success())
        };
        if Command::new("ping").arg("-V").output().is_err() {
            eprintln!("SKIP ipv6_sources_too: ping is not installed");
            return Ok(());
        }
        eventually("the router answers", PATIENCE, ping)?;
        done(site, &["deny", "add", "2001:db8:1::/64"])?;
        ensure!(!ping()?);
        ensure!(dropped(site, "2001:db8:1::/64")? >= Some(1));
        done(site, &["deny", "rm", "2001:db8:1::/64"])?;
        eventually("the router answers again", PATIENCE, ping)
    });
}

#[test]
fn what_is_not_understood_changes_nothing() {
    with_site("what_is_not_understood_changes_nothing", "", |site| {
        refused(
            site,
            &["deny", "add", "192.0.2.1", "0.0.0.0/0"],
            "0.0.0.0/0 is everybody: that would cut this host off",
        )?;
        refused(
            site,
            &["deny", "add", "192.0.2.1", "192.0.2.7/24"],
            "192.0.2.7/24 has host bits set: did you mean 192.0.2.0/24?",
        )?;
        refused(
            site,
            &["deny", "add", "example"],
            "`example` is no address and no prefix such as 203.0.113.0/24",
        )?;
        refused(
            site,
            &["deny", "add", "192.0.2.1", "::ffff:192.0.2.7"],
            "::ffff:192.0.2.7/128 is an IPv4 source in IPv6's notation: did you mean 192.0.2.7/32?",
        )?;
        refused(
            site,
            &["deny", "rm", "192.0.2.1"],
            "192.0.2.1/32 is not denied: `netd deny ls` shows what is",
        )?;
        ensure!(dropped(site, "192.0.2.1/32")?.is_none() && !has_xdp(site)?);
        Ok(())
    });
}

/// Generic XDP is for who asks for it. A daemon that is told otherwise changes what runs already; one that may choose lets it be.
#[test]
fn generic_xdp_where_it_is_asked_for() {
    with_site("generic_xdp_where_it_is_asked_for", "[node]\nxdp = \"generic\"", |site| {
        let a = site.container("a")?;
        done(site, &["deny", "add", "203.0.113.0/24"])?;
        for (choice, expected) in [
            ("generic", "generic"),
            ("auto", "generic"),
            ("native", "native"),
            ("auto", "native"),
            ("generic", "generic"),
        ] {
            site.host.stop(Signal::SIGTERM)?;
            site.host.configure(&format!("[node]\nxdp = \"{choice}\""))?;
            site.host.start()?;
            let found = xdp(&site.host)?;
            ensure!(found == (Some(expected.into()), Some(expected == "native")), "{choice}: {found:?}");
            everybody_is_heard(site, &a, false)?;
            let shown = site.host.netd(["status"])?;
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            ensure!(shown.contains(&format!("xdp, {expected}")), "{choice}: {shown}");
        }
        ensure!(site.host.log().contains("denied sources are dropped by XDP (generic)"), "the log says it");
        done(site, &["deny", "rm", "203.0.113.0/24"])?;
        ensure!(!has_xdp(site)?);
        everybody_is_heard(site, &a, true)
    });
}

/// MAC addresses of the two NICs of the test VM, which are joined to each other (`cargo xtask vm`).
const NICS: [&str; 2] = ["52:54:00:00:00:00", "52:54:00:00:00:01"];

/// The names of those two in the root's namespace; none: this is not that VM.
fn nics() -> Result<Option<[String; 2]>> {
    let output = Command::new("ip").args(["-json", "link", "show"]).output().context("cannot run ip")?;
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).context("ip's list of links")?;
    let name = |mac: &str| {
        let link = links.as_array()?.iter().find(|link| link["address"] == mac)?;
        let name = link["ifname"].as_str()?;
        let driver = std::fs::read_link(format!("/sys/class/net/{name}/device/driver")).ok()?;
        driver.ends_with("virtio_net").then(|| name.to_owned())
    };
    Ok(name(NICS[0]).zip(name(NICS[1])).map(|(near, far)| [near, far]))
}

/// A NIC's own driver drops what is denied, before there is an `sk_buff`.
#[test]
fn a_virtio_nic_drops_natively() {
    const TEST: &str = "a_virtio_nic_drops_natively";
    if skipped(TEST) {
        return;
    }
    let check = || -> Result<()> {
        let Some([near, far]) = nics()? else {
            eprintln!(
                "SKIP {TEST}: there are no two virtio NICs that are joined to each other, as `cargo xtask vm` has them"
            );
            return Ok(());
        };
        let lab = Lab::new("test")?;
        let (uplink, other) = (lab.namespace("nic")?, lab.namespace("far")?);
        let (address, sender) = (Ipv4Addr::new(198, 18, 1, 2), Ipv4Addr::new(198, 18, 1, 1));
        // They come back when the namespaces go.
        for (nic, namespace, address) in [(&near, &uplink, address), (&far, &other, sender)] {
            let moved = Command::new("ip").args(["link", "set", nic, "netns", namespace.name()]).status();
            ensure!(moved.context("cannot run ip")?.success(), "{nic} cannot be moved");
            namespace.ip([format!("address add {address}/24 dev {nic}"), format!("link set {nic} up")])?;
        }
        uplink.ip([format!("route add default via {sender}")])?;
        let mut host = Host::in_namespace(&lab, uplink, address, "nic", "[node]\nxdp = \"native\"")?;
        host.start()?;
        let heard = || Ok(reaches(&other, address));
        eventually("the other NIC is heard", Duration::from_secs(60), heard)?;
        let deny = |words: [&str; 3]| -> Result<()> {
            let output = host.netd(words)?;
            ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        };
        deny(["deny", "add", "198.18.1.1"])?;
        ensure!(xdp(&host)? == (Some("native".into()), Some(true)), "{:?}", xdp(&host)?);
        // The NIC begins anew with the program; until then nothing would come either.
        eventually("packets are dropped", Duration::from_secs(60), || {
            ensure!(!reaches(&other, address), "what is denied is heard");
            Ok(host.json(["deny", "ls", "--json"])?["denied"][0]["packets"].as_u64() > Some(0))
        })?;
        deny(["deny", "rm", "198.18.1.1"])?;
        ensure!(xdp(&host)? == (None, Some(false)), "{:?}", xdp(&host)?);
        eventually("the other NIC is heard again", Duration::from_secs(60), heard)
    };
    check().unwrap_or_else(|error| panic!("{TEST}: {error:#}"));
}

/// A list that nothing comes of can be emptied, and then there is no problem.
#[test]
fn what_cannot_be_denied_can_be_allowed() {
    with_site("what_cannot_be_denied_can_be_allowed", "", |site| {
        let a = site.container("a")?;
        let directory = start_beside_anothers(site)?;
        a.namespace.run(|| icmp::ping(site.world.address, 56, PATIENCE))?;
        let expected =
            "denied sources: cannot deny sources at the uplink: another XDP program is attached to eth0";
        ensure!(problems(site)?.contains(expected), "{}", problems(site)?);
        done(site, &["deny", "rm", "203.0.113.0/24"])?;
        ensure!(problems(site)? == "[]", "{}", problems(site)?);
        Datapath::purge(&directory)?;
        done(site, &["deny", "add", "203.0.113.0/24"])?;
        everybody_is_heard(site, &a, false)
    });
}

/// An interface has one XDP program: where there is another, nothing is denied, and that is said.
#[test]
fn another_program_is_not_replaced() {
    with_site("another_program_is_not_replaced", "", |site| {
        let a = site.container("a")?;
        let directory = attach_anothers(site)?;
        refused(
            site,
            &["deny", "add", "203.0.113.0/24"],
            "cannot deny sources at the uplink: another XDP program is attached to eth0: remove it, e.g. `ip link set eth0 xdp off`",
        )?;
        ensure!(dropped(site, "203.0.113.0/24")?.is_none(), "nothing half done");
        site.host.namespace.run(|| icmp::ping(site.world.address, 56, PATIENCE))?;
        Datapath::purge(&directory)?;
        done(site, &["deny", "add", "203.0.113.0/24"])?;
        everybody_is_heard(site, &a, false)
    });
}

/// After a reboot, say: that nothing can be denied is no reason to leave containers without a network.
#[test]
fn the_daemon_starts_beside_another_program() {
    with_site("the_daemon_starts_beside_another_program", "", |site| {
        let a = site.container("a")?;
        let directory = start_beside_anothers(site)?;
        let said = problems(site)?;
        ensure!(said.contains("another XDP program is attached to eth0"), "the problem is named: {said}");
        everybody_is_heard(site, &a, true)?;

        Datapath::purge(&directory)?;
        let server = site.world.address;
        eventually("its own program comes when there is room", Duration::from_secs(60), || {
            Ok(!reaches(&site.host.namespace, server))
        })?;
        everybody_is_heard(site, &a, false)
    });
}
