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
    Case {
        name: "tcp-rr",
        what: "TCP, 1 byte there and back, one connection",
        traffic: Traffic::TcpRr,
        route: Route::SameHost,
    },
    Case {
        name: "udp-rr",
        what: "UDP, 64 bytes there and back",
        traffic: Traffic::UdpRr,
        route: Route::SameHost,
    },
    Case {
        name: "udp-64",
        what: "UDP, datagrams of 64 bytes, one way",
        traffic: Traffic::UdpPackets,
        route: Route::SameHost,
    },
    Case {
        name: "tcp-stream",
        what: "TCP, one stream, writes of 128 KiB",
        traffic: Traffic::TcpStream,
        route: Route::SameHost,
    },
    Case {
        name: "tcp-crr",
        what: "TCP, connect, 1 byte there and back, close",
        traffic: Traffic::TcpCrr,
        route: Route::SameHost,
    },
    Case {
        name: "egress-tcp-rr",
        what: "to a server beyond the uplink, masqueraded: TCP, 1 byte there and back",
        traffic: Traffic::TcpRr,
        route: Route::Egress,
    },
    Case {
        name: "egress-udp-rr",
        what: "to a server beyond the uplink, masqueraded: UDP, 64 bytes there and back",
        traffic: Traffic::UdpRr,
        route: Route::Egress,
    },
    Case {
        name: "egress-udp-64",
        what: "to a server beyond the uplink, masqueraded: UDP, datagrams of 64 bytes, one way",
        traffic: Traffic::UdpPackets,
        route: Route::Egress,
    },
    Case {
        name: "egress-tcp-stream",
        what: "to a server beyond the uplink, masqueraded: TCP, one stream, writes of 128 KiB",
        traffic: Traffic::TcpStream,
        route: Route::Egress,
    },
    Case {
        name: "egress-tcp-crr",
        what: "to a server beyond the uplink, masqueraded: TCP, connect, 1 byte there and back, close",
        traffic: Traffic::TcpCrr,
        route: Route::Egress,
    },
];

impl Case {
    /// What its samples are in.
    #[must_use]
    pub fn unit(&self) -> Unit {
        match self.traffic {
            Traffic::TcpRr | Traffic::UdpRr => Unit::Microseconds,
            Traffic::TcpStream => Unit::GigabitsPerSecond,
            Traffic::TcpCrr | Traffic::UdpPackets => Unit::PerSecond,
        }
    }
}

/// The kinds of traffic that the worker can make.
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
}

/// Where traffic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// From one container to another on the same host.
    SameHost,
    /// From a container to a server beyond the host's uplink, which sees the host's address.
    Egress,
}

/// What a sample is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// µs per round trip.
    Microseconds,
    /// ms per command.
    Milliseconds,
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
            Self::GigabitsPerSecond => "Gb/s",
            Self::PerSecond => "/s",
        }
    }

    /// Which of two values is the better one.
    #[must_use]
    pub fn better(self) -> Better {
        match self {
            Self::Microseconds | Self::Milliseconds => Better::Lower,
            Self::GigabitsPerSecond | Self::PerSecond => Better::Higher,
        }
    }

    /// How many of it go into a second one after the other, if it is a time.
    #[must_use]
    pub fn per_second(self, value: f64) -> Option<f64> {
        match self {
            Self::Microseconds => Some(1e6 / value),
            Self::Milliseconds => Some(1e3 / value),
            Self::GigabitsPerSecond | Self::PerSecond => None,
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
