//! Packets as text that is the same in both copies: what a translation may choose has the name of whom it was chosen for.

use std::{collections::HashMap, fmt::Write as _, net::IpAddr};

use netd_common::wire::protocol;

use super::{Family, Party, Published, parts::Parts, story::Flow};

/// The addresses and ports that flows have on the host, as the other sides have seen them.
#[derive(Debug, Default)]
pub(super) struct Names {
    ports: HashMap<Flow, (IpAddr, u16)>,
    /// By protocol, server, its port, and the host's.
    owners: HashMap<(u8, IpAddr, u16, u16), Flow>,
    /// The flow of which a container has just sent a packet: what comes from an unknown port now is that.
    pub(super) sent: Option<Flow>,
}

impl Names {
    /// The flows with a server are gone.
    pub(super) fn forget(&mut self, remote: Party) {
        self.ports.retain(|flow, _| flow.remote != remote);
        self.owners.retain(|_, flow| flow.remote != remote);
    }

    /// The host's address and port that a flow has.
    pub(super) fn port(&self, flow: &Flow) -> Option<(IpAddr, u16)> {
        self.ports.get(flow).copied()
    }

    /// Somebody sends to the port of a flow from this port: answers that quote it speak of that flow's, whosever flow it is.
    pub(super) fn spoken_to(&mut self, flow: &Flow, from: Party, source: u16) {
        if let Some((address, port)) = self.port(flow) {
            let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
            self.owners.insert((flow.protocol, from.ip(family), source, port), *flow);
        }
    }

    /// Whose port of the host's this is. `seen`: by the other side itself, in a packet of its own.
    fn owner(
        &mut self,
        protocol: u8,
        remote: (IpAddr, u16),
        (address, port): (IpAddr, u16),
        seen: bool,
    ) -> Option<Flow> {
        let key = (protocol, remote.0, remote.1, port);
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        let sent = self.sent.filter(|flow| {
            seen && (flow.protocol, flow.remote.ip(family), flow.remote_port)
                == (protocol, remote.0, remote.1)
        });
        if let Some(flow) = sent {
            self.ports.insert(flow, (address, port));
            self.owners.insert(key, flow);
        }
        self.owners.get(&key).copied()
    }
}

/// What a party has got.
pub(super) fn describe(packet: &[u8], at: Party, names: &mut Names) -> String {
    let Some(ip) = Parts::new(packet) else { return format!("{at:?}: no packet: {packet:02x?}") };
    let mut text = format!("{at:?} ← ");
    let whole = ip.total == packet.len();
    transport(&mut text, &ip, names, at, true);
    let _ = write!(text, " ttl {}{}", ip.ttl, if ip.df { " DF" } else { "" });
    if ip.protocol != protocol::ICMP && ip.id != 0 && ip.id & 0x8000 == 0 {
        let _ = write!(text, " id {:x}", ip.id);
    }
    if !ip.options.is_empty() {
        let _ = write!(text, " options {:02x?}", ip.options);
    }
    if !ip.sound {
        text.push_str(" WRONG HEADER CHECKSUM");
    }
    if !whole {
        let _ = write!(text, " LENGTH {} OF {}", packet.len(), ip.total);
    }
    match ip.sum() {
        Some(false) => text.push_str(" WRONG CHECKSUM"),
        None => text.push_str(" no checksum"),
        Some(true) => {}
    }
    text
}

/// Addresses, ports, and what is in the transport header. `outer`: not in a quote.
fn transport(text: &mut String, ip: &Parts<'_>, names: &mut Names, at: Party, outer: bool) {
    let half = |offset: usize| Some(u16::from_be_bytes([*ip.l4.get(offset)?, *ip.l4.get(offset + 1)?]));
    let word = |offset: usize| Some(u32::from(half(offset)?) << 16 | u32::from(half(offset + 2)?));
    let is_error = ip.is_error();
    let (name, ports) = match (ip.protocol, ip.echo()) {
        (protocol::TCP, _) => ("TCP", half(0).zip(half(2))),
        (protocol::UDP, _) => ("UDP", half(0).zip(half(2))),
        (protocol::ICMP, Some(true)) => ("echo request", half(4).map(|id| (id, 0))),
        (protocol::ICMP, Some(false)) => ("echo reply", half(4).map(|id| (0, id))),
        (protocol::ICMP, _) => ("ICMP", None),
        _ => ("protocol", None),
    };
    let _ = write!(text, "{name} ");
    match ports {
        Some((source, destination)) => {
            let mut side = |address, port, remote, seen| {
                // A published port is nobody's choice. Where a container asks for one, which address the other sees differs.
                let is_host = address == ip.family.node() || address == ip.family.gateway();
                let flow = if is_host && Published::find(ip.protocol, port).is_none() {
                    names.owner(ip.protocol, remote, (address, port), seen)
                } else {
                    None
                };
                match flow {
                    Some(flow) => format!("node for {:?}:{}", flow.owner, flow.port),
                    None => format!("{}:{port}", host(address)),
                }
            };
            let from = side(ip.source, source, (ip.destination, destination), outer);
            let to = side(ip.destination, destination, (ip.source, source), false);
            let _ = write!(text, "{from} → {to}");
        }
        None => {
            let stands_in = is_error && complains_as_host(ip, names);
            let source = if stands_in { "node".into() } else { host(ip.source) };
            let _ = write!(text, "{source} → {}", host(ip.destination));
        }
    }
    if is_error {
        let _ = write!(text, " error {}/{} {:x?}", ip.l4[0], ip.l4.get(1).unwrap_or(&0), word(4));
        let quoted = ip.l4.get(8..).unwrap_or_default();
        // A host's own errors quote as much as it likes; netd's the least that there is. What has been counted down on its way to a
        // container is another's, by a published port.
        let is_host = [ip.family.node(), ip.family.gateway()].contains(&ip.source);
        let own = is_host && (ip.ttl == 64 || !at.is_container());
        let least = ip.family.header() + 8;
        quote(text, if own { &quoted[..quoted.len().min(least)] } else { quoted }, names, at);
        return;
    }
    // In a quote, ports are all that there is for certain.
    if ip.protocol == protocol::TCP
        && let (Some(seq), Some(ack), Some(flags), Some(window)) = (word(4), word(8), half(12), half(14))
    {
        let _ = write!(text, " {} seq {seq} ack {ack} window {window}", flag_names(flags as u8));
    }
    let payload = match ip.protocol {
        protocol::TCP => ip.l4.get(20..),
        protocol::UDP | protocol::ICMP => ip.l4.get(8..),
        _ => Some(ip.l4),
    };
    if let Some(payload) = payload {
        let _ = write!(text, " {} bytes #{:x}", payload.len(), hash(payload));
    }
    if ip.protocol == protocol::ICMP {
        let _ = write!(text, " {}/{}", ip.l4.first().unwrap_or(&255), ip.l4.get(1).unwrap_or(&0));
    } else if !matches!(ip.protocol, protocol::TCP | protocol::UDP) {
        let _ = write!(text, " number {}", ip.protocol);
    }
}

/// The flow whose address and port on the host a packet is to.
fn addressee(ip: &Parts<'_>, names: &mut Names) -> Option<Flow> {
    let &[a, b, c, d] = ip.l4.first_chunk()?;
    let [source, destination] = [[a, b], [c, d]].map(u16::from_be_bytes);
    let is_host = [ip.family.node(), ip.family.gateway()].contains(&ip.destination);
    let (remote, own) = ((ip.source, source), (ip.destination, destination));
    names.owner(ip.protocol, remote, own, false).filter(|_| is_host)
}

/// Whether an error is of a container that has asked for a published port, about an answer: it comes from the address that stands for
/// the container there, which is another with netfilter.
fn complains_as_host(error: &Parts<'_>, names: &mut Names) -> bool {
    let Some(quoted) = error.l4.get(8..).and_then(Parts::new) else { return false };
    let flow = addressee(&quoted, names).filter(|flow| flow.remote.is_container());
    // The host's own has not been counted down.
    flow.is_some() && quoted.destination == error.source && error.ttl < 64
}

/// What an error quotes.
fn quote(text: &mut String, quote: &[u8], names: &mut Names, at: Party) {
    text.push_str(" quoting [");
    match Parts::new(quote) {
        Some(ip) => {
            transport(text, &ip, names, at, false);
            let _ = write!(text, " ttl {} length {}{}", ip.ttl, ip.total, if ip.df { " DF" } else { "" });
            if !ip.sound {
                text.push_str(" WRONG HEADER CHECKSUM");
            }
            let field = match ip.protocol {
                protocol::TCP => 16,
                protocol::UDP => 6,
                _ => 2,
            };
            // A container is to get back just what it has sent, if that was to a port of nobody's choice.
            if at.is_container()
                && ip.source == at.ip(ip.family)
                && addressee(&ip, names).is_none()
                && let Some(sum) = ip.l4.get(field..field + 2)
            {
                let _ = write!(text, " sum {sum:02x?}");
            }
            if quote.len() == ip.total && ip.sum() == Some(false) {
                text.push_str(" WRONG CHECKSUM");
            }
        }
        None => {
            let _ = write!(text, "{} bytes", quote.len());
        }
    }
    text.push(']');
}

fn host(address: IpAddr) -> String {
    let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
    match Party::ALL.into_iter().find(|party| party.ip(family) == address) {
        Some(party) => format!("{party:?}"),
        None if address == family.node() => "node".into(),
        None if address == family.gateway() => "gateway".into(),
        None => address.to_string(),
    }
}

/// TCP's flags, by their first letters.
pub(super) fn flag_names(flags: u8) -> String {
    let all = "FSRPAUEC".chars().enumerate();
    all.filter(|(bit, _)| flags & 1 << bit != 0).map(|(_, name)| name).collect()
}

/// FNV-1a: to see that bytes are the same.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use netd_common::host::build::{Body, Ip, icmp_error, ipv4_of};

    use super::{super::NODE, *};

    const SERVER: [u8; 4] = Party::Server.address();
    const FLOW: Flow = Flow {
        protocol: protocol::UDP,
        owner: Party::A,
        port: 40_000,
        remote: Party::Server,
        remote_port: 53,
    };

    fn names() -> Names {
        Names { sent: Some(FLOW), ..Names::default() }
    }

    #[test]
    fn a_flow_has_one_name_whatever_its_port() {
        let [first, second] = [50_000, 40_000].map(|port| {
            let mut names = names();
            let sent = ipv4_of(&Ip::new(NODE, SERVER), &Body::Udp(port, 53, vec![7; 10]));
            let text = describe(&sent, Party::Server, &mut names);
            assert_eq!(names.port(&FLOW), Some((Family::V4.node(), port)));
            // An error about it, as the host would send it.
            let answer = ipv4_of(&Ip::new(SERVER, NODE), &Body::Udp(53, port, vec![]));
            let error = ipv4_of(&Ip::new(NODE, SERVER), &icmp_error((3, 3, 0), &answer));
            (text, describe(&error, Party::Server, &mut names))
        });
        assert_eq!(first, second);
        assert!(first.0.contains("UDP node for A:40000 → Server:53 10 bytes"), "{}", first.0);
        assert!(first.1.contains("quoting [UDP Server:53 → node for A:40000"), "{}", first.1);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let good = ipv4_of(&Ip::new(NODE, SERVER), &Body::Udp(50_000, 53, vec![7; 10]));
        let text = |packet: &[u8]| describe(packet, Party::Server, &mut names());
        assert!(!text(&good).contains("WRONG"));
        // Byte by byte: nothing that may not change stays unsaid. Those that may: the service, the identification where it says
        // that a packet was cut, the unused and the fragments' bits, and what a checksum has to say of itself.
        for (at, byte) in good.iter().enumerate().filter(|(at, _)| ![1, 4, 5, 6, 7, 8].contains(at)) {
            let mut bad = good.clone();
            bad[at] = byte ^ 0x10;
            assert_ne!(text(&bad), text(&good), "byte {at}");
            assert!(at < 20 || text(&bad).contains("WRONG CHECKSUM"), "byte {at}: {}", text(&bad));
        }
    }
}
