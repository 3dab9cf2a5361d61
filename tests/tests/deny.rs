//! Denied sources: nothing of theirs gets past the uplink, for containers and the host itself, while the list says so.

use std::{net::Ipv4Addr, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use netd::{
    bpf::{Datapath, Options},
    lab::{Container, Namespace, icmp},
};
use netd_tests::{
    Site,
    site::{PATIENCE, SILENCE, eventually, with_site},
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
        Datapath::open(&options)?.attach_xdp(uplink)
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

        done(site, &["deny", "add", "203.0.113.0/24", "192.0.2.66"])?;
        ensure!(has_xdp(site)?, "a program at the uplink");
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
