//! One line that says what is being measured, on a terminal only.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    time::Instant,
};

/// The progress line, on the standard error.
#[derive(Debug)]
pub(super) struct Progress {
    terminal: bool,
    start: Instant,
    done: usize,
    total: usize,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: stderr().is_terminal(), start: Instant::now(), done: 0, total: 0 }
    }

    /// Begins to count: `total` times [`Progress::count`] is the end.
    pub(super) fn begin(&mut self, total: usize) {
        (self.start, self.done, self.total) = (Instant::now(), 0, total);
    }

    /// One more is done.
    pub(super) fn count(&mut self) {
        self.done += 1;
    }

    /// Replaces the line.
    pub(super) fn step(&self, what: impl AsRef<str>) {
        if self.terminal {
            let bar = self.bar().unwrap_or_else(|| "…".to_owned());
            let left = self.left().map(|left| format!(" ({left})")).unwrap_or_default();
            let mut out = stderr().lock();
            let _ = write!(out, "\r\x1b[K\x1b[2m {bar} {}{left}\x1b[0m", what.as_ref())
                .and_then(|()| out.flush());
        }
    }

    /// Removes the line.
    pub(super) fn clear(&self) {
        if self.terminal {
            let mut out = stderr().lock();
            let _ = write!(out, "\r\x1b[K").and_then(|()| out.flush());
        }
    }

    /// How much is done; `None` where that is not known.
    fn bar(&self) -> Option<String> {
        const CELLS: usize = 20;
        let full = (CELLS * self.done.min(self.total)).checked_div(self.total)?;
        Some("█".repeat(full) + &"░".repeat(CELLS - full))
    }

    fn left(&self) -> Option<String> {
        if self.done == 0 || self.done > self.total {
            return None;
        }
        let each = self.start.elapsed().as_secs_f64() / self.done as f64;
        let seconds = (each * (self.total - self.done) as f64).ceil();
        Some(format!("{} of {}, {seconds} s left", self.done, self.total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_known_once_something_is_done() {
        let mut progress = Progress::new();
        assert_eq!((progress.left(), progress.bar()), (None, None));
        progress.begin(2);
        assert_eq!(progress.left(), None);
        assert_eq!(progress.bar(), Some("░".repeat(20)));
        progress.count();
        assert_eq!(progress.bar(), Some("█".repeat(10) + &"░".repeat(10)));
        assert!(progress.left().is_some_and(|left| left.starts_with("1 of 2, ")), "{:?}", progress.left());
    }
}
