//! The container's side of a link, configured from inside its namespace.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;

use super::{
    Netlink, Route, addresses,
    error::Refusal,
    links::{self, LOOPBACK},
    routes,
    socket::{Answer, Request},
};

/// What the container's side of a link is to become.
#[derive(Clone, Copy, Debug)]
pub struct ContainerSide<'a> {
    /// Name of the link in the container, e.g. `eth0`.
    pub name: &'a str,
    /// Its address and prefix length.
    pub address: IpNet,
    /// The gateway of its default route. It need not be inside the address's subnet: then the route is `onlink`.
    pub gateway: IpAddr,
    /// Further addresses (e.g. of the other family), each with the gateway of its family's default route if that family
    /// is to get one from here.
    pub extra: &'a [(IpNet, Option<IpAddr>)],
}

impl Netlink {
    /// Configures the container's side: loopback up, link up, without addresses of the kernel's own making, with those
    /// given and the default routes. Two round trips. All of it may be there already; what is there beyond it stays.
    ///
    /// # Errors
    /// There is no such link in this namespace ([`is_gone`](super::is_gone) is true of it then), or the kernel refuses
    /// a step: the first such step is named. The steps behind it may have been taken; whoever made the link deletes it.
    pub async fn configure_container(&self, spec: &ContainerSide<'_>) -> Result<()> {
        let name = spec.name.to_owned();
        let mut all = vec![(spec.address, Some(spec.gateway))];
        all.extend_from_slice(spec.extra);

        self.call(move |socket| {
            let lookup = vec![Request::new(links::up(LOOPBACK)), Request::new(links::by_name(&name))];
            let [loopback, link] = take(socket.batch(lookup))
                .map_err(|refusal| refusal.while_doing(format!("configuring {name}")))?;
            loopback.map_err(|refusal| refusal.while_doing("setting lo up"))?;
            let link = link.and_then(|found| links::only(&found)).map_err(|refusal| {
                refusal.while_doing(format!("looking for link {name} in the container"))
            })?;

            // A request can only fail with what it is for, so each carries that along.
            let mut steps = vec![
                (links::without_ipv6_addresses(link.ifindex), format!("setting up IPv6 of {name}")),
                (Request::new(links::up(link.ifindex)), format!("setting link {name} up")),
            ];
            for &(address, _) in &all {
                steps.push((addresses::add(link.ifindex, address), format!("adding {address} to {name}")));
            }
            for (address, gateway) in all {
                let Some(gateway) = gateway else { continue };
                let route = Route {
                    destination: routes::everything(gateway),
                    gateway: Some(gateway),
                    ifindex: link.ifindex,
                    source: None,
                    onlink: !address.contains(&gateway),
                };
                steps.push((routes::add(&route), format!("adding the default route by {gateway} to {name}")));
            }
            let (requests, whats): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
            let answers = socket
                .batch(requests)
                .map_err(|refusal| refusal.while_doing(format!("configuring {name}")))?;
            for (at, (answer, what)) in answers.into_iter().zip(whats).enumerate() {
                match answer {
                    Err(refusal) if at == 0 && links::no_ipv6(&refusal) => {}
                    answer => drop(answer.map_err(|refusal| refusal.while_doing(what))?),
                }
            }
            Ok(())
        })
        .await
    }
}

/// The answers to a batch of known length.
pub(super) fn take<const N: usize>(answers: Result<Vec<Answer>, Refusal>) -> Result<[Answer; N], Refusal> {
    answers?.try_into().map_err(|_| Refusal::new(nix::errno::Errno::EPROTO))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{
        super::{
            exists, is_gone,
            testing::{isolated, netns, veth},
        },
        *,
    };

    const SIDE: ContainerSide<'_> = ContainerSide {
        name: "eth0",
        address: net("10.88.0.2/16"),
        gateway: IpAddr::V4(std::net::Ipv4Addr::new(10, 88, 0, 1)),
        extra: &[],
    };

    const fn net(_: &str) -> IpNet {
        IpNet::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 88, 0, 2), 16))
    }

    #[test]
    fn scratch() {
        isolated("scratch", || async {
            let host = Netlink::host()?;
            let ns = netns();
            let i = host.create_veth(&veth(&ns)).await?;
            let inside = Netlink::enter(&ns).await?;
            inside.configure_container(&SIDE).await?;
            eprintln!("{:?}", host.links().await?);
            eprintln!("{:?}", inside.links().await?);
            eprintln!("{:?}", inside.addresses().await?);
            eprintln!("{:?}", inside.routes().await?);
            let e = host.create_veth(&veth(&ns)).await.unwrap_err();
            eprintln!("{e}");
            assert!(exists(&e));
            let e = host.set_up(77).await.unwrap_err();
            eprintln!("{e}");
            assert!(is_gone(&e));
            assert!(host.delete_link(i).await?);
            assert!(!host.delete_link(i).await?);
            Ok(())
        });
    }

    /// Where the time of an attachment goes. `cargo test --release -p netd --lib -- --ignored --nocapture latency`
    #[test]
    #[ignore = "a measurement"]
    fn latency() {
        isolated("latency", || async {
            let mut rounds: Vec<Vec<(&str, Duration)>> = Vec::new();
            let host = Netlink::host()?;
            for _ in 0..200 {
                let ns = netns();
                let mut steps = Vec::new();
                let mut at = Instant::now();
                let mut step = |what| {
                    steps.push((what, at.elapsed()));
                    at = Instant::now();
                };
                let ifindex = host.create_veth(&veth(&ns)).await?;
                step("create_veth");
                let inside = Netlink::enter(&ns).await?;
                step("enter");
                inside.configure_container(&SIDE).await?;
                step("configure_container");
                drop(inside);
                host.set_up(ifindex).await?;
                step("set_up");
                let route = Route {
                    destination: "10.88.0.2/32".parse()?,
                    gateway: None,
                    ifindex,
                    source: None,
                    onlink: false,
                };
                host.add_route(&route).await?;
                step("add_route");
                host.add_neighbour(ifindex, route.destination.addr(), [2, 0, 0, 0, 0, 2]).await?;
                step("add_neighbour");
                host.link_by_index(ifindex).await?;
                step("link_by_index");
                host.links().await?;
                step("links");
                host.delete_link(ifindex).await?;
                step("delete_link");
                rounds.push(steps);
                drop(ns);
            }
            for at in 0..rounds[0].len() {
                let mut times: Vec<_> = rounds.iter().map(|steps| steps[at].1).collect();
                times.sort_unstable();
                let (what, n) = (rounds[0][at].0, times.len());
                eprintln!(
                    "{what:>20}: median {:>9.1?}  90 % {:>9.1?}  max {:>9.1?}",
                    times[n / 2],
                    times[n * 9 / 10],
                    times[n - 1]
                );
            }
            Ok(())
        });
    }
}
