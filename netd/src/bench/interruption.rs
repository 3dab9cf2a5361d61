//! SIGINT, SIGTERM and SIGHUP: everything that the bench made is removed, then the process ends.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Result;

use crate::lab::{Closer, Lab, signals};

/// Stands by for a signal.
pub(super) struct Interruption {
    happened: Arc<AtomicBool>,
    closer: Arc<Mutex<Option<Closer>>>,
}

impl Interruption {
    pub(super) fn catch() -> Result<Self> {
        let interruption = Self { happened: Arc::default(), closer: Arc::default() };
        let (happened, closer) = (Arc::clone(&interruption.happened), Arc::clone(&interruption.closer));
        signals::catch(move |signal| {
            happened.store(true, Ordering::SeqCst);
            // Waits while the lab is being made.
            if let Some(closer) = &*closer.lock().unwrap_or_else(PoisonError::into_inner) {
                closer.close();
            }
            eprintln!("\nnetd bench: {signal}: everything is removed");
            std::process::exit(128 + signal as i32);
        })?;
        Ok(interruption)
    }

    /// Makes a lab in such a way that a signal at any moment finds it.
    pub(super) fn lab(&self, kind: &str) -> Result<Lab> {
        let mut closer = self.closer.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = Lab::new(kind)?;
        *closer = Some(lab.closer());
        Ok(lab)
    }

    /// After a signal, what fails fails because the lab is being removed.
    pub(super) fn happened(&self) -> bool {
        self.happened.load(Ordering::SeqCst)
    }

    /// The thread that removes everything must not be cut short by the end of this one: it ends the process itself.
    pub(super) fn wait_if_happened(&self) {
        while self.happened() {
            std::thread::park();
        }
    }
}
