//! Held ports: each published port of the host is bound by a socket of the daemon's, so that no service of the host's takes it
//! without a word; and one that a service has already is refused, with its name.
//!
//! Nothing listens at them: packets that the programs leave to the host's stack find nobody there.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket,
            sockopt::{Ipv6V6Only, RcvBuf, ReuseAddr},
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

/// Raises the number of files that this process may have open as far as it may: to what the kernel allows at all, where it may raise
/// the hard limit (`CAP_SYS_RESOURCE`), else to that.
pub fn raise_limit() {
    let all = fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    if all.is_some_and(|all| setrlimit(Resource::RLIMIT_NOFILE, all, all).is_ok()) {
        return;
    }
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
        Err(Errno::EADDRNOTAVAIL) => Err(format!("port {port}: the host has no address {}", port.host_ip)),
        Err(Errno::EAFNOSUPPORT) => Err(format!("port {port}: the host has no IPv6")),
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
    let family = if port.host_ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let held = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if port.host_ip.is_ipv6() {
        // IPv4's port of that number is another one, and may be another endpoint's.
        setsockopt(&held, Ipv6V6Only, &true)?;
    }
    if port.protocol == Protocol::Udp {
        // Nobody will read: as little as the kernel allows may wait in it.
        setsockopt(&held, RcvBuf, &0)?;
    }
    setsockopt(&held, ReuseAddr, &reuse)?;
    bind(held.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(port.host_ip, port.port)))?;
    // From here on nobody shares it.
    setsockopt(&held, ReuseAddr, &false)?;
    Ok(held)
}

/// Who has a socket that is in the way: a process's name and number.
fn holder(port: HostPort) -> Option<String> {
    let protocol = port.protocol.to_string();
    // Sockets of IPv6 may be in the way of IPv4's, never the other way round.
    let tables = [protocol.clone(), format!("{protocol}6")];
    let tables = if port.host_ip.is_ipv4() { &tables[..] } else { &tables[1..] };
    let inodes: Vec<u64> = tables
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
    let has = parse_address(address)?;
    let same_family = has.is_ipv4() == port.host_ip.is_ipv4();
    // A socket of `::` takes IPv4 too, as far as is to be seen here.
    let any = has.is_unspecified() && (same_family || has.is_ipv6());
    let same = same_family && (port.host_ip.is_unspecified() || has == port.host_ip);
    let inode = fields.get(9)?.parse().ok()?;
    (inode != 0 && (any || same)).then_some(inode)
}

/// An address as it stands there: its words as they lie in memory. An IPv4-mapped one is the IPv4 address.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(word(0)?.into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
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
        let publish = |address: &str| Publish::parse(&format!("{address}{port}:1"), Some("none")).unwrap();
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
        let nowhere = Publish::parse("192.0.2.77:1:1", None).unwrap();
        assert!(held.take(&nowhere).unwrap_err().contains("has no address 192.0.2.77"));
    }

    #[test]
    fn the_families_hold_for_themselves() {
        let Ok(listener) = std::net::TcpListener::bind("[::1]:0") else {
            println!("SKIP the_families_hold_for_themselves: no IPv6");
            return;
        };
        let port = listener.local_addr().unwrap().port();
        let publish = |address: &str| Publish::parse(&format!("{address}{port}:1"), None).unwrap();
        let me = format!("(pid {})", std::process::id());
        let mut held = Held::default();
        for address in ["[::1]:", "[::]:"] {
            let refused = held.take(&publish(address)).unwrap_err();
            assert!(refused.contains("in use by") && refused.contains(&me), "{refused}");
        }
        held.take(&publish("127.0.0.1:")).unwrap();
        drop(listener);
        held.take(&publish("[::]:")).unwrap();
        assert!(std::net::TcpListener::bind(("::1", port)).is_err(), "held");
        held.free(&publish("[::]:"));
        std::net::TcpListener::bind(("::1", port)).unwrap();
    }

    #[test]
    fn lines_of_proc() {
        let port = |text: &str| {
            let text = format!("{text}:8080:1");
            Publish::parse(&text, None).unwrap()[0].host_ports().next().unwrap()
        };
        let line = |address: &str, inode: u64| {
            format!("  0: {address}:1F90 0:0000 0A 0:0 00:0 0  0  0 {inode} 1 0 100 0 0 10 0")
        };
        let waiting =
            "  1: 0100007F:1F90 0100007F:9999 06 00000000:00000000 03:00000F00 00000000  0  0 0 3 0";
        let loopback4 = line("0100007F", 1);
        let any6 = line("00000000000000000000000000000000", 2);
        let loopback6 = line("00000000000000000000000001000000", 3);
        let mapped = line("0000000000000000FFFF00000100007F", 4);
        let global = line("B80D0120000000000000000001000000", 5);
        let lines = [&loopback4, &any6, &loopback6, &mapped, &global].map(String::as_str);
        for (text, in_the_way) in [
            ("0.0.0.0", [true, true, false, true, false]),
            ("127.0.0.1", [true, true, false, true, false]),
            ("192.0.2.1", [false, true, false, false, false]),
            ("[::]", [false, true, true, false, true]),
            ("[::1]", [false, true, true, false, false]),
            ("[2001:db8::1]", [false, true, false, false, true]),
        ] {
            assert_eq!(lines.map(|line| inode(line, port(text)).is_some()), in_the_way, "{text}");
        }
        assert_eq!(inode(&loopback4, port("0.0.0.0")), Some(1));
        let other = Publish::parse("0.0.0.0:8081:1", None).unwrap()[0].host_ports().next().unwrap();
        assert_eq!(inode(&loopback4, other), None);
        assert_eq!(inode(waiting, port("0.0.0.0")), None);
        assert_eq!(inode("  sl  local_address rem_address st", port("0.0.0.0")), None);
    }
}
