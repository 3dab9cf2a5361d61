//! Whether the kernel may send a packet to another next hop than the one before.

use std::io;

use anyhow::{Context, Result};
use rtnetlink::{
    MulticastGroup,
    packet_core::Parseable as _,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
    sys::{self, protocols::NETLINK_ROUTE},
};
use tokio::io::unix::AsyncFd;

use super::socket::{Socket, messages};

/// The kernel never sends a datagram beyond 32 KiB.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// Watches all that next hops depend on: routes, rules, neighbours, links and addresses.
pub struct NextHops {
    socket: AsyncFd<sys::Socket>,
    requests: Socket,
    buffer: Vec<u8>,
    /// Whether the host has rules of its own; `None`: not looked at, or changed since.
    rules: Option<bool>,
}

impl NextHops {
    /// Watches the calling thread's namespace. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn watch() -> Result<Self> {
        const WATCHING: &str = "opening a netlink socket to watch routes and neighbours";
        let socket = open().context(WATCHING)?;
        let requests = Socket::open().context(WATCHING)?;
        Ok(Self { socket, requests, buffer: Vec::with_capacity(RECEIVE_BUFFER), rules: None })
    }

    /// Whether next hops depend on destinations alone, as far as the rules go: there are none but those that the kernel begins with.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub fn by_destination(&mut self) -> Result<bool> {
        if let Some(own) = self.rules {
            return Ok(!own);
        }
        let mut own = false;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut all = RuleMessage::default();
            all.header.family = family;
            let found = match self.requests.dump(&RouteNetlinkMessage::GetRule(all)) {
                Ok(found) => found,
                // A kernel without rules, or without that family.
                Err(refusal) if refusal.errno == nix::errno::Errno::EOPNOTSUPP => continue,
                Err(refusal) => return Err(refusal.while_doing("listing routing rules").into()),
            };
            own |= found.iter().any(|rule| !is_usual(rule));
        }
        self.rules = Some(own);
        Ok(!own)
    }

    /// Waits for a change.
    ///
    /// # Errors
    /// The socket fails.
    pub async fn changed(&mut self) -> Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            let mut heard = false;
            loop {
                self.buffer.clear();
                match self.socket.get_ref().recv_from(&mut self.buffer, 0) {
                    Ok((_, from)) if from.port_number() == 0 => {
                        heard = true;
                        if messages(&self.buffer).any(|message| is_rule(message.message_type())) {
                            self.rules = None;
                        }
                    }
                    // Not from the kernel.
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready.clear_ready();
                        break;
                    }
                    // It had more to say than could be kept.
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                        heard = true;
                        self.rules = None;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error).context("watching routes and neighbours"),
                }
            }
            if heard {
                return Ok(());
            }
        }
    }
}

fn open() -> io::Result<AsyncFd<sys::Socket>> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
    ];
    let mut socket = sys::Socket::new(NETLINK_ROUTE)?;
    let mask = groups.iter().fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
    socket.bind(&sys::SocketAddr::new(0, mask))?;
    // Next hops that are objects of their own (Linux 5.3).
    let _ = socket.add_membership(MulticastGroup::Nexthop as u32);
    socket.set_non_blocking(true)?;
    // SAFETY: the socket owns its descriptor, and nothing replaces or closes it before the AsyncFd is dropped.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

const fn is_rule(kind: u16) -> bool {
    matches!(kind, libc::RTM_NEWRULE | libc::RTM_DELRULE)
}

/// Whether it is one of those that the kernel begins with, by which all packets go: `lookup local`, `lookup main`, `lookup default`.
fn is_usual(payload: &[u8]) -> bool {
    const TABLES: [u8; 3] = [libc::RT_TABLE_LOCAL, libc::RT_TABLE_MAIN, libc::RT_TABLE_DEFAULT];
    let Ok(rule) = RuleMessage::parse(payload) else { return false };
    let header = &rule.header;
    let plain = |attribute: &RuleAttribute| {
        matches!(
            attribute,
            RuleAttribute::Priority(_)
                | RuleAttribute::Table(_)
                | RuleAttribute::Protocol(_)
                | RuleAttribute::SuppressPrefixLen(u32::MAX)
        )
    };
    header.action == RuleAction::ToTable
        && TABLES.contains(&header.table)
        && (header.src_len, header.dst_len, header.tos) == (0, 0, 0)
        && header.flags.is_empty()
        && rule.attributes.iter().all(plain)
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use super::{
        super::{
            Netlink, Route,
            testing::{ip, isolated, net, netns, veth},
        },
        *,
    };

    async fn hears(changes: &mut NextHops) -> bool {
        let mut heard = false;
        while let Ok(result) = tokio::time::timeout(Duration::from_millis(50), changes.changed()).await {
            result.expect("the socket works");
            heard = true;
        }
        heard
    }

    #[test]
    fn what_changes_next_hops_is_heard() {
        isolated("what_changes_next_hops_is_heard", || async {
            let (host, ns) = (Netlink::host()?, netns());
            let ifindex = host.create_pair(&veth(&ns)).await?;
            let mut changes = NextHops::watch()?;
            assert!(changes.by_destination()?);
            assert!(!hears(&mut changes).await, "nothing has happened");
            host.set_up(ifindex).await?;
            assert!(hears(&mut changes).await, "a link");
            host.add_address(ifindex, net("192.0.2.1/24")).await?;
            assert!(hears(&mut changes).await, "an address");
            let gateway = Some(ip("192.0.2.254"));
            let route =
                Route { destination: net("10.0.0.0/8"), gateway, ifindex, source: None, onlink: false };
            host.add_route(&route).await?;
            assert!(hears(&mut changes).await, "a route");
            for (change, usual) in [
                ("neighbour add 192.0.2.254 lladdr 02:00:00:00:00:01 dev ndtest", true),
                ("neighbour replace 192.0.2.254 lladdr 02:00:00:00:00:02 dev ndtest", true),
                ("rule add from 192.0.2.1 lookup 100", false),
                ("rule del from 192.0.2.1 lookup 100", true),
                ("rule add tos 0x10 lookup main", false),
            ] {
                let done = Command::new("ip").args(change.split(' ')).status()?;
                assert!(done.success(), "ip {change}");
                assert!(hears(&mut changes).await, "{change}");
                assert_eq!(changes.by_destination()?, usual, "{change}");
            }
            Ok(())
        });
    }
}
