//! What the owner of the state shows of it.

use anyhow::Result;

use super::owner::Owner;
use crate::{
    endpoint::Endpoint,
    network::Network,
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
            addresses: vec![endpoint.address_in(network)],
            gateway: endpoint.gateway,
            mac: endpoint.mac().to_string(),
            interface: endpoint.interface.clone(),
            host_interface: endpoint.host_interface.clone(),
            netns: endpoint.netns.path.display().to_string(),
            link: endpoint.link,
            counters: self.kernel.datapath().endpoint_counters(endpoint.slot)?,
            problem: self.broken.get(&endpoint.name).map(|error| format!("{error:#}")),
        })
    }

    pub(super) fn networks(&self) -> NetworkList {
        let shown = self.state.networks().map(|state| self.show_network(&state.network, state.endpoints()));
        NetworkList { networks: shown.collect() }
    }

    pub(super) fn show_network(&self, network: &Network, endpoints: usize) -> NetworkView {
        NetworkView {
            name: network.name.clone(),
            subnets: vec![network.subnet],
            gateway: network.gateway(),
            masquerade: network.masquerade,
            link: network.link,
            mtu: network.mtu.unwrap_or(self.view.mtu()),
            origin: network.origin,
            endpoints,
        }
    }

    pub(super) fn nodes(&self) -> Result<NodeList, Refusal> {
        let cluster = &self.config.cluster;
        let shown = (0u32..).zip(&cluster.peers).map(|(slot, peer)| {
            Ok(NodeView {
                name: peer.name.clone(),
                address: peer.address,
                transport: self.view.uplink.as_ref().map(|uplink| cluster.transport_to(peer, uplink)),
                subnets: peer.subnets.clone(),
                counters: self.kernel.datapath().node_counters(slot)?,
            })
        });
        Ok(NodeList { nodes: shown.collect::<Result<_>>()? })
    }

    pub(super) fn status(&self) -> Result<Status, Refusal> {
        let datapath = self.kernel.datapath();
        let (forwarded, drops) = datapath.counters()?;
        let mut problems: Vec<String> =
            self.broken.iter().map(|(name, error)| format!("endpoint `{name}`: {error:#}")).collect();
        problems.extend(self.view.problem.clone());
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
            }),
            store: self.store.describe(),
            programs: datapath.programs()?,
            maps: datapath.maps()?,
            forwarded,
            drops,
            networks: self.state.networks().len(),
            endpoints: self.state.endpoints().len(),
        })
    }
}
