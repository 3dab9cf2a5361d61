//! What the daemon keeps, damaged, exchanged or taken away while it was not there: it refuses in one line, or it works; and the containers
//! go on in any case.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Output,
};

use anyhow::{Context, Result, ensure};
use netd::lab::{Container, host::binary, icmp};
use netd_tests::{
    Site,
    refusals::{refused, run},
    site::{PATIENCE, reach},
    snapshot, with_site,
};
use nix::sys::signal::Signal;

/// That the container still reaches the host and the world.
fn goes_on(site: &Site, a: &Container) -> Result<()> {
    a.namespace.run(|| {
        icmp::ping(a.gateway, 56, PATIENCE)?;
        icmp::ping(site.world.address, 56, PATIENCE)
    })?;
    Ok(())
}

/// Replaces a file, whatever it is now.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn noise(length: usize) -> Vec<u8> {
    let mut random = u64::from(std::process::id());
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn a_damaged_state_is_refused_and_nothing_is_touched() {
    with_site("a_damaged_state_is_refused_and_nothing_is_touched", "", |site| {
        let a = site.container_with("a", &["-p", "8080:7"])?;
        site.host.stop(Signal::SIGTERM)?;
        let (netd, file) = (binary()?, site.host.state().join("netd.redb"));
        let good = fs::read(&file).context("no state")?;
        let refuse = |site: &Site, what: &str| -> Result<()> {
            refused(what, &run(site, &[], &netd)?, 1, &["netd.redb"])?;
            goes_on(site, &a).with_context(|| format!("{what}: the container"))
        };
        for length in [1, 100, 4096, good.len() / 2] {
            put(&file, &good[..length])?;
            refuse(site, &format!("cut to {length} bytes"))?;
        }
        for (what, bytes) in
            [("noise", noise(good.len())), ("zeros", vec![0; good.len()]), ("text", vec![b'x'; 9000])]
        {
            put(&file, &bytes)?;
            refuse(site, what)?;
            ensure!(fs::read(&file)? == bytes, "{what}: the file was overwritten");
        }
        fs::remove_file(&file)?;
        fs::create_dir(&file)?;
        refuse(site, "a directory")?;
        fs::remove_dir(&file)?;
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)?;
        refuse(site, "a pipe")?;
        // What a link leads to is not overwritten.
        let victim = site.lab.directory().join("victim");
        fs::write(&victim, "precious")?;
        fs::remove_file(&file)?;
        symlink(&victim, &file)?;
        refuse(site, "a link to a text")?;
        ensure!(fs::read(&victim)? == b"precious", "a file was overwritten");

        put(&file, &good)?;
        site.host.start()?;
        ensure!(site.endpoint("a")?.is_some(), "the endpoint is lost");
        reach(&a.namespace, site.world.address, site.host.address)
    });
}

#[test]
fn files_in_place_of_others() {
    with_site("files_in_place_of_others", "", |site| {
        let a = site.container("a")?;
        site.host.stop(Signal::SIGTERM)?;
        let victim = site.lab.directory().join("victim");
        fs::write(&victim, "precious")?;
        let socket = site.host.socket();
        let (netd, name) = (binary()?, ["netd.sock"]);
        symlink(&victim, &socket)?;
        refused("a link in place of the socket", &run(site, &[], &netd)?, 1, &name)?;
        fs::remove_file(&socket)?;
        fs::write(&socket, "x")?;
        refused("a file in place of the socket", &run(site, &[], &netd)?, 1, &name)?;
        ensure!(fs::read(&socket)? == b"x", "the file was overwritten");
        fs::remove_file(&socket)?;
        goes_on(site, &a)?;
        // What locks the state is not written to.
        let lock = site.host.state().join("lock");
        if lock.exists() {
            fs::remove_file(&lock)?;
        }
        symlink(&victim, &lock)?;
        let output = run(site, &["timeout", "-s", "TERM", "3"], &netd)?;
        ensure!(output.status.code().is_some(), "{}", output.status);
        ensure!(fs::read(&victim)? == b"precious", "what locks the state has overwritten a file");
        fs::remove_file(&lock)?;
        site.host.start()?;
        reach(&a.namespace, site.world.address, site.host.address)
    });
}

/// The pins below a directory of this name: `maps`, `links`, `sockets`.
fn pins(site: &Site, kind: &str) -> Vec<PathBuf> {
    let root = site.host.bpffs();
    let of_kind = |path: &PathBuf| path.iter().any(|part| part == kind);
    snapshot::pins(root).into_iter().filter(of_kind).map(|path| root.join(path)).collect()
}

/// Kills the daemon, changes something, starts it again: the container works, and a new one.
fn restarted(
    site: &mut Site,
    a: &Container,
    what: &str,
    change: impl FnOnce(&Site) -> Result<()>,
) -> Result<()> {
    site.host.stop(Signal::SIGKILL)?;
    change(site).with_context(|| what.to_owned())?;
    site.host.start().with_context(|| what.to_owned())?;
    reach(&a.namespace, site.world.address, site.host.address)
        .with_context(|| format!("{what}: the container"))?;
    reach(&site.host.namespace, a.address, a.gateway).with_context(|| format!("{what}: from the host"))?;
    let problems = site.host.json(["status", "--json"])?["problems"].clone();
    ensure!(problems.as_array().is_some_and(Vec::is_empty), "{what}: {problems}");
    Ok(())
}

#[test]
fn pins_that_are_gone_are_made_anew() {
    with_site("pins_that_are_gone_are_made_anew", "", |site| {
        let a = site.container_with("a", &["-p", "8080:7"])?;
        let remove = |paths: &[PathBuf]| -> Result<()> {
            ensure!(!paths.is_empty(), "there is nothing to remove");
            paths
                .iter()
                .try_for_each(|path| fs::remove_file(path).with_context(|| format!("no {}", path.display())))
        };
        for map in ["CONFIG4", "ENDPOINTS4", "INTERFACES4", "FLOWS4", "ROUTES4", "STEPS", "COUNTERS"] {
            restarted(site, &a, map, |site| {
                let all = pins(site, "maps");
                let found = all
                    .into_iter()
                    .find(|path| path.ends_with(map))
                    .with_context(|| format!("no map {map}"))?;
                remove(&[found])
            })?;
        }
        for kind in ["maps", "links"] {
            restarted(site, &a, kind, |site| remove(&pins(site, kind)))?;
        }
        restarted(site, &a, "all pins", |site| {
            fs::remove_dir_all(site.host.bpffs()).context("cannot remove the pins")
        })?;
        let b = site.container("b")?;
        reach(&b.namespace, a.address, b.address)
    });
}

/// Checks that it failed with a last line that has these words in it, after what it had to say before.
fn refused_at_last(what: &str, output: &Output, words: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or_default();
    ensure!(
        output.status.code() == Some(1) && last.starts_with("netd: "),
        "{what}: {}: {said}",
        output.status
    );
    ensure!(words.iter().all(|word| last.contains(word)), "{what}: {words:?} are not named: {last}");
    Ok(())
}

#[test]
fn pins_that_are_others_are_refused_by_name() {
    with_site("pins_that_are_others_are_refused_by_name", "", |site| {
        let a = site.container("a")?;
        site.host.stop(Signal::SIGKILL)?;
        let netd = binary()?;
        let all = pins(site, "maps");
        let path = |name: &str| {
            all.iter().find(|path| path.ends_with(name)).cloned().with_context(|| format!("no map {name}"))
        };
        let aside = site.host.bpffs().join("aside");
        // Another's map: the pins of two exchanged.
        for (one, other) in [("ROUTES4", "ROUTES6"), ("ENDPOINTS4", "CONFIG4"), ("FLOWS4", "FLOWS6")] {
            let (one_path, other_path) = (path(one)?, path(other)?);
            let exchange = || -> std::io::Result<()> {
                fs::rename(&one_path, &aside)?;
                fs::rename(&other_path, &one_path)?;
                fs::rename(&aside, &other_path)
            };
            exchange()?;
            let output = run(site, &[], &netd)?;
            let named = String::from_utf8_lossy(&output.stderr).contains(&format!("{one} has another shape"));
            let name = if named { one } else { other };
            let words = [name, "has another shape", "--purge"];
            refused_at_last(&format!("{one} and {other} exchanged"), &output, &words)?;
            goes_on(site, &a)?;
            exchange()?;
        }
        // No map at all.
        let flows = path("FLOWS6")?;
        fs::rename(&flows, &aside)?;
        fs::create_dir(&flows)?;
        refused_at_last("a directory in place of a map", &run(site, &[], &netd)?, &["FLOWS6"])?;
        goes_on(site, &a)?;
        fs::remove_dir(&flows)?;
        fs::rename(&aside, &flows)?;
        site.host.start()?;
        reach(&a.namespace, site.world.address, site.host.address)
    });
}
