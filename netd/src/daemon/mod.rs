//! The daemon: start-up, serving, and the end.

mod bpffs;
mod handle;
mod lock;
mod owner;
mod privileges;
mod purge;
mod requests;
mod socket;
mod start;
mod status;

use std::{
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
    println!("{}", started.owner.summary());
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

/// What marks the links of a state directory. By its path, so that they are found again even when its content is lost.
fn identity(state_dir: &Path) -> Result<String> {
    let path = state_dir
        .canonicalize()
        .with_context(|| format!("cannot find the state directory {}", state_dir.display()))?;
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    Ok(digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect())
}
