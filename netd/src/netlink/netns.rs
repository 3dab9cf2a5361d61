//! Network namespaces: opening them, telling them apart, running code inside them.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

/// Where `ip netns add` and container engines keep namespaces by name.
const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];
/// `_IO(0xb7, 3)`: asks a namespace file for the `CLONE_NEW*` flag of its type.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// What tells one network namespace from another that exists at the same time: the device and inode of its file on nsfs.
/// The number of a namespace that is gone may be given to a later one, and often is at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    /// Device number of nsfs.
    pub dev: u64,
    /// Inode number of the namespace.
    pub inode: u64,
}

impl NetnsId {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { dev: metadata.dev(), inode: metadata.ino() }
    }
}

/// A network namespace, held open: it exists for as long as this does.
#[derive(Debug)]
pub struct Netns {
    file: Arc<File>,
    path: PathBuf,
}

impl Netns {
    /// Opens a namespace by its path (e.g. `/proc/123/ns/net`), or by its name below `/run/netns` or `/var/run/netns`.
    ///
    /// # Errors
    /// There is no such file, it may not be opened, or it is not a network namespace: one line that names it.
    pub fn open(path_or_name: &str) -> Result<Self> {
        if path_or_name.contains('/') {
            return Self::open_path(PathBuf::from(path_or_name)).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => anyhow::Error::new(error)
                    .context(format!("no network namespace at {path_or_name}: has its container ended?")),
                _ => anyhow::Error::new(error).context(format!("opening network namespace {path_or_name}")),
            });
        }
        if matches!(path_or_name, "" | "." | "..") {
            bail!(
                "{path_or_name:?} is no network namespace: give a name from `ip netns`, or a path such as /proc/PID/ns/net"
            );
        }
        for directory in NAMED {
            match Self::open_path(Path::new(directory).join(path_or_name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => {
                    return opened.with_context(|| format!("opening network namespace {path_or_name:?}"));
                }
            }
        }
        Err(io::Error::from_raw_os_error(libc::ENOENT)).with_context(|| {
            format!(
                "no network namespace {path_or_name:?} below {}: make it with `ip netns add {path_or_name}`, \
                 or give a path such as /proc/PID/ns/net",
                NAMED[0]
            )
        })
    }

    fn open_path(path: PathBuf) -> io::Result<Self> {
        // Without O_NONBLOCK, a FIFO of that name would hold us up.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path)?;
        // SAFETY: the request takes no argument, and returns an integer.
        let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
        if kind != libc::CLONE_NEWNET {
            return Err(io::Error::other(format!("{} is not a network namespace", path.display())));
        }
        Ok(Self { file: Arc::new(file), path })
    }

    /// The path that it was opened by; for one given by name, the path that the name stands for.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which namespace it is.
    pub fn id(&self) -> Result<NetnsId> {
        let metadata = self.file.metadata().with_context(|| format!("looking at {}", self.path.display()))?;
        Ok(NetnsId::of(&metadata))
    }

    /// The calling thread's namespace.
    pub fn current() -> Result<NetnsId> {
        const PATH: &str = "/proc/thread-self/ns/net";
        Ok(NetnsId::of(&fs::metadata(PATH).with_context(|| format!("looking at {PATH}"))?))
    }

    /// Runs `f` inside the namespace, on a thread that does that for all callers one after the other, and waits for it. So `f`
    /// ought to be short.
    ///
    /// # Errors
    /// The namespace cannot be entered (`CAP_SYS_ADMIN` is needed), or the system gives no thread (a limit of processes, no
    /// memory).
    ///
    /// # Panics
    /// If `f` does.
    pub fn run<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let what = || format!("entering network namespace {}", self.path.display());
        let (answer, answered) = mpsc::sync_channel(1);
        let file = Arc::clone(&self.file);
        let visit: Visit = Box::new(move |home| {
            let entered = setns(&*file, CloneFlags::CLONE_NEWNET);
            let result = entered.map(|()| panic::catch_unwind(AssertUnwindSafe(f)));
            drop(file);
            let back = setns(home, CloneFlags::CLONE_NEWNET);
            let _ = answer.send(result);
            back.is_ok()
        });
        send(visit).with_context(what)?;
        let result = answered.recv().with_context(what)?.with_context(what)?;
        Ok(result.unwrap_or_else(|panic| panic::resume_unwind(panic)))
    }

    /// A second descriptor of the namespace.
    pub(super) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

/// Something to do in a namespace. Is given the one to return to; whether it has.
type Visit = Box<dyn FnOnce(&File) -> bool + Send>;

/// The thread that goes into namespaces: one for all, and not one for each look at each endpoint.
static VISITOR: Mutex<Option<mpsc::Sender<Visit>>> = Mutex::new(None);

/// Has the thread do something, and makes it if there is none.
fn send(mut visit: Visit) -> io::Result<()> {
    let mut visitor = VISITOR.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sender) = &*visitor {
        match sender.send(visit) {
            Ok(()) => return Ok(()),
            // It has not found its way back.
            Err(mpsc::SendError(unsent)) => visit = unsent,
        }
    }
    let sender = start(thread::Builder::new())?;
    // It has just begun to listen.
    let _ = sender.send(visit);
    *visitor = Some(sender);
    Ok(())
}

/// Starts a thread that goes into namespaces. Between two it is in that of the caller, so that it keeps none alive.
fn start(thread: thread::Builder) -> io::Result<mpsc::Sender<Visit>> {
    let home = File::open("/proc/thread-self/ns/net")?;
    let (sender, visits) = mpsc::channel::<Visit>();
    thread.name("namespaces".to_owned()).spawn(move || {
        for visit in visits {
            if !visit(&home) {
                return;
            }
        }
    })?;
    Ok(sender)
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether `path` still is that namespace. It may be a later one of the same number (see [`NetnsId`]).
///
/// # Errors
/// The path cannot be looked at. That there is nothing is no error.
pub fn is_same(path: &Path, id: NetnsId) -> Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(NetnsId::of(&metadata) == id),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
                || error.raw_os_error() == Some(libc::ESRCH) =>
        {
            Ok(false)
        }
        Err(error) => Err(error).with_context(|| format!("looking at {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use nix::{
        mount::{MsFlags, mount},
        sys::stat::Mode,
        unistd::mkfifo,
    };

    use super::{
        super::{is_gone, testing},
        *,
    };

    #[test]
    fn code_runs_inside() {
        testing::isolated("code_runs_inside", || async {
            let here = Netns::current()?;
            let ns = testing::netns();
            assert_ne!(ns.id()?, here);
            assert_eq!(ns.run(Netns::current)??, ns.id()?);
            assert_eq!(Netns::current()?, here);
            let panicked = panic::catch_unwind(|| ns.run(|| panic!("inside")));
            assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"inside"));
            Ok(())
        });
    }

    #[test]
    fn one_thread_goes_into_all() {
        testing::isolated("one_thread_goes_into_all", || async {
            let (a, b) = (testing::netns(), testing::netns());
            let thread = a.run(nix::unistd::gettid)?;
            assert_ne!(thread, nix::unistd::gettid());
            assert_eq!(b.run(nix::unistd::gettid)?, thread);
            // It keeps no namespace of a container alive.
            let home = NetnsId::of(&fs::metadata(format!("/proc/self/task/{thread}/ns/net"))?);
            assert!(home != a.id()? && home != b.id()?);
            Ok(())
        });
    }

    #[test]
    fn without_a_thread_it_is_an_error() {
        testing::isolated("without_a_thread_it_is_an_error", || async {
            // A stack that no address space has room for.
            start(thread::Builder::new().stack_size(1 << 60)).unwrap_err();
            let ns = testing::netns();
            assert_eq!(ns.run(Netns::current)??, ns.id()?);
            Ok(())
        });
    }

    #[test]
    fn found_by_name_or_path() {
        testing::isolated("found_by_name_or_path", || async {
            // What follows is seen by this thread only, and gone with it.
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            mount(Some("none"), "/run", Some("tmpfs"), MsFlags::empty(), none)?;
            fs::create_dir("/run/netns")?;
            File::create("/run/netns/nd-nl-a")?;
            let bound = |from: &str| mount(Some(from), "/run/netns/nd-nl-a", none, MsFlags::MS_BIND, none);
            bound("/proc/thread-self/ns/net")?;

            let by_name = Netns::open("nd-nl-a")?;
            assert_eq!(by_name.id()?, Netns::current()?);
            assert_eq!(by_name.path(), Path::new("/run/netns/nd-nl-a"));
            assert_eq!(Netns::open("/run/netns/nd-nl-a")?.id()?, by_name.id()?);
            assert!(is_same(by_name.path(), by_name.id()?)?);
            let other = testing::netns();
            assert!(!is_same(by_name.path(), other.id()?)?);
            bound(&format!("/proc/self/fd/{}", other.file.as_raw_fd()))?;
            assert!(!is_same(by_name.path(), by_name.id()?)?);
            assert!(is_same(by_name.path(), other.id()?)?);

            // What is left of a namespace when only its mount is gone, and other things that it is not.
            File::create("/run/netns/nd-nl-file")?;
            mkfifo("/run/netns/nd-nl-fifo", Mode::S_IRWXU)?;
            for wrong in ["nd-nl-file", "nd-nl-fifo", "/proc/self/ns/mnt", "/dev/null", "/run"] {
                let error = format!("{:#}", Netns::open(wrong).unwrap_err());
                assert!(error.contains(wrong) && error.contains("is not a network namespace"), "{error}");
            }
            for (missing, mend) in [("nd-nl-b", "`ip netns add nd-nl-b`"), ("/proc/0/ns/net", "ended")] {
                let error = Netns::open(missing).unwrap_err();
                assert!(is_gone(&error));
                let error = error.to_string();
                assert!(error.contains(missing) && error.contains(mend) && !error.contains('\n'), "{error}");
            }
            for empty in ["", ".", ".."] {
                Netns::open(empty).unwrap_err();
            }
            assert!(!is_same(Path::new("/run/netns/nd-nl-b"), other.id()?)?);
            Ok(())
        });
    }
}
