//! The decisions, without etcd: what is done next, and what cannot be.

mod goals;
mod model;
mod plans;
mod simulation;

use std::net::Ipv4Addr;

use super::{model::Model, plan::Me, step::Write, stored::Version};
use crate::{
    cluster::{Announcement, Registration, Transport},
    link::LinkChoice,
    network::Definition,
};

/// The lease of this node's process.
const LEASE: i64 = 77;

/// What is in etcd: keys below the version with their values, and the revision and the lease of each; the n-th is of revision
/// n.
fn model(records: &[(&str, &str, i64)]) -> Model {
    let mut model = Model::default();
    for (revision, (key, value, lease)) in (1..).zip(records) {
        let version = Version { created: revision, revision, lease: *lease };
        let _ = model.put(key, value.as_bytes(), version);
        model.revision = revision;
    }
    model
}

fn me(node: &str) -> Me {
    Me {
        node: node.to_owned(),
        id: format!("id of {node}"),
        place: "here".to_owned(),
        leases: vec![LEASE],
        named: false,
        fresh: "new".to_owned(),
    }
}

fn definition(name: &str, subnet: &str) -> Definition {
    Definition {
        name: name.to_owned(),
        subnet: subnet.parse().unwrap(),
        subnet6: None,
        masquerade: true,
        link: LinkChoice::Auto,
        mtu: None,
        big_tcp: false,
        slice: None,
        lan: None,
    }
}

fn registration(address: &str) -> Registration {
    Registration {
        address: address.parse::<Ipv4Addr>().unwrap(),
        address6: None,
        transport: Transport::Auto,
        mtu: 1500,
        uses: Default::default(),
    }
}

/// A node at an address that has these networks in its configuration, under the numbers that it knows.
fn announcement(address: &str, networks: &[(&str, &str, Option<u32>)]) -> Announcement {
    Announcement {
        registration: Some(registration(address)),
        networks: networks.iter().map(|(name, subnet, number)| (definition(name, subnet), *number)).collect(),
        slices: Default::default(),
    }
}

/// The value of a node's key, as a process says it where [`me`] runs.
fn node(id: &str, address: &str) -> String {
    format!(r#"{{"id":"{id}","place":"here","address":"{address}","transport":"auto","mtu":1500,"uses":[]}}"#)
}

/// The value of a network's key.
fn network(number: u32, subnet: &str, slice: u8) -> String {
    format!(
        r#"{{"number":{number},"subnet":"{subnet}","slice":{slice},"masquerade":true,"link":"auto","mtu":null}}"#
    )
}

/// A step's writes in short: `+key` is put, `-key` goes, `-key*` all that begin so go.
fn writes(writes: &[Write]) -> Vec<String> {
    let short = |write: &Write| match write {
        Write::Put(key, _, 0) => format!("+{key}"),
        Write::Put(key, _, lease) => format!("+{key} ({lease})"),
        Write::Delete(key) => format!("-{key}"),
        Write::DeleteBelow(key) => format!("-{key}*"),
    };
    writes.iter().map(short).collect()
}
