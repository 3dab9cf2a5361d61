//! One exchange between two places.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::report::{Check, Protocol, What};
use crate::lab::{Namespace, echo, http, icmp};

/// How long a step of an exchange may take that must succeed.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an answer is waited for that must not come. On a network like this one takes well below a millisecond.
const SILENCE: Duration = Duration::from_millis(400);
/// Pings of which the median is shown.
const PINGS: usize = 9;
/// What is sent by TCP: more than one segment, also one of 64 KiB.
const TCP_BYTES: usize = 100_000;
/// What is sent by UDP, in one datagram: less than the smallest MTU.
const UDP_BYTES: usize = 1_000;

/// From where to where, and what is expected of it.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    /// The row and the column.
    pub(super) from: String,
    pub(super) to: String,
    /// Where the client is.
    pub(super) namespace: Namespace,
    /// Whom it asks.
    pub(super) address: Ipv4Addr,
    /// The same over IPv6, where there is that, and the address that the server is to see.
    pub(super) ipv6: Option<(Ipv6Addr, Ipv6Addr)>,
    pub(super) expect: Expect,
    /// The size of the download.
    pub(super) bytes: u64,
}

/// What must come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// It succeeds, and the server sees the client with this address.
    Reach { seen: Ipv4Addr, masquerade: bool },
    /// Nothing comes back.
    Blocked,
}

/// What an exchange that succeeded showed.
struct Seen {
    time: Duration,
    client: Option<IpAddr>,
    detail: String,
}

impl Pair {
    /// Tries all protocols and returns a check for each, and one for masquerade where that is expected.
    pub(super) fn probe(&self) -> Vec<Check> {
        match self.expect {
            Expect::Reach { seen, masquerade } => {
                let mut clients = Vec::new();
                let mut checks: Vec<Check> = self
                    .protocols(&Protocol::ALL)
                    .map(|protocol| {
                        let result = self.exchange(protocol, PATIENCE);
                        if let Ok(Seen { client: Some(client @ IpAddr::V4(_)), .. }) = result {
                            clients.push((protocol, client));
                        }
                        self.reached(protocol, result, seen, masquerade)
                    })
                    .collect();
                if masquerade {
                    checks.push(self.masquerade(&clients, seen));
                }
                checks
            }
            Expect::Blocked => {
                let tries = self.protocols(&[Protocol::Icmp, Protocol::Tcp, Protocol::Udp]);
                std::thread::scope(|scope| {
                    let tries = tries
                        .map(|protocol| scope.spawn(move || (protocol, self.exchange(protocol, SILENCE))));
                    tries
                        .collect::<Vec<_>>()
                        .into_iter()
                        .map(|thread| {
                            let (protocol, result) =
                                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                            self.blocked(protocol, result)
                        })
                        .collect()
                })
            }
        }
    }

    /// Some protocols of IPv4, and IPv6 where there is that.
    fn protocols(&self, v4: &'static [Protocol]) -> impl Iterator<Item = Protocol> + use<> {
        v4.iter().copied().chain(self.ipv6.map(|_| Protocol::Ipv6))
    }

    fn exchange(&self, protocol: Protocol, patience: Duration) -> Result<Seen> {
        let at = |port| SocketAddrV4::new(self.address, port);
        self.namespace.run(|| match protocol {
            Protocol::Icmp => {
                // The first finds addresses and makes flows; the others show the way as it is then.
                icmp::ping(self.address, 56, patience)?;
                let mut times =
                    (0..PINGS).map(|_| icmp::ping(self.address, 56, patience)).collect::<Result<Vec<_>>>()?;
                times.sort_unstable();
                Ok(Seen { time: times[PINGS / 2], client: None, detail: format!("{PINGS} echo replies") })
            }
            Protocol::Tcp => {
                let answer = echo::tcp(at(echo::PORT), &[b't'; TCP_BYTES], patience)?;
                Ok(Seen {
                    time: answer.time,
                    client: Some(answer.seen.ip()),
                    detail: format!("{TCP_BYTES} bytes there and back, seen as {}", answer.seen),
                })
            }
            Protocol::Udp => {
                let answer = echo::udp(at(echo::PORT), &[b'u'; UDP_BYTES], patience)?;
                Ok(Seen {
                    time: answer.time,
                    client: Some(answer.seen.ip()),
                    detail: format!("{UDP_BYTES} bytes there and back, seen as {}", answer.seen),
                })
            }
            Protocol::Ipv6 => {
                let (to, _) = self.ipv6.context("there is no IPv6")?;
                let time = icmp::ping(to, 56, patience)?;
                let tcp = echo::tcp(SocketAddr::new(to.into(), echo::PORT), &[b't'; TCP_BYTES], patience)?;
                let udp = echo::udp(SocketAddr::new(to.into(), echo::PORT), &[b'u'; UDP_BYTES], patience)?;
                let (tcp, udp) = (tcp.seen, udp.seen);
                ensure!(tcp.ip() == udp.ip(), "TCP was seen as {tcp}, UDP as {udp}");
                let detail = format!("an echo reply; TCP seen as {tcp}, UDP as {udp}");
                Ok(Seen { time, client: Some(tcp.ip()), detail })
            }
            Protocol::Http => {
                let download = http::download(at(http::PORT), self.bytes, patience)?;
                Ok(Seen {
                    time: download.time,
                    client: None,
                    detail: format!("{} bytes, SHA-256 right, in {:.1?}", download.bytes, download.time),
                })
            }
        })
    }

    fn reached(
        &self,
        protocol: Protocol,
        result: Result<Seen>,
        expected: Ipv4Addr,
        masquerade: bool,
    ) -> Check {
        // IPv4's masquerade has a check of its own.
        let expected = match (protocol, self.ipv6) {
            (Protocol::Ipv6, Some((_, expected))) => Some(IpAddr::from(expected)),
            _ => Some(expected.into()).filter(|_| !masquerade),
        };
        let (passed, detail, time) = match result {
            Ok(Seen { client: Some(client), detail, time }) if expected.is_some_and(|one| one != client) => {
                let expected = expected.map(|one| one.to_string()).unwrap_or_default();
                (false, format!("{detail}; expected {expected}"), Some(time))
            }
            Ok(seen) => (true, seen.detail, Some(seen.time)),
            Err(error) => (false, format!("{error:#}"), None),
        };
        self.check(What::Reach(protocol), passed, detail, time)
    }

    fn blocked(&self, protocol: Protocol, result: Result<Seen>) -> Check {
        let (passed, detail) = match result {
            Ok(seen) => (false, format!("reached, but must not be: {}", seen.detail)),
            Err(error) => (true, format!("{error:#}")),
        };
        self.check(What::Blocked(protocol), passed, detail, None)
    }

    fn masquerade(&self, clients: &[(Protocol, IpAddr)], expected: Ipv4Addr) -> Check {
        let passed = !clients.is_empty() && clients.iter().all(|(_, client)| *client == expected);
        let seen: Vec<String> =
            clients.iter().map(|(protocol, client)| format!("{} from {client}", protocol.name())).collect();
        let detail = if seen.is_empty() { "nothing arrived".to_owned() } else { seen.join(", ") };
        self.check(What::Masquerade, passed, format!("the server saw {detail}; expected {expected}"), None)
    }

    fn check(&self, what: What, passed: bool, detail: String, time: Option<Duration>) -> Check {
        Check { from: self.from.clone(), to: self.to.clone(), what, passed, detail, time }
    }
}
