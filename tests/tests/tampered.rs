//! What others do to what is netd's, while it runs and while it is away: it is put back, or refused, and nobody loses the network.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use netd::lab::{Container, icmp};
use netd_tests::{
    Site,
    site::{PATIENCE, eventually, reach, unreachable},
    snapshot, with_site,
};
use nix::sys::signal::Signal;

/// How long netd may take to see what has changed.
const SOON: Duration = Duration::from_secs(45);

/// That the host reaches a container, which needs its link, the programs and the host's route.
fn reached(site: &Site, container: &Container) -> Result<()> {
    site.host.namespace.run(|| icmp::ping(container.address, 56, PATIENCE)).map(drop)
}

#[test]
fn networks_of_a_state_that_is_lost_leave_nothing() {
    with_site("networks_of_a_state_that_is_lost_leave_nothing", "", |site| {
        let made = site.host.netd(["network", "create", "blue", "--subnet", "10.91.0.0/24"])?;
        ensure!(made.status.success());
        let has = |site: &Site, gateway: &str| -> Result<bool> {
            let addresses = site.host.namespace.ip_json("address show dev lo")?;
            Ok(addresses.to_string().contains(gateway))
        };
        ensure!(has(site, "10.91.0.1")?);
        site.host.stop(Signal::SIGKILL)?;
        fs::remove_file(site.host.state().join("netd.redb"))?;
        // No container lives, so nobody can lose anything.
        site.host.start()?;
        ensure!(!has(site, "10.91.0.1")? && has(site, "10.88.0.1")?, "gateways on lo");
        Ok(())
    });
}

#[test]
fn a_namespace_lives_on_without_its_name() {
    with_site("a_namespace_lives_on_without_its_name", "", |site| {
        let a = site.container("a")?;
        let b = site.container("b")?;
        let mut sleep = Command::new("sleep");
        sleep.arg("1000");
        let process = site.lab.spawn(&a.namespace, &sleep, &site.lab.directory().join("sleep.log"))?;
        site.lab.remove_namespace(&a.namespace)?;
        // Another one has the name now.
        let name = a.namespace.name().strip_prefix(&format!("{}-", site.lab.prefix())).context("a prefix")?;
        let other = site.lab.namespace(name)?;
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            site.host.stop(signal)?;
            site.host.start()?;
            reached(site, &a).with_context(|| format!("after {signal}"))?;
            b.namespace.run(|| icmp::ping(a.address, 56, PATIENCE))?;
            let own = site.endpoint("a")?.context("the endpoint is gone")?;
            ensure!(own["problem"].is_null(), "{own}");
        }
        // Also what is on the host's side is put right.
        site.host.namespace.ip([format!("route del {}/32", a.address)])?;
        site.host.stop(Signal::SIGKILL)?;
        site.host.start()?;
        reached(site, &a)?;
        let c = site.host.attach("c", &other, &[])?;
        ensure!(c.address != a.address);
        reached(site, &c)?;
        process.kill();
        site.services.clear();
        eventually("the endpoint goes with its namespace", SOON, || Ok(site.endpoint("a")?.is_none()))?;
        reached(site, &c)
    });
}

#[test]
fn a_link_is_known_by_its_alias() {
    with_site("a_link_is_known_by_its_alias", "", |site| {
        let a = site.container("a")?;
        let host = site.host.namespace.clone();
        host.ip([
            format!("link set {} down", a.host_interface),
            format!("link set {} name renamed0", a.host_interface),
            "link set renamed0 up".to_owned(),
        ])?;
        eventually("it works under another name", SOON, || Ok(reached(site, &a).is_ok()))?;
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            site.host.stop(signal)?;
            site.host.start()?;
            let own = site.endpoint("a")?.context("the endpoint is gone")?;
            ensure!(own["host_interface"] == "renamed0" && own["problem"].is_null(), "{own}");
            reach(&a.namespace, site.world.address, site.host.address)?;
            reached(site, &a)?;
        }
        ensure!(site.host.netd(["detach", "a"])?.status.success());
        ensure!(snapshot::netd_links(&host)?.is_empty());
        Ok(())
    });
}

#[test]
fn a_link_that_is_set_down_is_set_up() {
    with_site("a_link_that_is_set_down_is_set_up", "", |site| {
        let a = site.container("a")?;
        site.host.namespace.ip([format!("link set {} down", a.host_interface)])?;
        eventually("the link is up again", SOON, || Ok(reached(site, &a).is_ok()))?;
        reach(&a.namespace, site.world.address, site.host.address)?;
        eventually("all is well", SOON, || Ok(site.host.netd(["status"])?.status.success()))
    });
}

/// Whether the host forwards to a container what nobody in it has asked for.
fn open(site: &Site, container: &Container) -> Result<()> {
    let before = site.drops("unsolicited")?;
    unreachable(&site.world.router, container.address)?;
    ensure!(site.drops("unsolicited")? > before, "netd did not see it");
    Ok(())
}

#[test]
fn filters_that_are_removed_are_put_back() {
    with_site("filters_that_are_removed_are_put_back", "", |site| {
        let host = site.host.namespace.clone();
        host.set_sysctl("net.ipv4.ip_forward", "1")?;
        site.world.router.ip([format!("route add 10.88.0.0/16 via {}", site.host.address)])?;
        let remove = |container: &Container| -> Result<()> {
            host.output("tc", ["qdisc", "del", "dev", &container.host_interface, "clsact"]).map(drop)
        };
        // Just attached, it has filters.
        let a = site.container("a")?;
        open(site, &a)?;
        remove(&a)?;
        eventually("nothing is open", SOON, || Ok(open(site, &a).is_ok()))?;
        reach(&a.namespace, site.world.address, site.host.address)?;
        // Later, where the kernel has such, links, which do not go with the qdisc.
        site.host.settle()?;
        let _ = remove(&a);
        eventually("nothing is open", SOON, || Ok(open(site, &a).is_ok()))?;
        reach(&a.namespace, site.world.address, site.host.address)?;
        // And a new daemon knows what there is.
        site.host.stop(Signal::SIGKILL)?;
        site.host.start()?;
        open(site, &a)?;
        reach(&a.namespace, site.world.address, site.host.address)
    });
}

#[test]
fn settings_that_are_changed_are_put_back() {
    with_site("settings_that_are_changed_are_put_back", "", |site| {
        let host = site.host.namespace.clone();
        const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";
        const FORWARDING: &str = "net.ipv4.conf.lo.forwarding";
        let before = host.sysctl(RESERVED)?;
        ensure!(!before.is_empty() && host.sysctl(FORWARDING)? == "1");
        host.set_sysctl(RESERVED, "8080")?;
        for value in ["1", "0"] {
            host.set_sysctl("net.ipv4.ip_forward", value)?;
        }
        ensure!(host.sysctl(FORWARDING)? == "0");
        eventually("the settings are as they were", SOON, || {
            Ok(host.sysctl(RESERVED)? == format!("8080,{before}") && host.sysctl(FORWARDING)? == "1")
        })
    });
}

#[test]
fn ipv6_is_off_and_on_again() {
    with_site("ipv6_is_off_and_on_again", "", |site| {
        let a = site.container("a")?;
        let (Some(address6), Some(own6)) = (a.address6, site.host.address6) else {
            eprintln!("SKIP ipv6_is_off_and_on_again: no IPv6 in this kernel");
            return Ok(());
        };
        let host = site.host.namespace.clone();
        let well = |site: &Site| Ok(site.host.netd(["status"])?.status.success());
        let switch =
            |off: bool| host.set_sysctl("net.ipv6.conf.all.disable_ipv6", if off { "1" } else { "0" });
        let ping6 = || host.run(|| icmp::ping(address6, 56, PATIENCE)).is_ok();
        ensure!(ping6());
        for restarted in [false, true] {
            switch(true)?;
            eventually("there is no IPv6", SOON, || Ok(site.status()?["uplink"]["address6"].is_null()))?;
            eventually("all is well without IPv6", SOON, || well(site))?;
            reached(site, &a)?;
            if restarted {
                // The new daemon brings endpoints up without it.
                site.host.stop(Signal::SIGKILL)?;
                site.host.start()?;
                reached(site, &a)?;
            }
            switch(false)?;
            host.ip([format!("address add {own6}/64 dev eth0 nodad")])?;
            eventually("the host reaches the container by IPv6", SOON, || Ok(ping6()))?;
            eventually("all is well with IPv6", SOON, || well(site))?;
        }
        reached(site, &a)
    });
}
