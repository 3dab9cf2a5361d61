//! Processes in the background.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A process in the background, its output in a file.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    log: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Running(Child),
    Ended(ExitStatus),
}

impl Process {
    /// Starts it. Its output is appended to `log`; it does not get the terminal's signals.
    pub(super) fn start(mut command: Command, log: &Path) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;

        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("cannot duplicate the log")?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        Ok(Self { pid: child.id(), log: log.to_owned(), state: Mutex::new(State::Running(child)) })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map_or_else(
            |error| format!("(no log: {error})"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn ended(&self) -> Result<Option<ExitStatus>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Running(child) = &mut *state
            && let Some(status) = child.try_wait().context("cannot wait for a process")?
        {
            *state = State::Ended(status);
        }
        Ok(match &*state {
            State::Running(_) => None,
            State::Ended(status) => Some(*status),
        })
    }

    /// Sends it a signal, if it still runs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Not reaped while the lock is held: the id is still this process's.
        if let State::Running(child) = &*state {
            let pid = Pid::from_raw(child.id().cast_signed());
            kill(pid, signal).with_context(|| format!("cannot send {signal} to process {pid}"))?;
        }
        Ok(())
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It still runs after `timeout`.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("process {} still runs after {timeout:?}; its log:\n{}", self.pid, self.log());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Running(child) = &mut *state {
            // Fails only if it has ended already.
            let _ = child.kill();
            if let Ok(status) = child.wait() {
                *state = State::Ended(status);
            }
        }
    }
}
