//! Ways to other nodes that take less than both uplinks: routers say so.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use super::{Remote, Remotes};
use crate::{
    cluster::{TooBig, Transport},
    netlink::UplinkInfo,
    network::{MTU6, Network},
    pair,
    state::State,
};

/// How long what a router has said counts: then a larger packet is tried again (RFC 8201 section 4).
const KEPT: Duration = Duration::from_secs(600);

/// What a way takes, bytes, and since when that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    mtu: u32,
    since: Instant,
}

impl Remote {
    /// What the way to it takes, bytes, if a router has said that it is less than the uplinks do.
    #[must_use]
    pub fn path_mtu(&self) -> Option<u32> {
        self.path.map(|path| path.mtu)
    }
}

impl Remotes {
    /// Takes in what a router says, if it can be true: it is about a packet that this node has sent, or could have, to another
    /// one. Returns the name of that node, to which routes have to be set.
    pub fn take_in(
        &mut self,
        told: &TooBig,
        own: Transport,
        state: &State,
        uplink: &UplinkInfo,
    ) -> Option<&str> {
        if !uplink.is_own(told.from.into()) {
            return None;
        }
        let network = state.networks().map(|state| &state.network).find(|n| n.number == told.network)?;
        let is_there = |remote: &Remote| remote.is_routed() && remote.address == Some(told.to.into());
        let (name, remote) = self.nodes.iter_mut().find(|(_, remote)| is_there(remote))?;
        let ways = [Some(remote.transport(own, uplink)), remote.transport6(own, uplink)];
        let [source, destination] = [told.source, told.destination].map(|address| as_ipv4(network, address));
        let present =
            uplink.mtu.min(remote.mtu.unwrap_or(u32::MAX)).min(remote.path_mtu().unwrap_or(u32::MAX));
        let can_be = ways.contains(&Some(Transport::Vxlan))
            && network.subnet.contains(&source?)
            && remote.slices.iter().any(|slice| destination.is_some_and(|address| slice.contains(&address)))
            // No way of IPv6 takes less (RFC 8200 section 5).
            && (MTU6..present).contains(&told.mtu);
        can_be.then(|| {
            remote.path = Some(Path { mtu: told.mtu, since: Instant::now() });
            name.as_str()
        })
    }

    /// Forgets what routers have said long ago. True: routes have to be set.
    pub(super) fn forget_paths(&mut self, now: Instant) -> bool {
        let mut forgotten = false;
        for remote in self.nodes.values_mut() {
            let is_old = |path: &Path| now.duration_since(path.since) >= KEPT;
            forgotten |= remote.path.take_if(|path| is_old(path)).is_some();
        }
        forgotten
    }
}

/// The IPv4 address that goes with an address of a network.
fn as_ipv4(network: &Network, address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => pair::address4(network.subnet, network.subnet6?, address),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        bpf::Route,
        cluster::{Said, There, too_big::tests::message},
        network::Origin,
        state::Share,
        store::{Kind, Record},
    };

    const OWN: &str = "2001:db8::1";
    const FAR: &str = "2001:db8:0:1::2";

    fn state() -> State {
        let facts = r#"{"identity":"","boot":"","ports":[1,2],"next_network":1}"#;
        let network = Network {
            name: "default".to_owned(),
            number: 7,
            subnet: "10.88.0.0/16".parse().unwrap(),
            subnet6: Some("fd88::/48".parse().unwrap()),
            masquerade: true,
            link: Default::default(),
            mtu: None,
            big_tcp: false,
            origin: Origin::Cluster,
            slice: Some("10.88.1.0/24".parse().unwrap()),
            lan: None,
        };
        let value = serde_json::to_value(&network).unwrap();
        let records = [Record { kind: Kind::Network, name: network.name, value }];
        State::load(&records, serde_json::from_str(facts).unwrap(), Share::OfCluster, |_| true).unwrap().0
    }

    fn remotes() -> Remotes {
        let mut remotes = Remotes::default();
        let there = There {
            address: FAR.parse().unwrap(),
            address6: None,
            transport: Transport::Auto,
            mtu: Some(1500),
        };
        let said = Said { there: Some(there), slices: BTreeSet::from(["10.88.2.0/24".parse().unwrap()]) };
        remotes.hear([("b".to_owned(), said)].into(), &BTreeSet::new(), true).unwrap();
        remotes
    }

    /// The largest packets to the node's slices.
    fn mtus(remotes: &Remotes, state: &State) -> Vec<u16> {
        let uplink = super::super::tests::uplink(true);
        let routes = remotes.routes(Transport::Auto, state, &uplink);
        let mtu = |route| if let Route::Node { mtu, .. } = route { Some(mtu) } else { None };
        routes.filter_map(|(_, route)| mtu(route)).collect()
    }

    #[test]
    fn a_router_is_believed_what_can_be() {
        let (state, uplink) = (state(), super::super::tests::uplink(true));
        let mut remotes = remotes();
        let take_in = |remotes: &mut Remotes, message: &[u8]| {
            let told = TooBig::parse(message)?;
            remotes.take_in(&told, Transport::Auto, &state, &uplink).map(str::to_owned)
        };
        assert_eq!(mtus(&remotes, &state), [1430, 1430]);
        for (what, forged) in [
            ("of another's packet", message(1400, "2001:db8::9", FAR, "10.88.1.2", "10.88.2.2")),
            ("to nobody", message(1400, OWN, "2001:db8:0:1::3", "10.88.1.2", "10.88.2.2")),
            ("from another network", message(1400, OWN, FAR, "10.89.1.2", "10.88.2.2")),
            ("to another node's slice", message(1400, OWN, FAR, "10.88.1.2", "10.88.3.2")),
            ("the same of IPv6", message(1400, OWN, FAR, "fd88::102", "fd88::302")),
            ("less than can be", message(1279, OWN, FAR, "10.88.1.2", "10.88.2.2")),
            ("nothing", message(0, OWN, FAR, "10.88.1.2", "10.88.2.2")),
        ] {
            assert_eq!(take_in(&mut remotes, &forged), None, "{what}");
        }
        assert_eq!(mtus(&remotes, &state), [1430, 1430]);
        let good = message(1400, OWN, FAR, "10.88.1.2", "10.88.2.2");
        assert_eq!(take_in(&mut remotes, &good).as_deref(), Some("b"));
        assert_eq!(mtus(&remotes, &state), [1330, 1330]);
        assert_eq!(take_in(&mut remotes, &good), None, "that is known");
        let higher = message(1450, OWN, FAR, "10.88.1.2", "10.88.2.2");
        assert_eq!(take_in(&mut remotes, &higher), None, "nothing makes it larger but time");
        let lower = message(1380, OWN, FAR, "fd88::102", "fd88::202");
        assert_eq!(take_in(&mut remotes, &lower).as_deref(), Some("b"));
        assert_eq!(mtus(&remotes, &state), [1310, 1310]);
        let now = Instant::now();
        assert!(!remotes.forget_paths(now + KEPT / 2) && remotes.forget_paths(now + KEPT));
        assert_eq!(mtus(&remotes, &state), [1430, 1430]);
    }
}
