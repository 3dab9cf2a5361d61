//! Published ports: how they are written, and who has which.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::bpf::{MAX_PORTS, PublishedPort};

/// A protocol whose ports can be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its number (IANA).
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Ports of the host that lead to ports of an endpoint: one, or several in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// The host's address; none: any of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<Ipv4Addr>,
    /// The first of the host's ports.
    pub host_port: u16,
    /// The first of the endpoint's.
    pub port: u16,
    /// How many.
    pub count: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// One of the host's ports, as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// The address; none: any.
    pub host_ip: Option<Ipv4Addr>,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
        write!(f, "{address}:{}/{}", self.port, self.protocol)
    }
}

impl Publish {
    /// Each of the host's ports.
    pub fn host_ports(self) -> impl Iterator<Item = HostPort> {
        (0..self.count).map(move |n| HostPort {
            host_ip: self.host_ip,
            port: self.host_port + n,
            protocol: self.protocol,
        })
    }

    /// Each port, as the datapath wants it.
    pub fn entries(self, address: Ipv4Addr, slot: u32) -> impl Iterator<Item = PublishedPort> {
        (0..self.count).map(move |n| PublishedPort {
            host: self.host_ip,
            host_port: self.host_port + n,
            protocol: self.protocol.number(),
            address,
            port: self.port + n,
            slot,
        })
    }

    /// As `docker ps` shows it.
    #[must_use]
    pub fn shown(self) -> String {
        let address = self.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
        format!("{address}:{}->{}/{}", self.range(self.host_port), self.range(self.port), self.protocol)
    }

    fn range(self, first: u16) -> String {
        match self.count {
            1 => first.to_string(),
            count => format!("{first}-{}", first + (count - 1)),
        }
    }

    /// What is left of these ports without those: nothing, a part, or a part on either side. `None`: they are not all among these.
    #[must_use]
    pub fn without(self, those: Self) -> Option<Vec<Self>> {
        let same = (self.host_ip, self.protocol) == (those.host_ip, those.protocol);
        let skip = those.host_port.checked_sub(self.host_port).filter(|_| same)?;
        let rest = self.count.checked_sub(skip)?.checked_sub(those.count)?;
        if those.port.checked_sub(self.port) != Some(skip) {
            return None;
        }
        let after = skip + those.count;
        let left = Self { count: skip, ..self };
        let right = if rest > 0 {
            Self { host_port: self.host_port + after, port: self.port + after, count: rest, ..self }
        } else {
            Self { count: 0, ..self }
        };
        Some([left, right].into_iter().filter(|part| part.count > 0).collect())
    }
}

/// As `-p` takes it.
impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.host_ip {
            write!(f, "{address}:")?;
        }
        write!(f, "{}:{}/{}", self.range(self.host_port), self.range(self.port), self.protocol)
    }
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail = |why: &str| format!("published port `{text}`: {why}");
        let (ports, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some((_, other)) => return Err(fail(&format!("the protocol is tcp or udp, not `{other}`"))),
        };
        let Some((host, port)) = ports.rsplit_once(':') else {
            return Err(fail("say HOSTPORT:PORT, such as 8080:80"));
        };
        let (host_ip, host) = match host.rsplit_once(':') {
            None => (None, host),
            Some((address, port)) => (Some(address), port),
        };
        let host_ip = host_ip.map(|address| parse_address(address).map_err(|why| fail(&why))).transpose()?;
        let (host_port, hosts) = parse_range(host).map_err(|why| fail(&why))?;
        let (port, count) = parse_range(port).map_err(|why| fail(&why))?;
        if hosts != count {
            return Err(fail(&format!("{hosts} ports of the host cannot lead to {count} of the endpoint")));
        }
        let host_ip = host_ip.filter(|address| !address.is_unspecified());
        Ok(Self { host_ip, host_port, port, count, protocol })
    }
}

fn parse_address(text: &str) -> Result<Ipv4Addr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match bare.parse() {
        Ok(IpAddr::V4(address)) if address.is_multicast() || address.is_broadcast() => {
            Err(format!("{address} is no address of a host"))
        }
        Ok(IpAddr::V4(address)) => Ok(address),
        Ok(IpAddr::V6(address)) => Err(format!("not supported yet: the IPv6 address {address}")),
        Err(_) => Err(format!("`{text}` is not an IP address")),
    }
}

/// The first port, and how many there are.
fn parse_range(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port @ 1..) if !text.starts_with('+') => Ok(port),
        _ => Err(format!("`{text}` is not a port: they are from 1 to 65535")),
    };
    let Some((first, last)) = text.split_once('-') else { return Ok((port(text)?, 1)) };
    let (first, last) = (port(first)?, port(last)?);
    match last.checked_sub(first) {
        // At most 65,535 of them: port 0 is none.
        Some(more) => Ok((first, more + 1)),
        None => Err(format!("the range {first}-{last} ends before it begins")),
    }
}

/// The address that a port is published at, and the endpoint.
type Holder = (Option<Ipv4Addr>, String);

/// Which ports of the host are whose.
#[derive(Debug, Default)]
pub struct Ports {
    /// At an address each, by port and protocol.
    taken: HashMap<(Protocol, u16), Vec<Holder>>,
    count: u32,
}

impl Ports {
    /// Whether an endpoint can have these ports besides its own.
    ///
    /// # Errors
    /// Who has one of them, in words; or there is no room for so many.
    pub fn check(&self, publish: &[Publish]) -> Result<(), String> {
        let mut own = Self::default();
        for port in publish.iter().flat_map(|publish| publish.host_ports()) {
            if let Some((taken, holder)) = self.holder(port) {
                return Err(format!(
                    "port {port} is published by endpoint `{holder}` ({taken}): choose another, or take it back there with \
                     `netd unpublish`"
                ));
            }
            if own.holder(port).is_some() {
                return Err(format!("port {port} is asked for twice"));
            }
            own.insert(port, "");
        }
        if self.count + own.count > MAX_PORTS {
            return Err(format!(
                "{} published ports more are too many: there is room for {MAX_PORTS}",
                own.count
            ));
        }
        Ok(())
    }

    /// Who has a port that a new one would get in the way of: the same at the same address, or one of both at any address.
    fn holder(&self, port: HostPort) -> Option<(HostPort, &str)> {
        self.taken.get(&(port.protocol, port.port))?.iter().find_map(|(address, name)| {
            let clash = address.is_none() || port.host_ip.is_none() || *address == port.host_ip;
            clash.then_some((HostPort { host_ip: *address, ..port }, name.as_str()))
        })
    }

    fn insert(&mut self, port: HostPort, name: &str) {
        self.taken.entry((port.protocol, port.port)).or_default().push((port.host_ip, name.to_owned()));
        self.count += 1;
    }

    /// Gives ports to an endpoint.
    pub fn take(&mut self, name: &str, publish: &[Publish]) {
        for port in publish.iter().flat_map(|publish| publish.host_ports()) {
            self.insert(port, name);
        }
    }

    /// Takes ports back from an endpoint.
    pub fn free(&mut self, name: &str, publish: &[Publish]) {
        for port in publish.iter().flat_map(|publish| publish.host_ports()) {
            let key = (port.protocol, port.port);
            let Some(holders) = self.taken.get_mut(&key) else { continue };
            let before = holders.len();
            holders.retain(|(address, holder)| (*address, holder.as_str()) != (port.host_ip, name));
            self.count -= (before - holders.len()) as u32;
            if holders.is_empty() {
                self.taken.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Publish {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_understood() {
        for (text, shown, again) in [
            ("8080:80", "0.0.0.0:8080->80/tcp", "8080:80/tcp"),
            ("53:5353/udp", "0.0.0.0:53->5353/udp", "53:5353/udp"),
            ("127.0.0.1:8080:80/tcp", "127.0.0.1:8080->80/tcp", "127.0.0.1:8080:80/tcp"),
            ("0.0.0.0:1:65535", "0.0.0.0:1->65535/tcp", "1:65535/tcp"),
            ("[192.0.2.1]:7:7", "192.0.2.1:7->7/tcp", "192.0.2.1:7:7/tcp"),
            ("8000-8010:80-90", "0.0.0.0:8000-8010->80-90/tcp", "8000-8010:80-90/tcp"),
            ("1-65535:1-65535/udp", "0.0.0.0:1-65535->1-65535/udp", "1-65535:1-65535/udp"),
        ] {
            let publish = parse(text);
            assert_eq!(publish.shown(), shown);
            assert_eq!(publish.to_string(), again);
            assert_eq!(parse(again), publish);
            assert_eq!(publish.host_ports().count(), usize::from(publish.count));
        }
    }

    #[test]
    fn what_is_not() {
        for (text, why) in [
            ("80", "say HOSTPORT:PORT, such as 8080:80"),
            ("", "say HOSTPORT:PORT, such as 8080:80"),
            ("8080:80/sctp", "the protocol is tcp or udp, not `sctp`"),
            ("8080:0", "`0` is not a port: they are from 1 to 65535"),
            ("65536:1", "`65536` is not a port: they are from 1 to 65535"),
            (":80", "`` is not a port: they are from 1 to 65535"),
            ("+1:1", "`+1` is not a port: they are from 1 to 65535"),
            ("eth0:8080:80", "`eth0` is not an IP address"),
            ("224.0.0.1:8080:80", "224.0.0.1 is no address of a host"),
            ("[::1]:8080:80", "not supported yet: the IPv6 address ::1"),
            ("8000-8010:80", "11 ports of the host cannot lead to 1 of the endpoint"),
            ("8010-8000:80-90", "the range 8010-8000 ends before it begins"),
        ] {
            assert_eq!(text.parse::<Publish>(), Err(format!("published port `{text}`: {why}")));
        }
    }

    #[test]
    fn what_is_left_of_a_range() {
        let range = parse("8000-8010:80-90");
        for (text, left) in [
            ("8000-8010:80-90", Some(vec![])),
            ("8000:80", Some(vec!["8001-8010:81-90"])),
            ("8010:90", Some(vec!["8000-8009:80-89"])),
            ("8003-8004:83-84", Some(vec!["8000-8002:80-82", "8005-8010:85-90"])),
            ("8003:84", None),
            ("7999-8000:79-80", None),
            ("8010-8011:90-91", None),
            ("8000:80/udp", None),
            ("127.0.0.1:8000:80", None),
        ] {
            let left = left.map(|left| left.into_iter().map(parse).collect::<Vec<_>>());
            assert_eq!(range.without(parse(text)), left, "{text}");
        }
    }

    #[test]
    fn who_is_in_the_way() {
        let mut ports = Ports::default();
        ports.take("web", &[parse("8080:80"), parse("192.0.2.1:53:53/udp")]);
        for (text, holder) in [
            ("8080:81", Some("web")),
            ("127.0.0.1:8080:81", Some("web")),
            ("8080:80/udp", None),
            ("8081:80", None),
            ("8079-8081:79-81", Some("web")),
            ("53:53/udp", Some("web")),
            ("192.0.2.1:53:54/udp", Some("web")),
            ("192.0.2.2:53:53/udp", None),
        ] {
            let found = ports.check(&[parse(text)]);
            assert_eq!(found.is_err(), holder.is_some(), "{text}: {found:?}");
            assert!(found.err().is_none_or(|why| why.contains("`web`")), "{text}");
        }
        assert_eq!(
            ports.check(&[parse("9000:1"), parse("127.0.0.1:9000:2")]).unwrap_err(),
            "port 127.0.0.1:9000/tcp is asked for twice"
        );
        let many = [parse("1-65535:1-65535/udp"), parse("10000-10100:1-101")];
        let mut empty = Ports::default();
        assert!(empty.check(&many).unwrap_err().contains("too many"));
        empty.take("all", &many[..1]);
        assert!(empty.check(&[parse("1:1")]).is_ok() && empty.check(&[parse("1-2:1-2")]).is_err());
        ports.free("web", &[parse("8080:80")]);
        assert!(ports.check(&[parse("8080:80")]).is_ok());
        assert!(ports.check(&[parse("53:53/udp")]).is_err());
    }
}
