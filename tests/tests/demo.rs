//! `netd demo`, as its users call it.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use netd::lab::{Lab, host::binary};
use netd_tests::site::{on_an_oddly_named_host, skipped};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

fn demo(options: &[&str]) -> Result<Child> {
    start(Command::new(binary()?), options)
}

fn start(mut command: Command, options: &[&str]) -> Result<Child> {
    command.arg("demo").args(options).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().context("cannot run netd demo")
}

fn finish(child: Child) -> Result<Output> {
    child.wait_with_output().context("cannot wait for netd demo")
}

/// What there is of a demo's: namespaces, files, pins and processes.
fn remains(demo: u32) -> Vec<String> {
    let prefix = format!("nd-demo-{demo}-");
    let mut found = Vec::new();
    for directory in ["/run/netns", "/run/netd-lab", "/sys/fs/bpf/netd-lab"] {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if words.contains(&prefix) {
            found.push(format!("process {}: {words}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

fn test(name: &str, body: fn() -> Result<()>) {
    if !skipped(name)
        && let Err(error) = body()
    {
        panic!("{name}: {error:#}");
    }
}

#[test]
fn it_passes_and_says_so_in_json() {
    test("it_passes_and_says_so_in_json", || {
        let child = start(on_an_oddly_named_host(&binary()?), &["--json"])?;
        let pid = child.id();
        let output = finish(child)?;
        let said = String::from_utf8_lossy(&output.stderr);
        let report: Value = serde_json::from_slice(&output.stdout).context("not JSON")?;
        let configurations = report["configurations"].as_array().context("no configurations")?;
        let failed: Vec<&Value> = configurations
            .iter()
            .flat_map(|one| one["checks"].as_array().into_iter().flatten())
            .filter(|check| check["passed"] != true)
            .collect();
        ensure!(failed.is_empty(), "{failed:#?}");
        ensure!(output.status.code() == Some(0), "{}: {said}\n{report:#}", output.status);

        ensure!(configurations.len() == 4);
        for (index, configuration) in configurations.iter().enumerate() {
            ensure!(configuration["number"] == index + 1);
            ensure!(configuration["name"].is_string());
            ensure!(configuration["passed"] == true, "{configuration:#}");
            for check in configuration["checks"].as_array().context("no checks")? {
                for key in ["from", "to", "what", "detail"] {
                    ensure!(check[key].is_string(), "{check} has no {key}");
                }
            }
        }
        for key in ["bridges", "netfilter_rules", "conntrack_entries"] {
            ensure!(report["host"][key] == 0, "{key}: {}", report["host"]);
        }
        let what = |number: usize, what: &str| {
            let checks = configurations[number - 1]["checks"].as_array().into_iter().flatten();
            checks.filter(|check| check["what"].as_str().is_some_and(|text| text.starts_with(what))).count()
        };
        for number in 1..=4 {
            for protocol in ["ICMP", "TCP", "UDP", "HTTP", "masquerade"] {
                ensure!(what(number, protocol) > 0, "nothing was tried by {protocol} in {number}");
            }
            let ipv6 = Path::new("/proc/sys/net/ipv6").exists();
            ensure!((what(number, "IPv6") > 0) == ipv6, "IPv6 was not tried in {number}");
        }
        // Ordered pairs of containers in different networks.
        for (number, pairs) in [(2, 6), (3, 16), (4, 8)] {
            ensure!(what(number, "TCP is blocked") == pairs, "isolation was not tried in {number}");
        }
        for number in [3, 4] {
            ensure!(what(number, "carried between the hosts") == 1, "nothing says what carried it");
        }
        ensure!(remains(pid).is_empty(), "left: {:?}", remains(pid));
        Ok(())
    });
}

#[test]
fn interrupted_it_leaves_nothing() {
    test("interrupted_it_leaves_nothing", || {
        let moments = [0, 10, 30, 80, 150, 300, 500, 800];
        let mut interrupted = 0;
        for (index, milliseconds) in moments.into_iter().enumerate() {
            let signal = [Signal::SIGINT, Signal::SIGTERM][index % 2];
            let child = demo(&["--json"])?;
            let pid = child.id();
            // From the moment on at which there is something to remove.
            let deadline = Instant::now() + Duration::from_secs(5);
            while remains(pid).iter().all(|one| !one.starts_with('/')) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_millis(milliseconds));
            kill(Pid::from_raw(pid.cast_signed()), signal)?;
            let output = finish(child)?;
            let said = String::from_utf8_lossy(&output.stderr);
            let expected = 128 + signal as i32;
            // A fast machine may be through by then.
            if output.status.code() != Some(0) {
                interrupted += 1;
                let code = output.status.code();
                ensure!(
                    code == Some(expected),
                    "{signal} after {milliseconds} ms: {}: {said}",
                    output.status
                );
                ensure!(output.stdout.is_empty(), "half a report was printed");
            }
            let left = remains(pid);
            ensure!(left.is_empty(), "{signal} after {milliseconds} ms: left {left:?}");
        }
        ensure!(interrupted >= 4, "only {interrupted} of {} were interrupted", moments.len());
        Ok(())
    });
}

#[test]
fn what_a_killed_one_leaves_the_next_one_sweeps() {
    test("what_a_killed_one_leaves_the_next_one_sweeps", || {
        let mut child = demo(&["--json"])?;
        let pid = child.id();
        let daemon = || remains(pid).iter().any(|one| one.starts_with("process"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !daemon() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        child.kill()?;
        child.wait()?;
        ensure!(daemon(), "there was nothing to sweep");
        drop(Lab::new("test")?);
        let deadline = Instant::now() + Duration::from_secs(5);
        // The kernel takes a moment to let a killed process go.
        while !remains(pid).is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        ensure!(remains(pid).is_empty(), "left: {:?}", remains(pid));
        Ok(())
    });
}

#[test]
fn kept_it_stays_until_it_is_cleaned() {
    test("kept_it_stays_until_it_is_cleaned", || {
        let child = demo(&["--keep"])?;
        let pid = child.id();
        let output = finish(child)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let cleaned = (|| -> Result<()> {
            ensure!(output.status.success(), "{text}");
            // Not swept by others.
            drop(Lab::new("test")?);
            // The commands that it prints work: all but the one that captures until it is stopped.
            let commands: Vec<&str> = text
                .lines()
                .map(str::trim)
                .filter(|line| line.contains("nsenter") || line.contains("--socket"))
                .filter(|line| !line.contains("tcpdump"))
                .collect();
            ensure!(commands.len() >= 8, "only {commands:?}");
            for command in commands {
                let ran = Command::new("sh").args(["-c", command]).output()?;
                let said = String::from_utf8_lossy(&ran.stderr).into_owned();
                ensure!(ran.status.success(), "{command}: {}: {said}", ran.status);
            }
            Ok(())
        })();
        let name = format!("nd-demo-{pid}-0");
        let clean = finish(demo(&[&format!("--clean={name}")])?)?;
        cleaned?;
        ensure!(clean.status.success(), "{}", String::from_utf8_lossy(&clean.stderr));
        ensure!(text.contains(&format!("--clean={name}")), "the way to remove it is not printed");
        let deadline = Instant::now() + Duration::from_secs(5);
        while !remains(pid).is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        ensure!(remains(pid).is_empty(), "left: {:?}", remains(pid));
        ensure!(!Path::new("/run/netd-lab").join(&name).exists());
        let again = finish(demo(&[&format!("--clean={name}")])?)?;
        ensure!(again.status.code() == Some(1), "removed twice");
        Ok(())
    });
}

#[test]
fn without_root_it_says_so() {
    test("without_root_it_says_so", || {
        let directory = tempfile::tempdir()?;
        let copy = directory.path().join("netd");
        fs::copy(binary()?, &copy)?;
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(directory.path(), open)?;
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&copy)
            .arg("demo")
            .output()
            .context("cannot run setpriv")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(1) && said.lines().count() == 1 && said.contains("root"),
            "{said}"
        );
        Ok(())
    });
}
