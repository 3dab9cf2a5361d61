//! What a receiver counts.

use std::time::{Duration, Instant};

use super::{Measured, Order};

/// Counts what arrives from the end of the warm-up on, for the time that is measured.
pub(super) struct Window {
    begin: Instant,
    warmup: Duration,
    time: Duration,
    start: Option<Instant>,
    measured: Measured,
}

impl Window {
    /// The warm-up begins now.
    pub(super) fn new(order: &Order) -> Self {
        Self {
            begin: Instant::now(),
            warmup: order.warmup,
            time: order.time,
            start: None,
            measured: Measured { count: 0, time: Duration::ZERO },
        }
    }

    /// So much has just arrived.
    pub(super) fn add(&mut self, count: u64) {
        let now = Instant::now();
        match self.start {
            None if now - self.begin >= self.warmup => self.start = Some(now),
            None => {}
            Some(_) if self.measured.time >= self.time => {}
            Some(start) => {
                self.measured.count += count;
                self.measured.time = now - start;
            }
        }
    }

    /// What was counted.
    pub(super) fn measured(&self) -> Measured {
        self.measured
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Role, tests::order},
        *,
    };
    use crate::bench::case::Traffic;

    #[test]
    fn only_the_time_after_the_warm_up_counts() {
        let order = Order {
            warmup: Duration::from_millis(50),
            time: Duration::from_millis(50),
            ..order(Role::Server, Traffic::TcpStream, 0)
        };
        let mut window = Window::new(&order);
        window.add(100);
        assert_eq!(window.measured().count, 0, "the warm-up");
        std::thread::sleep(order.warmup);
        window.add(100);
        assert_eq!(window.measured().count, 0, "it is what the time begins with");
        window.add(7);
        assert_eq!(window.measured().count, 7);
        std::thread::sleep(order.time);
        window.add(5);
        window.add(100);
        let measured = window.measured();
        assert_eq!(measured.count, 12, "after the time");
        assert!(measured.time >= order.time, "{measured:?}");
    }
}
