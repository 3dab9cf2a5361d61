//! A network namespace with a name, and ways to work in it.

use std::{
    ffi::OsStr,
    fs::File,
    io::Write as _,
    os::{fd::AsFd, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

/// Where `ip netns` keeps its names.
pub const DIRECTORY: &str = "/run/netns";

/// Makes the directory, and a mount of its own of it, as `ip netns add` does (`netns_add` in iproute2): or else the first one of those
/// covers what is mounted there already, and nobody can remove it any more.
fn prepare() -> Result<()> {
    let what = || format!("cannot prepare {DIRECTORY}");
    std::fs::create_dir_all(DIRECTORY).with_context(what)?;
    let directory = File::open(DIRECTORY).with_context(what)?;
    // Two at once would put one mount on the other.
    let _lock =
        Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, error)| error).with_context(what)?;
    let share =
        || mount(None::<&str>, DIRECTORY, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    if share() == Err(Errno::EINVAL) {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(DIRECTORY), DIRECTORY, None::<&str>, flags, None::<&str>).with_context(what)?;
        share().with_context(what)?;
    }
    Ok(())
}

/// A network namespace with a name below [`DIRECTORY`], as `ip netns add` makes it.
///
/// This is only the name: the namespace is opened anew for each use, so that a value that lies around does not keep a
/// namespace alive which is being removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// The namespace of that name; it need not exist.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// Its name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that holds it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Gives a name to the namespace that a process is in.
    pub(super) fn adopt(&self, pid: u32) -> Result<()> {
        let path = self.path();
        prepare()?;
        File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let source = format!("/proc/{pid}/ns/net");
        let mounted = mount(Some(source.as_str()), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("cannot mount the namespace of process {pid} on {}", path.display()));
        if mounted.is_err() {
            // Nothing must be left of a name without a namespace.
            let _ = self.remove();
        }
        mounted
    }

    /// Makes it: a thread gets a namespace of its own, and a mount keeps that.
    pub(super) fn create(&self) -> Result<()> {
        let path = self.path();
        prepare()?;
        File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let mounted = thread::scope(|scope| {
            join(scope.spawn(|| -> Result<()> {
                unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
                // Not /proc/self: that is the main thread's namespace.
                mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                    .with_context(|| format!("cannot mount the namespace on {}", path.display()))?;
                // Ping sockets for all groups; a new namespace starts with none.
                std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")
                    .context("cannot set ping_group_range")
            }))
        });
        if mounted.is_err() {
            // Nothing must be left of a namespace that was not made.
            let _ = self.remove();
        }
        mounted
    }

    /// Removes its name. What runs in it lives on.
    pub(super) fn remove(&self) -> Result<()> {
        let path = self.path();
        // Not a mount (any more): the file alone is left.
        let _ = umount2(&path, MntFlags::MNT_DETACH);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Runs `work` on a thread inside the namespace and waits for its result. A panic in there goes on in the caller.
    ///
    /// # Errors
    /// The namespace cannot be entered, or what `work` returns.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            join(scope.spawn(|| {
                self.enter()?;
                work()
            }))
        })
    }

    /// Runs `work` on a thread inside the namespace, at the same time as the caller.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        let namespace = self.clone();
        thread::spawn(move || {
            namespace.enter()?;
            work()
        })
    }

    /// Moves the calling thread into the namespace, for good: only for threads made for the purpose.
    fn enter(&self) -> Result<()> {
        let file = self.open()?;
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}", self.name))
    }

    fn open(&self) -> Result<File> {
        File::open(self.path()).with_context(|| format!("no network namespace {}", self.name))
    }

    /// A command that will run inside the namespace. The mounts stay the caller's, so, unlike with `ip netns exec`, the
    /// bpffs is there; and /sys/class/net is that of the caller's namespace.
    ///
    /// # Errors
    /// The namespace does not exist.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let file = self.open()?;
        let mut command = Command::new(program);
        // SAFETY: between fork and exec only setns(2) is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(move || Ok(setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?));
        }
        Ok(command)
    }

    /// Runs a command inside the namespace and returns what it printed.
    ///
    /// # Errors
    /// It cannot be run, or it fails; the message holds its standard error.
    pub fn output<S: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        let mut command = self.command(program)?;
        command.args(arguments).stdin(Stdio::null());
        checked(&command.output().with_context(|| format!("cannot run {program}"))?, program, &self.name)
    }

    /// Runs lines of `ip -batch` inside the namespace, e.g. `link set lo up`.
    ///
    /// # Errors
    /// `ip` is not there, or refuses a line; the message says which.
    pub fn ip<S: AsRef<str>>(&self, lines: impl IntoIterator<Item = S>) -> Result<()> {
        let lines: Vec<String> = lines.into_iter().map(|line| line.as_ref().to_owned()).collect();
        let mut child = self
            .command("ip")?
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run ip (package iproute2)")?;
        let mut stdin = child.stdin.take().ok_or_else(|| anyhow!("ip has no standard input"))?;
        // An error here means that ip has ended early; what it said is the better message.
        let _ = stdin.write_all(lines.join("\n").as_bytes()).and_then(|()| stdin.write_all(b"\n"));
        drop(stdin);
        let output = child.wait_with_output().context("cannot wait for ip")?;
        checked(&output, &format!("ip {}", lines.join("; ")), &self.name)?;
        Ok(())
    }

    /// Runs `ip -json` with the words of `arguments` inside the namespace.
    ///
    /// # Errors
    /// `ip` fails, or prints no JSON.
    pub fn ip_json(&self, arguments: &str) -> Result<serde_json::Value> {
        let text =
            self.output("ip", ["-json", "-details"].into_iter().chain(arguments.split_whitespace()))?;
        // Nothing at all is how some versions of ip print an empty list.
        if text.trim().is_empty() {
            return Ok(serde_json::Value::Array(Vec::new()));
        }
        serde_json::from_str(&text).with_context(|| format!("ip {arguments}: not JSON: {text}"))
    }

    /// Reads a sysctl of the namespace, e.g. `net.ipv4.ip_forward`.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn sysctl(&self, name: &str) -> Result<String> {
        let path = sysctl_path(name)?;
        self.run(|| {
            let value =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read sysctl {name}"))?;
            Ok(value.trim().to_owned())
        })
    }

    /// Sets a sysctl of the namespace.
    ///
    /// # Errors
    /// There is none of that name, it is not one of a network namespace, or it does not take the value.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = sysctl_path(name)?;
        self.run(|| {
            std::fs::write(&path, value).with_context(|| format!("cannot set sysctl {name} to {value}"))
        })
    }
}

/// Only `net.`: all others are the machine's, not the namespace's.
fn sysctl_path(name: &str) -> Result<PathBuf> {
    ensure!(name.starts_with("net."), "sysctl {name} is not of a network namespace");
    Ok(Path::new("/proc/sys").join(name.replace('.', "/")))
}

fn checked(output: &Output, what: &str, namespace: &str) -> Result<String> {
    if !output.status.success() {
        bail!(
            "{what} (in {namespace}): {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
