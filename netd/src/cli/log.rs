//! The log: one line for each event, whoever has written what it tells of.

use std::io::{self, IsTerminal as _, Stderr, Write};

use tracing_subscriber::EnvFilter;

use crate::names;

/// Logs to standard error what `RUST_LOG` says, else `default` and what is more important.
pub(super) fn begin(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || Lines { to: io::stderr(), colours })
        .with_ansi(colours)
        .with_target(false)
        .init();
}

/// Takes events, each as a whole.
struct Lines {
    to: Stderr,
    /// The events have colours, which are control characters of our own.
    colours: bool,
}

impl Write for Lines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.to.write_all(line(event, self.colours).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// An event in one line.
fn line(event: &[u8], colours: bool) -> String {
    let text = String::from_utf8_lossy(event);
    let text = text.strip_suffix('\n').unwrap_or(&text);
    // Values are escaped by the formatter as far as it concerns colours.
    let line = if colours { text.replace('\n', "\\n") } else { names::one_line(text) };
    line + "\n"
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn an_event_is_a_line() {
        assert_eq!(line(b"WARN a\n", false), "WARN a\n");
        assert_eq!(line(b"WARN a\nINFO b\x1b[0m\n", false), "WARN a\\nINFO b\\u{1b}[0m\n");
        assert_eq!(line(b"\x1b[33mWARN\x1b[0m a\nINFO b\n", true), "\x1b[33mWARN\x1b[0m a\\nINFO b\n");
    }
}
