//! Packets that stay as large as the kernel made them.

use std::{net::SocketAddrV4, thread, time::Duration};

use anyhow::{Result, ensure};
use netd_tests::{streams::TcpFlood, with_site};

/// Far above any MTU: below it somebody has cut packets up on the way.
const LARGE: u64 = 10_000;

#[test]
fn segmentation_offloaded_packets_stay_whole() {
    with_site("segmentation_offloaded_packets_stay_whole", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let (server, host) = (site.world.server.clone(), site.host.namespace.clone());
        // (what, where the data goes, who sends it, the counters to look at)
        let ways = [
            ("to a neighbour", &b.namespace, b.address, &a.namespace, "b", "rx"),
            ("to the world", &server, site.world.address, &a.namespace, "a", "tx"),
            ("to the host", &host, a.gateway, &a.namespace, "a", "tx"),
            ("from the host", &a.namespace, a.address, &host, "a", "rx"),
        ];
        for (index, (what, to, address, from, endpoint, way)) in ways.into_iter().enumerate() {
            let address = SocketAddrV4::new(address, 4100 + u16::try_from(index)?);
            let _sink = TcpFlood::sink(to, address)?;
            let read = || -> Result<(u64, u64)> {
                Ok((
                    site.endpoint_counter(endpoint, &format!("{way}_packets"))?,
                    site.endpoint_counter(endpoint, &format!("{way}_bytes"))?,
                ))
            };
            let before = read()?;
            let flood = TcpFlood::start(from, address)?;
            thread::sleep(Duration::from_millis(400));
            let sent = flood.finish()?;
            let after = read()?;
            let (packets, bytes) = (after.0 - before.0, after.1 - before.1);
            ensure!(bytes >= sent, "{what}: {sent} bytes were sent, {bytes} counted");
            let average = bytes / packets;
            ensure!(average > LARGE, "{what}: {average} bytes a packet ({bytes} in {packets})");
        }
        Ok(())
    });
}
