//! `netd run --purge`: as if netd had never been.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Output, time::Duration};

use anyhow::{Context, Result, ensure};
use netd::lab::{End, host::binary};
use netd_tests::{
    Site,
    site::{eventually, with_stopped_site},
    snapshot::Snapshot,
};
use nix::sys::signal::Signal;

fn purge(site: &Site) -> Result<Output> {
    let mut command = site.host.namespace.command(binary()?)?;
    command.args(site.host.run_arguments()).arg("--purge").output().context("cannot run netd")
}

fn program_ids(site: &Site) -> Result<Vec<u64>> {
    let status = site.host.json(["status", "--json"])?;
    let programs = status["programs"].as_array().context("no programs")?;
    let ids: Vec<u64> = programs.iter().filter_map(|one| one["id"].as_u64()).collect();
    ensure!(!ids.is_empty(), "netd status names no programs");
    Ok(ids)
}

fn loaded(ids: &[u64]) -> bool {
    aya::programs::loaded_programs().flatten().any(|program| ids.contains(&u64::from(program.id())))
}

/// `purge` after the daemon has ended by `signal`: nothing is left of netd, and all of what is not netd's.
fn nothing_is_left(test: &str, signal: Signal) {
    let config = "[networks.default]\n[networks.other]\nsubnets = [\"10.89.0.0/24\"]\n";
    with_stopped_site(test, config, |site| {
        let host = site.host.namespace.clone();
        // Things of others, some of which look like netd's.
        // Also of ports that netd takes.
        host.set_sysctl("net.ipv4.ip_local_reserved_ports", "8080,50000-50010")?;
        let neighbour = site.lab.namespace("neighbour")?;
        site.lab.cable(
            End { namespace: &host, interface: "nd0123456789", address: Some("192.0.2.1/24") },
            End { namespace: &neighbour, interface: "eth0", address: None },
        )?;
        host.ip(["address add 10.77.0.1/32 dev lo", "route add 10.78.0.0/16 dev nd0123456789"])?;
        let before = Snapshot::of(&site.host)?;

        site.host.start()?;
        let a = site.container_with("a", &["-p", "8080:7"])?;
        let b = site.container_with("b", &["--network", "other"])?;
        let created = site.host.netd([
            "network",
            "create",
            "third",
            "--subnet",
            "10.90.0.0/24",
            "--subnet",
            "fd90::/64",
        ])?;
        ensure!(created.status.success());
        let c = site.container_with("c", &["--network", "third"])?;
        ensure!(Snapshot::of(&site.host)? != before, "the snapshot does not see what netd makes");
        let ids = program_ids(site)?;
        ensure!(loaded(&ids), "the kernel has no programs {ids:?}");

        site.host.stop(signal)?;
        let output = purge(site)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{said}");
        let after = Snapshot::of(&site.host)?;
        ensure!(after == before, "not as before: {}", before.difference(&after));
        for container in [a, b, c] {
            let links = container.namespace.ip_json("link show type veth")?;
            let left = links.as_array().into_iter().flatten().any(|link| !link["ifname"].is_null());
            ensure!(!left, "{} has {links}", container.name);
        }
        for path in [site.host.state(), site.host.socket(), site.host.bpffs().to_owned()] {
            ensure!(!path.exists(), "{} is left", path.display());
        }
        eventually("the kernel has dropped the programs", Duration::from_secs(5), || Ok(!loaded(&ids)))?;

        // Nothing to do is fine, and a fresh start too.
        ensure!(purge(site)?.status.success(), "a second purge fails");
        site.services.clear();
        site.host.start()?;
        ensure!(site.endpoints()?.is_empty());
        site.container("d")?;
        Ok(())
    });
}

#[test]
fn nothing_is_left_after_sigterm_and_purge() {
    nothing_is_left("nothing_is_left_after_sigterm_and_purge", Signal::SIGTERM);
}

#[test]
fn nothing_is_left_after_sigkill_and_purge() {
    nothing_is_left("nothing_is_left_after_sigkill_and_purge", Signal::SIGKILL);
}

/// Where netd never was, nothing is netd's, though it looks like it.
#[test]
fn others_keep_what_they_have() {
    with_stopped_site("others_keep_what_they_have", "[nat]\nports = \"50000-60000\"\n", |site| {
        let host = site.host.namespace.clone();
        host.set_sysctl("net.ipv4.ip_local_reserved_ports", "50000-60000")?;
        host.set_sysctl("net.ipv4.conf.lo.forwarding", "1")?;
        let before = Snapshot::of(&site.host)?;
        ensure!(purge(site)?.status.success(), "it fails");
        let after = Snapshot::of(&site.host)?;
        ensure!(after == before, "not as before: {}", before.difference(&after));
        // Nor where it was.
        site.host.start()?;
        let mode = |path: &Path| Ok::<_, anyhow::Error>(fs::metadata(path)?.permissions().mode() & 0o777);
        let state = site.host.state();
        ensure!(mode(&state)? == 0o700, "others can read {}", state.display());
        for entry in fs::read_dir(&state)? {
            let path = entry?.path();
            ensure!(mode(&path)? == 0o600, "others can read {}", path.display());
        }
        site.host.stop(Signal::SIGKILL)?;
        site.host.start()?;
        site.host.stop(Signal::SIGKILL)?;
        ensure!(purge(site)?.status.success(), "it fails");
        let after = Snapshot::of(&site.host)?;
        ensure!(after == before, "not as before: {}", before.difference(&after));
        Ok(())
    });
}

#[test]
fn purge_refuses_while_a_daemon_runs() {
    netd_tests::with_site("purge_refuses_while_a_daemon_runs", "", |site| {
        let a = site.container("a")?;
        let before = Snapshot::of(&site.host)?;
        let output = purge(site)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let pid = site.host.process().context("no daemon")?.pid().to_string();
        ensure!(output.status.code() == Some(1) && said.contains(&pid), "{}: {said}", output.status);
        ensure!(Snapshot::of(&site.host)? == before, "something was changed");
        netd_tests::site::reach(&site.host.namespace, a.address, a.gateway)
    });
}
