//! Links on the host's own LAN: macvlan.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::ensure;
use netd::lab::icmp;
use netd_tests::{
    site::{PATIENCE, eventually, reach},
    snapshot, with_site,
};

const CONFIG: &str = "[networks.lan]\nsubnets = [\"198.18.1.0/24\"]\nlink = \"macvlan\"\nparent = \"eth0\"\n\
                      range = \"198.18.1.128/26\"\ngateway = \"198.18.1.1\"\n";
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);

#[test]
fn containers_are_on_the_lan() {
    with_site("containers_are_on_the_lan", CONFIG, |site| {
        let a = site.container_with("a", &["--network", "lan"])?;
        let b = site.container_with("b", &["--network", "lan", "--ip", "198.18.1.50"])?;
        ensure!(a.address == Ipv4Addr::new(198, 18, 1, 129) && b.address == Ipv4Addr::new(198, 18, 1, 50));
        // Of one host, both ways; the host, both ways; another host on the LAN, both ways; the world behind the router.
        reach(&a.namespace, b.address, a.address)?;
        reach(&b.namespace, a.address, b.address)?;
        let (host, own) = (site.host.namespace.clone(), site.host.address);
        site.serve(&host, own)?;
        reach(&host, a.address, own)?;
        reach(&a.namespace, own, a.address)?;
        let router = site.world.router.clone();
        site.serve(&router, ROUTER)?;
        reach(&router, a.address, ROUTER)?;
        reach(&a.namespace, ROUTER, a.address)?;
        reach(&a.namespace, site.world.address, a.address)?;

        // It stays through an end of any kind, and with the daemon down.
        site.host.stop(nix::sys::signal::Signal::SIGKILL)?;
        reach(&router, a.address, ROUTER)?;
        reach(&host, b.address, own)?;
        site.host.start()?;
        reach(&host, a.address, own)?;
        reach(&router, b.address, ROUTER)?;

        // Nothing is left of those that go.
        site.services.clear();
        let output = site.host.netd(["detach", "a"])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ensure!(a.namespace.run(|| icmp::ping(ROUTER, 56, Duration::from_millis(200))).is_err());
        host.run(|| icmp::ping(b.address, 56, PATIENCE))?;
        site.lab.remove_namespace(&b.namespace)?;
        eventually("the endpoint goes with its namespace", Duration::from_secs(20), || {
            Ok(site.endpoints()?.is_empty() && snapshot::netd_links(&host)?.is_empty())
        })
    });
}
