//! The loops that are measured.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Cost, Load, Measured, Meter, Order};
use crate::bench::latency::Latency;

/// A sender goes on for so long after the receiver has counted, so that it never counts a sender at rest.
const MARGIN: Duration = Duration::from_millis(20);

/// Repeats `step` for the time of the warm-up, then measures it; either ends early after `limit` steps.
///
/// The clock is read once for each step: about 30 ns, in every variant's.
pub(super) fn repeat(order: &Order, limit: u64, mut step: impl FnMut() -> Result<()>) -> Result<Load> {
    let mut meter = Meter::new(order.peer)?;
    run(order.warmup, limit, &mut Latency::new(), &mut step)?;
    let mut latency = Latency::new();
    meter.begin()?;
    let measured = run(order.time, limit, &mut latency, &mut step)?;
    Ok(Load { measured, latency, cost: meter.end()? })
}

fn run(
    time: Duration,
    limit: u64,
    latency: &mut Latency,
    step: &mut impl FnMut() -> Result<()>,
) -> Result<Measured> {
    let start = Instant::now();
    let (mut count, mut before) = (0, start);
    loop {
        step()?;
        let now = Instant::now();
        count += 1;
        latency.record((now - before).as_nanos() as u64);
        before = now;
        let elapsed = now - start;
        if elapsed >= time || count >= limit {
            return Ok(Measured { count, time: elapsed });
        }
    }
}

/// Repeats `send` for the time of the warm-up, the time that is measured by the receiver, and a little longer. Returns what the
/// time after the warm-up cost.
pub(super) fn transmit(order: &Order, mut send: impl FnMut() -> Result<()>) -> Result<Cost> {
    let mut meter = Meter::new(order.peer)?;
    let mut send_for = |time: Duration| -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < time {
            send()?;
        }
        Ok(())
    };
    send_for(order.warmup)?;
    meter.begin()?;
    send_for(order.time)?;
    let cost = meter.end()?;
    send_for(MARGIN)?;
    Ok(cost)
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::{
        super::{Role, tests::order},
        *,
    };
    use crate::bench::case::Traffic;

    fn for_time(warmup: Duration, time: Duration) -> Order {
        Order { warmup, time, ..order(Role::Client, Traffic::TcpRr, 0) }
    }

    #[test]
    fn ends_by_count_or_by_time() {
        let mut steps = 0;
        let mut count = || {
            steps += 1;
            Ok(())
        };
        let long = Duration::from_secs(600);
        let load = repeat(&for_time(Duration::ZERO, long), 64, &mut count).expect("no error");
        assert_eq!(load.measured.count, 64);
        assert_eq!(load.latency.json()["count"], 64);
        let load = repeat(&for_time(Duration::ZERO, Duration::ZERO), u64::MAX, &mut count).expect("no error");
        assert_eq!(load.measured.count, 1);
        assert_eq!(steps, 1 + 64 + 1 + 1);
    }

    #[test]
    fn an_error_ends_it() {
        let order = for_time(Duration::ZERO, Duration::from_secs(600));
        assert!(repeat(&order, u64::MAX, || bail!("no answer")).is_err());
        assert!(transmit(&order, || bail!("no way")).is_err());
    }

    #[test]
    fn a_sender_sends_longer_than_is_measured() {
        let order = for_time(Duration::from_millis(1), Duration::from_millis(5));
        let start = Instant::now();
        let mut sent = 0_u64;
        let cost = transmit(&order, || {
            sent += 1;
            Ok(())
        })
        .expect("no error");
        assert!(start.elapsed() >= order.warmup + order.time + MARGIN);
        assert!(cost.time >= order.time && sent > 0, "{cost:?}, {sent}");
    }
}
