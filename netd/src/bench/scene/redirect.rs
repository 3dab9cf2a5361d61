//! The least that a datapath of TC programs over veth can do: `netd-ebpf/src/bin/redirect.rs` on the links of two containers and on
//! the uplink. Nothing is translated, so the router is told the way to the client.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    programs::{SchedClassifier, TcAttachType},
};
use serde_json::Value;

use super::{Path, Scene};
use crate::{
    bench::case::Route,
    lab::{End, Lab, Namespace, World, world::UPLINK},
};

/// The eBPF object, in the binary.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redirect.o"));

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

pub(super) fn build(lab: &Lab, world: &World) -> Result<Scene> {
    let host = lab.namespace("redirect")?;
    let uplink = world.plug(lab, &host)?;
    let container = |link: &str, address: Ipv4Addr| -> Result<Namespace> {
        let namespace = lab.namespace(&format!("redirect-{link}"))?;
        let address = format!("{address}/24");
        lab.cable(
            End { namespace: &host, interface: link, address: None },
            End { namespace: &namespace, interface: "eth0", address: Some(&address) },
        )?;
        Ok(namespace)
    };
    let (client, server) = (container("client", CLIENT)?, container("server", SERVER)?);
    let [client_end, server_end] = [Link::of(&client, "eth0")?, Link::of(&server, "eth0")?];
    let [client_link, server_link, own] =
        [Link::of(&host, "client")?, Link::of(&host, "server")?, Link::of(&host, UPLINK)?];
    let router = neighbour(&world.router, uplink.address)?;
    for (namespace, other, end) in [(&client, SERVER, &server_end), (&server, CLIENT, &client_end)] {
        namespace.ip([
            format!("neighbour add {other} lladdr {} dev eth0 nud permanent", text(end.mac)),
            // Whatever it is: the program writes another.
            "neighbour add 192.0.2.254 lladdr 02:00:00:00:00:01 dev eth0 nud permanent".to_owned(),
            "route add default via 192.0.2.254".to_owned(),
        ])?;
    }
    world.router.ip([format!("route add {CLIENT} via {}", uplink.address)])?;
    let to_client =
        Target { address: CLIENT, link: client_link.index, macs: macs(client_end.mac, client_link.mac) };
    let to_server =
        Target { address: SERVER, link: server_link.index, macs: macs(server_end.mac, server_link.mac) };
    let out = (own.index, macs(router, own.mac));
    let programs = [
        load(&host, "client", &to_server, out)?,
        load(&host, "server", &to_client, out)?,
        load(&host, UPLINK, &to_client, (0, [0; 3]))?,
    ];
    let egress = Path::new(&client, &world.router, uplink.router);
    Ok(Scene {
        paths: vec![(Route::SameHost, Path::new(&client, &server, SERVER)), (Route::Egress, egress)],
        evidence: Some(Box::new(move || {
            // The programs stay as long as this does.
            let _ = &programs;
            Ok("a program that redirects, on both links and the uplink".to_owned())
        })),
        hosts: None,
        missing: Vec::new(),
    })
}

/// The container that a program reaches: its address, the host side of its link, and the Ethernet header's addresses there.
struct Target {
    address: Ipv4Addr,
    link: u32,
    macs: [u32; 3],
}

/// Loads the program, and attaches it to an interface of the host's.
fn load(host: &Namespace, interface: &str, to: &Target, (out, out_macs): (u32, [u32; 3])) -> Result<Ebpf> {
    let address = u32::from_ne_bytes(to.address.octets());
    let mut programs = EbpfLoader::new()
        .override_global("ADDRESS", &address, true)
        .override_global("PEER", &to.link, true)
        .override_global("PEER_MACS", &to.macs, true)
        .override_global("OUT", &out, true)
        .override_global("OUT_MACS", &out_macs, true)
        .load(OBJECT)
        .context("loading the eBPF object")?;
    host.run(|| {
        let program: &mut SchedClassifier =
            programs.program_mut("redirect").context("no program redirect")?.try_into()?;
        program.load().context("the kernel refuses program redirect")?;
        program.attach(interface, TcAttachType::Ingress).context("cannot attach program redirect")?;
        Ok(())
    })?;
    Ok(programs)
}

type Mac = [u8; 6];

/// An interface.
struct Link {
    index: u32,
    mac: Mac,
}

impl Link {
    fn of(namespace: &Namespace, name: &str) -> Result<Self> {
        let links = namespace.ip_json(&format!("link show {name}"))?;
        let index = links[0]["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok());
        let index = index.with_context(|| format!("no ifindex in {links}"))?;
        Ok(Self { index, mac: mac(&links[0])? })
    }
}

/// The MAC address of the router's interface that a host's uplink is plugged into.
fn neighbour(router: &Namespace, host: Ipv4Addr) -> Result<Mac> {
    let routes = router.ip_json(&format!("route get {host}"))?;
    let interface = routes[0]["dev"].as_str().with_context(|| format!("no interface in {routes}"))?;
    Ok(Link::of(router, interface)?.mac)
}

fn mac(link: &Value) -> Result<Mac> {
    let bytes = link["address"].as_str().and_then(|text| {
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect::<Option<Vec<u8>>>()
    });
    bytes.and_then(|bytes| bytes.try_into().ok()).with_context(|| format!("no MAC address in {link}"))
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// As they lie in an Ethernet header.
fn macs(destination: Mac, source: Mac) -> [u32; 3] {
    let [a, b, c, d, e, f] = destination;
    let [g, h, i, j, k, l] = source;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes)
}
