//! A real dockerd, in a namespace of the bench's own, with all its files in the lab's directory.

use std::{
    fs,
    io::ErrorKind,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::lab::{Lab, Namespace, Process};

/// How long dockerd may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// The image: nothing but a static busybox.
const IMAGE: &str = "bench";
/// What a container does: nothing, and not for ever.
const SLEEP: [&str; 2] = ["/bin/sleep", "7200"];

/// The daemon. When this is dropped its containers are removed, and it ends.
pub(super) struct Docker {
    process: Arc<Process>,
    socket: PathBuf,
    containers: Vec<String>,
}

/// A container of its own making.
pub(super) struct Container {
    pub(super) pid: u32,
    pub(super) address: Ipv4Addr,
}

impl Docker {
    /// Starts it on a host, and imports the image.
    ///
    /// # Errors
    /// docker or busybox is not installed, or it does not start.
    pub(super) fn start(lab: &Lab, host: &Namespace, name: &str) -> Result<Self> {
        let version = Command::new("dockerd").arg("--version").stdin(Stdio::null()).output();
        match version {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("dockerd is not installed (package docker.io)")
            }
            version => version.context("cannot run dockerd")?,
        };
        let directory = lab.directory().join(name);
        let archive = image(&directory)?;
        // Not the machine's own.
        let config = directory.join("daemon.json");
        fs::write(&config, "{}").with_context(|| format!("cannot write {}", config.display()))?;
        let socket = directory.join("docker.sock");
        let mut command = Command::new("dockerd");
        command.args(["--storage-driver", "vfs", "--config-file"]).arg(&config);
        command.arg("--data-root").arg(directory.join("data")).arg("--exec-root").arg(directory.join("exec"));
        // Named after the lab, which removes them.
        let cgroup = format!("{}-{name}", lab.prefix());
        command
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent"])
            .arg(format!("/{cgroup}"));
        command.arg("--pidfile").arg(directory.join("pid"));
        command.arg("-H").arg(format!("unix://{}", socket.display()));
        let process = lab.spawn(host, &command, &directory.join("dockerd.log"))?;
        let docker = Self { process, socket, containers: Vec::new() };
        let start = Instant::now();
        while docker.docker(&["version"]).is_err() {
            let ended = docker.process.ended()?;
            let complaint = || docker.process.log().lines().last().unwrap_or_default().to_owned();
            ensure!(ended.is_none(), "dockerd ended: {}", complaint());
            ensure!(start.elapsed() < PATIENCE, "dockerd does not answer: {}", complaint());
            std::thread::sleep(Duration::from_millis(50));
        }
        docker.docker(&["import", &archive.display().to_string(), IMAGE])?;
        Ok(docker)
    }

    /// Runs a `docker` command, and returns what it printed.
    ///
    /// # Errors
    /// It fails; the message is its own.
    pub(super) fn docker(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("docker");
        command.arg("-H").arg(format!("unix://{}", self.socket.display())).args(arguments);
        let output = command.stdin(Stdio::null()).output().context("cannot run docker")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("docker {} ({}): {}", arguments.join(" "), output.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Starts a container on the default bridge, with more options of `docker run`.
    ///
    /// # Errors
    /// As [`Docker::docker`].
    pub(super) fn run(&mut self, name: &str, options: &[&str]) -> Result<Container> {
        // Removed also if it does not start.
        self.containers.push(name.to_owned());
        let (run, command) = (["run", "--detach", "--name", name], [IMAGE, SLEEP[0], SLEEP[1]]);
        self.docker(&[&run[..], options, &command].concat())?;
        let format = "{{.State.Pid}} {{.NetworkSettings.IPAddress}}";
        let text = self.docker(&["inspect", "--format", format, name])?;
        let (pid, address) = text.split_once(' ').with_context(|| format!("docker inspect: {text:?}"))?;
        Ok(Container {
            pid: pid.parse().with_context(|| format!("docker inspect: process {pid:?}"))?,
            address: address.parse().with_context(|| format!("docker inspect: address {address:?}"))?,
        })
    }

    /// Its process; containerd is one of its children.
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // What fails here is killed when the lab goes.
        if !self.containers.is_empty() {
            let names = self.containers.iter().map(String::as_str);
            let _ = self.docker(&["rm", "--force"].into_iter().chain(names).collect::<Vec<_>>());
        }
        let _ = self.process.signal(Signal::SIGTERM);
        let _ = self.process.wait(PATIENCE);
    }
}

/// An archive of a root file system with a busybox in it.
fn image(directory: &Path) -> Result<PathBuf> {
    let root = directory.join("rootfs");
    let bin = root.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().map(Path::new).find(|path| path.is_file());
    let busybox = busybox.context("busybox is not installed (package busybox-static)")?;
    for name in ["busybox", "sleep"] {
        fs::copy(busybox, bin.join(name)).context("cannot copy busybox")?;
    }
    let archive = directory.join("rootfs.tar");
    let status = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").status();
    ensure!(status.context("cannot run tar")?.success(), "tar fails");
    Ok(archive)
}
