//! The daemon: start-up, serving, and the end.

mod adoption;
mod announcement;
mod bpffs;
mod deny;
mod flows;
mod handle;
mod lock;
mod looks;
mod membership;
mod next_hops;
mod owner;
mod paths;
mod private;
mod privileges;
mod publish;
mod purge;
mod repairs;
mod requests;
mod socket;
mod start;
mod status;
mod work;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Error, Result, anyhow};
use sha2::{Digest, Sha256};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tracing::{info, warn};

pub use self::{handle::Handle, purge::purge};
use crate::{
    api,
    netlink::{Netns, NetnsId},
};

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
    let mut owner = tokio::spawn(started.owner.run(requests, started.events));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut server = tokio::spawn(api::serve(listener, handle, async {
        let _ = stopped.await;
    }));

    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: stopping; containers go on without netd"),
        _ = interrupt.recv() => info!("SIGINT: stopping; containers go on without netd"),
        // Without one of them the daemon would live on and do nothing. Whoever supervises it starts another.
        error = end_of_either(&mut owner, &mut server) => return Err(error),
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

/// Waits until one of the daemon's two parts ends, which neither does by itself.
async fn end_of_either(owner: &mut JoinHandle<()>, server: &mut JoinHandle<Result<()>>) -> Error {
    let (part, why) = tokio::select! {
        ended = owner => ("the task that owns the state", ended.err().map(Error::from)),
        ended = server => ("the API's server", ended.map_err(Error::from).flatten().err()),
    };
    let why = why.map(|error| format!(": {error:#}")).unwrap_or_default();
    anyhow!("{part} has ended{why}; containers go on without netd: start it again")
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
    Ok(digest(canonical.as_os_str().as_encoded_bytes(), 4))
}

/// The boot of the machine that this process runs on.
fn boot() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?.trim().to_owned())
}

/// Tells where this process runs from anywhere else: by the boot of its machine, and by its network namespace there. A copy
/// of the machine, or of its state directory, has another one.
fn place() -> Result<String> {
    let NetnsId { dev, inode } = Netns::current()?;
    Ok(digest(format!("{} {dev} {inode}", boot()?).as_bytes(), 8))
}

/// The first bytes of a text's digest, in hexadecimal.
fn digest(text: &[u8], bytes: usize) -> String {
    Sha256::digest(text).iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_part_is_the_end_of_the_daemon() {
        let lives = || tokio::spawn(std::future::pending::<()>());
        let serves = || tokio::spawn(std::future::pending::<Result<()>>());
        let said = async |mut owner, mut server| end_of_either(&mut owner, &mut server).await.to_string();
        let mend = "; containers go on without netd: start it again";

        let panics = tokio::spawn(async { panic!("out of slots") });
        let error = said(panics, serves()).await;
        let begin = "the task that owns the state has ended: ";
        assert!(
            error.starts_with(begin) && error.contains("out of slots") && error.ends_with(mend),
            "{error}"
        );
        let ends = tokio::spawn(async {});
        assert_eq!(said(ends, serves()).await, format!("the task that owns the state has ended{mend}"));
        let fails = tokio::spawn(async { Err(anyhow!("the listener failed")) });
        let expected = format!("the API's server has ended: the listener failed{mend}");
        assert_eq!(said(lives(), fails).await, expected);

        let mut both = (lives(), serves());
        let mut ended = std::pin::pin!(end_of_either(&mut both.0, &mut both.1));
        assert!(futures_util::poll!(ended.as_mut()).is_pending(), "both live");
    }

    #[test]
    fn an_identity_is_that_of_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("a/state");
        let before = identity(&state).unwrap();
        fs::create_dir_all(&state).unwrap();
        assert_eq!(identity(&state).unwrap(), before, "before it exists");
        std::os::unix::fs::symlink(&state, directory.path().join("link")).unwrap();
        assert_eq!(identity(&directory.path().join("link")).unwrap(), before, "by another name");
        assert_eq!(identity(&directory.path().join("a/../a/state/")).unwrap(), before);
        assert_ne!(identity(directory.path()).unwrap(), before);
    }
}
