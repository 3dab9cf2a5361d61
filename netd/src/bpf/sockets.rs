//! The programs for sockets of the host's own, on the root of the cgroups.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSockAddr, ProgramError, links::FdLink},
};

use super::{Datapath, ProgramStatus, full, pins::Pins, syscall};

/// Their names, which are those of their hooks too.
const PROGRAMS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];

/// Where the programs are attached, and which of them are.
pub(super) struct Sockets {
    cgroup: File,
    /// Whether any port is published, and whether one of UDP is.
    attached_for: (bool, bool),
}

impl Datapath {
    /// Lets the sockets of a network namespace, given its cookie, reach published ports, from now on. Idempotent.
    ///
    /// # Errors
    /// There is no cgroup2 hierarchy, or the kernel refuses a program.
    pub fn attach_sockets(&mut self, netns: u64) -> Result<()> {
        self.maps.host.set(0, netns, 0).context("writing to map HOST")?;
        let root = root()?;
        let cgroup = File::open(&root).with_context(|| format!("opening {}", root.display()))?;
        for name in PROGRAMS {
            match program(&mut self.programs, name)?.load() {
                Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
                Err(error) => anyhow::bail!("the kernel refuses program {name}: {}", full(&error)),
            }
        }
        let wanted = self.sockets_wanted();
        self.attach_sockets_for(wanted, &cgroup)?;
        self.sockets = Some(Sockets { cgroup, attached_for: wanted });
        Ok(())
    }

    /// Attaches the programs that the published ports need, and detaches the others: each costs every process of the machine
    /// something, with each datagram.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn follow_ports(&mut self) -> Result<()> {
        let wanted = self.sockets_wanted();
        let Some(mut sockets) = self.sockets.take_if(|sockets| sockets.attached_for != wanted) else {
            return Ok(());
        };
        let done = self.attach_sockets_for(wanted, &sockets.cgroup);
        if done.is_ok() {
            sockets.attached_for = wanted;
        }
        self.sockets = Some(sockets);
        done
    }

    /// Whether any port is published, and whether one of UDP is.
    fn sockets_wanted(&self) -> (bool, bool) {
        (self.published() > 0, self.is_udp_published())
    }

    fn attach_sockets_for(&mut self, (any, udp): (bool, bool), cgroup: &File) -> Result<()> {
        for name in PROGRAMS {
            let wanted = if is_of_udp(name) { udp } else { any };
            if wanted {
                attach(program(&mut self.programs, name)?, name, &self.pins, cgroup)
                    .with_context(|| format!("attaching {name} to the root of the cgroups"))?;
            } else {
                let pin = self.pins.socket(name);
                match fs::remove_file(&pin) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(error).with_context(|| format!("removing {}", pin.display()));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// How they are.
    pub(super) fn socket_programs(&self) -> Result<Vec<ProgramStatus>> {
        let mut all = Vec::new();
        for name in PROGRAMS {
            let program: &CgroupSockAddr =
                self.programs.program(name).context("a program is missing")?.try_into()?;
            // One that could not be loaded is told of elsewhere.
            let Ok(info) = program.info() else { continue };
            let attached = u32::from(self.pins.socket(name).exists());
            all.push(ProgramStatus {
                name: name.to_owned(),
                hook: "cgroup".to_owned(),
                id: info.id(),
                attached,
            });
        }
        Ok(all)
    }
}

/// Whether a program is about datagrams of sockets that are not connected.
fn is_of_udp(name: &str) -> bool {
    name.starts_with("sendmsg") || name.starts_with("recvmsg")
}

fn program<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut CgroupSockAddr> {
    Ok(programs
        .program_mut(name)
        .with_context(|| format!("the eBPF object has no program {name}"))?
        .try_into()?)
}

fn attach(program: &mut CgroupSockAddr, name: &str, pins: &Pins, cgroup: &File) -> Result<()> {
    let path = pins.socket(name);
    match syscall::update_link(&path, program.fd()?.as_fd()) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            // Its cgroup is gone, say: a link of no use.
            tracing::debug!("{}: {error}: attaching anew", path.display());
            fs::remove_file(&path)?;
        }
    }
    // Links to cgroups always go with others'; older kernels want no flag that says so.
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    let link: FdLink = program.take_link(id)?.try_into().context("a cgroup link is a file descriptor")?;
    link.pin(&path).with_context(|| format!("pinning {}", path.display()))?;
    Ok(())
}

/// Where the root of the cgroups is.
fn root() -> Result<PathBuf> {
    const MOUNTS: &str = "/proc/self/mounts";
    let mounts = fs::read_to_string(MOUNTS).with_context(|| format!("reading {MOUNTS}"))?;
    find(&mounts).context("no cgroup2 hierarchy is mounted: the host itself does not reach published ports")
}

fn find(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (path, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| path.replace("\\040", " ").into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_the_cgroups() {
        let hybrid =
            "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(find(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find("none /a\\040b cgroup2 rw 0 0"), Some("/a b".into()));
        assert_eq!(find("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n"), None);
    }
}
