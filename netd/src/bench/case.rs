//! What is measured: a kind of traffic on a way through the host, and the unit that counts.

use serde::{Deserialize, Serialize};

/// One thing that is measured.
#[derive(Debug, PartialEq, Eq)]
pub struct Case {
    /// Its name on the command line and in the JSON.
    pub name: &'static str,
    /// What it is, for people.
    pub what: &'static str,
    /// The traffic's kind.
    pub traffic: Traffic,
    /// From where to where.
    pub route: Route,
}

/// Every case, in the order of the report.
pub const CASES: &[Case] = &[
    case("tcp-rr", "TCP, 1 byte there and back, one connection", Traffic::TcpRr, Route::SameHost),
    case("udp-rr", "UDP, 64 bytes there and back", Traffic::UdpRr, Route::SameHost),
    case("udp-64", "UDP, datagrams of 64 bytes, one way", Traffic::UdpPackets, Route::SameHost),
    case("tcp-stream", "TCP, one stream, writes of 128 KiB", Traffic::TcpStream, Route::SameHost),
    case("tcp-crr", "TCP, connect, 1 byte there and back, close", Traffic::TcpCrr, Route::SameHost),
    case(
        "udp-fragments",
        "UDP, datagrams of 4000 bytes, one way: 3 fragments where the MTU is 1500",
        Traffic::UdpFragments,
        Route::SameHost,
    ),
    case("http", "HTTP, 1 KiB a request, 16 connections (nginx, wrk)", Traffic::Http, Route::SameHost),
    case("egress-tcp-rr", "to the internet: as tcp-rr", Traffic::TcpRr, Route::Egress),
    case("egress-udp-rr", "to the internet: as udp-rr", Traffic::UdpRr, Route::Egress),
    case("egress-udp-64", "to the internet: as udp-64", Traffic::UdpPackets, Route::Egress),
    case("egress-tcp-stream", "to the internet: as tcp-stream", Traffic::TcpStream, Route::Egress),
    case("egress-tcp-crr", "to the internet: as tcp-crr", Traffic::TcpCrr, Route::Egress),
    case("egress-udp-fragments", "to the internet: as udp-fragments", Traffic::UdpFragments, Route::Egress),
    case("egress-http", "to the internet: as http", Traffic::Http, Route::Egress),
    case("published-tcp-rr", "from outside to a published port: as tcp-rr", Traffic::TcpRr, Route::Published),
    case(
        "published-udp-64",
        "from outside to a published port: as udp-64",
        Traffic::UdpPackets,
        Route::Published,
    ),
    case(
        "published-tcp-stream",
        "from outside to a published port: as tcp-stream",
        Traffic::TcpStream,
        Route::Published,
    ),
    case(
        "published-tcp-crr",
        "from outside to a published port: as tcp-crr",
        Traffic::TcpCrr,
        Route::Published,
    ),
    case("published-http", "from outside to a published port: as http", Traffic::Http, Route::Published),
    case(
        "denied-udp-64",
        "from outside to a host that drops what comes from this source: UDP, frames of datagrams of 64 bytes, as a NIC's driver gets \
         them",
        Traffic::DroppedFrames,
        Route::Denied,
    ),
    case(
        "denied-udp-64-socket",
        "the same, sent by a socket over a veth link: packets of the kernel's (skb), in whose place XDP can save nothing",
        Traffic::DroppedPackets,
        Route::Denied,
    ),
    case("vxlan-tcp-rr", "between hosts, in VXLAN: as tcp-rr", Traffic::TcpRr, VXLAN),
    case("vxlan-udp-rr", "between hosts, in VXLAN: as udp-rr", Traffic::UdpRr, VXLAN),
    case("vxlan-udp-64", "between hosts, in VXLAN: as udp-64", Traffic::UdpPackets, VXLAN),
    case("vxlan-tcp-stream", "between hosts, in VXLAN: as tcp-stream", Traffic::TcpStream, VXLAN),
    case(
        "vxlan-tcp-stream-mtu",
        "between hosts, in VXLAN: as tcp-stream, cut to MTU-sized packets on the wire, aggregated by the receiver (GRO)",
        Traffic::TcpStream,
        Route::Hosts(Link { transport: Transport::Vxlan, frames: Frames::Mtu }),
    ),
    case("vxlan-tcp-crr", "between hosts, in VXLAN: as tcp-crr", Traffic::TcpCrr, VXLAN),
    case("vxlan-udp-fragments", "between hosts, in VXLAN: as udp-fragments", Traffic::UdpFragments, VXLAN),
    case("vxlan-http", "between hosts, in VXLAN: as http", Traffic::Http, VXLAN),
    case("direct-tcp-rr", "between hosts, routed: as tcp-rr", Traffic::TcpRr, DIRECT),
    case("direct-udp-rr", "between hosts, routed: as udp-rr", Traffic::UdpRr, DIRECT),
    case("direct-udp-64", "between hosts, routed: as udp-64", Traffic::UdpPackets, DIRECT),
    case("direct-tcp-stream", "between hosts, routed: as tcp-stream", Traffic::TcpStream, DIRECT),
    case(
        "direct-tcp-stream-mtu",
        "between hosts, routed: as tcp-stream, cut to MTU-sized packets on the wire, aggregated by the receiver (GRO)",
        Traffic::TcpStream,
        Route::Hosts(Link { transport: Transport::Direct, frames: Frames::Mtu }),
    ),
    case("direct-tcp-crr", "between hosts, routed: as tcp-crr", Traffic::TcpCrr, DIRECT),
    case("direct-udp-fragments", "between hosts, routed: as udp-fragments", Traffic::UdpFragments, DIRECT),
    case("direct-http", "between hosts, routed: as http", Traffic::Http, DIRECT),
];

const VXLAN: Route = Route::Hosts(Link { transport: Transport::Vxlan, frames: Frames::Whole });
const DIRECT: Route = Route::Hosts(Link { transport: Transport::Direct, frames: Frames::Whole });

const fn case(name: &'static str, what: &'static str, traffic: Traffic, route: Route) -> Case {
    Case { name, what, traffic, route }
}

impl Case {
    /// What its samples are in.
    #[must_use]
    pub fn unit(&self) -> Unit {
        match self.traffic {
            Traffic::TcpRr | Traffic::UdpRr => Unit::Microseconds,
            Traffic::TcpStream => Unit::GigabitsPerSecond,
            Traffic::TcpCrr
            | Traffic::UdpPackets
            | Traffic::UdpFragments
            | Traffic::Http
            | Traffic::DroppedFrames
            | Traffic::DroppedPackets => Unit::PerSecond,
        }
    }
}

impl Traffic {
    /// What its cost is a cost of: the name, and how many of what is counted that is.
    #[must_use]
    pub fn operation(self) -> (&'static str, u64) {
        match self {
            Self::TcpRr | Self::UdpRr => ("round trip", 1),
            Self::TcpCrr => ("connection", 1),
            Self::UdpPackets | Self::UdpFragments | Self::DroppedFrames | Self::DroppedPackets => {
                ("datagram", 1)
            }
            Self::TcpStream => ("MiB", 1 << 20),
            Self::Http => ("request", 1),
        }
    }
}

/// The kinds of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    /// One byte there and back, over one TCP connection.
    TcpRr,
    /// A datagram of 64 bytes there and back.
    UdpRr,
    /// As many datagrams of 64 bytes as arrive.
    UdpPackets,
    /// As many bytes as go through one TCP connection.
    TcpStream,
    /// A TCP connection for each byte there and back.
    TcpCrr,
    /// As many datagrams as arrive, each of which is cut into fragments.
    UdpFragments,
    /// As many datagrams of 64 bytes as a host drops, put on its link as frames.
    DroppedFrames,
    /// The same, sent by a socket.
    DroppedPackets,
    /// Requests to a web server, which the machine's nginx and wrk exchange.
    Http,
}

/// Where traffic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// From one container to another on the same host.
    SameHost,
    /// From a container to a server beyond the host's uplink, which sees the host's address.
    Egress,
    /// From beyond the host's uplink to a container, by a port of the host's that it has published.
    Published,
    /// From beyond the host's uplink, from a source that the host drops everything from.
    Denied,
    /// From a container to one on another host.
    Hosts(Link),
}

/// What is between two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// How packets travel.
    pub transport: Transport,
    /// How large they are on the wire.
    pub frames: Frames,
}

/// How packets travel between two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Routed, with the containers' addresses.
    Direct,
    /// In VXLAN.
    Vxlan,
}

/// How large the packets of a stream are on the wire between two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// As the sender's kernel made them, up to 64 KiB: the offloads of a veth link are left as they are.
    Whole,
    /// The sender's uplink cuts them to its MTU, as a NIC does, and the receiver's puts them together again (GRO).
    Mtu,
}

impl Route {
    /// The cases of the report that have a table in common: what it is called.
    #[must_use]
    pub fn group(self) -> &'static str {
        match self {
            Self::SameHost => "two containers of one host",
            Self::Egress => "to a server beyond the uplink, masqueraded",
            Self::Published => "from beyond the uplink to a published port",
            Self::Denied => "from beyond the uplink, from a source that is denied",
            Self::Hosts(Link { transport: Transport::Vxlan, .. }) => "two containers of two hosts, in VXLAN",
            Self::Hosts(Link { transport: Transport::Direct, .. }) => "two containers of two hosts, routed",
        }
    }
}

impl Link {
    /// Its name: part of the names of namespaces, and of what is said of a variant.
    #[must_use]
    pub fn name(self) -> &'static str {
        match (self.transport, self.frames) {
            (Transport::Direct, Frames::Whole) => "direct",
            (Transport::Direct, Frames::Mtu) => "direct-mtu",
            (Transport::Vxlan, Frames::Whole) => "vxlan",
            (Transport::Vxlan, Frames::Mtu) => "vxlan-mtu",
        }
    }
}

/// What a sample is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// µs per round trip.
    Microseconds,
    /// ms per command.
    Milliseconds,
    /// 2²⁰ bytes of memory.
    Mebibytes,
    /// 10⁹ bits of payload per second.
    GigabitsPerSecond,
    /// Transactions or datagrams per second.
    PerSecond,
}

impl Unit {
    /// As the JSON and the table write it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Microseconds => "µs",
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
            Self::GigabitsPerSecond => "Gb/s",
            Self::PerSecond => "/s",
        }
    }

    /// Which of two values is the better one.
    #[must_use]
    pub fn better(self) -> Better {
        match self {
            Self::Microseconds | Self::Milliseconds | Self::Mebibytes => Better::Lower,
            Self::GigabitsPerSecond | Self::PerSecond => Better::Higher,
        }
    }

    /// How many of it go into a second one after the other, if it is a time.
    #[must_use]
    pub fn per_second(self, value: f64) -> Option<f64> {
        match self {
            Self::Microseconds => Some(1e6 / value),
            Self::Milliseconds => Some(1e3 / value),
            Self::GigabitsPerSecond | Self::PerSecond | Self::Mebibytes => None,
        }
    }
}

/// The direction in which values improve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// A time.
    Lower,
    /// A rate.
    Higher,
}

impl Better {
    /// As the JSON writes it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Lower => "lower",
            Self::Higher => "higher",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_say_the_route() {
        for (index, case) in CASES.iter().enumerate() {
            assert!(CASES[..index].iter().all(|other| other.name != case.name), "{}", case.name);
            let prefix = match case.route {
                Route::SameHost => "",
                Route::Egress => "egress-",
                Route::Published => "published-",
                Route::Denied => "denied-",
                Route::Hosts(Link { transport: Transport::Direct, .. }) => "direct-",
                Route::Hosts(Link { transport: Transport::Vxlan, .. }) => "vxlan-",
            };
            let rest = case.name.strip_prefix(prefix).expect("the route's prefix");
            let kinds = ["tcp-", "udp-", "http"];
            assert!(kinds.iter().any(|kind| rest.starts_with(kind)), "{}", case.name);
            let cut = matches!(case.route, Route::Hosts(Link { frames: Frames::Mtu, .. }));
            assert_eq!(rest.ends_with("-mtu"), cut, "{}", case.name);
        }
    }

    /// Each group is a table: its cases come one after the other.
    #[test]
    fn groups_are_together() {
        let mut groups: Vec<&str> = CASES.iter().map(|case| case.route.group()).collect();
        groups.dedup();
        assert_eq!(groups.len(), 6, "{groups:?}");
    }
}
