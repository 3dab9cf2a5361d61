//! The uplink as the programs know it. It is kept, with the flows that have its addresses, while the host has lost its route to
//! the world or its address for a moment: what comes for them meanwhile is no business of the host's stack, which would answer
//! with a reset.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tracing::debug;

use super::{Reconciler, host::gateways};
use crate::{
    bpf::{self, FlowsOf, NodeConfig, Uplink},
    netlink::UplinkInfo,
    node::HostView,
    state::State,
};

/// The uplink that the programs know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// As it is, or was last.
    pub(super) info: UplinkInfo,
    /// Whether its interface exists.
    is_there: bool,
    /// Families, IPv4 first, whose address the host does not have for now.
    away: [bool; 2],
}

impl Known {
    /// What is known after another look at the host.
    fn after(before: Option<Self>, view: &HostView) -> Option<Self> {
        match (&view.uplink, before) {
            (Some(info), before) => {
                let before6 = before.filter(|before| before.info.ifindex == info.ifindex);
                let address6 = info.address6.or(before6.and_then(|before| before.info.address6));
                let away6 = address6.is_some_and(|own| !view.addresses.contains(&own.addr().into()));
                let away = [false, away6];
                Some(Self { info: UplinkInfo { address6, ..info.clone() }, is_there: true, away })
            }
            (None, Some(Self { info, .. })) => {
                let is_there = view.last == Some(info.ifindex);
                let is_away = |address: IpAddr| !is_there || !view.addresses.contains(&address);
                let away6 = info.address6.is_some_and(|address| is_away(address.addr().into()));
                let away = [is_away(info.address.addr().into()), away6];
                Some(Self { info, is_there, away })
            }
            (None, None) => None,
        }
    }

    /// The prefixes that it leads to without a default route.
    pub(super) fn on_link(&self) -> impl Iterator<Item = IpNet> {
        let v4 = Some(IpNet::from(self.info.address.trunc())).filter(|_| !self.away[0]);
        let v6 = self.info.address6.map(|address| IpNet::from(address.trunc()));
        [v4, v6.filter(|_| !self.away[0] && !self.away[1])].into_iter().flatten()
    }

    /// Its interface, if that exists.
    pub(super) fn interface(&self) -> Option<u32> {
        self.is_there.then_some(self.info.ifindex)
    }
}

impl Reconciler {
    /// The index of the last uplink's interface, if there was one.
    #[must_use]
    pub fn last_uplink(&self) -> Option<u32> {
        self.uplink.as_ref().map(|known| known.info.ifindex)
    }

    /// Takes over what the programs know from a daemon before this one, where there is no uplink now.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn take_over_uplink(&mut self, view: &mut HostView) -> Result<()> {
        let Some((uplink, mtu)) = self.datapath.pinned_uplink()? else { return Ok(()) };
        let Some(link) = self.nl.link_by_index(uplink.ifindex).await? else { return Ok(()) };
        if view.uplink.is_some() {
            return Ok(());
        }
        let of_host = self.nl.addresses().await?;
        let on_link = |address: IpAddr| {
            let mut own = of_host.iter().filter(|own| own.ifindex == uplink.ifindex).map(|own| own.address);
            own.find(|own| own.addr() == address)
        };
        let address = match on_link(uplink.address.into()) {
            Some(IpNet::V4(net)) => net,
            _ => Ipv4Net::from(uplink.address),
        };
        let address6 = uplink.address6.map(|address| match on_link(address.into()) {
            Some(IpNet::V6(net)) => net,
            _ => Ipv6Net::from(address),
        });
        let info = UplinkInfo { name: link.name, ifindex: uplink.ifindex, mtu, address, address6 };
        view.last = Some(info.ifindex);
        self.uplink = Known::after(Some(Known { info, is_there: true, away: [false; 2] }), view);
        Ok(())
    }

    /// Tells the programs which uplink there is, and removes what cannot go on with it.
    ///
    /// # Errors
    /// The kernel refuses something.
    pub(super) fn apply_uplink(&mut self, view: &HostView) -> Result<()> {
        self.uplink = Known::after(self.uplink.take(), view);
        let known = self.uplink.clone();
        let uplink = known.as_ref().map(|Known { info, .. }| Uplink {
            ifindex: info.ifindex,
            address: info.address.addr(),
            address6: info.address6.map(|address| address.addr()),
        });
        self.datapath.configure(&NodeConfig {
            uplink,
            away: known.as_ref().map_or([false; 2], |known| known.away),
            mtu: known.as_ref().map_or(0, |known| known.info.mtu),
            ports: self.nat.ports,
            max_flows_per_endpoint: self.nat.max_flows_per_endpoint,
            in_cluster: self.in_cluster,
        })?;
        match known.as_ref().and_then(Known::interface) {
            Some(ifindex) => self.datapath.attach_uplink(ifindex)?,
            None => self.datapath.detach_uplink()?,
        }
        for address in known.iter().flat_map(|known| known.info.addresses()) {
            self.translate_to(address);
        }
        Ok(())
    }

    /// The masqueraded flows of any other address than the one that new flows get are to go: as long as their containers talk they
    /// would not time out. Those of published ports stay, by whatever address of the host's their clients came.
    fn translate_to(&mut self, address: IpAddr) {
        let translated = &mut self.translated[usize::from(address.is_ipv6())];
        if translated.replace(address) != Some(address) {
            self.stale.push((FlowsOf::AllBut(address), format!("the uplink's address is {address}")));
        }
    }

    /// Flows that are to be removed since the host has other addresses, each with the reason. That takes long where there are many.
    pub fn take_stale(&mut self) -> Vec<(FlowsOf, String)> {
        std::mem::take(&mut self.stale)
    }

    /// A link has appeared: if the last uplink was called so, its program is there before it has an address.
    ///
    /// # Errors
    /// The program cannot be attached.
    pub fn expect_uplink(&mut self, ifindex: u32, name: &str) -> Result<()> {
        match &mut self.uplink {
            Some(known) if known.info.name == name && known.info.ifindex != ifindex => {
                known.info.ifindex = ifindex;
                self.datapath.attach_uplink(ifindex)
            }
            _ => Ok(()),
        }
    }

    /// The addresses that flows have and the host has not.
    ///
    /// # Errors
    /// The flow table cannot be read.
    pub fn addresses_away(&self, state: &State, view: &HostView) -> Result<BTreeSet<IpAddr>> {
        let gateways: BTreeSet<IpAddr> = gateways(state, view).collect();
        let known = self.uplink.iter().flat_map(|known| known.info.addresses());
        let mut away: BTreeSet<IpAddr> = self.datapath.flow_addresses()?.into_iter().chain(known).collect();
        away.retain(|address| !view.addresses.contains(address) && !gateways.contains(address));
        Ok(away)
    }

    /// Forgets an address that the host has lost for good. Its flows are to be removed then; TCP's by published ports have an end
    /// of their own.
    ///
    /// # Errors
    /// The kernel refuses something.
    pub fn forget_address(&mut self, address: IpAddr, view: &HostView) -> Result<()> {
        self.stale.push((FlowsOf::Lost(address), format!("{address} stays away from the host")));
        let Some(known) = &mut self.uplink else { return Ok(()) };
        match address {
            IpAddr::V4(address) if known.info.address.addr() == address => self.uplink = None,
            IpAddr::V6(address) if known.info.address6.is_some_and(|own| own.addr() == address) => {
                known.info.address6 = None;
            }
            _ => return Ok(()),
        }
        debug!("{address} is no longer the uplink's");
        self.translated[usize::from(address.is_ipv6())] = None;
        self.apply_uplink(view)
    }

    /// The uplink's routes: to the world, or without a default route to its own subnets.
    pub(super) fn uplink_routes(&self, view: &HostView) -> Vec<(IpNet, bpf::Route)> {
        let to_world = |uplink: &UplinkInfo| {
            let v6 = uplink.address6.map(|_| Ipv6Net::default().into());
            [Some(IpNet::from(Ipv4Net::default())), v6].into_iter().flatten().collect()
        };
        let prefixes: Vec<IpNet> = match (&view.uplink, &self.uplink) {
            (Some(uplink), _) => to_world(uplink),
            (None, Some(known)) => known.on_link().collect(),
            (None, None) => Vec::new(),
        };
        prefixes.into_iter().map(|prefix| (prefix, bpf::Route::Uplink)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uplink(address: &str, address6: Option<&str>) -> UplinkInfo {
        UplinkInfo {
            name: "eth0".into(),
            ifindex: 7,
            mtu: 1500,
            address: address.parse().unwrap(),
            address6: address6.map(|address| address.parse().unwrap()),
        }
    }

    fn view(uplink: Option<UplinkInfo>, addresses: &[&str], last: Option<u32>) -> HostView {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        HostView { uplink, addresses, last, ..HostView::default() }
    }

    #[test]
    fn an_uplink_is_kept_while_it_is_away() {
        let both = uplink("192.0.2.2/24", Some("2001:db8::2/64"));
        let all = ["192.0.2.2", "2001:db8::2"];
        let known = Known::after(None, &view(Some(both.clone()), &all, None));
        let away = |known: &Option<Known>| known.as_ref().map(|known| known.away);
        assert_eq!(away(&known), Some([false; 2]));

        // Without a route it leads to its own subnets still.
        let no_route = Known::after(known.clone(), &view(None, &all, Some(7)));
        let on_link: Vec<String> =
            no_route.iter().flat_map(Known::on_link).map(|prefix| prefix.to_string()).collect();
        assert_eq!(
            (away(&no_route), on_link.join(" ")),
            (Some([false; 2]), "192.0.2.0/24 2001:db8::/64".into())
        );
        assert_eq!(no_route.as_ref().and_then(Known::interface), Some(7));

        // Without an address, nowhere; what it was is not forgotten, also over several looks.
        let mut none = known.clone();
        for _ in 0..2 {
            none = Known::after(none, &view(None, &[], Some(7)));
            assert_eq!(away(&none), Some([true; 2]));
            assert_eq!(none.iter().flat_map(Known::on_link).count(), 0);
            assert_eq!(none.as_ref().map(|known| &known.info), Some(&both));
        }
        // Without an interface likewise, and nothing is attached.
        let gone = Known::after(none.clone(), &view(None, &[], None));
        assert_eq!((away(&gone), gone.as_ref().and_then(Known::interface)), (Some([true; 2]), None));

        // One family comes back before the other, or another address does.
        let v4 = Known::after(none, &view(Some(uplink("192.0.2.2/24", None)), &["192.0.2.2"], None));
        assert_eq!(away(&v4), Some([false, true]));
        assert_eq!(v4.as_ref().and_then(|known| known.info.address6), both.address6);
        let other = UplinkInfo { ifindex: 8, ..uplink("198.51.100.2/24", None) };
        let other = Known::after(v4, &view(Some(other), &["198.51.100.2"], None));
        assert_eq!(other.and_then(|known| known.info.address6), None);
        assert_eq!(Known::after(None, &view(None, &all, None)), None);
    }
}
