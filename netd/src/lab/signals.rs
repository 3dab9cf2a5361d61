//! SIGINT, SIGTERM and SIGHUP as a call of a function, on a thread, in a program that need not be written around them.

use std::{
    io::{Read as _, pipe},
    os::fd::IntoRawFd as _,
    sync::atomic::{AtomicI32, Ordering},
};

use anyhow::{Context, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static PIPE: AtomicI32 = AtomicI32::new(-1);

/// From now on SIGINT, SIGTERM and SIGHUP call `act` with the signal, once, on a thread of its own. What comes after the
/// first is ignored, so that a second Ctrl-C does not cut short what the first began. Call it at most once in a process.
///
/// # Errors
/// There is no pipe or no thread to be had.
pub fn catch(act: impl FnOnce(Signal) + Send + 'static) -> Result<()> {
    let (mut reader, writer) = pipe().context("cannot make a pipe")?;
    PIPE.store(writer.into_raw_fd(), Ordering::SeqCst);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut byte = [0];
            if reader.read_exact(&mut byte).is_ok()
                && let Ok(signal) = Signal::try_from(i32::from(byte[0]))
            {
                act(signal);
            }
            // Kept open: later signals write into it.
            std::mem::forget(reader);
        })
        .context("cannot start a thread")?;
    let action = SigAction::new(SigHandler::Handler(handle), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: `handle` only loads an atomic and calls write(2), both async-signal-safe.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("cannot catch {signal}"))?;
    }
    Ok(())
}

extern "C" fn handle(signal: i32) {
    let byte = signal as u8;
    // SAFETY: one byte is read from `byte`; the pipe is never closed. A full pipe blocks only after 65,536 signals. errno is
    // put back, for the code that was interrupted.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::write(PIPE.load(Ordering::SeqCst), (&raw const byte).cast(), 1);
        *errno = before;
    }
}
