//! Published ports: how they are written, and who has which.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
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
    /// The host's address; `0.0.0.0` or `::`: any of that family.
    #[serde(default = "any")]
    pub host_ip: IpAddr,
    /// The first of the host's ports.
    pub host_port: u16,
    /// The first of the endpoint's.
    pub port: u16,
    /// How many.
    pub count: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// What records without an address mean: they are from before there was IPv6.
fn any() -> IpAddr {
    Ipv4Addr::UNSPECIFIED.into()
}

/// One of the host's ports, as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// The address; the unspecified one: any of its family.
    pub host_ip: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl HostPort {
    /// Whether only one of both can be: they are the same, or one of them is at any address.
    fn clashes(self, other: Self) -> bool {
        let any = self.host_ip.is_unspecified() || other.host_ip.is_unspecified();
        (self.port, self.protocol) == (other.port, other.protocol)
            && self.host_ip.is_ipv4() == other.host_ip.is_ipv4()
            && (any || self.host_ip == other.host_ip)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.host_ip, self.port), self.protocol)
    }
}

impl Publish {
    /// Reads what `-p` takes, `[HOSTIP:]HOSTPORT:PORT[/tcp|udp]`. Without an address it is one of each family, of IPv6 only where
    /// the endpoint has that; `without_ipv6` says why it has not.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str, without_ipv6: Option<&str>) -> Result<Vec<Self>, String> {
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
        let at = |host_ip| Self { host_ip, host_port, port, count, protocol };
        match (host_ip, without_ipv6) {
            (Some(IpAddr::V6(_)), Some(why)) => Err(fail(why)),
            (Some(address), _) => Ok(vec![at(address)]),
            (None, Some(_)) => Ok(vec![at(any())]),
            (None, None) => Ok(vec![at(any()), at(Ipv6Addr::UNSPECIFIED.into())]),
        }
    }

    /// Each of the host's ports.
    pub fn host_ports(self) -> impl Iterator<Item = HostPort> {
        (0..self.count).map(move |n| HostPort {
            host_ip: self.host_ip,
            port: self.host_port + n,
            protocol: self.protocol,
        })
    }

    /// Each port, as the datapath wants it; `address` is the endpoint's of the host address's family.
    pub fn entries(self, address: IpAddr, slot: u32) -> impl Iterator<Item = PublishedPort> {
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
        format!("{}:{}->{}/{}", self.host(), self.range(self.host_port), self.range(self.port), self.protocol)
    }

    /// The host's address as it stands before a port.
    fn host(self) -> String {
        match self.host_ip {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        }
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
        write!(
            f,
            "{}:{}:{}/{}",
            self.host(),
            self.range(self.host_port),
            self.range(self.port),
            self.protocol
        )
    }
}

/// An address of the host. That of IPv6 is in brackets, as its colons would be taken for others.
fn parse_address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = match bare.unwrap_or(text).parse() {
        Ok(IpAddr::V6(address)) if bare.is_none() => {
            return Err(format!("write the IPv6 address in brackets, as [{address}]"));
        }
        Ok(address) => address,
        Err(_) => return Err(format!("`{text}` is not an IP address")),
    };
    match address {
        IpAddr::V4(v4) if v4.is_multicast() || v4.is_broadcast() => {
            Err(format!("{v4} is no address of a host"))
        }
        IpAddr::V6(v6) if v6.is_multicast() => Err(format!("{v6} is no address of a host")),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Err(format!("{v6} is of one link only: choose another address"))
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => Err(format!("{v6} stands for {v4}: write that")),
            None => Ok(address),
        },
        IpAddr::V4(_) => Ok(address),
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

/// Which ports of the host are whose.
#[derive(Debug, Default)]
pub struct Ports {
    /// At an address each, by port and protocol; with the endpoint's name.
    taken: HashMap<(Protocol, u16), Vec<(IpAddr, String)>>,
    /// How many there are, of IPv4 and of IPv6.
    counts: [u32; 2],
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
        // A table a family.
        for (count, more) in self.counts.iter().zip(own.counts) {
            if count + more > MAX_PORTS {
                return Err(format!(
                    "{more} published ports more are too many: there is room for {MAX_PORTS}"
                ));
            }
        }
        Ok(())
    }

    /// Who has a port that a new one would get in the way of: the same at the same address, or one of both at any address.
    fn holder(&self, port: HostPort) -> Option<(HostPort, &str)> {
        self.taken.get(&(port.protocol, port.port))?.iter().find_map(|(address, name)| {
            let taken = HostPort { host_ip: *address, ..port };
            taken.clashes(port).then_some((taken, name.as_str()))
        })
    }

    fn count(&mut self, address: IpAddr) -> &mut u32 {
        let [v4, v6] = &mut self.counts;
        if address.is_ipv4() { v4 } else { v6 }
    }

    fn insert(&mut self, port: HostPort, name: &str) {
        self.taken.entry((port.protocol, port.port)).or_default().push((port.host_ip, name.to_owned()));
        *self.count(port.host_ip) += 1;
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
            let gone = (before - holders.len()) as u32;
            if holders.is_empty() {
                self.taken.remove(&key);
            }
            *self.count(port.host_ip) -= gone;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the one family that it is of, or of IPv4.
    fn parse(text: &str) -> Publish {
        let all = Publish::parse(text, None).unwrap();
        all[0]
    }

    #[test]
    fn what_is_understood() {
        for (text, shown, again) in [
            ("0.0.0.0:8080:80", "0.0.0.0:8080->80/tcp", "0.0.0.0:8080:80/tcp"),
            ("127.0.0.1:8080:80/tcp", "127.0.0.1:8080->80/tcp", "127.0.0.1:8080:80/tcp"),
            ("0.0.0.0:1:65535", "0.0.0.0:1->65535/tcp", "0.0.0.0:1:65535/tcp"),
            ("[192.0.2.1]:7:7", "192.0.2.1:7->7/tcp", "192.0.2.1:7:7/tcp"),
            ("[::]:53:5353/udp", "[::]:53->5353/udp", "[::]:53:5353/udp"),
            ("[::1]:8080:80", "[::1]:8080->80/tcp", "[::1]:8080:80/tcp"),
            ("[2001:DB8::1]:1-3:4-6", "[2001:db8::1]:1-3->4-6/tcp", "[2001:db8::1]:1-3:4-6/tcp"),
        ] {
            let all = Publish::parse(text, None).unwrap();
            let [publish] = all[..] else { panic!("{text}: {all:?}") };
            assert_eq!(publish.shown(), shown);
            assert_eq!(publish.to_string(), again);
            assert_eq!(parse(again), publish);
            assert_eq!(publish.host_ports().count(), usize::from(publish.count));
        }
    }

    #[test]
    fn without_an_address_it_is_both_families() {
        for (text, both) in [
            ("8080:80", "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"),
            ("53:5353/udp", "0.0.0.0:53->5353/udp, [::]:53->5353/udp"),
            ("8000-8010:80-90", "0.0.0.0:8000-8010->80-90/tcp, [::]:8000-8010->80-90/tcp"),
            ("1-65535:1-65535/udp", "0.0.0.0:1-65535->1-65535/udp, [::]:1-65535->1-65535/udp"),
        ] {
            let shown = |without| {
                let all = Publish::parse(text, without).unwrap();
                all.into_iter().map(Publish::shown).collect::<Vec<_>>().join(", ")
            };
            assert_eq!(shown(None), both);
            assert_eq!(Some(shown(Some("it has none")).as_str()), both.split(", ").next());
        }
        for text in ["[::]:8080:80", "[::1]:8080:80"] {
            let refused = Publish::parse(text, Some("it has none"));
            assert_eq!(refused, Err(format!("published port `{text}`: it has none")));
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
            ("[ff02::1]:8080:80", "ff02::1 is no address of a host"),
            ("[fe80::1]:8080:80", "fe80::1 is of one link only: choose another address"),
            ("[::ffff:192.0.2.1]:8080:80", "::ffff:192.0.2.1 stands for 192.0.2.1: write that"),
            ("2001:db8::1:8080:80", "write the IPv6 address in brackets, as [2001:db8::1]"),
            ("[::1:8080:80", "`[::1` is not an IP address"),
            ("[fe80::1%eth0]:1:1", "`[fe80::1%eth0]` is not an IP address"),
            ("8000-8010:80", "11 ports of the host cannot lead to 1 of the endpoint"),
            ("8010-8000:80-90", "the range 8010-8000 ends before it begins"),
        ] {
            assert_eq!(Publish::parse(text, None), Err(format!("published port `{text}`: {why}")));
        }
    }

    #[test]
    fn records_from_before_ipv6() {
        let old = r#"{"host_port":8080,"port":80,"count":1,"protocol":"tcp"}"#;
        assert_eq!(serde_json::from_str::<Publish>(old).unwrap(), parse("0.0.0.0:8080:80"));
        let old = old.replace('{', r#"{"host_ip":"127.0.0.1","#);
        assert_eq!(serde_json::from_str::<Publish>(&old).unwrap(), parse("127.0.0.1:8080:80"));
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
            ("[::]:8000:80", None),
        ] {
            let left = left.map(|left| left.into_iter().map(parse).collect::<Vec<_>>());
            assert_eq!(range.without(parse(text)), left, "{text}");
        }
    }

    #[test]
    fn who_is_in_the_way() {
        let mut ports = Ports::default();
        let both = Publish::parse("8080:80", None).unwrap();
        ports.take("web", &both);
        ports.take("web", &[parse("192.0.2.1:53:53/udp"), parse("[2001:db8::1]:443:443")]);
        for (text, holder) in [
            ("8080:81", Some("web")),
            ("127.0.0.1:8080:81", Some("web")),
            ("[::1]:8080:81", Some("web")),
            ("8080:80/udp", None),
            ("8081:80", None),
            ("8079-8081:79-81", Some("web")),
            ("0.0.0.0:53:53/udp", Some("web")),
            ("[::]:53:53/udp", None),
            ("192.0.2.1:53:54/udp", Some("web")),
            ("192.0.2.2:53:53/udp", None),
            ("443:443", Some("web")),
            ("0.0.0.0:443:443", None),
            ("[2001:db8::1]:443:1", Some("web")),
            ("[2001:db8::2]:443:1", None),
        ] {
            let found = ports.check(&Publish::parse(text, None).unwrap());
            assert_eq!(found.is_err(), holder.is_some(), "{text}: {found:?}");
            assert!(found.err().is_none_or(|why| why.contains("`web`")), "{text}");
        }
        assert_eq!(
            ports.check(&[parse("9000:1"), parse("127.0.0.1:9000:2")]).unwrap_err(),
            "port 127.0.0.1:9000/tcp is asked for twice"
        );
        ports.check(&[parse("0.0.0.0:9000:1"), parse("[::]:9000:2")]).unwrap();
        let many = [parse("1-65535:1-65535/udp"), parse("10000-10100:1-101")];
        let mut empty = Ports::default();
        assert!(empty.check(&many).unwrap_err().contains("too many"));
        empty.take("all", &many[..1]);
        assert!(empty.check(&[parse("1:1")]).is_ok() && empty.check(&[parse("1-2:1-2")]).is_err());
        empty.check(&[parse("[::]:1-2:1-2")]).unwrap();
        ports.free("web", &both);
        assert!(ports.check(&[parse("8080:80"), parse("[::1]:8080:80")]).is_ok());
        assert!(ports.check(&[parse("53:53/udp")]).is_err());
    }
}
