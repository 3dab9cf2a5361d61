//! What is pinned where: `DIRECTORY/vN/maps/NAME`, `DIRECTORY/vN/links/IFINDEX-HOOK` and `DIRECTORY/vN/sockets/NAME`, N being the version of the maps'
//! types. A program needs no pin: its links hold it.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use netd_common::abi::ABI_VERSION;

use super::{
    links::{self, Attachment, Hook},
    syscall,
};

/// The directory of the links of programs for sockets.
const SOCKETS: &str = "sockets";
/// The directory of the maps of steps of other versions, as long as their programs run: the kernel empties such a map when it is pinned
/// nowhere and nobody has it open, and their programs would go on with nothing.
const FORMER: &str = "former";

/// The pins of this version.
pub(super) struct Pins {
    /// On endpoints' links, and on all others.
    attachments: [Attachment; 2],
    directory: PathBuf,
    version: PathBuf,
}

impl Pins {
    /// Makes the directories.
    pub(super) fn open(directory: &Path, attachments: [Attachment; 2]) -> Result<Self> {
        let version = directory.join(format!("v{ABI_VERSION}"));
        for path in ["maps", "links", SOCKETS, FORMER].map(|name| version.join(name)) {
            fs::create_dir_all(&path).with_context(|| {
                format!("creating {} (is a bpf file system mounted there?)", path.display())
            })?;
        }
        Ok(Self { attachments, directory: directory.to_owned(), version })
    }

    /// How a program is attached to a hook.
    pub(super) fn attachment(&self, hook: Hook) -> Attachment {
        self.attachments[usize::from(!hook.is_endpoints())]
    }

    /// The names of the maps that are pinned.
    pub(super) fn maps(&self) -> Result<HashSet<String>> {
        Ok(names(&self.version.join("maps"))?.into_iter().collect())
    }

    /// Removes all maps but these.
    pub(super) fn forget_maps_but(&self, keep: &HashSet<String>) -> Result<()> {
        for name in self.maps()?.difference(keep) {
            let path = self.map(name);
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }

    /// Where a map is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.version.join("maps").join(name)
    }

    /// Where the link of a program for sockets is pinned.
    pub(super) fn socket(&self, name: &str) -> PathBuf {
        self.version.join(SOCKETS).join(name)
    }

    /// Where a link is pinned.
    pub(super) fn link(&self, ifindex: u32, hook: Hook) -> PathBuf {
        link_in(&self.version, ifindex, hook)
    }

    /// Whether anything is pinned there.
    pub(super) fn has(&self, ifindex: u32, hook: Hook) -> bool {
        self.link(ifindex, hook).exists()
    }

    /// Whether what is pinned there is a link, and not a program that stands for a filter.
    pub(super) fn is_link(&self, ifindex: u32, hook: Hook) -> bool {
        syscall::is_link(&self.link(ifindex, hook))
    }

    /// All links.
    pub(super) fn links(&self) -> Result<Vec<(u32, Hook)>> {
        links_of(&self.version)
    }

    /// Removes a link: its program is detached. One that is not there is fine.
    pub(super) fn remove_link(&self, ifindex: u32, hook: Hook) -> Result<()> {
        let path = self.link(ifindex, hook);
        detach(&path, ifindex, hook);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Removes what programs of other versions go on with: none of them runs any more.
    pub(super) fn forget_former(&self) -> Result<()> {
        let former = self.version.join(FORMER);
        for name in names(&former)? {
            let path = former.join(name);
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }

    /// Moves the links of other versions here, so that their programs run until ours replace them, and removes the rest of
    /// those versions: their flows cannot be read by this one.
    pub(super) fn adopt_links(&self) -> Result<()> {
        for name in names(&self.directory)? {
            let other = self.directory.join(&name);
            if other == self.version || !name.starts_with('v') {
                continue;
            }
            tracing::warn!(
                "taking over from a netd with another version of the tables ({name}, now v{ABI_VERSION}): endpoints go on, \
                 connections through NAT have to be made anew"
            );
            for link in names(&other.join("links"))? {
                let from = other.join("links").join(&link);
                let to = self.version.join("links").join(&link);
                rename(&from, &to)?;
            }
            let steps = other.join("maps/STEPS");
            if steps.exists() {
                rename(&steps, &self.version.join(FORMER).join(&name))?;
            }
            remove(&other)?;
        }
        Ok(())
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("moving {} to {}", from.display(), to.display()))
}

/// Detaches all programs of a directory of pins and removes it. One that is not there is fine.
pub(super) fn purge(directory: &Path) -> Result<()> {
    for name in names(directory)? {
        let version = directory.join(name);
        for (ifindex, hook) in links_of(&version)? {
            detach(&link_in(&version, ifindex, hook), ifindex, hook);
        }
        for name in names(&version.join(SOCKETS))? {
            let path = version.join(SOCKETS).join(name);
            if let Err(error) = syscall::detach_link(&path) {
                tracing::debug!("detaching {}: {error}", path.display());
            }
        }
    }
    remove(directory)
}

/// Detaches a program now. What goes wrong (the device is gone, say) does not matter: the pin goes next.
fn detach(path: &Path, ifindex: u32, hook: Hook) {
    match syscall::detach_link(path) {
        // No link but a program: the pin stands for a filter.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => links::detach_filter(ifindex, hook),
        Err(error) => tracing::debug!("detaching {}: {error}", path.display()),
        Ok(()) => {}
    }
}

/// Where a link is pinned.
fn link_in(version: &Path, ifindex: u32, hook: Hook) -> PathBuf {
    version.join("links").join(format!("{ifindex}-{}", hook.label()))
}

/// The links of a version.
fn links_of(version: &Path) -> Result<Vec<(u32, Hook)>> {
    Ok(names(&version.join("links"))?
        .iter()
        .filter_map(|name| {
            let (ifindex, hook) = name.split_once('-')?;
            Some((ifindex.parse().ok()?, Hook::from_label(hook)?))
        })
        .collect())
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// The names in a directory; none if there is no such directory.
fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("reading {}", directory.display()))?,
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .with_context(|| format!("reading {}", directory.display()))
}
