//! Test networks out of network namespaces: hosts with a real daemon, containers, a router and a server behind it.
//!
//! `netd demo`, `netd bench` and the network tests build their networks here. A [`Lab`] owns everything that is made, and
//! removes it again: when it is dropped, in a panic, and, where [`signals::catch`] was called, on SIGINT and SIGTERM. What
//! a run leaves that was killed outright is swept by the next one.
//!
//! Nothing in here touches the caller's own network namespace: each step that concerns a network is done by a thread or a
//! process which has entered the namespace that it works on.

pub mod cluster;
pub mod echo;
pub mod etcd;
pub mod facts;
mod groups;
pub mod host;
pub mod http;
pub mod icmp;
pub mod namespace;
pub mod process;
mod registry;
pub mod service;
pub mod signals;
pub mod socket;
pub mod vmm;
pub mod world;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
pub use etcd::Etcd;
pub use host::{Container, Host};
pub use namespace::Namespace;
pub use process::Process;
pub use registry::{Closer, clean_kept};
pub use service::Service;
pub use vmm::Vmm;
pub use world::{Switch, World};

const CARRIER_TIMEOUT: Duration = Duration::from_secs(5);

/// A test network, and the owner of all its parts.
///
/// Names begin with a prefix that holds the process's id, so labs of several processes, and several labs of one process,
/// exist side by side.
#[derive(Debug)]
pub struct Lab {
    resources: Arc<registry::Resources>,
    keep: bool,
}

/// One end of a cable: where it is, what it is called there, and its address with the prefix length, if it has one.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// The namespace.
    pub namespace: &'a Namespace,
    /// The interface's name in it.
    pub interface: &'a str,
    /// E.g. `192.0.2.1/24`.
    pub address: Option<&'a str>,
}

impl Lab {
    /// Makes an empty lab. `kind` is part of all names, e.g. `demo`. Sweeps what earlier runs left that did not end well.
    ///
    /// # Errors
    /// The caller is not root, or `/run` or the bpffs cannot be used.
    pub fn new(kind: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);

        registry::sweep();
        let prefix = format!("nd-{kind}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let resources = registry::Resources::claim(&prefix)
            .with_context(|| format!("cannot make the lab {prefix} (is this root?)"))?;
        Ok(Self { resources: Arc::new(resources), keep: false })
    }

    /// What the names of this lab begin with, e.g. `nd-demo-4711-0`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.resources.prefix()
    }

    /// A directory of this lab for sockets, logs and state; it goes when the lab goes.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.resources.directory()
    }

    /// A directory of this lab on the bpffs; its pins go when the lab goes.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.resources.bpffs().to_owned()
    }

    /// Makes a network namespace, with its loopback up, in which an unprivileged process can ping.
    ///
    /// # Errors
    /// The kernel refuses, or the lab is being removed.
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        let namespace = self.resources.namespace(name)?;
        namespace.ip(["link set lo up"])?;
        Ok(namespace)
    }

    /// Gives a name to the network namespace of a process, which is the lab's from then on: when the lab goes, what runs in
    /// it is killed.
    ///
    /// # Errors
    /// There is no such process, or the lab is being removed.
    pub fn adopt(&self, name: &str, pid: u32) -> Result<Namespace> {
        self.resources.adopt(name, pid)
    }

    /// Removes a namespace before the lab goes. It lives on, without a name, as long as something runs in it.
    ///
    /// # Errors
    /// The name cannot be unmounted.
    pub fn remove_namespace(&self, namespace: &Namespace) -> Result<()> {
        self.resources.remove_namespace(namespace)
    }

    /// Lays a cable (a veth pair) between two namespaces, and brings both ends up.
    ///
    /// # Errors
    /// `ip` refuses; the message says what.
    pub fn cable(&self, a: End<'_>, b: End<'_>) -> Result<()> {
        a.namespace.ip([format!(
            "link add {} type veth peer name {} netns {}",
            a.interface,
            b.interface,
            b.namespace.name()
        )])?;
        for end in [a, b] {
            let address = end.address.map(|address| format!("address add {address} dev {}", end.interface));
            let up = format!("link set {} up", end.interface);
            end.namespace.ip(address.into_iter().chain([up]))?;
        }
        // The end that was up first has no queue until a kernel thread (linkwatch) finds that its peer is up too, which may
        // take a second; until then it drops what it is to send.
        let deadline = Instant::now() + CARRIER_TIMEOUT;
        for end in [a, b] {
            while end.namespace.ip_json(&format!("link show {}", end.interface))?[0]["qdisc"] == "noop" {
                ensure!(
                    Instant::now() < deadline,
                    "{} of {} does not come up",
                    end.interface,
                    end.namespace.name()
                );
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }

    /// Mounts a small file system on a directory below [`Lab::directory`], to stand for a disk that fills up.
    ///
    /// # Errors
    /// The kernel refuses, or the lab is being removed.
    pub fn tmpfs(&self, path: &Path, bytes: u64) -> Result<()> {
        self.resources.tmpfs(path, bytes)
    }

    /// Starts a process of this lab in a namespace; its output goes to `log`. It is killed when the lab goes.
    ///
    /// # Errors
    /// The program cannot be started, or the lab is being removed.
    pub fn spawn(
        &self,
        namespace: &Namespace,
        command: &std::process::Command,
        log: &Path,
    ) -> Result<Arc<Process>> {
        self.resources.spawn(namespace, command, log)
    }

    /// What removes this lab from another thread, e.g. one that waits for signals.
    #[must_use]
    pub fn closer(&self) -> Closer {
        Closer::new(Arc::clone(&self.resources))
    }

    /// Leaves the lab up when this value is dropped, and exempts it from later sweeps; [`clean_kept`] removes it.
    ///
    /// # Errors
    /// The mark that exempts it cannot be written; the lab is then removed as usual.
    pub fn keep(&mut self) -> Result<()> {
        self.resources.mark_kept()?;
        self.keep = true;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.keep {
            self.resources.close();
        }
    }
}

#[cfg(test)]
mod tests;
