//! Held ports: each published port of the host is bound by a socket of the daemon's, so that no service of the host's takes it
//! without a word; and one that a service has already is refused, with its name.
//!
//! Nothing listens at them: packets that the programs leave to the host's stack find nobody there.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{
            AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket,
            sockopt::{RcvBuf, ReuseAddr},
        },
    },
};
use tracing::debug;

use crate::publish::{HostPort, Protocol, Publish};

/// Sockets that hold ports.
#[derive(Debug, Default)]
pub struct Held {
    sockets: HashMap<HostPort, OwnedFd>,
    /// Ports that are published, but that others have taken while the daemon was away; and who.
    pub taken: BTreeMap<HostPort, String>,
}

impl Held {
    /// Holds ports.
    ///
    /// # Errors
    /// Which port cannot be held, and why; none of these is held then.
    pub fn take(&mut self, publish: &[Publish]) -> Result<(), String> {
        let mut new = Vec::new();
        for port in publish.iter().flat_map(|publish| publish.host_ports()) {
            if !self.sockets.contains_key(&port) {
                new.push((port, hold(port)?));
            }
        }
        self.sockets.extend(new);
        Ok(())
    }

    /// The same, port by port; who has the others is kept.
    pub fn take_all(&mut self, publish: &[Publish]) {
        for port in publish.iter().flat_map(|publish| publish.host_ports()) {
            if self.sockets.contains_key(&port) {
                continue;
            }
            match hold(port) {
                Ok(socket) => {
                    self.sockets.insert(port, socket);
                    self.taken.remove(&port);
                }
                Err(why) => drop(self.taken.insert(port, why)),
            }
        }
    }

    /// Lets ports go.
    pub fn free(&mut self, publish: &[Publish]) {
        for port in publish.iter().flat_map(|publish| publish.host_ports()) {
            self.sockets.remove(&port);
            self.taken.remove(&port);
        }
    }
}

/// Raises the number of files that this process may have open as far as it may.
pub fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        debug!("cannot raise the limit of open files: {error}");
    }
}

fn hold(port: HostPort) -> Result<OwnedFd, String> {
    match try_hold(port, false) {
        Ok(socket) => Ok(socket),
        Err(Errno::EADDRINUSE) => match holder(port) {
            Some(holder) => {
                Err(format!("port {port} is in use by {holder}: stop that, or choose another port"))
            }
            // Connections of a service that has ended wait in TIME_WAIT, and are in nobody's way.
            None => try_hold(port, true).map_err(|_| {
                format!("port {port} is in use by another program: stop that, or choose another port")
            }),
        },
        Err(Errno::EADDRNOTAVAIL) => {
            let address = port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
            Err(format!("port {port}: the host has no address {address}"))
        }
        Err(Errno::EMFILE) => Err(format!(
            "port {port}: no more sockets can be opened (`ulimit -n`; each published port takes one)"
        )),
        Err(error) => Err(format!("port {port} cannot be had: {error}")),
    }
}

fn try_hold(port: HostPort, reuse: bool) -> nix::Result<OwnedFd> {
    let kind = match port.protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let held = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if port.protocol == Protocol::Udp {
        // Nobody will read: as little as the kernel allows may wait in it.
        setsockopt(&held, RcvBuf, &0)?;
    }
    setsockopt(&held, ReuseAddr, &reuse)?;
    let address = SocketAddrV4::new(port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED), port.port);
    bind(held.as_raw_fd(), &SockaddrIn::from(address))?;
    // From here on nobody shares it.
    setsockopt(&held, ReuseAddr, &false)?;
    Ok(held)
}

/// Who has a socket that is in the way: a process's name and number.
fn holder(port: HostPort) -> Option<String> {
    let protocol = port.protocol.to_string();
    let inodes: Vec<u64> = [protocol.clone(), format!("{protocol}6")]
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok())
        .flat_map(|table| table.lines().filter_map(|line| inode(line, port)).collect::<Vec<_>>())
        .collect();
    inodes.first()?;
    Some(inodes.iter().find_map(|inode| process(*inode)).unwrap_or_else(|| "another program".to_owned()))
}

/// The inode of a line of /proc/net/tcp and its like (proc_pid_net(5)), if its socket is in a port's way.
fn inode(line: &str, port: HostPort) -> Option<u64> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, number) = fields.get(1)?.split_once(':')?;
    if u16::from_str_radix(number, 16).ok()? != port.port {
        return None;
    }
    // The last word is the IPv4 address, or that of an IPv4-mapped one, as it lies in memory. A socket of `::` takes IPv4 too, as
    // far as is to be seen here.
    let any = address.bytes().all(|digit| digit == b'0');
    let last = u32::from_str_radix(address.get(address.len().checked_sub(8)?..)?, 16).ok()?;
    let same = port.host_ip.is_none_or(|address| u32::from_ne_bytes(address.octets()) == last);
    let inode = fields.get(9)?.parse().ok()?;
    (inode != 0 && (any || same)).then_some(inode)
}

/// The process that has a socket.
fn process(inode: u64) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(files) = fs::read_dir(entry.path().join("fd")) else { continue };
        let has = |file: &fs::DirEntry| {
            fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str())
        };
        if files.flatten().any(|file| has(&file)) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_held_until_it_is_let_go() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let publish = |address: &str| [format!("{address}{port}:1").parse::<Publish>().unwrap()];
        let mut held = Held::default();
        for address in ["127.0.0.1:", ""] {
            let refused = held.take(&publish(address)).unwrap_err();
            let me = format!("(pid {})", std::process::id());
            assert!(refused.contains("in use by") && refused.contains(&me), "{refused}");
        }
        held.take(&publish("127.0.0.2:")).unwrap();
        held.take_all(&publish("127.0.0.1:"));
        assert_eq!(held.taken.len(), 1);
        drop(listener);
        held.take_all(&publish("127.0.0.1:"));
        assert!(held.taken.is_empty());
        let bind = || std::net::TcpListener::bind(("127.0.0.1", port));
        assert!(bind().is_err(), "held");
        held.free(&publish("127.0.0.1:"));
        bind().unwrap();
        let nowhere = "192.0.2.77:1:1".parse().unwrap();
        assert!(held.take(&[nowhere]).unwrap_err().contains("has no address 192.0.2.77"));
    }

    #[test]
    fn lines_of_proc() {
        let port = |text: &str| text.parse::<Publish>().unwrap().host_ports().next().unwrap();
        let tcp = "  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 4242 1 0 100 0 0 10 0";
        let tcp6 =
            "  0: 00000000000000000000000000000000:1F90 0:0000 0A 0:0 00:0 0  0  0 4243 1 0 100 0 0 10 0";
        let waiting =
            "  1: 0100007F:1F90 0100007F:9999 06 00000000:00000000 03:00000F00 00000000  0  0 0 3 0";
        assert_eq!(inode(tcp, port("8080:1")), Some(4242));
        assert_eq!(inode(tcp, port("127.0.0.1:8080:1")), Some(4242));
        assert_eq!(inode(tcp, port("192.0.2.1:8080:1")), None);
        assert_eq!(inode(tcp, port("8081:1")), None);
        assert_eq!(inode(tcp6, port("192.0.2.1:8080:1")), Some(4243));
        assert_eq!(inode(waiting, port("8080:1")), None);
        assert_eq!(inode("  sl  local_address rem_address st", port("8080:1")), None);
    }
}
