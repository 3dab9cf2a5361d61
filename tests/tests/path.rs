//! Ways between nodes that take less than the nodes' uplinks.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use netd::{
    cluster::Peer,
    lab::{Container, Host, cluster, http},
    request::NodeList,
};
use netd_tests::{
    cluster::with_stopped_cluster,
    site::{eventually, reach},
};

/// How long a download may take on a busy machine.
const SOON: Duration = Duration::from_secs(15);
/// What the way takes, in bytes; the uplinks take 1500.
const WAY: u32 = 1400;

/// What a host says that the way to the other one takes.
fn path_mtu(host: &Host) -> Result<Option<u32>> {
    let list: NodeList = serde_json::from_value(host.json(["nodes", "--json"])?)?;
    Ok(list.nodes.first().context("no other node")?.path_mtu)
}

fn addresses(container: &Container) -> impl Iterator<Item = IpAddr> {
    [Some(container.address.into()), container.address6.map(IpAddr::from)].into_iter().flatten()
}

/// Over IPv6 no router cuts a packet of VXLAN: it says to the node what the way takes, and the node says so to its containers.
#[test]
fn a_narrow_way_over_ipv6() {
    with_stopped_cluster("a_narrow_way_over_ipv6", "vxlan", |cluster| {
        if cluster.nodes.iter().any(|node| node.address6.is_none()) {
            eprintln!("SKIP a_narrow_way_over_ipv6: this kernel has no IPv6");
            return Ok(());
        }
        let peer = |(number, host): (u8, &Host)| -> Result<Peer> {
            let address = host.address6.context("no IPv6")?.into();
            Ok(Peer { address, address6: None, ..cluster::node(host, cluster::slices(number)) })
        };
        let all: Vec<Peer> = (1..).zip(&cluster.nodes).map(peer).collect::<Result<_>>()?;
        for (host, own) in cluster.nodes.iter().zip(&all) {
            host.configure(&cluster::configuration(own, &all, "vxlan"))?;
        }
        for (peer, link) in all.iter().zip(["host1", "host2"]) {
            let IpAddr::V6(address) = peer.address else { unreachable!("all have IPv6") };
            let subnet = ipnet::Ipv6Net::new(address, 64)?.trunc();
            let route = format!("route replace {subnet} dev {link} proto kernel metric 256 mtu {WAY}");
            cluster.world.router.ip([route])?;
        }
        cluster.start()?;
        let (a, b) = cluster.pair()?;
        for node in &cluster.nodes {
            ensure!(path_mtu(node)?.is_none(), "it knows before a packet was too big");
        }
        for (from, to) in [(&a, &b), (&b, &a)] {
            for (to, source) in addresses(to).zip(addresses(from)) {
                reach(&from.namespace, to, source)?;
                let server = SocketAddr::new(to, http::PORT);
                let got = from.namespace.run(|| http::download(server, 5_000_000, SOON));
                got.with_context(|| format!("{source} downloads from {to}"))?;
            }
        }
        for (node, host) in cluster.nodes.iter().enumerate() {
            eventually("it knows what the way takes", SOON, || Ok(path_mtu(host)? == Some(WAY)))?;
            let told = cluster.counter(node, "forwarded", "too-big-sent")?
                + cluster.counter(node, "drops", "too-big").unwrap_or_default();
            ensure!(told > 0, "node {node} has told nobody");
        }
        Ok(())
    });
}
