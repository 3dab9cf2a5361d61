//! Where memory is short: the daemon does with less, or says in one line what it needs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use netd::lab::host::binary;
use netd_tests::{
    Site,
    site::{eventually, reach, with_stopped_site},
};

/// The hierarchy of control groups that can limit memory, and the file that says how much; none: this machine has none.
fn hierarchy() -> Option<(PathBuf, &'static str)> {
    let top = Path::new("/sys/fs/cgroup");
    if top.join("memory").is_dir() {
        return Some((top.join("memory"), "memory.limit_in_bytes"));
    }
    let controllers = fs::read_to_string(top.join("cgroup.controllers")).unwrap_or_default();
    controllers.split_whitespace().any(|one| one == "memory").then(|| (top.to_owned(), "memory.max"))
}

/// A control group of the test's, with a limit of memory. The lab removes it by its name.
fn limited(site: &Site, bytes: u64) -> Result<PathBuf> {
    let (hierarchy, limit) = hierarchy().context("no control groups limit memory")?;
    if limit == "memory.max" {
        fs::write(hierarchy.join("cgroup.subtree_control"), "+memory").context("cannot limit memory")?;
    }
    let group = hierarchy.join(format!("{}-{}", site.lab.prefix(), bytes >> 20));
    fs::create_dir(&group).with_context(|| format!("cannot create {}", group.display()))?;
    fs::write(group.join(limit), bytes.to_string()).context("cannot limit the memory")?;
    Ok(group)
}

/// The daemon in that group.
fn run(site: &Site, group: &Path) -> Result<Command> {
    let mut command = Command::new("sh");
    command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(group.join("cgroup.procs"));
    command.arg(binary()?).args(site.host.run_arguments());
    Ok(command)
}

/// Removes what it has made.
fn purge(site: &Site) -> Result<()> {
    let mut command = site.host.namespace.command(binary()?)?;
    let output = command.args(site.host.run_arguments()).arg("--purge").output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn with_too_little_memory_there_is_room_for_fewer_flows() {
    const TEST: &str = "with_too_little_memory_there_is_room_for_fewer_flows";
    if hierarchy().is_none() {
        eprintln!("SKIP {TEST}: this machine's control groups do not limit memory");
        return;
    }
    with_stopped_site(TEST, "", |site| {
        // Some tables have a part for each CPU.
        let cpus = std::thread::available_parallelism()?.get() as u64;
        let log = site.lab.directory().join("limited.log");
        let group = limited(site, (160 + 4 * cpus) << 20)?;
        let daemon = site.lab.spawn(&site.host.namespace, &run(site, &group)?, &log)?;
        eventually("the daemon is ready", Duration::from_secs(60), || {
            ensure!(daemon.ended()?.is_none(), "it has ended:\n{}", daemon.log());
            Ok(daemon.log().contains("netd ready"))
        })?;
        let status = site.status()?;
        let problems = status["problems"].to_string();
        ensure!(
            status["healthy"] == false && problems.contains("nat.max-flows: there is room for"),
            "{status}"
        );
        ensure!(problems.contains("not for 262144: that takes"), "{problems}");
        let maps = status["maps"].as_array().context("no maps")?;
        let room = maps.iter().find(|map| map["name"] == "flows").and_then(|map| map["capacity"].as_u64());
        ensure!(room < Some(2 * 262_144) && room >= Some(2 * 1024), "{room:?} entries");
        // It works.
        let a = site.container("a")?;
        reach(&a.namespace, site.world.address, site.host.address)?;
        daemon.kill();
        purge(site)?;

        // Less than all but the flows takes is refused, and leaves nothing behind.
        let group = limited(site, 64 << 20)?;
        let daemon = site.lab.spawn(&site.host.namespace, &run(site, &group)?, &log)?;
        let ended = daemon.wait(Duration::from_secs(60))?;
        let said = daemon.log();
        let line = said.lines().last().unwrap_or_default();
        ensure!(ended.code() == Some(1), "{ended}: {said}");
        ensure!(
            line.contains("there is no memory for the tables") && line.contains("nat.max-flows"),
            "{line}"
        );
        Ok(())
    });
}
