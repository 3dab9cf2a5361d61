//! One container's flows at the expense of nobody else's.

use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use netd::lab::{Container, echo};
use netd_tests::{
    Site,
    site::{PATIENCE, SILENCE, reach},
    with_site,
};

const QUOTA: u64 = 32;
const TOO_MANY: u64 = 10;

fn sockets(site: &Site, client: &Container, count: u64) -> Result<Vec<(UdpSocket, bool)>> {
    (0..count)
        .map(|_| {
            let socket = client.namespace.run(|| UdpSocket::bind("0.0.0.0:0").context("cannot bind"))?;
            let answered = echo::udp_on(&socket, site.world.echo(), b"flow", SILENCE / 3).is_ok();
            Ok((socket, answered))
        })
        .collect()
}

#[test]
fn over_its_quota_a_container_loses_only_its_own_new_flows() {
    let config = format!("[nat]\nmax-flows-per-endpoint = {QUOTA}\n");
    with_site("over_its_quota_a_container_loses_only_its_own_new_flows", &config, |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let first = sockets(site, &a, QUOTA)?;
        let lost = first.iter().filter(|(_, answered)| !answered).count();
        ensure!(lost == 0, "{lost} of the first {QUOTA} flows were refused");
        ensure!(site.drops("flow-quota")? == 0, "drops were counted before the quota was reached");

        let more = sockets(site, &a, TOO_MANY)?;
        let passed = more.iter().filter(|(_, answered)| *answered).count();
        ensure!(passed == 0, "{passed} flows over the quota were let pass");
        let counted = site.drops("flow-quota")?;
        ensure!(counted == TOO_MANY, "{counted} of {TOO_MANY} drops were counted");

        // Flows that it has go on; what needs no flow works; and nobody else notices.
        for (socket, _) in &first {
            echo::udp_on(socket, site.world.echo(), b"again", PATIENCE).context("an old flow was evicted")?;
        }
        reach(&a.namespace, b.address, a.address)?;
        reach(&b.namespace, site.world.address, site.host.address)?;
        let others = sockets(site, &b, QUOTA - 3)?;
        let lost = others.iter().filter(|(_, answered)| !answered).count();
        ensure!(lost == 0, "{lost} flows of the other container were refused");

        // A new container with the old one's place begins with an empty account.
        site.services.clear();
        ensure!(site.host.netd(["detach", "a"])?.status.success());
        let c = site.container("c")?;
        let fresh = sockets(site, &c, QUOTA)?;
        let lost = fresh.iter().filter(|(_, answered)| !answered).count();
        ensure!(lost == 0, "{lost} flows of a new container were refused");
        Ok(())
    });
}
