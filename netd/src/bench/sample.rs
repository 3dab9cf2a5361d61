//! One load: a server and a client as processes in their namespaces.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddrV4,
    process::{Child, ChildStdout, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;

use super::{
    case::{Case, Traffic, Unit},
    cpus::Placement,
    scene::Path,
    worker::{Measured, Order, Role},
};
use crate::lab::{Namespace, host, socket};

/// How long a worker may take to begin, and to end after its time is over.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a sample takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Timing {
    pub(super) warmup: Duration,
    pub(super) time: Duration,
}

/// Measures a case on a path once, in the case's unit.
pub(super) fn take(case: &Case, path: &Path, placement: &Placement, timing: Timing) -> Result<f64> {
    value(case.unit(), run(case.traffic, path, placement, timing)?)
}

/// Makes traffic on a path.
pub(super) fn run(traffic: Traffic, path: &Path, placement: &Placement, timing: Timing) -> Result<Measured> {
    let order = |role, port, cpus: &[usize]| Order {
        role,
        traffic,
        address: SocketAddrV4::new(path.address, port),
        cpus: cpus.to_vec(),
        warmup: timing.warmup,
        time: timing.time,
    };
    let mut server = Worker::start(&path.server, &order(Role::Server, 0, &placement.server))
        .context("cannot start the server")?;
    let port: u16 = server.line(PATIENCE).context("the server does not start")?;
    let mut client = Worker::start(&path.client, &order(Role::Client, port, &placement.client))
        .context("cannot start the client")?;
    client.line(timing.warmup + timing.time + PATIENCE)
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
    use super::*;

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
