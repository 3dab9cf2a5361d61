//! One line that says what is being done, on a terminal only.

use std::io::{IsTerminal as _, Write as _, stderr};

/// The progress line, on the standard error.
#[derive(Debug)]
pub(super) struct Progress {
    terminal: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: stderr().is_terminal() }
    }

    /// Replaces the line.
    pub(super) fn step(&self, what: impl AsRef<str>) {
        if self.terminal {
            let mut out = stderr().lock();
            let _ = write!(out, "\r\x1b[K\x1b[2m … {}\x1b[0m", what.as_ref()).and_then(|()| out.flush());
        }
    }

    /// Removes the line.
    pub(super) fn clear(&self) {
        if self.terminal {
            let mut out = stderr().lock();
            let _ = write!(out, "\r\x1b[K").and_then(|()| out.flush());
        }
    }
}
