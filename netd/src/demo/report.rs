//! What the demo found out.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    bpf::Counter,
    lab::facts::{self, Count},
};

/// One thing that was tried.
#[derive(Clone, Debug)]
pub(super) struct Check {
    /// The row: who.
    pub(super) from: String,
    /// The column: whom.
    pub(super) to: String,
    /// What was tried.
    pub(super) what: What,
    /// Whether it was as it must be.
    pub(super) passed: bool,
    /// What was seen, or what went wrong.
    pub(super) detail: String,
    /// The round trip, where one was measured.
    pub(super) time: Option<Duration>,
}

/// What a check tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// An exchange that must succeed.
    Reach(Protocol),
    /// An exchange that must not.
    Blocked(Protocol),
    /// The drop counter that goes with those.
    Dropped,
    /// What the server sees is the host's address.
    Masquerade,
    /// The ways that packets between hosts took.
    Carried,
    /// Something about the host itself.
    Fact(&'static str),
}

/// The protocols, in the order in which a cell of the matrix shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    Icmp,
    Tcp,
    Udp,
    Http,
    /// All of these but the last, over IPv6.
    Ipv6,
}

impl Protocol {
    /// All of IPv4, in order.
    pub(super) const ALL: [Self; 4] = [Self::Icmp, Self::Tcp, Self::Udp, Self::Http];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Icmp => "ICMP",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Http => "HTTP",
            Self::Ipv6 => "IPv6",
        }
    }
}

impl What {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Reach(protocol) => protocol.name().to_owned(),
            Self::Blocked(protocol) => format!("{} is blocked", protocol.name()),
            Self::Dropped => "the drops are counted".to_owned(),
            Self::Masquerade => "masquerade".to_owned(),
            Self::Carried => "carried between the hosts".to_owned(),
            Self::Fact(fact) => (*fact).to_owned(),
        }
    }
}

/// What is on a host besides netd; see [`facts`].
#[derive(Clone, Debug)]
pub(super) struct HostFacts {
    pub(super) bridges: Count,
    pub(super) netfilter_rules: Count,
    pub(super) conntrack_entries: Count,
}

impl HostFacts {
    pub(super) fn of(namespace: &crate::lab::Namespace) -> anyhow::Result<Self> {
        Ok(Self {
            bridges: facts::bridges(namespace)?,
            netfilter_rules: facts::netfilter_rules(namespace)?,
            conntrack_entries: facts::conntrack_entries(namespace)?,
        })
    }

    /// Another host's on top.
    pub(super) fn add(&mut self, other: &Self) {
        self.bridges.number += other.bridges.number;
        self.netfilter_rules.number += other.netfilter_rules.number;
        self.conntrack_entries.number += other.conntrack_entries.number;
    }

    /// Each with the name of the check that goes with it.
    pub(super) fn checks(&self) -> [(&'static str, &Count); 3] {
        [
            ("no bridge", &self.bridges),
            ("no netfilter rule", &self.netfilter_rules),
            ("no conntrack entry", &self.conntrack_entries),
        ]
    }
}

/// One of the four configurations.
#[derive(Clone, Debug)]
pub(super) struct Configuration {
    pub(super) number: u8,
    pub(super) name: &'static str,
    /// What the reader should know of how it is built.
    pub(super) note: Option<String>,
    pub(super) seconds: f64,
    /// How many hosts it has.
    pub(super) hosts: usize,
    /// The matrix's rows and columns.
    pub(super) rows: Vec<String>,
    pub(super) columns: Vec<String>,
    /// What is in the network, for the reader: name and address.
    pub(super) places: Vec<(String, String)>,
    pub(super) checks: Vec<Check>,
    pub(super) forwarded: Vec<Counter>,
    pub(super) drops: Vec<Counter>,
    /// Which programs ran, where and how often they are attached.
    pub(super) programs: Vec<String>,
    /// Of all its hosts together.
    pub(super) facts: Option<HostFacts>,
    /// What kept it from being tried to the end.
    pub(super) error: Option<String>,
    /// The daemon's log, where something failed.
    pub(super) log: String,
}

impl Configuration {
    pub(super) fn new(number: u8, name: &'static str, note: Option<&'static str>) -> Self {
        Self {
            number,
            name,
            note: note.map(str::to_owned),
            seconds: 0.0,
            hosts: 0,
            rows: Vec::new(),
            columns: Vec::new(),
            places: Vec::new(),
            checks: Vec::new(),
            forwarded: Vec::new(),
            drops: Vec::new(),
            programs: Vec::new(),
            facts: None,
            error: None,
            log: String::new(),
        }
    }

    pub(super) fn fail(&mut self, error: String, log: String) {
        self.error = Some(error);
        self.log = log;
    }

    /// Everything was tried, and all of it was as it must be.
    pub(super) fn passed(&self) -> bool {
        self.error.is_none() && !self.checks.is_empty() && self.checks.iter().all(|check| check.passed)
    }

    fn json(&self) -> Value {
        let checks: Vec<Value> = self
            .checks
            .iter()
            .map(|check| {
                json!({
                    "from": check.from,
                    "to": check.to,
                    "what": check.what.text(),
                    "passed": check.passed,
                    "detail": check.detail,
                    "microseconds": check.time.map(|time| time.as_secs_f64() * 1e6),
                })
            })
            .collect();
        json!({
            "number": self.number,
            "name": self.name,
            "note": self.note,
            "passed": self.passed(),
            "seconds": self.seconds,
            "checks": checks,
            "forwarded": self.forwarded,
            "drops": self.drops,
            "programs": self.programs,
            "error": self.error,
        })
    }
}

/// The whole.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    pub(super) configurations: Vec<Configuration>,
    pub(super) seconds: f64,
    /// The prefix of the lab that was left up.
    pub(super) kept: Option<String>,
}

impl Report {
    /// Every configuration passed.
    pub(super) fn passed(&self) -> bool {
        !self.configurations.is_empty() && self.configurations.iter().all(Configuration::passed)
    }

    pub(super) fn json(&self) -> Value {
        // The sum over all hosts: one bridge anywhere is one too many.
        let mut host = json!({"bridges": 0, "netfilter_rules": 0, "conntrack_entries": 0, "counted_by": {}});
        for facts in self.configurations.iter().filter_map(|configuration| configuration.facts.as_ref()) {
            for (key, count) in [
                ("bridges", &facts.bridges),
                ("netfilter_rules", &facts.netfilter_rules),
                ("conntrack_entries", &facts.conntrack_entries),
            ] {
                host[key] = json!(host[key].as_u64().unwrap_or(0) + count.number);
                host["counted_by"][key] = json!(count.how);
            }
        }
        json!({
            "configurations": self.configurations.iter().map(Configuration::json).collect::<Vec<_>>(),
            "host": host,
            "passed": self.passed(),
            "seconds": self.seconds,
            "kept": self.kept,
        })
    }
}
