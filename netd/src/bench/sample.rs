//! One load: a server and a client as processes in their namespaces.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::{Ipv4Addr, SocketAddrV4},
    process::{Child, ChildStdout, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::de::DeserializeOwned;

use super::{
    case::{Case, Traffic, Unit},
    cpus::Placement,
    http,
    latency::Latency,
    scene::Path,
    worker::{Load, Measured, Order, Role, Sent},
};
use crate::lab::{Namespace, host, socket};

/// How long a worker may take to begin, and to end after its time is over.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take until everything that was sent is dropped.
const SETTLE: Duration = Duration::from_millis(200);

/// How long a sample takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Timing {
    pub(super) warmup: Duration,
    pub(super) time: Duration,
}

/// What was measured once.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// In the case's unit.
    pub(super) value: f64,
    /// Of single requests, where there are such.
    pub(super) latency: Option<Latency>,
    /// What an operation costs, where that is known: µs of CPU time of both ends.
    pub(super) cpu: Option<f64>,
    /// The same, where the machine counts them.
    pub(super) instructions: Option<f64>,
    pub(super) cycles: Option<f64>,
}

impl From<f64> for Sample {
    fn from(value: f64) -> Self {
        Self { value, latency: None, cpu: None, instructions: None, cycles: None }
    }
}

impl Sample {
    fn new(case: &Case, load: Load) -> Result<Self> {
        let Load { measured, latency, cost } = load;
        let (_, size) = case.traffic.operation();
        // The cost is of about the same time as what was counted, but not of exactly the same.
        let operations =
            measured.count as f64 / size as f64 * cost.time.as_secs_f64() / measured.time.as_secs_f64();
        let each = |total: f64| (total > 0.0 && operations > 0.0).then(|| total / operations);
        Ok(Self {
            value: value(case.unit(), measured)?,
            latency: Some(latency).filter(|latency| !latency.is_empty()),
            cpu: each(cost.cpu.as_secs_f64() * 1e6),
            instructions: cost.instructions.and_then(|count| each(count as f64)),
            cycles: cost.cycles.and_then(|count| each(count as f64)),
        })
    }
}

/// Measures a case on a path once.
pub(super) fn take(case: &Case, path: &Path, placement: &Placement, timing: Timing) -> Result<Sample> {
    let load = match case.traffic {
        Traffic::Http => http::run(path, placement, timing)?,
        Traffic::DroppedFrames | Traffic::DroppedPackets => dropped(case.traffic, path, placement, timing)?,
        traffic => run(traffic, path, placement, timing)?,
    };
    Sample::new(case, load)
}

/// Makes traffic on a path.
pub(super) fn run(traffic: Traffic, path: &Path, placement: &Placement, timing: Timing) -> Result<Load> {
    let order = |role, address, cpus: &[usize], peer| Order {
        role,
        traffic,
        address,
        cpus: cpus.to_vec(),
        warmup: timing.warmup,
        time: timing.time,
        peer,
        outside: None,
    };
    // A published port's address is none of the server's own.
    let own = match path.published {
        Some((_, port)) => SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port),
        None => SocketAddrV4::new(path.address, 0),
    };
    let mut server = Worker::start(&path.server, &order(Role::Server, own, &placement.server, None))
        .context("cannot start the server")?;
    let port: u16 = server.line(PATIENCE).context("the server does not start")?;
    let address = SocketAddrV4::new(path.address, path.published.map_or(port, |(outside, _)| outside));
    let peer = Some(server.child.id());
    let mut client = Worker::start(&path.client, &order(Role::Client, address, &placement.client, peer))
        .context("cannot start the client")?;
    client.line(timing.warmup + timing.time + PATIENCE)
}

/// Makes traffic that the host at its end drops. What counts is what the host has counted.
pub(super) fn dropped(traffic: Traffic, path: &Path, placement: &Placement, timing: Timing) -> Result<Load> {
    let denied = path.denied.as_ref().context("nothing is dropped on this path")?;
    let before = denied.dropped()?;
    let order = Order {
        role: Role::Client,
        traffic,
        address: SocketAddrV4::new(path.address, 0),
        cpus: placement.client.clone(),
        warmup: timing.warmup,
        time: timing.time,
        peer: None,
        outside: Some(denied.outside.clone()),
    };
    let mut client = Worker::start(&path.client, &order).context("cannot start the sender")?;
    let Sent { mut load, total } = client.line(timing.warmup + timing.time + PATIENCE)?;
    // The kernel may still be at work on the last ones.
    let start = Instant::now();
    let mut count = denied.dropped()?.saturating_sub(before);
    while count < total && start.elapsed() < SETTLE {
        thread::sleep(SETTLE / 20);
        count = denied.dropped()?.saturating_sub(before);
    }
    ensure!(count > 0, "{total} packets were sent and none was dropped");
    // Those that were lost on the way, because a queue was full, cost nobody anything. (A link's counter may have counted others.)
    load.measured.count = (load.measured.count as f64 * count.min(total) as f64 / total as f64) as u64;
    Ok(load)
}

fn value(unit: Unit, measured: Measured) -> Result<f64> {
    let (count, seconds) = (measured.count as f64, measured.time.as_secs_f64());
    if measured.count == 0 || measured.time.is_zero() {
        bail!("nothing was measured");
    }
    Ok(match unit {
        Unit::Microseconds => seconds * 1e6 / count,
        Unit::Milliseconds => seconds * 1e3 / count,
        Unit::GigabitsPerSecond => count * 8.0 / 1e9 / seconds,
        Unit::PerSecond => count / seconds,
        Unit::Mebibytes => bail!("memory is not what a load measures"),
    })
}

/// A worker that runs; it is killed when this is dropped.
struct Worker {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start(namespace: &Namespace, order: &Order) -> Result<Self> {
        let order = serde_json::to_string(order).context("cannot write the order")?;
        let mut child = namespace
            .command(host::binary()?)?
            .args(["bench", "worker", &order])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run netd bench worker")?;
        let output = child.stdout.take().ok_or_else(|| anyhow!("the worker has no output"))?;
        Ok(Self { child, output: BufReader::new(output) })
    }

    /// The line that it prints, once it does.
    fn line<T: DeserializeOwned>(&mut self, patience: Duration) -> Result<T> {
        let start = Instant::now();
        let [ready] =
            socket::readable([self.output.get_ref()], Some(patience)).context("cannot wait for a worker")?;
        let mut line = String::new();
        if ready {
            self.output.read_line(&mut line).context("cannot read what a worker prints")?;
        }
        if line.is_empty() {
            let what = if ready { "failed" } else { "was still at work" };
            let after = start.elapsed().as_secs_f64();
            bail!("a worker {what} after {after:.1} s: {}", self.complaint());
        }
        serde_json::from_str(&line).with_context(|| format!("a worker printed {line:?}"))
    }

    /// What it has said on its standard error; ends it.
    fn complaint(&mut self) -> String {
        self.end();
        let mut text = String::new();
        if let Some(mut errors) = self.child.stderr.take() {
            // What cannot be read is nothing that could be reported.
            let _ = errors.read_to_string(&mut text);
        }
        if text.trim().is_empty() { "it said nothing".to_owned() } else { text.trim().replace('\n', " ") }
    }

    fn end(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{case::CASES, worker::Cost},
        *,
    };

    #[test]
    fn costs_are_those_of_an_operation() {
        let case = |name| CASES.iter().find(|case| case.name == name).expect("a case");
        let cost = Cost {
            time: Duration::from_secs(2),
            cpu: Duration::from_secs(1),
            instructions: Some(6_000),
            cycles: None,
        };
        let measured = Measured { count: 1 << 20, time: Duration::from_secs(1) };
        let load = Load { measured, latency: Latency::new(), cost };
        for (name, operations) in [("tcp-crr", f64::from(2 << 20)), ("tcp-stream", 2.0)] {
            let sample = Sample::new(case(name), load.clone()).expect("a sample");
            let cpu = sample.cpu.expect("a cost");
            assert!((cpu * operations - 1e6).abs() < 1.0, "{name}: {cpu}");
            let instructions = sample.instructions.expect("counted");
            assert!((instructions * operations - 6e3).abs() < 1.0, "{name}: {instructions}");
            assert!(sample.cycles.is_none() && sample.latency.is_none());
        }
    }

    #[test]
    fn units() {
        let measured = Measured { count: 1_000_000, time: Duration::from_secs(10) };
        for (unit, expected) in [
            (Unit::Microseconds, 10.0),
            (Unit::Milliseconds, 0.01),
            (Unit::GigabitsPerSecond, 0.0008),
            (Unit::PerSecond, 100_000.0),
        ] {
            let value = value(unit, measured).expect("a value");
            assert!((value - expected).abs() < expected / 1e9, "{unit:?}: {value}");
        }
        for (count, time) in [(0, Duration::from_secs(1)), (1, Duration::ZERO)] {
            assert!(value(Unit::PerSecond, Measured { count, time }).is_err());
        }
    }
}
