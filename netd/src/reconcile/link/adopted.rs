//! veths that something else has made. They are taken as they are, and given back as they were.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use super::{Doing, Driver, Wanted, with_gateways};
use crate::{
    endpoint::{Adopted, Endpoint},
    netlink::{Link, Netlink, Netns, Route, is_gone},
    reconcile::Patience,
};

/// See the module.
pub(super) struct Adoption;

impl Driver for Adoption {
    fn make<'a>(&'a self, nl: &'a Netlink, wanted: &'a Wanted<'a>) -> Doing<'a, u32> {
        let Wanted { endpoint, mtu, netns, alias, .. } = *wanted;
        Box::pin(async move {
            let adopted = of(endpoint)?;
            let ifindex = adopted.host.ifindex;
            let found = nl.link_by_index(ifindex).await?.filter(|link| adopted.is_still(link));
            found.with_context(|| {
                format!(
                    "veth {} is gone, and it is not netd's to make: `netd detach {}`, and attach the new one",
                    endpoint.host_interface, endpoint.name
                )
            })?;
            Netlink::enter(netns).await?.set_mtu(adopted.inside.ifindex, mtu, None).await?;
            nl.set_mtu(ifindex, mtu, Some(alias)).await?;
            Ok(ifindex)
        })
    }

    fn configure<'a>(
        &'a self,
        netns: &'a Netns,
        endpoint: &'a Endpoint,
        addresses: &'a [(IpNet, IpAddr)],
        _: Patience,
    ) -> Doing<'a, ()> {
        Box::pin(async move {
            let adopted = of(endpoint)?;
            let inside = Netlink::enter(netns).await?;
            let ifindex = adopted.inside.ifindex;
            let addresses = with_gateways(&inside, ifindex, addresses).await?;
            inside.take_over(ifindex, &adopted.configuration, &addresses).await
        })
    }

    /// Gives it back. The programs go afterwards, as those of other links do.
    fn remove<'a>(&'a self, nl: &'a Netlink, endpoint: &'a Endpoint, ifindex: u32) -> Doing<'a, ()> {
        Box::pin(async move {
            let adopted = of(endpoint)?;
            let Some(link) = nl.link_by_index(ifindex).await?.filter(|link| adopted.is_still(link)) else {
                return Ok(());
            };
            let inside = give_back_inside(endpoint, adopted).await;
            let outside = give_back_outside(nl, endpoint, adopted, &link).await;
            inside.and(outside)
        })
    }
}

fn of(endpoint: &Endpoint) -> Result<&Adopted> {
    endpoint.adopted.as_deref().with_context(|| format!("endpoint `{}` has no record of its veth", endpoint.name))
}

async fn give_back_inside(endpoint: &Endpoint, adopted: &Adopted) -> Result<()> {
    let netns = endpoint.netns.open()?;
    let netns = netns.with_context(|| {
        format!(
            "the container's end of {} stays as it is, as there is nothing at {}",
            endpoint.host_interface,
            endpoint.netns.path.display()
        )
    })?;
    let inside = Netlink::enter(&netns).await?;
    let own: Vec<_> = adopted.own.iter().map(|(address, gateway)| (*address, Some(*gateway))).collect();
    match inside.put_back(adopted.inside.ifindex, &adopted.configuration, &own, adopted.inside).await {
        Err(error) if is_gone(&error) => Ok(()),
        put => put,
    }
}

async fn give_back_outside(nl: &Netlink, endpoint: &Endpoint, adopted: &Adopted, link: &Link) -> Result<()> {
    let ifindex = link.ifindex;
    for (address, gateway) in &adopted.own {
        let (destination, source) = (IpNet::from(address.addr()), Some(*gateway));
        let route = Route { destination, gateway: None, ifindex, source, onlink: false };
        nl.forget(&route).await?;
    }
    nl.restore(adopted.host).await?;
    // Last: as long as it has netd's alias, it is to be given back.
    let alias = adopted.alias.as_deref().unwrap_or_default();
    nl.set_mtu(ifindex, adopted.host.mtu, Some(alias)).await?;
    ensure!(link.name == endpoint.host_interface, "{} is called {} now", endpoint.host_interface, link.name);
    Ok(())
}
