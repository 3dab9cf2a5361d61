//! Who has a port that netd would hold: a look at all sockets and processes of the machine.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::{IpAddr, Ipv6Addr},
    path::Path,
};

use crate::publish::{HostPort, Protocol};

/// Who has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process's name and number, or that it is not to be seen.
    name: String,
    pid: Option<u32>,
}

impl Holder {
    /// A process.
    #[must_use]
    pub fn process(name: &str, pid: u32) -> Self {
        Self { name: format!("{name} (pid {pid})"), pid: Some(pid) }
    }

    /// That a port is in use by it, and what to do.
    #[must_use]
    pub fn has(&self, port: HostPort) -> String {
        format!("port {port} is in use by {}: stop that, or choose another port", self.name)
    }

    /// The process's number, if it is to be seen.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Whether its process has not ended.
    #[must_use]
    pub fn lives(&self) -> bool {
        self.pid.is_none_or(|pid| fs::exists(format!("/proc/{pid}")).unwrap_or(true))
    }
}

/// Finds out who has sockets that are in the way of ports. That takes long where there are many sockets and processes: all of
/// them are looked at, once for all ports. Not for a task that others wait for.
#[must_use]
pub fn find_holders(ports: &[HostPort]) -> Vec<(HostPort, Holder)> {
    let wanted: HashSet<u16> = ports.iter().map(|port| port.port).collect();
    // Those of each table that have one of the numbers.
    let lines: HashMap<&str, Vec<String>> = ["tcp", "tcp6", "udp", "udp6"]
        .into_iter()
        .map(|table| {
            let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
            let lines = text.lines().filter(|line| number(line).is_some_and(|port| wanted.contains(&port)));
            (table, lines.map(str::to_owned).collect())
        })
        .collect();
    let inodes: Vec<Vec<u64>> = ports.iter().map(|port| in_the_way(*port, &lines)).collect();
    let processes = processes(&inodes.iter().flatten().copied().collect());
    let holder = |inodes: &Vec<u64>| match inodes.iter().find_map(|inode| processes.get(inode)) {
        Some((pid, name)) => Holder::process(name, *pid),
        None => Holder { name: "another program".to_owned(), pid: None },
    };
    ports.iter().zip(&inodes).map(|(port, inodes)| (*port, holder(inodes))).collect()
}

/// The inodes of sockets that are in a port's way.
fn in_the_way(port: HostPort, lines: &HashMap<&str, Vec<String>>) -> Vec<u64> {
    // Sockets of IPv6 may be in the way of IPv4's, never the other way round.
    let tables = match (port.protocol, port.host_ip) {
        (Protocol::Tcp, IpAddr::V4(_)) => &["tcp", "tcp6"][..],
        (Protocol::Tcp, IpAddr::V6(_)) => &["tcp6"],
        (Protocol::Udp, IpAddr::V4(_)) => &["udp", "udp6"],
        (Protocol::Udp, IpAddr::V6(_)) => &["udp6"],
    };
    let lines = tables.iter().filter_map(|table| lines.get(table)).flatten();
    lines.filter_map(|line| inode(line, port)).collect()
}

/// The port of a line of /proc/net/tcp and its like.
fn number(line: &str) -> Option<u16> {
    let (_, number) = line.split_whitespace().nth(1)?.split_once(':')?;
    u16::from_str_radix(number, 16).ok()
}

/// The inode of a line of /proc/net/tcp and its like (proc_pid_net(5)), if its socket is in a port's way.
fn inode(line: &str, port: HostPort) -> Option<u64> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    if number(line)? != port.port {
        return None;
    }
    let (address, _) = fields.get(1)?.split_once(':')?;
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

/// The processes that have these sockets: number and name, by the socket's inode.
fn processes(inodes: &HashSet<u64>) -> HashMap<u64, (u32, String)> {
    let mut found = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if found.len() == inodes.len() {
            break;
        }
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let files = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        for inode in files.filter_map(|file| socket_inode(&fs::read_link(file.path()).ok()?)) {
            if inodes.contains(&inode) {
                let name = || fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                found.entry(inode).or_insert_with(|| (pid, name().trim().to_owned()));
            }
        }
    }
    found
}

/// The inode of a socket, by what its descriptor links to.
fn socket_inode(target: &Path) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::Publish;

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
