//! Who owns what, so that everything goes: at the end of a lab, on a signal, and after a run that was killed.
//!
//! Each lab has a directory below [`DIRECTORY`], made before all else and removed last. A file in it names the process
//! that owns the lab; a lab whose owner is gone is removed by the next run, unless it is marked as kept.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        signal::{Signal, kill},
        statfs::{BPF_FS_MAGIC, statfs},
    },
    unistd::Pid,
};

use super::{groups, namespace, namespace::Namespace, process::Process};

/// Where labs keep their sockets, logs and state.
const DIRECTORY: &str = "/run/netd-lab";
/// Where the bpffs is.
const BPFFS: &str = "/sys/fs/bpf";
/// The file with the owner's process id and the time that it started.
const OWNER: &str = "owner";
/// The file that exempts a lab from sweeping.
const KEPT: &str = "kept";

/// Everything that one lab has made.
#[derive(Debug)]
pub(super) struct Resources {
    prefix: String,
    directory: PathBuf,
    bpffs: PathBuf,
    live: Mutex<Live>,
}

#[derive(Debug, Default)]
struct Live {
    /// Set once removal has begun: nothing is made any more.
    closed: bool,
    namespaces: Vec<Namespace>,
    processes: Vec<Arc<Process>>,
}

/// Removes a lab from wherever it is called; see [`super::Lab::closer`].
#[derive(Clone, Debug)]
pub struct Closer(Arc<Resources>);

impl Closer {
    pub(super) fn new(resources: Arc<Resources>) -> Self {
        Self(resources)
    }

    /// Kills the lab's processes and removes all that it has made. What is about to be made fails.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Resources {
    /// Makes the lab's directories and writes down who owns them.
    pub(super) fn claim(prefix: &str) -> Result<Self> {
        let directory = Path::new(DIRECTORY).join(prefix);
        let bpffs = Path::new(BPFFS).join("netd-lab").join(prefix);
        mount_bpffs()?;
        // Under another name until it says whose it is: a lab without an owner is swept by whoever starts one.
        let fresh = Path::new(DIRECTORY).join(format!(".{prefix}"));
        create_dir(&fresh)?;
        let owned = write_owner(&fresh).and_then(|()| {
            fs::rename(&fresh, &directory).with_context(|| format!("cannot create {}", directory.display()))
        });
        if let Err(error) = owned {
            let _ = fs::remove_dir_all(&fresh);
            return Err(error);
        }
        let resources = Self {
            prefix: prefix.to_owned(),
            directory: directory.clone(),
            bpffs: bpffs.clone(),
            live: Mutex::default(),
        };
        let claimed = create_dir(&bpffs);
        if claimed.is_err() {
            resources.close();
        }
        claimed.map(|()| resources)
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    pub(super) fn namespace(&self, name: &str) -> Result<Namespace> {
        let mut live = self.live()?;
        let namespace = Namespace::named(&format!("{}-{name}", self.prefix));
        namespace.create()?;
        live.namespaces.push(namespace.clone());
        Ok(namespace)
    }

    pub(super) fn adopt(&self, name: &str, pid: u32) -> Result<Namespace> {
        let mut live = self.live()?;
        let namespace = Namespace::named(&format!("{}-{name}", self.prefix));
        namespace.adopt(pid)?;
        live.namespaces.push(namespace.clone());
        Ok(namespace)
    }

    pub(super) fn remove_namespace(&self, namespace: &Namespace) -> Result<()> {
        let mut live = self.live()?;
        live.namespaces.retain(|other| other != namespace);
        namespace.remove()
    }

    pub(super) fn tmpfs(&self, path: &Path, bytes: u64) -> Result<()> {
        // Held, so that it is not mounted while all is being removed.
        let _live = self.live()?;
        ensure!(path.starts_with(&self.directory), "{} is not in the lab's directory", path.display());
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
        let size = format!("size={bytes}");
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
            .with_context(|| format!("cannot mount a tmpfs on {}", path.display()))
    }

    pub(super) fn spawn(&self, namespace: &Namespace, command: &Command, log: &Path) -> Result<Arc<Process>> {
        let mut live = self.live()?;
        let mut inside = namespace.command(command.get_program())?;
        inside.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        let process = Arc::new(Process::start(inside, log)?);
        live.processes.push(Arc::clone(&process));
        Ok(process)
    }

    /// Exempts the lab from sweeping.
    pub(super) fn mark_kept(&self) -> Result<()> {
        let path = self.directory.join(KEPT);
        fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes everything. Goes on past errors: there is nobody who could do better.
    pub(super) fn close(&self) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.closed = true;
        for process in live.processes.drain(..) {
            process.kill();
        }
        live.namespaces.clear();
        remove(&self.prefix);
    }

    fn live(&self) -> Result<std::sync::MutexGuard<'_, Live>> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(!live.closed, "the lab {} is being removed", self.prefix);
        Ok(live)
    }
}

/// Removes the labs whose owner is gone, except those that are kept. What cannot be removed is left for the next time.
pub(super) fn sweep() {
    for (prefix, directory) in labs() {
        if !directory.join(KEPT).exists() && !owner_lives(&directory) {
            remove(&prefix);
        }
    }
    // A daemon that was killed while its lab was being removed may have pinned something just after its pins went.
    for (prefix, pins) in entries(&Path::new(BPFFS).join("netd-lab")) {
        if !Path::new(DIRECTORY).join(prefix).exists() {
            let _ = fs::remove_dir_all(pins);
        }
    }
}

/// Removes the kept labs of a kind, with the daemons that run in them, or only the one with a given prefix; returns what
/// it has removed. Also sweeps.
#[must_use]
pub fn clean_kept(kind: &str, only: Option<&str>) -> Vec<String> {
    sweep();
    let start = format!("nd-{kind}-");
    let kept: Vec<String> = labs()
        .filter(|(prefix, directory)| prefix.starts_with(&start) && directory.join(KEPT).exists())
        .map(|(prefix, _)| prefix)
        .filter(|prefix| only.is_none_or(|only| only == prefix))
        .collect();
    for prefix in &kept {
        remove(prefix);
    }
    kept
}

/// The labs on this machine.
fn labs() -> impl Iterator<Item = (String, PathBuf)> {
    entries(Path::new(DIRECTORY))
}

/// What is named after a lab in a directory.
fn entries(directory: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    fs::read_dir(directory).into_iter().flatten().flatten().filter_map(|entry| {
        let prefix = entry.file_name().into_string().ok()?;
        prefix.starts_with("nd-").then(|| (prefix, entry.path()))
    })
}

/// Removes all that carries a prefix: processes, their control groups, namespaces, pins, files.
fn remove(prefix: &str) {
    let start = format!("{prefix}-");
    let namespaces: Vec<Namespace> = fs::read_dir(namespace::DIRECTORY)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&start))
        .map(|name| Namespace::named(&name))
        .collect();
    kill_inside(&namespaces);
    groups::remove(&start);
    let _ = fs::remove_dir_all(Path::new(BPFFS).join("netd-lab").join(prefix));
    let removed = namespaces.iter().map(Namespace::remove).filter(Result::is_ok).count();
    let directory = Path::new(DIRECTORY).join(prefix);
    for mount in mounts_below(&directory) {
        let _ = umount2(&mount, MntFlags::MNT_DETACH);
    }
    if removed < namespaces.len() {
        // What is left is for the next time: the directory is what that goes by.
        return;
    }
    let _ = fs::remove_dir_all(directory);
    // The common parents go with the last lab; not empty otherwise.
    let _ = fs::remove_dir(Path::new(BPFFS).join("netd-lab"));
    let _ = fs::remove_dir(DIRECTORY);
}

/// What is mounted below a directory, the innermost first.
fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The fifth field is the place. A lab's names have no blanks, which would be escaped there.
    let places = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut mounts: Vec<PathBuf> = places.filter(|place| place.starts_with(directory)).collect();
    mounts.reverse();
    mounts
}

/// Kills the processes that run in these namespaces: they were made for the lab, so all that is in them is the lab's.
fn kill_inside(namespaces: &[Namespace]) {
    let identity = |path: &Path| fs::metadata(path).ok().map(|data| (data.dev(), data.ino()));
    let inside: Vec<(u64, u64)> =
        namespaces.iter().filter_map(|namespace| identity(&namespace.path())).collect();
    let own = identity(Path::new("/proc/self/ns/net"));
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let found = identity(&entry.path().join("ns/net"));
        if found != own && found.is_some_and(|found| inside.contains(&found)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The owner's id and start time, so that another process that got the same id is not taken for it.
fn write_owner(directory: &Path) -> Result<()> {
    let pid = std::process::id();
    let start = started(pid).context("cannot read the start time of this process")?;
    fs::write(directory.join(OWNER), format!("{pid} {start}\n"))
        .with_context(|| format!("cannot write {}", directory.join(OWNER).display()))
}

fn owner_lives(directory: &Path) -> bool {
    let Ok(text) = fs::read_to_string(directory.join(OWNER)) else {
        // Being made at this moment, or a leftover: too young to tell for a while.
        let age = fs::metadata(directory)
            .and_then(|data| data.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        return age.is_none_or(|age| age.as_secs() < 10);
    };
    let mut words = text.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(pid)), Some(Ok(start))) = (words.next(), words.next()) else { return false };
    u32::try_from(pid).ok().and_then(started) == Some(start)
}

/// When a process started, in clock ticks since boot: field 22 of `/proc/PID/stat`.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the program's name in parentheses, may hold blanks.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Makes a directory whose parent another run may be removing at this moment.
fn create_dir(path: &Path) -> Result<()> {
    let mut last = Ok(());
    for _ in 0..10 {
        last = fs::create_dir_all(path.parent().unwrap_or(path)).and_then(|()| fs::create_dir(path));
        match &last {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => break,
        }
    }
    last.with_context(|| format!("cannot create {}", path.display()))
}

/// Mounts the bpffs where it belongs, if it is not there.
fn mount_bpffs() -> Result<()> {
    if statfs(BPFFS).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount the bpffs on {BPFFS}"))
}
