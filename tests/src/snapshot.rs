//! What is on a host that netd could have changed.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::Result;
use netd::lab::{Host, Namespace};
use serde_json::Value;

/// The parts of a host, each as sorted lines, so that a difference is easy to see in a failed `assert_eq!`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Links: name, kind and alias.
    pub links: BTreeSet<String>,
    /// Addresses.
    pub addresses: BTreeSet<String>,
    /// Routes of all tables.
    pub routes: BTreeSet<String>,
    /// Neighbours that somebody has entered by hand.
    pub neighbours: BTreeSet<String>,
    /// Sysctls of the host, and of those of its links that netd does not own.
    pub sysctls: BTreeSet<String>,
    /// Pins.
    pub pins: BTreeSet<PathBuf>,
}

/// Values that have nothing to do with netd, and change by themselves.
const UNSTEADY: [&str; 4] = ["stable_secret", "nf_conntrack_count", "tcp_fastopen_key", "route/flush"];

impl Snapshot {
    /// Looks at a host.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn of(host: &Host) -> Result<Self> {
        let namespace = &host.namespace;
        Ok(Self {
            links: lines(namespace, "link show", &["ifname", "ifalias", "master", "qdisc"])?,
            addresses: addresses(namespace)?,
            routes: lines(namespace, "route show table all", &["dst", "dev", "table", "gateway", "prefsrc"])?,
            neighbours: lines(namespace, "neighbour show nud permanent", &["dst", "dev", "lladdr"])?,
            sysctls: sysctls(namespace)?,
            pins: pins(host.bpffs()),
        })
    }
}

impl Snapshot {
    /// In what two differ, in one line.
    #[must_use]
    pub fn difference(&self, other: &Self) -> String {
        let pins = |one: &Self| one.pins.iter().map(|pin| format!("pin {}", pin.display())).collect();
        let parts = |one: &Self| -> [BTreeSet<String>; 6] {
            [
                one.links.clone(),
                one.addresses.clone(),
                one.routes.clone(),
                one.neighbours.clone(),
                one.sysctls.clone(),
                pins(one),
            ]
        };
        let mut differences = Vec::new();
        for (mine, theirs) in parts(self).iter().zip(parts(other).iter()) {
            differences.extend(mine.difference(theirs).map(|line| format!("gone: {line}")));
            differences.extend(theirs.difference(mine).map(|line| format!("new: {line}")));
        }
        differences.join("; ")
    }
}

/// All pins below a directory, relative to it.
#[must_use]
pub fn pins(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    // What goes while it is looked at is gone.
    let _ = walk(directory, &mut |path, _| {
        found.insert(path.strip_prefix(directory).unwrap_or(path).to_owned());
    });
    found
}

/// The pins with their inode numbers: equal before and after only if it is the same map or link.
#[must_use]
pub fn pin_identities(directory: &Path) -> BTreeSet<(PathBuf, u64)> {
    let mut found = BTreeSet::new();
    let _ = walk(directory, &mut |path, inode| {
        found.insert((path.to_owned(), inode));
    });
    found
}

fn walk(directory: &Path, visit: &mut dyn FnMut(&Path, u64)) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), visit)?;
        } else {
            visit(&entry.path(), entry.metadata()?.ino());
        }
    }
    Ok(())
}

/// The host's sides of netd's links: interfaces whose alias says that they are.
///
/// # Errors
/// `ip` fails.
pub fn netd_links(namespace: &Namespace) -> Result<BTreeSet<String>> {
    let links = namespace.ip_json("link show")?;
    let own = links
        .as_array()
        .into_iter()
        .flatten()
        .filter(|link| link["ifalias"].as_str().is_some_and(|alias| alias.starts_with("netd:")));
    Ok(own.filter_map(|link| link["ifname"].as_str().map(str::to_owned)).collect())
}

/// The host's routes to single addresses by links of netd's: address and link.
///
/// # Errors
/// `ip` fails.
pub fn netd_routes(namespace: &Namespace) -> Result<BTreeSet<(String, String)>> {
    let links = netd_links(namespace)?;
    let routes = namespace.ip_json("-4 route show")?;
    let text = |route: &Value, key: &str| route[key].as_str().unwrap_or_default().to_owned();
    let routes =
        routes.as_array().into_iter().flatten().map(|route| (text(route, "dst"), text(route, "dev")));
    Ok(routes.filter(|(_, device)| links.contains(device)).collect())
}

fn lines(namespace: &Namespace, command: &str, keys: &[&str]) -> Result<BTreeSet<String>> {
    let list = namespace.ip_json(command)?;
    let line = |item: &Value| {
        let words: Vec<String> = keys
            .iter()
            .filter(|key| !item[**key].is_null())
            .map(|key| format!("{key} {}", item[*key]))
            .collect();
        words.join(" ")
    };
    let lines = list.as_array().into_iter().flatten().map(line);
    Ok(lines.filter(|line| !by_the_kernel(line)).collect())
}

fn addresses(namespace: &Namespace) -> Result<BTreeSet<String>> {
    let list = namespace.ip_json("address show")?;
    let mut found = BTreeSet::new();
    for link in list.as_array().into_iter().flatten() {
        for address in link["addr_info"].as_array().into_iter().flatten() {
            found.insert(format!("{} {}/{}", link["ifname"], address["local"], address["prefixlen"]));
        }
    }
    found.retain(|line| !by_the_kernel(line));
    Ok(found)
}

/// IPv6 addresses that a link gets by itself, a second or two after it is up, and their routes.
fn by_the_kernel(line: &str) -> bool {
    line.contains("\"fe80:") || line.contains("\"ff00:")
}

fn sysctls(namespace: &Namespace) -> Result<BTreeSet<String>> {
    namespace.run(|| {
        let mut found = BTreeSet::new();
        let root = Path::new("/proc/sys/net");
        let mut visit = |path: &Path, _| {
            let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
            if UNSTEADY.iter().any(|word| name.contains(word)) {
                return;
            }
            // Some can only be written.
            if let Ok(value) = fs::read_to_string(path) {
                found.insert(format!("{name} = {}", value.trim()));
            }
        };
        walk(root, &mut visit)?;
        Ok(found)
    })
}
