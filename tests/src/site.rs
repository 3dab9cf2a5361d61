//! The place where most tests happen: a host with a running daemon, and a world outside.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use netd::lab::{Container, Host, Lab, Namespace, Service, World, echo, icmp};
use serde_json::Value;

/// How long an answer may take that must come, on a machine that is emulated, and has much else to do.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long something may take to become true that must, at least: longer than TCP waits on a machine where a start takes minutes.
const LEAST: Duration = Duration::from_secs(300);
/// How long an answer is waited for that must not come.
pub const SILENCE: Duration = Duration::from_millis(300);

/// A host, the world, and what they are made of. Dropped in this order.
#[derive(Debug)]
pub struct Site {
    /// Servers of the test, ended with it.
    pub services: Vec<Service>,
    /// The host.
    pub host: Host,
    /// The router and the server.
    pub world: World,
    /// What owns all of it.
    pub lab: Lab,
}

/// Runs a test with a host whose daemon has this configuration. Where that cannot be, prints `SKIP` and why. When the test
/// fails, prints the daemon's log.
///
/// # Panics
/// The test fails.
pub fn with_site(test: &str, config: &str, body: impl FnOnce(&mut Site) -> Result<()>) {
    with_stopped_site(test, config, |site| {
        site.host.start()?;
        body(site)
    });
}

/// The same, with the daemon not started yet.
///
/// # Panics
/// The test fails.
pub fn with_stopped_site(test: &str, config: &str, body: impl FnOnce(&mut Site) -> Result<()>) {
    if skipped(test) {
        return;
    }
    let mut site = Site::new(config).expect("the test's network");
    if let Err(error) = body(&mut site) {
        eprintln!("{test}: the daemon's log:\n{}", site.host.log());
        for counter in site.host.counters("drops").unwrap_or_default().iter().filter(|one| one.packets > 0) {
            eprintln!("dropped: {} {}", counter.packets, counter.name);
        }
        for counter in
            site.host.counters("forwarded").unwrap_or_default().iter().filter(|one| one.packets > 0)
        {
            eprintln!("forwarded: {} {}", counter.packets, counter.name);
        }
        panic!("{test}: {error:#}");
    }
}

/// A program on a host with a name that no node can have, `my host!`; its arguments are to be added.
#[must_use]
pub fn on_an_oddly_named_host(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    let script = r#"echo "my host!" > /proc/sys/kernel/hostname && exec "$@""#;
    command.args(["--uts", "sh", "-c", script, "sh"]).arg(program).stdin(Stdio::null());
    command
}

/// Whether the machine cannot run network tests; says so.
#[must_use]
pub fn skipped(test: &str) -> bool {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP {test}: network namespaces and eBPF need root");
        return true;
    }
    false
}

impl Site {
    fn new(config: &str) -> Result<Self> {
        let lab = Lab::new("test")?;
        let world = World::new(&lab)?;
        let host = Host::new(&lab, &world, "host", config)?;
        Ok(Self { services: Vec::new(), host, world, lab })
    }

    /// Attaches a container that serves echo.
    ///
    /// # Errors
    /// The daemon refuses.
    pub fn container(&mut self, name: &str) -> Result<Container> {
        self.container_with(name, &[])
    }

    /// The same with more options of `netd attach`.
    ///
    /// # Errors
    /// The daemon refuses.
    pub fn container_with(&mut self, name: &str, options: &[&str]) -> Result<Container> {
        let container = self.host.container(name, options)?;
        self.serve(&container.namespace, container.address)?;
        if let Some(address6) = container.address6 {
            self.serve(&container.namespace, address6)?;
        }
        Ok(container)
    }

    /// Serves echo at an address in a namespace.
    ///
    /// # Errors
    /// The address is not there.
    pub fn serve(&mut self, namespace: &Namespace, address: impl Into<IpAddr>) -> Result<()> {
        self.services.extend(echo::serve(namespace, SocketAddr::new(address.into(), echo::PORT))?);
        Ok(())
    }

    /// The packets dropped so far for a reason.
    ///
    /// # Errors
    /// The daemon does not answer, or has no such reason.
    pub fn drops(&self, reason: &str) -> Result<u64> {
        self.counter("drops", reason)
    }

    /// The packets in a counter of `netd status`.
    ///
    /// # Errors
    /// The daemon does not answer, or has no such counter.
    pub fn counter(&self, list: &str, name: &str) -> Result<u64> {
        let counters = self.host.counters(list)?;
        let found = counters.iter().find(|counter| counter.name == name);
        found
            .map(|counter| counter.packets)
            .with_context(|| format!("netd status has no {list} named {name}"))
    }

    /// What `netd status` says, whether all is well or not.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn status(&self) -> Result<Value> {
        let output = self.host.netd(["status", "--json"])?;
        let said = || format!("netd status: {}", String::from_utf8_lossy(&output.stderr).trim());
        serde_json::from_slice(&output.stdout).with_context(said)
    }

    /// The endpoints of `netd ls`.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn endpoints(&self) -> Result<Vec<Value>> {
        let mut answer = self.host.json(["ls", "--json"])?;
        match answer["endpoints"].take() {
            Value::Array(endpoints) => Ok(endpoints),
            _ => bail!("netd ls --json printed no endpoints: {answer}"),
        }
    }

    /// The endpoint of that name, if it exists.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn endpoint(&self, name: &str) -> Result<Option<Value>> {
        Ok(self.endpoints()?.into_iter().find(|endpoint| endpoint["name"] == name))
    }

    /// A counter of an endpoint, e.g. `rx_packets`.
    ///
    /// # Errors
    /// There is no such endpoint or counter.
    pub fn endpoint_counter(&self, name: &str, counter: &str) -> Result<u64> {
        let endpoint = self.endpoint(name)?.with_context(|| format!("netd ls has no endpoint {name}"))?;
        endpoint["counters"][counter].as_u64().with_context(|| format!("no counter {counter} in {endpoint}"))
    }
}

/// Ping, TCP and UDP from a namespace to an echo service; the server must see this client address.
///
/// # Errors
/// One of them fails, or the address is another.
pub fn reach(from: &Namespace, to: impl Into<IpAddr>, seen: impl Into<IpAddr>) -> Result<()> {
    let (to, seen) = (to.into(), seen.into());
    let server = SocketAddr::new(to, echo::PORT);
    let exchange = from.run(|| {
        icmp::ping(to, 56, PATIENCE)?;
        Ok([echo::tcp(server, &[7; 3000], PATIENCE)?, echo::udp(server, &[7; 1000], PATIENCE)?])
    });
    let answers = exchange.with_context(|| format!("{} → {to}", from.name()))?;
    for answer in answers {
        let client = answer.seen.ip();
        ensure!(client == seen, "{} → {to}: seen as {client}, not {seen}", from.name());
    }
    Ok(())
}

/// Checks that neither ping nor TCP nor UDP gets an answer.
///
/// # Errors
/// One of them does.
pub fn unreachable(from: &Namespace, to: impl Into<IpAddr>) -> Result<()> {
    let to = to.into();
    let server = SocketAddr::new(to, echo::PORT);
    thread::scope(|scope| {
        let tries = [
            ("ping", scope.spawn(move || from.run(|| icmp::ping(to, 56, SILENCE).map(drop)))),
            ("TCP", scope.spawn(move || from.run(|| echo::tcp(server, b"x", SILENCE).map(drop)))),
            ("UDP", scope.spawn(move || from.run(|| echo::udp(server, b"x", SILENCE).map(drop)))),
        ];
        for (what, thread) in tries {
            let result = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            ensure!(result.is_err(), "{} → {to}: {what} got an answer", from.name());
        }
        Ok(())
    })
}

/// Waits until something holds.
///
/// # Errors
/// It does not within `timeout` or five minutes, or it fails.
pub fn eventually(what: &str, timeout: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let timeout = timeout.max(LEAST);
    let end = Instant::now() + timeout;
    while !holds()? {
        ensure!(Instant::now() < end, "not within {timeout:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
