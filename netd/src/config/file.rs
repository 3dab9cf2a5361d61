//! The configuration file as it is written: every key is optional, and unknown ones are refused.
//!
//! Values that need a check of ours are read as the plain type of TOML, so that the error is ours too.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) node: Node,
    pub(super) networks: Option<BTreeMap<String, Network>>,
    #[serde(default)]
    pub(super) nat: Nat,
    #[serde(default)]
    pub(super) cluster: Cluster,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Cluster {
    pub(super) store: Option<String>,
    pub(super) endpoints: Option<Vec<String>>,
    pub(super) prefix: Option<String>,
    pub(super) lease: Option<i64>,
    pub(super) ca: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) user: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) transport: Option<String>,
    #[serde(default)]
    pub(super) peers: Vec<Peer>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) address6: Option<String>,
    pub(super) subnets: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub(super) name: Option<String>,
    pub(super) uplink: Option<String>,
    pub(super) address: Option<String>,
    pub(super) address6: Option<String>,
    pub(super) subnets: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Network {
    pub(super) subnets: Option<Vec<String>>,
    pub(super) masquerade: Option<bool>,
    pub(super) link: Option<String>,
    pub(super) mtu: Option<i64>,
    pub(super) big_tcp: Option<bool>,
    pub(super) slice: Option<i64>,
    pub(super) parent: Option<String>,
    pub(super) range: Option<String>,
    pub(super) gateway: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Nat {
    pub(super) ports: Option<String>,
    pub(super) max_flows: Option<i64>,
    pub(super) max_flows_per_endpoint: Option<i64>,
}
