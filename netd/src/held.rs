//! Held ports: each published port of the host is bound by a socket of the daemon's, so that no service of the host's takes it
//! without a word; and one that a service has already is refused, with its name.
//!
//! Nothing listens at them: packets that the programs leave to the host's stack find nobody there.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::SocketAddr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Result, bail};
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

use crate::{
    holders::Holder,
    publish::{HostPort, Protocol, Publish},
};

/// Files that netd has open, with some to spare, without published ports: maps, programs, sockets.
const FILES: u64 = 128;
/// How many ports that others have are tried again at once.
const TRIES: usize = 1024;

/// Sockets that hold ports.
#[derive(Debug, Default)]
pub struct Held {
    sockets: HashMap<HostPort, OwnedFd>,
    /// Ports that are published, but that others have taken while the daemon was away.
    taken: BTreeMap<HostPort, Taken>,
    /// Where the next tries begin.
    next: Option<HostPort>,
}

/// A port that cannot be held.
#[derive(Debug)]
struct Taken {
    why: NotHeld,
    /// Who has it, once that is known.
    holder: Option<Holder>,
}

/// Why a port cannot be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotHeld {
    /// Somebody has it: [`find_holders`](crate::holders::find_holders) tells who.
    #[error("port {0} is in use by another program: stop that, or choose another port")]
    InUse(HostPort),
    /// The kernel refuses.
    #[error("{}", refused(.0, *.1))]
    Refused(HostPort, Errno),
}

fn refused(port: &HostPort, errno: Errno) -> String {
    match errno {
        Errno::EADDRNOTAVAIL => format!("port {port}: the host has no address {}", port.host_ip),
        Errno::EAFNOSUPPORT => format!("port {port}: the host has no IPv6"),
        Errno::EMFILE => {
            format!("port {port}: no more sockets can be opened (`ulimit -n`; each published port takes one)")
        }
        errno => format!("port {port} cannot be had: {}", errno.desc()),
    }
}

impl Held {
    /// Holds ports.
    ///
    /// # Errors
    /// Which port cannot be held, and why; none of these is held then.
    pub fn take(&mut self, publish: &[Publish]) -> Result<(), NotHeld> {
        let mut new = Vec::new();
        for port in publish.iter().flat_map(|publish| publish.host_ports()) {
            if !self.sockets.contains_key(&port) {
                new.push((port, hold(port)?));
            }
        }
        self.sockets.extend(new);
        Ok(())
    }

    /// The same, port by port. Returns which cannot be held; they are kept, to be tried again.
    pub fn take_all(&mut self, publish: &[Publish]) -> Vec<NotHeld> {
        let ports: Vec<HostPort> = publish.iter().flat_map(|publish| publish.host_ports()).collect();
        for port in &ports {
            self.try_again(*port);
        }
        ports.iter().filter_map(|port| Some(self.taken.get(port)?.why)).collect()
    }

    fn try_again(&mut self, port: HostPort) {
        if self.sockets.contains_key(&port) {
            return;
        }
        match hold(port) {
            Ok(socket) => {
                self.sockets.insert(port, socket);
                self.taken.remove(&port);
            }
            Err(why) => match self.taken.get_mut(&port) {
                Some(taken) => taken.why = why,
                None => drop(self.taken.insert(port, Taken { why, holder: None })),
            },
        }
    }

    /// Tries some of the ports again that others have: the next ones each time.
    pub fn retry(&mut self) {
        let from = self.next.and_then(|next| self.taken.range(next..).next().map(|(port, _)| *port));
        let rest = from.map_or_else(|| self.taken.range(..), |from| self.taken.range(from..));
        let mut ports: Vec<HostPort> = rest.take(TRIES + 1).map(|(port, _)| *port).collect();
        self.next = (ports.len() > TRIES).then(|| ports.pop()).flatten();
        for port in ports {
            self.try_again(port);
        }
    }

    /// Ports of which it is not known who has them: not yet, or not any more, since that process has ended.
    pub fn unknown(&self) -> Vec<HostPort> {
        let mut lives: HashMap<Option<u32>, bool> = HashMap::new();
        let mut is_known = |holder: &Holder| *lives.entry(holder.pid()).or_insert_with(|| holder.lives());
        let in_use = self.taken.iter().filter(|(port, taken)| taken.why == NotHeld::InUse(**port));
        in_use
            .filter(|(_, taken)| !taken.holder.as_ref().is_some_and(&mut is_known))
            .map(|(port, _)| *port)
            .collect()
    }

    /// Takes in who has a port. What is wrong then, in words, if that is news.
    pub fn found(&mut self, port: HostPort, holder: Holder) -> Option<String> {
        let taken = self.taken.get_mut(&port)?;
        let is_news = taken.holder.as_ref() != Some(&holder);
        taken.holder = Some(holder);
        is_news.then(|| taken.words(port))
    }

    /// What is wrong with ports that cannot be held, in words.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.taken.iter().map(|(port, taken)| taken.words(*port))
    }

    /// Lets ports go.
    pub fn free(&mut self, publish: &[Publish]) {
        for port in publish.iter().flat_map(|publish| publish.host_ports()) {
            self.sockets.remove(&port);
            self.taken.remove(&port);
        }
    }
}

impl Taken {
    fn words(&self, port: HostPort) -> String {
        match (&self.why, &self.holder) {
            (NotHeld::InUse(_), Some(holder)) => holder.has(port),
            (why, _) => why.to_string(),
        }
    }
}

/// Raises the number of files that this process may have open as far as it may: to what the kernel allows at all, where it may raise
/// the hard limit (`CAP_SYS_RESOURCE`), else to that.
///
/// # Errors
/// That is less than netd needs.
pub fn raise_limit() -> Result<()> {
    let all = fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    if all.is_some_and(|all| setrlimit(Resource::RLIMIT_NOFILE, all, all).is_ok()) {
        return Ok(());
    }
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        debug!("cannot raise the limit of open files: {error}");
    }
    let (files, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if files < FILES {
        bail!(
            "netd may have no more than {files} files open: it needs {FILES}, and one more for each published port \
             (LimitNOFILE= of its service, `ulimit -n`)"
        );
    }
    Ok(())
}

fn hold(port: HostPort) -> Result<OwnedFd, NotHeld> {
    let held = match try_hold(port, false) {
        // Connections of a service that has ended wait in TIME_WAIT, and are in nobody's way. One that listens is, all the same.
        Err(Errno::EADDRINUSE) if port.protocol == Protocol::Tcp => try_hold(port, true),
        held => held,
    };
    held.map_err(|errno| match errno {
        Errno::EADDRINUSE => NotHeld::InUse(port),
        errno => NotHeld::Refused(port, errno),
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holders::find_holders;

    #[test]
    fn a_port_is_held_until_it_is_let_go() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let publish = |address: &str| Publish::parse(&format!("{address}{port}:1"), Some("none")).unwrap();
        let mut held = Held::default();
        for address in ["127.0.0.1:", ""] {
            let ports = publish(address);
            assert_eq!(held.take(&ports), Err(NotHeld::InUse(only(&ports))));
            assert!(holder_of(&ports).contains("in use by"), "{}", holder_of(&ports));
            assert!(holder_of(&ports).contains(&me()), "{}", holder_of(&ports));
        }
        held.take(&publish("127.0.0.2:")).unwrap();
        let ports = publish("127.0.0.1:");
        held.take_all(&ports);
        assert!(held.problems().eq([NotHeld::InUse(only(&ports)).to_string()]));
        // Who has it is asked once, as long as that process lives.
        for _ in 0..2 {
            assert_eq!(held.unknown(), [only(&ports)]);
        }
        let gone = Holder::process("sleep", u32::MAX);
        assert!(held.found(only(&ports), gone).is_some_and(|words| words.contains("in use by sleep")));
        held.retry();
        assert_eq!(held.unknown(), [only(&ports)], "that one has ended");
        for (port, holder) in find_holders(&held.unknown()) {
            assert!(held.found(port, holder.clone()).is_some_and(|words| words.contains(&me())));
            assert_eq!(held.found(port, holder), None, "no news");
        }
        held.retry();
        assert!(held.unknown().is_empty() && held.problems().all(|words| words.contains(&me())));
        drop(listener);
        held.retry();
        assert_eq!(held.problems().count(), 0);
        let bind = || std::net::TcpListener::bind(("127.0.0.1", port));
        assert!(bind().is_err(), "held");
        held.free(&publish("127.0.0.1:"));
        bind().unwrap();
        let nowhere = Publish::parse("192.0.2.77:1:1", None).unwrap();
        let refused = held.take(&nowhere).unwrap_err().to_string();
        assert!(refused.contains("has no address 192.0.2.77"), "{refused}");
    }

    fn only(publish: &[Publish]) -> HostPort {
        publish[0].host_ports().next().unwrap()
    }

    fn me() -> String {
        format!("(pid {})", std::process::id())
    }

    fn holder_of(publish: &[Publish]) -> String {
        let (port, holder) = find_holders(&[only(publish)]).pop().unwrap();
        holder.has(port)
    }

    #[test]
    fn what_waits_in_time_wait_is_in_nobodys_way() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        // Who closes first is the one that waits.
        drop(listener.accept().unwrap());
        drop(client);
        let publish = Publish::parse(&format!("{address}:1"), Some("none")).unwrap();
        let mut held = Held::default();
        // Not while somebody listens.
        assert_eq!(held.take(&publish), Err(NotHeld::InUse(only(&publish))));
        drop(listener);
        held.take(&publish).unwrap();
        assert!(std::net::TcpListener::bind(address).is_err(), "held");
    }

    #[test]
    fn more_than_a_turns_ports_are_tried_again_in_turns() {
        let mut held = Held::default();
        let text = format!("192.0.2.77:1000-{}:1000-{}", 999 + 2 * TRIES, 999 + 2 * TRIES);
        held.take_all(&Publish::parse(&text, None).unwrap());
        assert_eq!(held.taken.len(), 2 * TRIES);
        let first = held.taken.keys().next().copied();
        for turn in [TRIES, 0, TRIES] {
            held.retry();
            let next = Some(held.taken.keys().nth(turn).copied()).filter(|_| turn > 0).flatten();
            assert_eq!(held.next, next, "{first:?}");
        }
    }

    #[test]
    fn the_families_hold_for_themselves() {
        let Ok(listener) = std::net::TcpListener::bind("[::1]:0") else {
            println!("SKIP the_families_hold_for_themselves: no IPv6");
            return;
        };
        let port = listener.local_addr().unwrap().port();
        let publish = |address: &str| Publish::parse(&format!("{address}{port}:1"), None).unwrap();
        let mut held = Held::default();
        for address in ["[::1]:", "[::]:"] {
            let ports = publish(address);
            assert_eq!(held.take(&ports), Err(NotHeld::InUse(only(&ports))));
            assert!(holder_of(&ports).contains(&me()), "{}", holder_of(&ports));
        }
        held.take(&publish("127.0.0.1:")).unwrap();
        drop(listener);
        held.take(&publish("[::]:")).unwrap();
        assert!(std::net::TcpListener::bind(("::1", port)).is_err(), "held");
        held.free(&publish("[::]:"));
        std::net::TcpListener::bind(("::1", port)).unwrap();
    }
}
