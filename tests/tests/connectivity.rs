//! Who reaches whom on one host, and by what.

use std::net::SocketAddrV4;

use anyhow::{Context, Result, ensure};
use netd::lab::{echo, http, icmp};
use netd_tests::{
    frames,
    site::{PATIENCE, SILENCE, reach},
    snapshot, with_site,
};

#[test]
fn everybody_reaches_everybody() {
    with_site("everybody_reaches_everybody", "", |site| {
        let containers = ["a", "b", "c"].map(|name| site.container(name));
        let containers = containers.into_iter().collect::<Result<Vec<_>>>()?;
        let (gateway, uplink, server) = (containers[0].gateway, site.host.address, site.world.address);
        let host = site.host.namespace.clone();
        for address in [gateway, uplink] {
            site.serve(&host, address)?;
        }
        for from in &containers {
            for to in containers.iter().filter(|to| to.name != from.name) {
                reach(&from.namespace, to.address, from.address)?;
            }
            for address in [gateway, uplink] {
                reach(&from.namespace, address, from.address)?;
            }
            reach(&from.namespace, server, uplink)?;
            reach(&host, from.address, gateway)?;
        }
        reach(&host, server, uplink)?;

        // A way of the datapath for each of these.
        for way in ["local", "to-host", "masquerade", "reply", "from-host", "arp"] {
            ensure!(site.counter("forwarded", way)? > 0, "nothing was counted as {way}");
        }
        Ok(())
    });
}

#[test]
fn large_datagrams_pass_in_fragments() {
    with_site("large_datagrams_pass_in_fragments", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let host = site.host.namespace.clone();
        site.serve(&host, a.gateway)?;
        for (from, to) in [(&a.namespace, b.address), (&a.namespace, a.gateway), (&host, a.address)] {
            from.run(|| {
                echo::udp(SocketAddrV4::new(to, echo::PORT), &vec![9; 60_000], PATIENCE)?;
                icmp::ping(to, 60_000, PATIENCE)
            })
            .with_context(|| format!("60,000 bytes from {} to {to}", from.name()))?;
        }
        Ok(())
    });
}

#[test]
fn a_download_from_the_internet_arrives_whole() {
    with_site("a_download_from_the_internet_arrives_whole", "", |site| {
        let a = site.container("a")?;
        let server = SocketAddrV4::new(site.world.address, http::PORT);
        a.namespace.run(|| http::download(server, 20_000_000, PATIENCE))?;
        Ok(())
    });
}

#[test]
fn arp_is_answered_for_the_whole_subnet() {
    with_site("arp_is_answered_for_the_whole_subnet", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        reach(&a.namespace, b.address, a.address)?;
        a.namespace.run(|| icmp::ping(a.gateway, 56, PATIENCE))?;
        // Nobody has this one: its ARP is answered, its packets are dropped and counted.
        let nobody = "10.88.200.200".parse()?;
        ensure!(a.namespace.run(|| icmp::ping(nobody, 56, SILENCE)).is_err());
        ensure!(site.drops("no-endpoint")? > 0, "no drop was counted for {nobody}");

        let link = site.host.namespace.ip_json(&format!("link show {}", a.host_interface))?;
        let host_mac = link[0]["address"].as_str().context("the link has no MAC")?;
        let neighbours = a.namespace.ip_json("neighbour show dev eth0")?;
        for address in [a.gateway, b.address, nobody] {
            let entry =
                neighbours.as_array().into_iter().flatten().find(|one| one["dst"] == address.to_string());
            let entry = entry.with_context(|| format!("no neighbour {address} in {neighbours}"))?;
            ensure!(entry["lladdr"] == host_mac, "{address} has {}, not {host_mac}", entry["lladdr"]);
        }
        Ok(())
    });
}

#[test]
fn the_containers_interface_is_as_promised() {
    with_site("the_containers_interface_is_as_promised", "", |site| {
        site.host.namespace.ip(["link set eth0 mtu 1400"])?;
        netd_tests::site::eventually("the uplink's MTU is known", PATIENCE, || {
            Ok(site.host.json(["status", "--json"])?["uplink"]["mtu"] == 1400)
        })?;
        let a = site.container("a")?;
        ensure!(a.interface == "eth0" && a.prefix == 16 && a.network == "default", "{a:?}");

        let link = &a.namespace.ip_json("address show dev eth0")?[0];
        ensure!(link["address"] == a.mac.as_str(), "MAC {} is not {}", link["address"], a.mac);
        ensure!(link["mtu"] == 1400, "MTU {}", link["mtu"]);
        ensure!(link["operstate"] == "UP", "the link is {}", link["operstate"]);
        let has = |family: &str| {
            link["addr_info"].as_array().into_iter().flatten().find(|one| one["family"] == family).cloned()
        };
        let inet = has("inet").context("no IPv4 address")?;
        ensure!(inet["local"] == a.address.to_string() && inet["prefixlen"] == 16, "{inet}");
        let route = &a.namespace.ip_json("route show default")?[0];
        ensure!(route["gateway"] == a.gateway.to_string() && route["dev"] == "eth0", "{route}");

        // MACs are derived from addresses: one that moves keeps it.
        site.services.clear();
        ensure!(site.host.netd(["detach", "a"])?.status.success());
        ensure!(
            a.namespace.ip_json("link show type veth")?[0]["ifname"].is_null(),
            "eth0 is left in the container"
        );
        let moved = site.container_with("b", &["--ip", &a.address.to_string()])?;
        ensure!(moved.mac == a.mac, "{} was {}, is {}", a.address, a.mac, moved.mac);

        // A second attachment of a namespace is its eth1, and leaves the default route alone.
        let second = site.host.attach("b2", &moved.namespace, &[])?;
        ensure!(second.interface == "eth1", "{second:?}");
        let routes = moved.namespace.ip_json("route show default")?;
        let routes = routes.as_array().map_or(&[][..], Vec::as_slice);
        ensure!(routes.len() == 1 && routes[0]["dev"] == "eth0", "{routes:?}");
        Ok(())
    });
}

#[test]
fn one_cable_to_each_container_and_nothing_else() {
    with_site("one_cable_to_each_container_and_nothing_else", "", |site| {
        let containers = [site.container("a")?, site.container("b")?];
        let links = snapshot::netd_links(&site.host.namespace)?;
        ensure!(links == containers.iter().map(|one| one.host_interface.clone()).collect(), "{links:?}");
        for container in &containers {
            frames::mac(&container.mac)?;
        }
        let host = &site.host.namespace;
        for count in [
            netd::lab::facts::bridges(host)?,
            netd::lab::facts::netfilter_rules(host)?,
            netd::lab::facts::conntrack_entries(host)?,
        ] {
            ensure!(count.number == 0, "{} by {}", count.number, count.how);
        }
        Ok(())
    });
}
