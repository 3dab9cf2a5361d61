//! `netd flows`: what it lists, and that what it removes is gone.

use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use netd::{
    lab::{Container, echo},
    request::{FlowList, FlowView},
};
use netd_tests::{
    Site,
    site::{PATIENCE, reach},
    with_site,
};

fn flows(site: &Site, options: &[&str]) -> Result<FlowList> {
    let words = ["flows", "--json"].iter().chain(options).copied();
    Ok(serde_json::from_value(site.host.json(words)?)?)
}

/// A socket of a container that has talked to the world.
fn talk(site: &Site, client: &Container) -> Result<UdpSocket> {
    let socket = client.namespace.run(|| UdpSocket::bind("0.0.0.0:0").context("cannot bind"))?;
    echo::udp_on(&socket, site.world.echo(), b"flow", PATIENCE)?;
    Ok(socket)
}

#[test]
fn flows_are_listed_and_flushed() {
    with_site("flows_are_listed_and_flushed", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        ensure!(flows(site, &[])?.total == 0, "there are flows before any packet");
        let socket = talk(site, &a)?;
        let _other = talk(site, &b)?;
        let port = socket.local_addr()?.port();

        let list = flows(site, &["--endpoint", "a"])?;
        let [flow] = &list.flows[..] else { anyhow::bail!("not one flow: {list:?}") };
        let expected = FlowView {
            endpoint: Some("a".to_owned()),
            protocol: "udp".to_owned(),
            address: a.address.into(),
            port,
            remote: site.world.address.into(),
            remote_port: echo::PORT,
            translated: site.host.address.into(),
            state: "established".to_owned(),
            ..flow.clone()
        };
        ensure!(*flow == expected && flow.translated_port >= 49152, "{flow:?}");
        ensure!(flow.idle < 10 && (290..=301).contains(&flow.expires_in), "{flow:?}");

        // What is asked for, and nothing else; and no more than is asked for.
        reach(&a.namespace, site.world.address, site.host.address)?;
        let total = |options: &[&str]| Ok::<_, anyhow::Error>(flows(site, options)?.total);
        ensure!(total(&["--protocol", "icmp"])? == 1 && total(&["--protocol", "tcp"])? == 1);
        ensure!(total(&["--remote", "192.0.2.254"])? == 0);
        let limited = flows(site, &["--limit", "1"])?;
        ensure!(limited.flows.len() == 1 && limited.total == total(&[])?, "{limited:?}");

        // A closed connection is seen to be so.
        let closed = flows(site, &["--protocol", "tcp"])?;
        ensure!(matches!(closed.flows[0].state.as_str(), "closed" | "closing"), "{closed:?}");

        // Those that are flushed are gone, and their next packets begin anew.
        let flushed = site.host.json(["flows", "--json", "--endpoint", "a", "flush"])?;
        ensure!(flushed["removed"] == 4, "{flushed}");
        ensure!(list_length(site, "a")? == 0);
        echo::udp_on(&socket, site.world.echo(), b"again", PATIENCE)?;
        ensure!(list_length(site, "a")? == 1);
        Ok(())
    });
}

fn list_length(site: &Site, endpoint: &str) -> Result<usize> {
    Ok(flows(site, &["--endpoint", endpoint])?.total)
}

#[test]
fn questions_that_make_no_sense() {
    with_site("questions_that_make_no_sense", "", |site| {
        for (words, expected) in [
            (&["flows", "--endpoint", "nobody"][..], "no endpoint `nobody`: `netd ls` shows all"),
            (&["flows", "--limit", "3", "flush"], "a limit is for listing flows: leave it out to flush"),
            (&["flows", "--endpoint", "a b"], "endpoint name: `a b` contains ' '"),
        ] {
            let output = site.host.netd(words.iter().copied())?;
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(!output.status.success() && text.contains(expected), "{words:?}: {text}");
        }
        Ok(())
    });
}
