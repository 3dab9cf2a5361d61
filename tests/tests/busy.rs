//! The daemon answers while something goes on that could keep it busy. How long the answers took is printed; what decides is that
//! they came before the work was done, and what that work has cost.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use netd::lab::{Container, icmp};
use netd_tests::{
    Site,
    site::{PATIENCE, eventually, reach},
    with_site,
};
use nix::sys::signal::Signal;

/// How long something takes at most that must happen.
const LONG: Duration = Duration::from_secs(60);

/// Asks for the list of endpoints again and again while something is done, and once more if that was too short. Returns what that
/// came to, and how many answers came before its end.
fn ask_while<T: Send>(
    site: &Site,
    what: &str,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<(T, usize)> {
    thread::scope(|scope| {
        let work = scope.spawn(work);
        let mut answers = Vec::new();
        while !work.is_finished() {
            let start = Instant::now();
            let output = site.host.netd(["ls"])?;
            ensure!(output.status.success(), "netd ls: {}", String::from_utf8_lossy(&output.stderr));
            if !work.is_finished() {
                answers.push(start.elapsed());
            }
        }
        answers.sort_unstable();
        let at = |part: usize| answers.get((answers.len() * part / 100).min(answers.len().saturating_sub(1)));
        println!(
            "{what}: {} answers of netd ls, median {:.1?}, 95 % within {:.1?}, longest {:.1?}",
            answers.len(),
            at(50).copied().unwrap_or_default(),
            at(95).copied().unwrap_or_default(),
            answers.last().copied().unwrap_or_default()
        );
        let done = work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((done, answers.len()))
    })
}

/// What `/proc/PID/status` says of the daemon's memory, in KiB: the most that it ever had.
fn memory(site: &Site) -> Result<u64> {
    let pid = site.host.process().context("no daemon")?.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// The CPU time that the daemon has taken so far.
fn cpu_time(site: &Site) -> Result<Duration> {
    let pid = site.host.process().context("no daemon")?.pid();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name: the 14th and 15th field of all (proc_pid_stat(5)), in hundredths of a second.
    let (_, fields) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(10 * ticks))
}

/// Flows that fill the table of the default size.
const FLOWS: u32 = 262_144;

/// Makes that many, to servers that do not answer.
fn fill(site: &Site, a: &Container) -> Result<()> {
    const SILENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 0);
    site.world.router.ip([format!("route replace blackhole {SILENT}/24")])?;
    let socket = a.namespace.run(|| UdpSocket::bind("0.0.0.0:0").context("cannot bind"))?;
    for number in 0..FLOWS {
        let server = Ipv4Addr::from_bits(SILENT.to_bits() + number / 1024);
        socket.send_to(&[0], SocketAddrV4::new(server, 1024 + (number % 1024) as u16))?;
    }
    Ok(())
}

#[test]
fn it_answers_while_a_full_table_of_flows_goes() {
    // One container gets a third of the table.
    let (table, quota) = (3 * FLOWS, 2 * FLOWS);
    let config = format!("[nat]\nmax-flows = {table}\nmax-flows-per-endpoint = {quota}\n");
    with_site("it_answers_while_a_full_table_of_flows_goes", &config, |site| {
        let a = site.container("a")?;
        fill(site, &a)?;
        let host = &site.host;
        let flush = || host.json(["flows", "--json", "flush"]);
        let (flushed, answers) = ask_while(site, "flows are flushed", flush)?;
        ensure!(flushed["removed"].as_u64() > Some(u64::from(FLOWS) * 9 / 10), "{flushed}");
        ensure!(answers > 0, "no answer came while {} flows went", flushed["removed"]);

        // The same by another address of the uplink's: all flows go, and nobody has asked for it.
        fill(site, &a)?;
        let total = || -> Result<u64> {
            let flows = host.json(["flows", "--limit", "1", "--json"])?;
            flows["total"].as_u64().context("no total")
        };
        ensure!(total()? > u64::from(FLOWS) * 9 / 10, "{} flows", total()?);
        let (own, other) = (host.address, Ipv4Addr::new(198, 18, 1, 77));
        let away = || {
            host.namespace.ip([
                format!("address delete {own}/24 dev eth0"),
                format!("address add {other}/24 dev eth0"),
                "route replace default via 198.18.1.1".to_owned(),
            ])?;
            eventually("the flows of the old address go", LONG, || Ok(total()? < u64::from(FLOWS) / 10))
        };
        let ((), answers) = ask_while(site, "the uplink has another address", away)?;
        ensure!(answers > 0, "no answer came");
        Ok(())
    });
}

#[test]
fn who_has_a_port_is_found_out_once() {
    const PORTS: u16 = 200;
    const FIRST: u16 = 9000;
    with_site("who_has_a_port_is_found_out_once", "", |site| {
        let last = FIRST + PORTS - 1;
        site.container_with("web", &["-p", &format!("0.0.0.0:{FIRST}-{last}:1-{PORTS}")])?;
        site.host.stop(Signal::SIGTERM)?;
        let host = site.host.namespace.clone();
        let listen =
            |port| host.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).context("cannot bind"));
        let mut others = (FIRST..=last).map(listen).collect::<Result<Vec<_>>>()?;
        site.host.start()?;
        let holder = format!("(pid {})", std::process::id());
        let named = || -> Result<usize> {
            let problems = site.status()?["problems"].as_array().context("no problems")?.clone();
            Ok(problems.iter().filter(|problem| problem.to_string().contains(&holder)).count())
        };
        eventually("who has the ports is known", LONG, || Ok(named()? == usize::from(PORTS)))?;
        // Each port that its holder lets go is held again, at a look of its own.
        let mut work = || -> Result<()> {
            for left in [PORTS - 1, PORTS - 2] {
                others.pop();
                eventually("a port is held again", LONG, || Ok(named()? == usize::from(left)))?;
            }
            Ok(())
        };
        let (before, start) = (cpu_time(site)?, Instant::now());
        let ((), answers) = ask_while(site, "200 ports are others'", &mut work)?;
        println!("CPU time {:.1?} in {:.1?}", cpu_time(site)? - before, start.elapsed());
        ensure!(answers > 0, "no answer came");
        let said = format!("published port 0.0.0.0:{FIRST}/tcp is in use");
        let log = site.host.log();
        ensure!(log.matches(&said).count() == 1, "who has a port was said more than once:\n{log}");
        others.clear();
        eventually("all is well", LONG, || Ok(site.host.netd(["status"])?.status.success()))
    });
}

#[test]
fn a_container_that_deletes_its_link_has_to_wait() {
    with_site("a_container_that_deletes_its_link_has_to_wait", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let (stop, deleted) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (before, start) = (cpu_time(site)?, Instant::now());
        let waits = |seconds: u64| -> Result<bool> {
            let problem = site.endpoint("a")?.context("no endpoint a")?["problem"].clone();
            let next = problem.as_str().and_then(|text| text.split_once("next try in "));
            let next = next.and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u64>().ok());
            Ok(next >= Some(seconds))
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    deleted.fetch_add(
                        usize::from(a.namespace.ip(["link delete eth0"]).is_ok()),
                        Ordering::Relaxed,
                    );
                }
            });
            let work = || eventually("it waits for longer and longer", LONG, || waits(4));
            let asked = ask_while(site, "a container deletes its link", work);
            let others = asked.and_then(|((), answers)| {
                ensure!(answers > 0, "no answer came");
                reach(&b.namespace, site.world.address, site.host.address)
            });
            stop.store(true, Ordering::Relaxed);
            others
        })?;
        println!("CPU time {:.1?} in {:.1?}", cpu_time(site)? - before, start.elapsed());
        // At once, and after pauses of 1, 2 and 4 seconds.
        let deleted = deleted.load(Ordering::Relaxed);
        ensure!((3..=10).contains(&deleted), "it was made anew {deleted} times");
        let log = site.host.log();
        ensure!(log.matches("endpoint a: its link is gone").count() <= deleted, "said too often:\n{log}");
        // Left alone, it works again.
        eventually("it works again", LONG, || {
            Ok(a.namespace.run(|| icmp::ping(site.world.address, 56, PATIENCE)).is_ok())
        })?;
        ensure!(site.endpoint("a")?.is_some_and(|a| a["problem"].is_null()), "it has a problem still");
        Ok(())
    });
}

#[test]
fn a_table_of_500_000_routes_is_not_read_all_the_time() {
    const ROUTES: u32 = 500_000;
    const CHANGES: u32 = 400;
    with_site("a_table_of_500_000_routes_is_not_read_all_the_time", "", |site| {
        let host = site.host.namespace.clone();
        site.container("a")?;
        let before = memory(site)?;
        let file = site.lab.directory().join("routes");
        let prefix = |number: u32| Ipv4Addr::from_bits(Ipv4Addr::new(11, 0, 0, 0).to_bits() + (number << 4));
        let lines = (0..ROUTES).map(|number| format!("route add {}/28 dev eth0 proto 12\n", prefix(number)));
        fs::write(&file, lines.collect::<String>())?;
        let fill = || host.output("ip", ["-batch".as_ref(), file.as_os_str()]).map(drop);
        let (_, answers) = ask_while(site, "500,000 routes are added", fill)?;
        ensure!(answers > 0, "no answer came");
        // What a routing daemon does, and default routes come and go: each of those may mean another uplink.
        let change = || -> Result<()> {
            let router = "via 192.0.2.254 dev eth0 onlink proto 12 metric 4000";
            for number in 0..CHANGES / 4 {
                let route = format!("{}/28 dev eth0 proto 12", prefix(number));
                host.ip([format!("route delete {route}"), format!("route add default {router}")])?;
                thread::sleep(Duration::from_millis(20));
                host.ip([format!("route add {route}"), format!("route delete default {router}")])?;
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        };
        let (cpu, start) = (cpu_time(site)?, Instant::now());
        let ((), answers) = ask_while(site, "routes change", change)?;
        println!("CPU time {:.1?} in {:.1?}", cpu_time(site)? - cpu, start.elapsed());
        ensure!(answers > 0, "no answer came");
        // It sees what matters all the same.
        let second = Ipv4Addr::new(203, 0, 113, 77);
        host.ip([format!("address add {second}/32 dev lo")])?;
        let created =
            || site.host.json(["network", "create", "other", "--subnet", "203.0.113.0/24", "--json"]);
        ensure!(created().is_err_and(|error| format!("{error:#}").contains("203.0.113.77")));
        let network = ["network", "create", "beside", "--subnet", "10.77.0.0/24", "--json"];
        let (_, answers) = ask_while(site, "a network is made beside them", || site.host.json(network))?;
        ensure!(answers >= 3, "{answers} answers came while all routes were looked at");
        let grown = memory(site)?.saturating_sub(before);
        println!("memory: {} MiB more than before", grown / 1024);
        ensure!(grown < 64 * 1024, "the daemon kept what it need not: {grown} KiB");
        Ok(())
    });
}
