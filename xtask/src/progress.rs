//! Runs long commands quietly, and shows that they are alive.
//!
//! On a terminal that is one line, redrawn, with the time so far and the command's last line of output. Elsewhere (CI)
//! it is a plain line every [`QUIET`] seconds. If the command fails, its last lines are shown.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Seconds between two signs of life where the output is not a terminal.
const QUIET: u64 = 15;

/// Lines of a failed command's output that are shown.
const TAIL: usize = 30;

/// The columns of the progress line: a longer one would wrap, and could not be redrawn.
const WIDTH: usize = 78;

/// Runs `command` to its end; `what` names it in the progress line and in the error.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<()> {
    let mut display = Display::new(what);
    let (status, tail) = follow(command, |last| display.tick(last)).with_context(|| what.to_owned())?;
    display.finish(status.success());
    if !status.success() {
        for line in &tail {
            eprintln!("    {line}");
        }
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// Runs `command`, calls `tick` with its last line of output a few times a second, and returns its end and its last
/// lines.
fn follow(command: &mut Command, mut tick: impl FnMut(&str)) -> Result<(ExitStatus, VecDeque<String>)> {
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    // The command holds copies of the pipe's writing end: they go, or the reader would never see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let (lines, received) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let mut tail = VecDeque::new();
    loop {
        match received.recv_timeout(Duration::from_millis(200)) {
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => {
                if tail.len() == TAIL {
                    tail.pop_front();
                }
                tail.push_back(line);
            }
            // A service that the command leaves behind may keep the pipe open: the command's own end counts.
            Err(RecvTimeoutError::Timeout) if child.try_wait()?.is_some() => break,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        tick(tail.back().map_or("", String::as_str));
    }
    Ok((child.wait()?, tail))
}

/// The progress line.
struct Display<'a> {
    what: &'a str,
    start: Instant,
    terminal: bool,
    /// When a line was last written.
    shown: Instant,
}

impl<'a> Display<'a> {
    fn new(what: &'a str) -> Self {
        let now = Instant::now();
        let terminal = io::stderr().is_terminal();
        if !terminal {
            eprintln!("  {what} ...");
        }
        Self { what, start: now, terminal, shown: now }
    }

    fn tick(&mut self, last: &str) {
        let seconds = self.start.elapsed().as_secs();
        let last: String = last.trim().chars().filter(|c| !c.is_control()).collect();
        if self.terminal {
            if self.shown.elapsed() >= Duration::from_millis(100) {
                self.shown = Instant::now();
                let spinner = ['|', '/', '-', '\\'][(self.start.elapsed().as_millis() / 200 % 4) as usize];
                let line: String =
                    format!("{spinner} {} ({seconds} s) {last}", self.what).chars().take(WIDTH).collect();
                eprint!("\r\x1b[K{line}");
                // A progress line that cannot be written is no reason to stop.
                let _ = io::stderr().flush();
            }
        } else if self.shown.elapsed().as_secs() >= QUIET {
            self.shown = Instant::now();
            eprintln!("  {} ... {seconds} s: {last}", self.what);
        }
    }

    fn finish(&self, ok: bool) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        let outcome = if ok { "done" } else { "FAILED" };
        eprintln!("{clear}  {} ... {outcome} ({})", self.what, elapsed(self.start.elapsed()));
    }
}

/// A duration as people read it.
pub(crate) fn elapsed(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        seconds @ 10..60 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_and_the_last_lines_of_a_command_are_kept() {
        let script = "for i in $(seq 40); do echo out $i; done; echo err >&2; exit 3";
        let (status, tail) = follow(Command::new("sh").args(["-c", script]), |_| {}).expect("sh runs");
        assert_eq!(status.code(), Some(3));
        assert_eq!(tail.len(), TAIL);
        assert_eq!(tail.back().map(String::as_str), Some("err"));
        assert_eq!(tail.front().map(String::as_str), Some("out 12"));
    }

    #[test]
    fn a_process_left_behind_does_not_hold_up_the_command() {
        let start = Instant::now();
        let (status, _) =
            follow(Command::new("sh").args(["-c", "sleep 20 & echo started"]), |_| {}).expect("sh runs");
        assert!(status.success());
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn durations() {
        assert_eq!(elapsed(Duration::from_millis(340)), "0.3 s");
        assert_eq!(elapsed(Duration::from_secs(41)), "41 s");
        assert_eq!(elapsed(Duration::from_secs(150)), "2 min 30 s");
    }
}
