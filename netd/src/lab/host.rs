//! A container host: a namespace with an uplink and a real daemon; and the containers on it.

use std::{
    env, fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Lab, Namespace, Process, Switch, World, registry::Resources, world};
use crate::bpf::{Attachment, Counter};

/// What the line begins with that the daemon prints once it serves.
const READY: &str = "netd ready";
// Longer than any machine needs, emulated ones too: what is waited for is seen when it happens, and a daemon that ends is not waited for.
const START_TIMEOUT: Duration = Duration::from_secs(600);
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// A host: a namespace, its uplink, and a daemon with socket, state and pins of its own.
#[derive(Debug)]
pub struct Host {
    /// Its namespace.
    pub namespace: Namespace,
    /// The address of its uplink.
    pub address: Ipv4Addr,
    /// The IPv6 address of its uplink, if it has one.
    pub address6: Option<Ipv6Addr>,
    name: String,
    directory: PathBuf,
    bpffs: PathBuf,
    pub(super) resources: Arc<Resources>,
    process: Option<Arc<Process>>,
}

/// A container: a namespace that was attached.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its namespace.
    pub namespace: Namespace,
    /// The endpoint's name.
    pub name: String,
    /// The network it is in.
    pub network: String,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// The length of the address's prefix.
    pub prefix: u8,
    /// The gateway's IPv4 address.
    pub gateway: Ipv4Addr,
    /// Its IPv6 address, if it has one.
    pub address6: Option<Ipv6Addr>,
    /// The gateway's likewise.
    pub gateway6: Option<Ipv6Addr>,
    /// The MAC of its interface.
    pub mac: String,
    /// The name of its interface, inside.
    pub interface: String,
    /// The name of the other end, on the host.
    pub host_interface: String,
}

impl Host {
    /// Makes a host with an uplink to the world, and writes its configuration; the daemon is not started.
    ///
    /// # Errors
    /// The namespace or the uplink cannot be made.
    pub fn new(lab: &Lab, world: &World, name: &str, config: &str) -> Result<Self> {
        Self::plugged(lab, name, config, |namespace| world.plug(lab, namespace))
    }

    /// The same, with its uplink on a switch.
    ///
    /// # Errors
    /// As [`Host::new`].
    pub fn on_switch(lab: &Lab, switch: &Switch, name: &str, config: &str) -> Result<Self> {
        Self::plugged(lab, name, config, |namespace| switch.plug(lab, namespace))
    }

    fn plugged(
        lab: &Lab,
        name: &str,
        config: &str,
        plug: impl FnOnce(&Namespace) -> Result<world::Uplink>,
    ) -> Result<Self> {
        let namespace = lab.namespace(name)?;
        let uplink = plug(&namespace)?;
        let host = Self::in_namespace(lab, namespace, uplink.address, name, config)?;
        Ok(Self { address6: uplink.address6, ..host })
    }

    /// Makes a host out of a namespace that has its uplink, with this address.
    ///
    /// # Errors
    /// Its directory or its configuration cannot be written.
    pub fn in_namespace(
        lab: &Lab,
        namespace: Namespace,
        address: Ipv4Addr,
        name: &str,
        config: &str,
    ) -> Result<Self> {
        let directory = lab.directory().join(name);
        fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let host = Self {
            namespace,
            address,
            address6: None,
            name: name.to_owned(),
            directory,
            bpffs: lab.bpffs().join(name),
            resources: Arc::clone(&lab.resources),
            process: None,
        };
        host.configure(config)?;
        Ok(host)
    }

    /// Makes a host and starts its daemon.
    ///
    /// # Errors
    /// As [`Host::new`] and [`Host::start`].
    pub fn running(lab: &Lab, world: &World, name: &str, config: &str) -> Result<Self> {
        let mut host = Self::new(lab, world, name, config)?;
        host.start()?;
        Ok(host)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("netd.sock")
    }

    /// The daemon's state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// The daemon's pin directory.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The daemon's configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.join("netd.toml")
    }

    /// Replaces the configuration; the daemon reads it when it starts.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure(&self, config: &str) -> Result<()> {
        let path = self.config();
        fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The arguments of `netd run` for this host.
    #[must_use]
    pub fn run_arguments(&self) -> Vec<std::ffi::OsString> {
        let mut arguments = vec!["run".into()];
        for (option, path) in [
            ("--config", self.config()),
            ("--socket", self.socket()),
            ("--state-dir", self.state()),
            ("--bpffs-dir", self.bpffs.clone()),
        ] {
            arguments.extend([option.into(), path.into_os_string()]);
        }
        arguments
    }

    /// Starts the daemon and waits until it serves.
    ///
    /// # Errors
    /// It runs already, or it ends or stays silent; the message holds its log.
    pub fn start(&mut self) -> Result<()> {
        if self.process.as_ref().is_some_and(|process| matches!(process.ended(), Ok(None))) {
            bail!("the daemon of {} runs already", self.name);
        }
        let mut command = clean(Command::new(binary()?));
        command.args(self.run_arguments());
        let log = self.directory.join("netd.log");
        let printed = fs::metadata(&log).map_or(0, |data| data.len());
        let process = self.resources.spawn(&self.namespace, &command, &log)?;
        self.process = Some(Arc::clone(&process));
        let end = Instant::now() + START_TIMEOUT;
        loop {
            let log = process.log();
            let fresh = log.get(usize::try_from(printed)?..).unwrap_or(&log);
            if fresh.lines().any(|line| line.starts_with(READY)) {
                return Ok(());
            }
            if let Some(status) = process.ended()? {
                bail!("the daemon of {} ended ({status}); its log:\n{fresh}", self.name);
            }
            if Instant::now() > end {
                bail!("the daemon of {} is not ready after {START_TIMEOUT:?}; its log:\n{fresh}", self.name);
            }
            thread::sleep(Duration::from_millis(3));
        }
    }

    /// Ends the daemon with a signal and waits for its end.
    ///
    /// # Errors
    /// There is none, or it does not end.
    pub fn stop(&mut self, signal: Signal) -> Result<std::process::ExitStatus> {
        let process = self.process.take().ok_or_else(|| anyhow!("{} has no daemon", self.name))?;
        process.signal(signal)?;
        process.wait(STOP_TIMEOUT)
    }

    /// As if the power had failed: daemon, pins, the host's namespace and those of its containers are gone; what is left
    /// is its state directory. The host gets a new namespace and a new uplink; the daemon is not started.
    ///
    /// # Errors
    /// Something cannot be removed or made anew.
    pub fn reboot(&mut self, lab: &Lab, world: &World, containers: &[Container]) -> Result<()> {
        if self.process.is_some() {
            self.stop(Signal::SIGKILL)?;
        }
        for namespace in containers.iter().map(|one| &one.namespace).chain([&self.namespace]) {
            lab.remove_namespace(namespace)?;
        }
        if self.bpffs.exists() {
            fs::remove_dir_all(&self.bpffs)
                .with_context(|| format!("cannot remove {}", self.bpffs.display()))?;
        }
        self.namespace = lab.namespace(&self.name)?;
        let uplink = world.plug(lab, &self.namespace)?;
        (self.address, self.address6) = (uplink.address, uplink.address6);
        Ok(())
    }

    /// The daemon's process, if it was started.
    #[must_use]
    pub fn process(&self) -> Option<&Process> {
        self.process.as_deref()
    }

    /// All that its daemons have printed.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("netd.log")).unwrap_or_default()
    }

    /// A `netd` command on this host, with the host's socket.
    ///
    /// # Errors
    /// The binary or the namespace is not there.
    pub fn command(&self) -> Result<Command> {
        let mut command = clean(self.namespace.command(binary()?)?);
        command.arg("--socket").arg(self.socket()).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a `netd` command on this host, whatever comes of it.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn netd<S: AsRef<str>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Output> {
        let mut command = self.command()?;
        for argument in arguments {
            command.arg(argument.as_ref());
        }
        command.output().context("cannot run netd")
    }

    /// Runs a `netd` command on this host, and returns the JSON that it prints (null for nothing); also where its status tells of
    /// a problem in what it prints, as that of `netd status` does.
    ///
    /// # Errors
    /// It fails, or what it prints is not JSON.
    pub fn json<S: AsRef<str>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Value> {
        let arguments: Vec<String> = arguments.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let output = self.netd(&arguments)?;
        if !output.status.success() && output.stdout.is_empty() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("netd {} ({}): {}", arguments.join(" "), output.status, said.trim());
        }
        if output.stdout.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("netd {}: what it printed is not JSON", arguments.join(" ")))
    }

    /// The counters of `netd status` in a list: `forwarded` or `drops`.
    ///
    /// # Errors
    /// The daemon does not answer, or has no such list.
    pub fn counters(&self, list: &str) -> Result<Vec<Counter>> {
        let mut status = self.json(["status", "--json"])?;
        serde_json::from_value(status[list].take())
            .with_context(|| format!("netd status --json: no list of counters `{list}`"))
    }

    /// Waits until the daemon has moved its endpoints to the faster hook, which it does when nobody asks for anything; where the
    /// kernel has none, there is nothing to wait for.
    ///
    /// # Errors
    /// It does not.
    pub fn settle(&self) -> Result<()> {
        if Attachment::of_this_kernel() != Attachment::Tcx {
            return Ok(());
        }
        let end = Instant::now() + SETTLE_TIMEOUT;
        loop {
            let status = self.json(["status", "--json"])?;
            let programs = status["programs"].as_array().into_iter().flatten();
            let mut of_endpoints = programs.filter(|program| program["name"] == "from_container");
            if of_endpoints.all(|program| program["hook"] == "tcx") {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("the endpoints of {} are not on the faster hook: {}", self.name, status["programs"]);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Makes a namespace and attaches it, with more options of `netd attach` in `options`.
    ///
    /// # Errors
    /// The namespace cannot be made, or the daemon refuses.
    pub fn container(&self, name: &str, options: &[&str]) -> Result<Container> {
        let namespace = self.resources.namespace(&format!("{}-{name}", self.name))?;
        namespace.ip(["link set lo up"])?;
        self.attach(name, &namespace, options)
    }

    /// Attaches a namespace, with more options of `netd attach` in `options`. Where they do not say which kind of link, the variable
    /// `NETD_LINK` of the environment does, if it is set.
    ///
    /// # Errors
    /// The daemon refuses, or its answer lacks something.
    pub fn attach(&self, name: &str, namespace: &Namespace, options: &[&str]) -> Result<Container> {
        let mut arguments = vec!["attach", name, "--netns", namespace.name(), "--json"];
        let link = env::var("NETD_LINK").ok();
        if let Some(link) = link.as_deref().filter(|_| !options.contains(&"--link")) {
            arguments.extend(["--link", link]);
        }
        let answer = self.json(arguments.iter().chain(options))?;
        Container::parse(namespace, &answer).with_context(|| format!("netd attach --json printed {answer}"))
    }
}

impl Container {
    pub(super) fn parse(namespace: &Namespace, answer: &Value) -> Result<Self> {
        let text = |key: &str| {
            answer[key].as_str().map(str::to_owned).with_context(|| format!("there is no string `{key}`"))
        };
        let addresses = || answer["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let address = addresses()
            .find(|address| address.contains('.'))
            .context("there is no IPv4 address in `addresses`")?;
        let address6 = addresses().find(|address| address.contains(':'));
        let address6 = address6.and_then(|address| Some(address.split_once('/')?.0));
        let (address, prefix) = address.split_once('/').context("an address has no prefix length")?;
        Ok(Self {
            namespace: namespace.clone(),
            name: text("name")?,
            network: text("network")?,
            address: address.parse().context("bad address")?,
            prefix: prefix.parse().context("bad prefix length")?,
            gateway: text("gateway")?.parse().context("bad gateway")?,
            address6: address6.map(str::parse).transpose().context("bad IPv6 address")?,
            gateway6: answer["gateway6"].as_str().map(str::parse).transpose().context("bad gateway6")?,
            mac: text("mac")?,
            interface: text("interface")?,
            host_interface: text("host_interface")?,
        })
    }
}

/// The `netd` to run: `NETD_BIN`, or the running program if it is one, or the one that cargo has put next to a test.
///
/// # Errors
/// There is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("NETD_BIN") {
        // The working directory of a test is not that of who set the variable.
        return fs::canonicalize(&path)
            .with_context(|| format!("NETD_BIN: no {}", Path::new(&path).display()));
    }
    let own = env::current_exe().context("cannot find this program's file")?;
    if own.file_name().is_some_and(|name| name == "netd") {
        return Ok(own);
    }
    let built =
        own.ancestors().skip(1).take(2).map(|directory| directory.join("netd")).find(|path| path.is_file());
    built.context("no netd binary: build it (cargo build -p netd) or name it with NETD_BIN")
}

/// Without what the caller's environment says about another daemon.
fn clean(mut command: Command) -> Command {
    for (name, _) in env::vars_os() {
        let is_ours = name.to_str().is_some_and(|name| name.starts_with("NETD_") && name != "NETD_LOG");
        if is_ours && name != "NETD_BIN" {
            command.env_remove(name);
        }
    }
    command
}
