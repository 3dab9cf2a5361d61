//! What a load costs: the CPU time of both ends, and, where the machine offers them, instructions and cycles.
//!
//! The client reads the clocks and counters of both, so that they are those of the time which it measures. What the kernel does
//! for a packet while it interrupts nobody (softirqs on an idle CPU) is in no process's time: on one CPU that is little, on
//! several it is more.

use std::{
    io,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    time::{ClockId, clock_getcpuclockid},
    unistd::Pid,
};
use perf_event::{Builder, Counter, events::Hardware};
use serde::{Deserialize, Serialize};

/// What was used in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct Cost {
    /// The time that it is about.
    pub(in super::super) time: Duration,
    /// CPU time of both ends.
    pub(in super::super) cpu: Duration,
    /// `None` where the machine does not count them, or not for all of the time.
    pub(in super::super) instructions: Option<u64>,
    pub(in super::super) cycles: Option<u64>,
}

/// Reads clocks and counters of some processes.
pub(super) struct Meter {
    clocks: Vec<ClockId>,
    instructions: Option<Vec<Counter>>,
    cycles: Option<Vec<Counter>>,
    begin: Option<(Instant, Duration)>,
}

impl Meter {
    /// Of this process and another one.
    ///
    /// # Errors
    /// There is no such process.
    pub(super) fn new(peer: Option<u32>) -> Result<Self> {
        let own = std::process::id();
        let pids: Vec<i32> = [Some(own), peer].into_iter().flatten().map(u32::cast_signed).collect();
        let clock = |pid: &i32| {
            clock_getcpuclockid(Pid::from_raw(*pid)).with_context(|| format!("no CPU clock of process {pid}"))
        };
        Ok(Self {
            clocks: pids.iter().map(clock).collect::<Result<_>>()?,
            instructions: counters(Hardware::INSTRUCTIONS, &pids),
            cycles: counters(Hardware::CPU_CYCLES, &pids),
            begin: None,
        })
    }

    /// The time that counts begins.
    ///
    /// # Errors
    /// One of the processes is gone.
    pub(super) fn begin(&mut self) -> Result<()> {
        for counter in self.instructions.iter_mut().chain(&mut self.cycles).flatten() {
            counter.reset().and_then(|()| counter.enable()).context("cannot start a counter")?;
        }
        self.begin = Some((Instant::now(), self.cpu()?));
        Ok(())
    }

    /// The time that counts ends.
    ///
    /// # Errors
    /// One of the processes is gone.
    pub(super) fn end(&mut self) -> Result<Cost> {
        let (start, before) = self.begin.take().context("no time has begun")?;
        let (time, cpu) = (start.elapsed(), self.cpu()?.saturating_sub(before));
        Ok(Cost { time, cpu, instructions: sum(&mut self.instructions), cycles: sum(&mut self.cycles) })
    }

    fn cpu(&self) -> Result<Duration> {
        let mut total = Duration::ZERO;
        for clock in &self.clocks {
            total += Duration::from(clock.now().context("cannot read a CPU clock: has the other end died?")?);
        }
        Ok(total)
    }
}

/// Why this machine counts no instructions, if it does not.
pub(in super::super) fn why_no_counters() -> Option<String> {
    let own = std::process::id().cast_signed();
    counter(Hardware::INSTRUCTIONS, own)
        .err()
        .map(|error| format!("the machine has no such counters: {error}"))
}

fn counters(event: Hardware, pids: &[i32]) -> Option<Vec<Counter>> {
    pids.iter().map(|pid| counter(event, *pid).ok()).collect()
}

fn counter(event: Hardware, pid: i32) -> io::Result<Counter> {
    Builder::new(event).observe_pid(pid).any_cpu().include_kernel().build()
}

/// `None` unless each has counted for all of its time: a share of it would have to be guessed.
fn sum(counters: &mut Option<Vec<Counter>>) -> Option<u64> {
    let mut total = 0;
    for counter in counters.as_mut()? {
        counter.disable().ok()?;
        let read = counter.read_full().ok()?;
        if read.time_enabled() != read.time_running() {
            return None;
        }
        total += read.count();
    }
    (total > 0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_costs_time() {
        let mut meter = Meter::new(None).expect("a meter");
        assert!(meter.end().is_err(), "nothing has begun");
        meter.begin().expect("a start");
        let start = Instant::now();
        let mut spins = 0_u64;
        while start.elapsed() < Duration::from_millis(5) {
            spins = std::hint::black_box(spins + 1);
        }
        let cost = meter.end().expect("a cost");
        assert!(cost.time >= Duration::from_millis(5), "{cost:?}");
        assert!(cost.cpu > Duration::ZERO, "{cost:?}");
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let mut child = std::process::Command::new("true").spawn().expect("a process");
        child.wait().expect("its end");
        assert!(Meter::new(Some(child.id())).is_err());
    }
}
