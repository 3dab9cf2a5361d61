//! The daemon: start-up, serving, and the end.

mod bpffs;
mod deny;
mod flows;
mod handle;
mod lock;
mod membership;
mod next_hops;
mod owner;
mod privileges;
mod publish;
mod purge;
mod requests;
mod socket;
mod start;
mod status;
mod work;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

pub use self::{handle::Handle, purge::purge};
use crate::api;

/// How long requests that are under way at the end may still take.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// Where the daemon finds and keeps its things.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file; none: the one in its usual place, if it exists.
    pub config: Option<PathBuf>,
    /// The socket.
    pub socket: PathBuf,
    /// The directory of the state.
    pub state_dir: PathBuf,
    /// The directory of the pins, on a bpffs.
    pub bpffs_dir: PathBuf,
}

/// Runs the daemon until SIGTERM or SIGINT. Afterwards, the datapath goes on without it.
///
/// # Errors
/// It cannot start; nothing is changed then that another start would not mend.
pub async fn run(options: &Options) -> Result<()> {
    // First, so that a signal during the start is not lost.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;

    let started = start::start(options).await?;
    let (listener, socket) = socket::open(&options.socket)?;
    let (handle, requests) = Handle::new();
    // Whether anybody reads it is not the daemon's business.
    let _ = writeln!(io::stdout(), "{}", started.owner.summary());
    let owner = tokio::spawn(started.owner.run(requests, started.events));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(api::serve(listener, handle, async {
        let _ = stopped.await;
    }));

    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: stopping; containers go on without netd"),
        _ = interrupt.recv() => info!("SIGINT: stopping; containers go on without netd"),
    }
    drop(socket);
    let _ = stop.send(());
    // When the server ends, the last handle is dropped, and so the owner ends.
    let ended = async {
        server.await??;
        owner.await.context("the daemon's task failed")
    };
    match tokio::time::timeout(LAST_REQUESTS, ended).await {
        Ok(result) => result,
        Err(_) => {
            warn!("not waiting any longer for requests that are under way");
            Ok(())
        }
    }
}

/// What marks the links of a state directory. By its path, so that they are found again even when its content is lost, or
/// the directory itself.
fn identity(state_dir: &Path) -> Result<String> {
    let what = || format!("cannot find the state directory {}", state_dir.display());
    let path = std::path::absolute(state_dir).with_context(what)?;
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
    let mut canonical = existing.canonicalize().with_context(what)?;
    if rest != Path::new("") {
        canonical.push(rest);
    }
    let digest = Sha256::digest(canonical.as_os_str().as_encoded_bytes());
    Ok(digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_that_of_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("a/state");
        let before = identity(&state).unwrap();
        std::fs::create_dir_all(&state).unwrap();
        assert_eq!(identity(&state).unwrap(), before, "before it exists");
        std::os::unix::fs::symlink(&state, directory.path().join("link")).unwrap();
        assert_eq!(identity(&directory.path().join("link")).unwrap(), before, "by another name");
        assert_eq!(identity(&directory.path().join("a/../a/state/")).unwrap(), before);
        assert_ne!(identity(directory.path()).unwrap(), before);
    }
}
