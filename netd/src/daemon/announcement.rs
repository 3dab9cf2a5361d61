//! What the daemon says to its cluster's store of itself, and what it knows of the cluster from before.

use crate::{
    cluster::{Announcement, Cluster, Registration, Remotes, SharedNetwork, Slice},
    config::Config,
    network::{Definition, Origin},
    node::HostView,
    state::{NetworkState, State},
};

/// What the node wants of the cluster. Without an uplink, what it said of itself before stays.
pub(super) fn announcement(
    config: &Config,
    state: &State,
    view: &HostView,
    before: Option<&Registration>,
) -> Announcement {
    let used = |state: &&NetworkState| state.endpoints() > 0 || state.network.origin == Origin::Config;
    let uses = state.networks().filter(used).map(|state| state.network.name.clone()).collect();
    let registration = match &view.uplink {
        Some(uplink) => Some(Registration {
            address: uplink.address.addr(),
            address6: uplink.address6.map(|address| address.addr()),
            transport: config.cluster.transport,
            mtu: uplink.mtu,
            uses,
        }),
        None => before.map(|before| Registration { uses, ..before.clone() }),
    };
    let number = |definition: &Definition| {
        let network = state.network(&definition.name).ok()?;
        (network.subnet == definition.subnet).then_some(network.number)
    };
    let slices = state.networks().filter_map(|state| Some((state.network.name.clone(), state.slice()?)));
    Announcement {
        registration,
        networks: config.networks.values().map(|network| (network.clone(), number(network))).collect(),
        slices: slices.collect(),
    }
}

/// The networks and slices that the node knows, for when the store has nonsense about them.
pub(super) fn remembered(node: &str, state: &State, remotes: &Remotes) -> Cluster {
    let mut cluster = Cluster::default();
    let own = state.networks().filter_map(|state| Some((node, state.slice()?)));
    let others =
        remotes.iter().flat_map(|(name, remote)| remote.slices.iter().map(move |slice| (name, *slice)));
    for (node, slice) in own.chain(others) {
        let Some(network) = state.network_around(slice) else { continue };
        let shared = SharedNetwork {
            number: network.number,
            subnet: network.subnet,
            subnet6: network.subnet6,
            slice: slice.prefix_len(),
            masquerade: network.masquerade,
            link: network.link,
            mtu: network.mtu,
            big_tcp: network.big_tcp,
        };
        cluster.networks.insert(network.name.clone(), shared);
        cluster.slices.insert(slice, Slice { network: network.name.clone(), node: node.to_owned() });
    }
    cluster
}
