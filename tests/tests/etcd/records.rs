//! What is in etcd: nonsense, what is of another history, and who has a name.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::*;

/// How long it may take until a daemon looks whether there is room again.
const AGAIN: Duration = Duration::from_secs(30);

fn problems(host: &Host) -> Result<Vec<String>> {
    let output = host.netd(["status", "--json"])?;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let problems = status["problems"].as_array().context("no problems")?;
    Ok(problems.iter().filter_map(|problem| problem.as_str()).map(str::to_owned).collect())
}

#[test]
fn garbage_in_etcd() {
    with_etcd("garbage_in_etcd", "vxlan", 1, |cluster, etcd| {
        let put_garbage = |round: u32| -> Result<()> {
            for (key, value) in [
                ("/netd", "x"),
                ("/netd/", "x"),
                ("/netd/v1/", ""),
                ("/netd/v1/nodes/", "{}"),
                ("/netd/v1/nodes/three", "{"),
                (
                    "/netd/v1/nodes/four",
                    r#"{"id":"x","address":"224.0.0.1","transport":"auto","mtu":1,"uses":[]}"#,
                ),
                ("/netd/v1/nodes/a b", "[]"),
                ("/netd/v1/nodes/a\n2026-01-01 INFO forged", "[]"),
                ("/netd/v1/slices/default/10.88.78.0-24", "{\"node\":\"\\nINFO forged\"}"),
                (
                    "/netd/v1/nodes/six",
                    r#"{"id":"x","address":"192.0.2.1","transport":"\nINFO forged","mtu":1500,"uses":[]}"#,
                ),
                ("/netd/v1/networks/red", r#"{"number":99999,"subnet":"0.0.0.0/0"}"#),
                ("/netd/v1/slices/default/10.88.0.0-16", r#"{"node":"five"}"#),
                ("/netd/v1/slices/default/1.2.3.4-24", r#"{"node":"five"}"#),
                ("/netd/v1/slices/none/10.88.77.0-24", r#"{"node":"five"}"#),
                ("/netd/v2/nodes/later", "?"),
            ] {
                etcd.put(key, format!("{value}{}", " ".repeat(round as usize)))?;
            }
            etcd.put("/netd/v1/nodes/\u{0}\n", vec![0xff, 0xfe])?;
            etcd.put("/netd/v1/nodes/huge", vec![b'['; 200_000])
        };
        put_garbage(0)?;
        // More than fits into one answer, and records as large as etcd takes them.
        for number in 0..60 {
            etcd.put(&format!("/netd/v1/nodes/large-{number}"), vec![b'['; 1_400_000])?;
        }
        let (a, b) = pair(cluster)?;
        talk(&a, &b)?;
        put_garbage(1)?;
        done(&cluster.nodes[0], &["network", "create", "blue", "--subnet", "10.90.0.0/16"])?;
        has_network(&cluster.nodes[1], "blue", true)?;
        talk(&a, &b)?;
        let log = cluster.nodes[0].log();
        ensure!(log.contains("/netd/v1/nodes/three does not count"), "{log}");
        let forged = |line: &&str| line.contains("INFO forged") && !line.contains("does not count");
        ensure!(log.contains("INFO forged") && !log.lines().any(|line| forged(&line)), "{log}");
        ensure!(nodes(&cluster.nodes[0])?.len() == 1, "{:?}", nodes(&cluster.nodes[0])?);
        Ok(())
    });
}

#[test]
fn a_name_has_one_node() {
    with_etcd("a_name_has_one_node", "direct", 1, |cluster, etcd| {
        let same = netd::lab::cluster::etcd_configuration("one", &etcd.endpoints(), "direct");
        cluster.nodes[1].configure(&same)?;
        cluster.nodes[0].start()?;
        let error = cluster.nodes[1].start().err().context("it starts")?;
        let text = format!("{error:#}");
        ensure!(
            text.contains("node name `one` is taken in the cluster by 198.18.1.2: set node.name"),
            "{text}"
        );
        // Neither do two that disagree about a network work together.
        let other = netd::lab::cluster::etcd_configuration("two", &etcd.endpoints(), "direct");
        cluster.nodes[1].configure(&other.replace("10.88.0.0/16", "10.87.0.0/16"))?;
        let error = cluster.nodes[1].start().err().context("it starts")?;
        let text = format!("{error:#}");
        ensure!(
            text.contains("networks.default.subnets: the cluster has network `default` with 10.88.0.0/16"),
            "{text}"
        );
        Ok(())
    });
}

/// Whoever can write to etcd takes no network away from those who use it by writing nonsense; and every node says what
/// makes no sense.
#[test]
fn a_bad_record_costs_no_network() {
    with_etcd("a_bad_record_costs_no_network", "vxlan", 1, |cluster, etcd| {
        let (a, b) = pair(cluster)?;
        let records: BTreeMap<String, String> = etcd.get("/netd/v1/")?.into_iter().collect();
        let before = [other(&cluster.nodes[0])?.subnets, other(&cluster.nodes[1])?.subnets];
        let traffic = Traffic::start(&a, &b)?;
        let network = "/netd/v1/networks/default";
        let default = records.get(network).context("no record of the network")?;
        let mut slices = records.keys().filter(|key| key.starts_with("/netd/v1/slices/default/"));
        let slice = slices.next_back().context("no slice")?;
        let aaa = "/netd/v1/networks/aaa";
        for (key, value) in [
            (aaa, default.replace("10.88.", "10.77.").replace("fd88:", "fd77:")),
            (aaa, default.replace("10.88.0.0/16", "10.88.0.0/24").replace("number\":", "number\":9")),
            (network, "garbage".to_owned()),
            (network, default.replace("number\":", "number\":9")),
            (network, default.replace("10.88.", "10.77.")),
            (slice, "?".to_owned()),
        ] {
            etcd.put(key, value.as_str())?;
            for (node, before) in cluster.nodes.iter().zip(&before) {
                eventually(&format!("{key} does not count"), SOON, || {
                    Ok(problems(node)?
                        .iter()
                        .any(|problem| problem.starts_with(&format!("etcd: {key} does not"))))
                })?;
                let after = other(node)?.subnets;
                ensure!(after == *before, "{key} = {value}: {before:?} became {after:?}");
                ensure!(!node.netd(["status"])?.status.success(), "{key} = {value}: all is said to be well");
            }
            talk(&a, &b)?;
            // A daemon that starts now knows what it knew.
            if value == "garbage" || value == "?" {
                cluster.nodes[1].stop(Signal::SIGKILL)?;
                cluster.nodes[1].start()?;
                ensure!(other(&cluster.nodes[1])?.subnets == before[1], "{key} = {value}");
            }
            match records.get(key) {
                Some(good) => etcd.put(key, good.as_str())?,
                None => etcd.delete(key)?,
            }
            for node in &cluster.nodes {
                healthy(node, true)?;
            }
        }
        traffic.lost_nothing()
    });
}

/// A machine that is a copy of another one, with its state directory, is another node.
#[test]
fn a_copy_of_a_machine_takes_nothing() {
    with_etcd("a_copy_of_a_machine_takes_nothing", "direct", 1, |cluster, etcd| {
        let same = netd::lab::cluster::etcd_configuration("one", &etcd.endpoints(), "direct");
        cluster.nodes[1].configure(&same)?;
        cluster.nodes[0].start()?;
        cluster.nodes[0].stop(Signal::SIGTERM)?;
        let copy = cluster.nodes[1].state();
        std::fs::create_dir_all(&copy)?;
        std::fs::copy(cluster.nodes[0].state().join("netd.redb"), copy.join("netd.redb"))?;
        cluster.nodes[0].start()?;
        let registered = |etcd: &Etcd| etcd.get("/netd/v1/nodes/");
        let before = registered(etcd)?;
        let error = cluster.nodes[1].start().err().context("it starts")?;
        let text = format!("{error:#}");
        ensure!(
            text.contains(
                "node name `one` is taken in the cluster by 198.18.1.2, of whose state directory this one's is a copy: \
                 set node.name"
            ),
            "{text}"
        );
        ensure!(registered(etcd)? == before, "{:?}", registered(etcd)?);
        healthy(&cluster.nodes[0], true)?;
        // Nor does it give back what is the other's.
        let mut command = cluster.nodes[1].namespace.command(binary()?)?;
        command.args(cluster.nodes[1].run_arguments()).arg("--purge");
        let output = command.output().context("cannot run netd")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ensure!(registered(etcd)? == before, "{:?}", registered(etcd)?);
        ensure!(etcd.get("/netd/v1/slices/")?.len() == 2, "{:?}", etcd.get("/netd/v1/slices/")?);
        // With a name of its own it is a node as any other; and one that only was away comes back at once.
        let own = netd::lab::cluster::etcd_configuration("two", &etcd.endpoints(), "direct");
        cluster.nodes[1].configure(&own)?;
        cluster.nodes[1].start()?;
        cluster.nodes[0].stop(Signal::SIGKILL)?;
        cluster.nodes[0].start()?;
        healthy(&cluster.nodes[0], true)?;
        // Where the first one is no more, its state goes on elsewhere, as after a restart with another address: when the
        // lease has ended, for which the start waits.
        cluster.nodes[1].stop(Signal::SIGTERM)?;
        cluster.nodes[1].configure(&same)?;
        eventually("nobody has its address", SOON, || Ok(registered(etcd)?.len() == 1))?;
        cluster.nodes[0].stop(Signal::SIGKILL)?;
        std::fs::copy(cluster.nodes[0].state().join("netd.redb"), copy.join("netd.redb"))?;
        cluster.nodes[1].start()?;
        let waited = "waiting until the lease of this node's name ends";
        ensure!(cluster.nodes[1].log().contains(waited), "{}", cluster.nodes[1].log());
        healthy(&cluster.nodes[1], true)
    });
}

/// Which addresses are a node's is in its state alone as long as it has not joined: nothing is taken in.
#[test]
fn a_node_that_has_lost_its_state_cuts_nobody_off() {
    with_etcd("a_node_that_has_lost_its_state_cuts_nobody_off", "direct", 1, |cluster, etcd| {
        let (a, b) = pair(cluster)?;
        let traffic = Traffic::start(&a, &b)?;
        let registered = etcd.get("/netd/v1/nodes/")?;
        cluster.nodes[0].stop(Signal::SIGKILL)?;
        let file = cluster.nodes[0].state().join("netd.redb");
        let right = std::fs::read(&file)?;
        std::fs::remove_file(&file)?;
        let error = cluster.nodes[0].start().err().context("it starts")?;
        let text = format!("{error:#}");
        let line = text.lines().find(|line| line.contains("does not have endpoint `"));
        ensure!(line.is_some_and(|line| line.contains(&a.host_interface)), "{text}");
        ensure!(etcd.get("/netd/v1/nodes/")? == registered, "{:?}", etcd.get("/netd/v1/nodes/")?);
        std::fs::write(&file, right)?;
        cluster.nodes[0].start()?;
        healthy(&cluster.nodes[0], true)?;
        traffic.lost_nothing()
    });
}

/// What came after the backup is gone for all, also for one that was not there when it was put back.
#[test]
fn etcd_is_restored_from_a_backup() {
    with_etcd("etcd_is_restored_from_a_backup", "direct", 1, |cluster, etcd| {
        let (a, b) = pair(cluster)?;
        etcd.stop(0, Signal::SIGTERM)?;
        etcd.back_up(0)?;
        etcd.restart(&cluster.lab, 0)?;
        healthy(&cluster.nodes[0], true)?;
        healthy(&cluster.nodes[1], true)?;
        done(&cluster.nodes[1], &["network", "create", "blue", "--subnet", "10.90.0.0/16"])?;
        has_network(&cluster.nodes[0], "blue", true)?;
        let traffic = Traffic::start(&a, &b)?;
        cut_off(&cluster.nodes[0], etcd, true)?;
        healthy(&cluster.nodes[0], false)?;
        etcd.stop(0, Signal::SIGKILL)?;
        etcd.restore(0)?;
        etcd.restart(&cluster.lab, 0)?;
        has_network(&cluster.nodes[1], "blue", false)?;
        // The revisions of the new history pass those of the old one.
        let others: Vec<(String, String)> =
            (0..200).map(|n| (format!("/other/{n}"), String::new())).collect();
        for record in &others {
            etcd.put_all(std::slice::from_ref(record))?;
        }
        cut_off(&cluster.nodes[0], etcd, false)?;
        healthy(&cluster.nodes[0], true)?;
        has_network(&cluster.nodes[0], "blue", false)?;
        presence(&cluster.nodes[0], Presence::Registered)?;
        presence(&cluster.nodes[1], Presence::Registered)?;
        traffic.lost_nothing()
    });
}

/// Somebody who writes without end keeps nobody from joining, and is named.
#[test]
fn more_than_there_is_room_for() {
    with_etcd("more_than_there_is_room_for", "direct", 1, |cluster, etcd| {
        // Before all that is netd's, in the order of the keys.
        let slice = |number: u32| {
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(11, 0, 0, 0).to_bits() + (number << 4));
            (format!("/netd/v1/slices/aaa/{address}-28"), r#"{"node":"evil"}"#.to_owned())
        };
        etcd.put_all(&(0..12_000).map(slice).collect::<Vec<_>>())?;
        let (a, b) = pair(cluster)?;
        talk(&a, &b)?;
        for node in &cluster.nodes {
            let told = problems(node)?;
            let is_told =
                told.iter().any(|problem| problem.contains("2000 records below /netd/v1/ are more than"));
            ensure!(is_told, "{told:?}");
            ensure!(told.len() < 10, "{} lines", told.len());
        }
        etcd.delete("/netd/v1/slices/aaa/")?;
        for node in &cluster.nodes {
            eventually("there is room again", 2 * AGAIN, || Ok(problems(node)?.is_empty()))?;
        }
        talk(&a, &b)
    });
}
