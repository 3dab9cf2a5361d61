//! What the owner of the state shows of it.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use ipnet::Ipv4Net;

use super::owner::Owner;
use crate::{
    bpf::Pressure,
    endpoint::Endpoint,
    network::Network,
    pair,
    reconcile::network_of,
    request::{
        EndpointList, EndpointView, NetworkList, NetworkView, NodeList, NodeView, Refusal, Status, UplinkView,
    },
};

impl Owner {
    pub(super) fn endpoints(&self) -> Result<EndpointList, Refusal> {
        let shown = self.state.endpoints().map(|endpoint| {
            let network = network_of(&self.state, endpoint)?;
            self.show(endpoint, network)
        });
        Ok(EndpointList { endpoints: shown.collect::<Result<_>>()? })
    }

    pub(super) fn show(&self, endpoint: &Endpoint, network: &Network) -> Result<EndpointView> {
        Ok(EndpointView {
            name: endpoint.name.clone(),
            network: endpoint.network.clone(),
            addresses: endpoint.addresses_in(network).map(|(address, _)| address).collect(),
            gateway: endpoint.gateway,
            gateway6: endpoint.address6.and(network.gateway6()),
            mac: endpoint.mac().to_string(),
            interface: endpoint.interface.clone(),
            host_interface: endpoint.host_interface.clone(),
            netns: if endpoint.link.has_netns() {
                endpoint.netns.path.display().to_string()
            } else {
                String::new()
            },
            link: endpoint.link,
            tap: endpoint.tap,
            ports: endpoint.publish.clone(),
            counters: self.kernel.datapath().endpoint_counters(endpoint.slot)?,
            problem: self.broken.problem(&endpoint.name),
        })
    }

    pub(super) fn networks(&self) -> NetworkList {
        let shown = self.state.networks().map(|state| self.show_network(&state.network, state.endpoints()));
        NetworkList { networks: shown.collect() }
    }

    pub(super) fn show_network(&self, network: &Network, endpoints: usize) -> NetworkView {
        NetworkView {
            name: network.name.clone(),
            subnets: network.subnets(),
            gateway: network.gateway(),
            gateway6: network.gateway6(),
            masquerade: network.masquerade,
            link: network.link,
            mtu: network.mtu.unwrap_or(self.view.mtu()),
            big_tcp: network.big_tcp,
            origin: network.origin,
            endpoints,
            lan: network.lan.clone(),
        }
    }

    pub(super) fn nodes(&self) -> Result<NodeList, Refusal> {
        let own = self.kernel.transport();
        let ipv6 = self.view.ipv6 && self.state.networks().any(|state| state.network.subnet6.is_some());
        let both = |slice: &Ipv4Net| {
            let network = self.state.network_around(*slice);
            let subnets = network.and_then(|network| Some((network.subnet, network.subnet6?)));
            pair::both(*slice, subnets.map(|(subnet, subnet6)| pair::slice6(subnet, subnet6, *slice)))
        };
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let shown = self.kernel.remotes().iter().map(|(name, remote)| {
            let uplink = self.view.uplink.as_ref().filter(|_| remote.address.is_some());
            Ok(NodeView {
                name: name.to_owned(),
                address: remote.address,
                address6: remote.address6,
                transport: uplink.map(|uplink| remote.transport(own, uplink)),
                transport6: uplink.filter(|_| ipv6).and_then(|uplink| remote.transport6(own, uplink)),
                mtu: remote.mtu,
                path_mtu: remote.path_mtu(),
                subnets: remote.slices.iter().flat_map(both).collect(),
                presence: remote.presence,
                last_seen: remote.last_seen().map(seconds),
                counters: self.kernel.datapath().node_counters(remote.slot)?,
            })
        });
        Ok(NodeList { nodes: shown.collect::<Result<_>>()? })
    }

    fn describe_store(&self) -> String {
        let own = self.store.describe();
        match &self.config.cluster.etcd {
            Some(etcd) => format!("{own}; etcd {}, {}", etcd.endpoints.join(" "), etcd.prefix),
            None => own,
        }
    }

    fn describe_pressure(&self, pressure: &Pressure) -> String {
        match *pressure {
            Pressure::Table { v6, flows, room } => format!(
                "the flow table of {} has {flows} of {room} flows: new ones are refused when it is full (nat.max-flows)",
                if v6 { "IPv6" } else { "IPv4" }
            ),
            Pressure::Endpoint { slot, inward, flows, limit, quota } => {
                let name = self.state.endpoints().find(|endpoint| endpoint.slot == slot);
                let name =
                    name.map_or_else(|| format!("slot {slot}"), |endpoint| format!("`{}`", endpoint.name));
                let what = if inward { "flows by its published ports" } else { "flows that it has opened" };
                let why = if quota {
                    "nat.max-flows-per-endpoint"
                } else {
                    "its share of what is left of the table: nat.max-flows"
                };
                format!("endpoint {name} has {flows} {what}, of {limit} that it may have ({why})")
            }
        }
    }

    pub(super) fn status(&self) -> Result<Status, Refusal> {
        let datapath = self.kernel.datapath();
        let (forwarded, drops) = datapath.counters()?;
        let mut problems: Vec<String> =
            self.broken.problems().map(|(name, problem)| format!("endpoint `{name}`: {problem}")).collect();
        problems.extend(self.held.problems().map(|why| format!("published {why}")));
        problems.extend(self.view.trouble());
        problems.extend(self.membership.iter().flat_map(|membership| membership.problems.clone()));
        problems.extend(datapath.pressure()?.iter().map(|pressure| self.describe_pressure(pressure)));
        let remotes = self.kernel.remotes();
        problems.extend(self.view.uplink.iter().flat_map(|uplink| remotes.misplaced(&self.state, uplink)));
        problems.extend(self.troubles.iter().map(|(task, error)| format!("{task}: {error}")));
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            healthy: problems.is_empty(),
            problems,
            node: self.config.node.name.clone(),
            uplink: self.view.uplink.as_ref().map(|uplink| UplinkView {
                name: uplink.name.clone(),
                ifindex: uplink.ifindex,
                mtu: uplink.mtu,
                address: uplink.address,
                address6: uplink.address6,
            }),
            store: self.describe_store(),
            programs: datapath.programs()?,
            maps: datapath.maps()?,
            forwarded,
            drops,
            networks: self.state.networks().len(),
            endpoints: self.state.endpoints().len(),
        })
    }
}
