//! The loop that is measured.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Measured;

/// The clock is read once in so many steps: on a fast path reading it is a visible part of a step.
const BATCH: u64 = 16;

/// Repeats `step` for the time of the warm-up, then measures it for `time`; either ends early after `limit` steps.
pub(super) fn repeat(
    warmup: Duration,
    time: Duration,
    limit: u64,
    mut step: impl FnMut() -> Result<()>,
) -> Result<Measured> {
    run(warmup, limit, &mut step)?;
    run(time, limit, &mut step)
}

fn run(time: Duration, limit: u64, step: &mut impl FnMut() -> Result<()>) -> Result<Measured> {
    let start = Instant::now();
    let mut count = 0;
    loop {
        for _ in 0..BATCH {
            step()?;
        }
        count += BATCH;
        let elapsed = start.elapsed();
        if elapsed >= time || count >= limit {
            return Ok(Measured { count, time: elapsed });
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn ends_by_count_or_by_time() {
        let mut steps = 0;
        let mut count = || {
            steps += 1;
            Ok(())
        };
        let measured = repeat(Duration::ZERO, Duration::from_secs(600), 64, &mut count).expect("no error");
        assert_eq!(measured.count, 64);
        let measured = repeat(Duration::ZERO, Duration::ZERO, u64::MAX, &mut count).expect("no error");
        assert_eq!(measured.count, BATCH);
        assert_eq!(steps, BATCH + 64 + BATCH + BATCH);
    }

    #[test]
    fn an_error_ends_it() {
        let step = || bail!("no answer");
        assert!(repeat(Duration::ZERO, Duration::from_secs(600), u64::MAX, step).is_err());
    }
}
