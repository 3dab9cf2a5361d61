//! The format: which keys there are, and what is at them.
//!
//! The version is a part of the path, so that another format can live beside this one. Whoever can write to etcd can write
//! anything, so all that is read is checked here as far as it can be for itself alone.

use std::{fmt, net::Ipv4Addr};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    cluster::{Registration, SharedNetwork},
    ipam::MAX_PREFIX,
    names::{self, Shown},
    network,
    pair::is_node_address,
};

/// Longer values are nobody's records, in bytes.
const MAX_VALUE: usize = 64 << 10;
/// MTUs that an uplink can have, in bytes; the largest is that of loopback.
const MTU: std::ops::RangeInclusive<u32> = 576..=65536;
/// Longer texts that tell nodes apart are none, in bytes.
const MAX_ID: usize = 128;
/// The numbers of networks; VNIs have 16 bits for them.
pub(super) const NUMBERS: std::ops::RangeInclusive<u32> = 1..=65535;

/// A key, as it is below the prefix and the version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// The last number of a network: [`Counter`].
    LastNetwork,
    /// A node that is there, by its name: [`NodeRecord`].
    Node(String),
    /// A network, by its name: [`SharedNetwork`].
    Network(String),
    /// Who has a part of a network, by the network's name: [`SliceRecord`].
    Slice(String, Ipv4Net),
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeRecord {
    /// Tells nodes apart that are given one name.
    pub(super) id: String,
    /// Tells apart those whose state directory is a copy of another's. Earlier versions write none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) place: String,
    #[serde(flatten)]
    pub(super) registration: Registration,
}

/// Who has a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SliceRecord {
    /// The node's name.
    pub(super) node: String,
}

/// Which numbers are given to networks, also to such as are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counter {
    /// The largest of them; 0: none.
    pub(super) last: u32,
    /// Smaller ones that are given to none, as ranges from the first to the last.
    #[serde(default)]
    pub(super) free: Vec<(u32, u32)>,
    /// Random: tells an etcd that has lost its data from the one that there was.
    #[serde(default)]
    pub(super) store: String,
}

/// A record.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Record {
    Counter(Counter),
    Node(NodeRecord),
    Network(SharedNetwork),
    Slice(SliceRecord),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LastNetwork => f.write_str("last-network"),
            Self::Node(name) => write!(f, "nodes/{name}"),
            Self::Network(name) => write!(f, "networks/{name}"),
            Self::Slice(network, slice) => {
                write!(f, "slices/{network}/{}-{}", slice.addr(), slice.prefix_len())
            }
        }
    }
}

impl Key {
    /// What the keys of all nodes begin with.
    pub(super) const NODES: &str = "nodes/";

    /// What the keys of a network's slices begin with.
    pub(super) fn slices(network: &str) -> String {
        format!("slices/{network}/")
    }

    /// Reads a key.
    ///
    /// # Errors
    /// It is none of ours.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let key = match parts.as_slice() {
            ["last-network"] => Self::LastNetwork,
            ["nodes", name] => Self::Node(checked(name)?),
            ["networks", name] => Self::Network(checked(name)?),
            ["slices", network, slice] => Self::Slice(checked(network)?, parse_slice(slice)?),
            _ => bail!("unknown key"),
        };
        // A slice that can be written in two ways would have two owners.
        ensure!(key.to_string() == text, "it would be written {key}");
        Ok(key)
    }

    /// Reads what is at this key.
    ///
    /// # Errors
    /// It makes no sense.
    pub(super) fn read(&self, value: &[u8]) -> Result<Record> {
        ensure!(value.len() <= MAX_VALUE, "{} bytes are more than {MAX_VALUE}", value.len());
        Ok(match self {
            Self::LastNetwork => Record::Counter(check_counter(json(value)?)?),
            Self::Node(_) => Record::Node(check_node(json(value)?)?),
            Self::Network(_) => Record::Network(check_network(json(value)?)?),
            Self::Slice(..) => {
                let record: SliceRecord = json(value)?;
                names::check(&record.node).context("node")?;
                Record::Slice(record)
            }
        })
    }
}

fn checked(name: &str) -> Result<String> {
    names::check(name)?;
    Ok(name.to_owned())
}

fn parse_slice(text: &str) -> Result<Ipv4Net> {
    let slice = text.split_once('-').and_then(|(address, length)| {
        Ipv4Net::new(address.parse::<Ipv4Addr>().ok()?, length.parse().ok()?).ok()
    });
    let slice = slice.ok_or_else(|| anyhow!("{text:?} is not a slice, such as 10.88.1.0-24"))?;
    ensure!(slice == slice.trunc(), "{slice} has host bits set");
    ensure!(slice.prefix_len() <= MAX_PREFIX, "{slice} is too small: at most /{MAX_PREFIX}");
    Ok(slice)
}

fn json<T: DeserializeOwned>(value: &[u8]) -> Result<T> {
    // What it quotes may be anything.
    serde_json::from_slice(value).map_err(|error| anyhow!("{}", Shown(&error.to_string())))
}

fn check_counter(counter: Counter) -> Result<Counter> {
    ensure!(counter.last <= *NUMBERS.end(), "last: {} is larger than {}", counter.last, NUMBERS.end());
    let mut above = 0;
    for (first, last) in &counter.free {
        ensure!(
            above < *first && first <= last && *last < counter.last,
            "free: {first} to {last} are not in order"
        );
        above = *last;
    }
    Ok(counter)
}

fn check_node(node: NodeRecord) -> Result<NodeRecord> {
    for (what, text) in [("id", &node.id), ("place", &node.place)] {
        ensure!(text.len() <= MAX_ID, "{what}: {} bytes are more than {MAX_ID}", text.len());
    }
    let Registration { address, address6, mtu, uses, .. } = &node.registration;
    ensure!(is_node_address((*address).into()), "address: no node can have {address}");
    if let Some(address6) = address6 {
        ensure!(is_node_address((*address6).into()), "address6: no node can have {address6}");
    }
    ensure!(MTU.contains(mtu), "mtu: {mtu} is not between {} and {}", MTU.start(), MTU.end());
    for network in uses {
        names::check(network).context("uses")?;
    }
    Ok(node)
}

fn check_network(shared: SharedNetwork) -> Result<SharedNetwork> {
    let SharedNetwork { number, subnet, subnet6, slice, mtu, .. } = &shared;
    ensure!(NUMBERS.contains(number), "number: {number} is not between 1 and {}", NUMBERS.end());
    network::check_subnet(*subnet).context("subnet")?;
    network::check_subnets(*subnet, *subnet6).context("subnet6")?;
    let lengths = subnet.prefix_len()..=MAX_PREFIX;
    ensure!(lengths.contains(slice), "slice: /{slice} of {subnet} is none");
    if let Some(mtu) = mtu {
        let is_one = network::check_mtu(i64::from(*mtu)).context("mtu")?.is_some();
        ensure!(is_one, "mtu: 0");
    }
    network::check_mtu6(*mtu, *subnet6).context("mtu")?;
    Ok(shared)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys() {
        for good in [
            "last-network",
            "nodes/host-a",
            "networks/default",
            "slices/default/10.88.1.0-24",
            "slices/a.b/10.0.0.0-8",
            "slices/a/10.0.0.4-30",
        ] {
            assert_eq!(Key::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "last-network/",
            "nodes",
            "nodes/",
            "nodes/a/b",
            "nodes/-a",
            "networks/a b",
            "slices/a",
            "slices/a/10.88.1.0/24",
            "slices/a/10.88.1.0",
            "slices/a/10.88.1.1-24",
            "slices/a/10.88.1.0-024",
            "slices/a/10.88.1.0-+24",
            "slices/a/10.88.1.0-31",
            "slices/a/10.88.1.0-33",
            "slices/a/fd88::-48",
            "others/a",
        ] {
            assert!(Key::parse(bad).is_err(), "{bad}");
        }
    }

    fn node(change: (&str, &str)) -> String {
        r#"{"id":"i","address":"192.0.2.1","transport":"auto","mtu":1500,"uses":["a"],"later":1}"#
            .replace(change.0, change.1)
    }

    fn network(change: (&str, &str)) -> String {
        r#"{"number":7,"subnet":"10.88.0.0/16","slice":24,"masquerade":true,"link":"auto","mtu":null}"#
            .replace(change.0, change.1)
    }

    #[test]
    fn values() {
        let keys = ["last-network", "nodes/a", "networks/a", "slices/a/10.88.1.0-24"];
        let [last, a_node, a_network, a_slice] = keys.map(|key| Key::parse(key).unwrap());
        for (key, value) in [
            (&last, r#"{"last":0}"#.to_owned()),
            (&last, r#"{"last":9,"free":[[1,2],[4,8]],"store":"x"}"#.to_owned()),
            (&a_node, node(("", ""))),
            (&a_network, network(("", ""))),
            (&a_network, network(("24", "16"))),
            (&a_network, network(("null", "1400"))),
            (&a_slice, r#"{"node":"a"}"#.to_owned()),
            (&a_node, node(("\"mtu\"", "\"address6\":\"2001:db8::1\",\"mtu\""))),
            (&a_network, network(("\"slice\"", "\"subnet6\":\"fd88::/48\",\"slice\""))),
        ] {
            assert!(key.read(value.as_bytes()).is_ok(), "{key}: {value}");
        }
        for (key, value, expected) in [
            (&last, "x".to_owned(), "expected value at line 1 column 1"),
            (&last, r#"{"last":65536}"#.to_owned(), "last: 65536 is larger than 65535"),
            (&last, r#"{"last":9,"free":[[3,4],[1,2]]}"#.to_owned(), "free: 1 to 2 are not in order"),
            (&last, r#"{"last":9,"free":[[9,9]]}"#.to_owned(), "free: 9 to 9 are not in order"),
            (&a_node, node(("192.0.2.1", "127.0.0.1")), "address: no node can have 127.0.0.1"),
            (&a_node, node(("192.0.2.1", "0.0.0.0")), "address: no node can have 0.0.0.0"),
            (&a_node, node(("192.0.2.1", "224.0.0.1")), "address: no node can have 224.0.0.1"),
            (&a_node, node(("192.0.2.1", "255.255.255.255")), "address: no node can have 255.255.255.255"),
            (
                &a_node,
                node(("\"mtu\"", "\"address6\":\"fe80::1\",\"mtu\"")),
                "address6: no node can have fe80::1",
            ),
            (
                &a_network,
                network(("\"slice\"", "\"subnet6\":\"fd88::/120\",\"slice\"")),
                "subnet6: fd88::/120 has no address for each of 10.88.0.0/16: at most /112",
            ),
            (&a_node, node(("1500", "100")), "mtu: 100 is not between 576 and 65536"),
            (&a_node, node(("[\"a\"]", "[\"\"]")), "uses: a name is at least one character long"),
            (&a_network, network(("7", "0")), "number: 0 is not between 1 and 65535"),
            (&a_network, network(("7", "65536")), "number: 65536 is not between 1 and 65535"),
            (
                &a_network,
                network(("10.88.0.0", "10.88.0.1")),
                "subnet: 10.88.0.1/16 has host bits set: did you mean 10.88.0.0/16?",
            ),
            (
                &a_network,
                network(("10.88.0.0/16", "0.0.0.0/0")),
                "subnet: 0.0.0.0/0 is too large: at least /8",
            ),
            (&a_network, network(("24", "15")), "slice: /15 of 10.88.0.0/16 is none"),
            (&a_network, network(("24", "31")), "slice: /31 of 10.88.0.0/16 is none"),
            (&a_network, network(("null", "0")), "mtu: 0"),
            (
                &a_network,
                network(("null", "1279,\"subnet6\":\"fd88::/48\"")),
                "mtu: 1279 is less than the 1280 that IPv6 needs",
            ),
            (&a_node, node(("\"i\"", &format!("{:?}", "i".repeat(129)))), "id: 129 bytes are more than 128"),
            (&a_network, network(("null", "80")), "mtu: 80 is not between 576 and 65535 (0: the uplink's)"),
            (&a_slice, r#"{"node":"a/b"}"#.to_owned(), "node: `a/b` contains '/'"),
            (&a_slice, "[".repeat(1 << 17), "131072 bytes are more than 65536"),
        ] {
            let error = format!("{:#}", key.read(value.as_bytes()).expect_err(&value));
            assert!(error.starts_with(expected), "{key}: {error}");
        }
    }

    fn one_line(read: Result<()>) -> Result<(), TestCaseError> {
        if let Err(error) = read {
            let line = format!("{error:#}");
            prop_assert!(
                !line.contains(|c: char| c.is_control() || "\u{2028}\u{2029}".contains(c)),
                "{line:?}"
            );
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn garbage_is_refused_in_one_line(
            // `(?s:.)`: also what begins a line.
            key in "(?s:(nodes|networks|slices|last-network|.{0,9})(/.{0,12}){0,3})",
            value: Vec<u8>,
            text in r#"(?s:[\n\r\x1b\x85\u{2028}]{0,2}.{0,9})"#,
        ) {
            match Key::parse(&key) {
                Ok(parsed) => {
                    prop_assert_eq!(parsed.to_string(), key);
                    one_line(parsed.read(&value).map(drop))?;
                }
                Err(error) => one_line(Err(error))?,
            }
            one_line(Key::parse(&format!("nodes/{text}")).map(drop))?;
            // Where a text stands in a value.
            let quoted = serde_json::to_string(&text).unwrap();
            for (key, value) in [
                ("slices/a/10.88.1.0-24", format!(r#"{{"node":{quoted}}}"#)),
                ("nodes/a", node(("[\"a\"]", &format!("[{quoted}]")))),
                ("nodes/a", node(("\"auto\"", &quoted))),
                ("networks/a", network(("\"auto\"", &quoted))),
                ("networks/a", network(("\"10.88.0.0/16\"", &quoted))),
            ] {
                one_line(Key::parse(key).unwrap().read(value.as_bytes()).map(drop))?;
            }
        }
    }
}
