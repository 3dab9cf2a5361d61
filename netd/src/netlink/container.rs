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
    /// Its addresses with their prefix lengths, each with the gateway of its family's default route if that family is to
    /// get one from here. A gateway need not be inside the address's subnet: then the route is `onlink`.
    pub addresses: &'a [(IpNet, Option<IpAddr>)],
    /// Whether to wait until the addresses work, for a second at most.
    pub wait: bool,
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
        let (all, wait) = (spec.addresses.to_vec(), spec.wait);

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
            let own: Vec<IpAddr> = all.iter().map(|(address, _)| address.addr()).collect();
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
            if wait {
                addresses::wait(socket, &own);
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
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        time::{Duration, Instant},
    };

    use super::{
        super::{
            Address, PairSpec, is_gone,
            testing::{ip, isolated, net, netns, veth},
        },
        *,
    };

    #[test]
    fn a_container_talks_to_its_gateway() {
        isolated("a_container_talks_to_its_gateway", || async {
            // On-link subnet, host address with a gateway outside it, both families.
            for (address, gateway) in
                [("10.88.0.2/16", "10.88.0.1"), ("10.88.0.2/32", "10.88.0.1"), ("fd88::2/64", "fd88::1")]
            {
                let (host, ns) = (Netlink::host()?, netns());
                let ifindex = host.create_pair(&veth(&ns)).await?;
                let inside = Netlink::enter(&ns).await?;
                let addresses = [(net(address), Some(ip(gateway)))];
                let side = ContainerSide { name: "eth0", addresses: &addresses, wait: true };
                inside.configure_container(&side).await?;
                host.set_up(ifindex).await?;
                host.add_address(ifindex, net(&format!("{gateway}/16"))).await?;

                let listener = TcpListener::bind((ip(gateway), 0))?;
                let to = listener.local_addr()?;
                let sent =
                    ns.run(move || TcpStream::connect_timeout(&to, Duration::from_secs(2))?.write(b"hello"))?;
                assert_eq!(sent?, 5, "{address}");
                let (mut connection, from) = listener.accept()?;
                assert_eq!(from.ip(), net(address).addr());
                let mut text = String::new();
                connection.read_to_string(&mut text)?;
                assert_eq!(text, "hello");
                host.delete_link(ifindex).await?;
            }
            Ok(())
        });
    }

    #[test]
    fn configuring_twice_changes_nothing() {
        isolated("configuring_twice_changes_nothing", || async {
            let (host, ns) = (Netlink::host()?, netns());
            host.create_pair(&veth(&ns)).await?;
            let inside = Netlink::enter(&ns).await?;
            let side = ContainerSide {
                wait: true,
                name: "eth0",
                addresses: &[
                    (net("10.88.0.2/16"), Some(ip("10.88.0.1"))),
                    (net("fd88::2/64"), Some(ip("fd88::1"))),
                    (net("10.88.0.3/32"), None),
                ],
            };
            inside.configure_container(&side).await?;
            let first =
                (inside.links().await?, inside.addresses().await?, inside.routes(routes::Which::All).await?);
            inside.configure_container(&side).await?;
            let second =
                (inside.links().await?, inside.addresses().await?, inside.routes(routes::Which::All).await?);
            assert_eq!(first, second);

            let (links, addresses, routes) = first;
            let eth0 = links.iter().find(|link| link.name == "eth0").unwrap().ifindex;
            assert!(links.iter().all(|link| link.up), "{links:?}");
            // The addresses given, and none that the kernel makes up.
            let on_eth0: Vec<_> = addresses.iter().filter(|a| a.ifindex == eth0).map(|a| a.address).collect();
            assert_eq!(on_eth0, [net("10.88.0.2/16"), net("10.88.0.3/32"), net("fd88::2/64")]);
            assert!(addresses.contains(&Address {
                ifindex: LOOPBACK,
                address: net("127.0.0.1/8"),
                scope_global: false,
                is_stable: true
            }));
            let defaults: Vec<_> = routes
                .iter()
                .filter(|r| r.destination.prefix_len() == 0)
                .map(|r| r.gateway.unwrap())
                .collect();
            assert_eq!(defaults, [ip("10.88.0.1"), ip("fd88::1")]);
            Ok(())
        });
    }

    #[test]
    fn errors_name_the_step() {
        isolated("errors_name_the_step", || async {
            let (host, ns) = (Netlink::host()?, netns());
            let inside = Netlink::enter(&ns).await?;
            let side = |addresses| ContainerSide { name: "eth0", addresses, wait: true };
            let address = net("10.88.0.2/16");
            let good = [(address, Some(ip("10.88.0.1")))];
            let error = inside.configure_container(&side(&good)).await.unwrap_err();
            assert!(is_gone(&error));
            assert_eq!(error.to_string(), "looking for link eth0 in the container: No such device");

            host.create_pair(&veth(&ns)).await?;
            // The second address cannot be one of a link.
            let multicast = [good[0], (net("ff02::1/64"), None)];
            let error = inside.configure_container(&side(&multicast)).await.unwrap_err().to_string();
            assert!(error.starts_with("adding ff02::1/64 to eth0: "), "{error}");
            // The subnet's broadcast address.
            let broadcast = [(address, Some(ip("10.88.255.255")))];
            let error = inside.configure_container(&side(&broadcast)).await.unwrap_err().to_string();
            assert!(error.starts_with("adding the default route by 10.88.255.255 to eth0: "), "{error}");
            Ok(())
        });
    }

    /// Where the time of an attachment goes. `cargo test --release -p netd --lib -- --ignored --nocapture latency`
    #[test]
    #[ignore = "a measurement"]
    fn latency() {
        isolated("latency", || async {
            let host = Netlink::host()?;
            let mut rounds: Vec<Vec<(&str, Duration)>> = Vec::new();
            for round in 0..200 {
                let (ns, other) = (netns(), netns());
                let mut steps = Vec::new();
                let mut at = Instant::now();
                let mut step = |what| {
                    steps.push((what, at.elapsed()));
                    at = Instant::now();
                };
                let ifindex = host.create_pair(&veth(&ns)).await?;
                step("create_pair");
                let inside = Netlink::enter(&ns).await?;
                step("enter");
                let side = ContainerSide {
                    wait: true,
                    name: "eth0",
                    addresses: &[(net("10.88.0.2/16"), Some(ip("10.88.0.1")))],
                };
                inside.configure_container(&side).await?;
                drop(inside);
                step("configure_container");
                host.set_up(ifindex).await?;
                step("set_up");
                let destination = net("10.88.0.2/32");
                let route = Route { destination, gateway: None, ifindex, source: None, onlink: false };
                host.add_route(&route).await?;
                step("add_route");
                host.add_neighbour(ifindex, destination.addr(), [2, 0, 0, 0, 0, 2]).await?;
                step("add_neighbour");
                host.link_by_index(ifindex).await?;
                step("link_by_index");
                host.links().await?;
                step("links");
                // One container goes while another comes.
                let gone = tokio::spawn({
                    let host = host.clone();
                    async move { host.delete_link(ifindex).await }
                });
                tokio::time::sleep(Duration::from_micros(round * 100 % 5000)).await;
                step("");
                let beside = PairSpec { host_name: "ndbeside", ..veth(&other) };
                let beside = host.create_pair(&beside).await?;
                step("create_pair beside delete_link");
                gone.await??;
                step("");
                host.delete_link(beside).await?;
                step("delete_link");
                rounds.push(steps);
            }
            for at in 0..rounds[0].len() {
                let what = rounds[0][at].0;
                let mut times: Vec<_> = rounds.iter().map(|steps| steps[at].1).collect();
                times.sort_unstable();
                let part = |percent: usize| times[(times.len() - 1) * percent / 100];
                if !what.is_empty() {
                    eprintln!(
                        "{what:>30}: median {:>9.1?}  90 % {:>9.1?}  max {:>9.1?}",
                        part(50),
                        part(90),
                        part(100)
                    );
                }
            }
            Ok(())
        });
    }
}
