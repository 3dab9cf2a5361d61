//! One copy of the small internet.

use std::{
    io::Write as _,
    net::Ipv4Addr,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use netd::lab::{Container, End, Host, Lab, Namespace, World, icmp};

use super::{
    GATEWAY, NARROW_MTU, NODE, PORTS, Party,
    canon::{self, Names},
    fragments::Reassembly,
    story::{Step, To},
    tap::Tap,
};

/// What translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// netd.
    Netd,
    /// A bridge, and the rules that Docker sets.
    Netfilter,
}

/// A copy, and what its parties have got.
#[derive(Debug)]
pub struct Copy {
    kind: Kind,
    /// By [`Party`].
    namespaces: [Namespace; 4],
    taps: [Tap; 4],
    reassembly: [Reassembly; 4],
    /// Who sends to whom by which MAC: rows by [`Party`]; the other container, and everybody else.
    macs: [[[u8; 6]; 2]; 4],
    names: Names,
    /// The last packet that each party has got, errors apart.
    last: [Option<Vec<u8>>; 4],
    /// Dropped before the lab: daemon and containers.
    host: Option<Host>,
    _containers: Vec<Container>,
    node: Namespace,
    _world: World,
    _lab: Lab,
}

/// As dockerd sets them for a network (`netd/src/bench/scene/docker.rs` has them with their origins).
const RULES: &str = "\
*filter
:INPUT ACCEPT
:FORWARD DROP
:OUTPUT ACCEPT
-A FORWARD -o br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i br0 ! -o br0 -j ACCEPT
-A FORWARD -i br0 -o br0 -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT
:INPUT ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
-A POSTROUTING -s 10.88.0.0/16 ! -o br0 -j MASQUERADE
COMMIT
";
/// Those of a party whose kernel is to say nothing.
const MUTE: &str = "*filter\n:INPUT DROP\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n";

const PATIENCE: Duration = Duration::from_secs(3);

impl Copy {
    /// Builds it. Its kernels talk, until [`Copy::mute`].
    ///
    /// # Errors
    /// Something cannot be made.
    pub fn new(kind: Kind) -> Result<Self> {
        let lab = Lab::new("test")?;
        let world = World::new(&lab)?;
        let narrow = lab.namespace("narrow")?;
        lab.cable(
            End { namespace: &world.router, interface: "narrow", address: Some("192.0.2.1/24") },
            End { namespace: &narrow, interface: "eth0", address: Some("192.0.2.10/24") },
        )?;
        world.router.ip([format!("link set narrow mtu {NARROW_MTU}")])?;
        narrow.ip([format!("link set eth0 mtu {NARROW_MTU}"), "route add default via 192.0.2.1".into()])?;
        let (node, host, containers, [a, b]) = match kind {
            Kind::Netd => {
                let ports = format!("[nat]\nports = \"{}-{}\"\n", PORTS.start(), PORTS.end());
                let mut host = Host::new(&lab, &world, "host", &ports)?;
                host.start()?;
                let (a, b) = (host.container("a", &[])?, host.container("b", &[])?);
                let namespaces = [a.namespace.clone(), b.namespace.clone()];
                (host.namespace.clone(), Some(host), vec![a, b], namespaces)
            }
            Kind::Netfilter => {
                let (node, containers) = bridge(&lab, &world)?;
                (node, None, Vec::new(), containers)
            }
        };
        for namespace in [&node, &world.router, &world.server, &narrow, &a, &b] {
            // Every error is to be seen; since Linux 6.11 namespaces have limits of their own for all of them together.
            namespace.set_sysctl("net.ipv4.icmp_ratelimit", "0")?;
            let _ = namespace.set_sysctl("net.ipv4.icmp_msgs_per_sec", "1000000");
            let _ = namespace.set_sysctl("net.ipv4.icmp_msgs_burst", "1000000");
        }
        let namespaces = [a, b, world.server.clone(), narrow];
        let macs = neighbours(&namespaces)?;
        let [a, b, server, narrow] = &namespaces;
        let taps = [
            Tap::new(a, "eth0")?,
            Tap::new(b, "eth0")?,
            Tap::new(server, "eth0")?,
            Tap::new(narrow, "eth0")?,
        ];
        Ok(Self {
            kind,
            taps,
            reassembly: Default::default(),
            macs,
            names: Names::default(),
            last: Default::default(),
            host,
            _containers: containers,
            node,
            namespaces,
            _world: world,
            _lab: lab,
        })
    }

    /// What translates here.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where a party is.
    #[must_use]
    pub fn namespace(&self, party: Party) -> &Namespace {
        &self.namespaces[party as usize]
    }

    /// From now on the kernels of containers and servers drop what comes; the packet sockets see it all the same.
    ///
    /// # Errors
    /// iptables refuses.
    pub fn mute(&self) -> Result<()> {
        self.namespaces.iter().try_for_each(|namespace| restore(namespace, MUTE))
    }

    /// What the daemon has printed, where there is one.
    #[must_use]
    pub fn log(&self) -> String {
        self.host.as_ref().map(Host::log).unwrap_or_default()
    }

    /// As if all flows had timed out.
    ///
    /// # Errors
    /// netd or conntrack refuses.
    pub fn expire(&self) -> Result<()> {
        match &self.host {
            Some(host) => host.json(["flows", "--json", "flush"]).map(drop),
            None => self.node.output("conntrack", ["-F"]).map(drop),
        }
    }

    /// Has a step happen. `false`: it is about something that is not there.
    pub(super) fn act(&mut self, step: &Step, number: u16) -> Result<bool> {
        self.names.sent = None;
        let (from, packets) = match step {
            // Ports may have other owners from now on.
            Step::Expire => return self.forget().map(|()| true),
            Step::Packet(packet) => {
                self.names.sent = packet.flow();
                if let To::Flow(flow) = packet.to {
                    self.names.spoken_to(&flow, packet.from, packet.body.source());
                }
                (packet.from, packet.bytes(&self.names, number))
            }
            Step::Error(error) => {
                let about = self.last[error.about as usize].as_ref();
                (error.from, about.and_then(|about| error.bytes(about)).map(|packet| vec![packet]))
            }
        };
        let Some(packets) = packets else { return Ok(false) };
        for packet in &packets {
            let to_container = packet[16..20] == Party::A.address() || packet[16..20] == Party::B.address();
            let mac = self.macs[from as usize][usize::from(from.is_container() && to_container)];
            self.taps[from as usize].send(mac, packet)?;
        }
        Ok(true)
    }

    /// What the parties have got since the last call: whole packets, fragments put together.
    pub(super) fn receive(&mut self) -> Result<Vec<(Party, String)>> {
        let mut all = Vec::new();
        for party in Party::ALL {
            while let Some(packet) = self.taps[party as usize].receive()? {
                let Some(whole) = self.reassembly[party as usize].add(packet) else { continue };
                all.push((party, canon::describe(&whole, party, &mut self.names)));
                let is_error = whole[9] == 1
                    && matches!(whole.get(usize::from(whole[0] & 15) * 4), Some(3 | 4 | 11 | 12));
                if !is_error {
                    self.last[party as usize] = Some(whole);
                }
            }
        }
        Ok(all)
    }

    /// Forgets all, for another story.
    pub(super) fn forget(&mut self) -> Result<()> {
        self.receive()?;
        self.reassembly = Default::default();
        self.names = Names::default();
        self.last = Default::default();
        self.expire()
    }
}

/// A host with a bridge, Docker's rules and two containers.
fn bridge(lab: &Lab, world: &World) -> Result<(Namespace, [Namespace; 2])> {
    let node = lab.namespace("bridge")?;
    let uplink = world.plug(lab, &node)?;
    ensure!(uplink.address.octets() == NODE, "the host has another address");
    node.ip([
        "link add br0 type bridge".into(),
        format!("address add {}/16 dev br0", Ipv4Addr::from(GATEWAY)),
        "link set br0 up".to_owned(),
    ])?;
    node.set_sysctl("net.ipv4.ip_forward", "1")?;
    let mut containers = Vec::new();
    for (name, party) in [("a", Party::A), ("b", Party::B)] {
        let namespace = lab.namespace(&format!("bridge-{name}"))?;
        let address = format!("{}/16", Ipv4Addr::from(party.address()));
        lab.cable(
            End { namespace: &node, interface: &format!("port-{name}"), address: None },
            End { namespace: &namespace, interface: "eth0", address: Some(&address) },
        )?;
        node.ip([format!("link set port-{name} master br0")])?;
        namespace.ip([format!("route add default via {}", Ipv4Addr::from(GATEWAY))])?;
        containers.push(namespace);
    }
    restore(&node, RULES)?;
    // netd leaves sequence numbers to the two ends (docs/nat.md).
    node.set_sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "1")?;
    let containers = containers.try_into().ok().context("two containers")?;
    Ok((node, containers))
}

fn restore(namespace: &Namespace, rules: &str) -> Result<()> {
    let mut child = namespace
        .command("iptables-restore")?
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run iptables-restore")?;
    if let Some(mut stdin) = child.stdin.take() {
        // An error here means that it has ended early; what it said is the better message.
        let _ = stdin.write_all(rules.as_bytes());
    }
    let output = child.wait_with_output().context("cannot wait for iptables-restore")?;
    if !output.status.success() {
        bail!("iptables does not take the rules: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Has everybody find everybody, and returns the MACs that they found.
fn neighbours(namespaces: &[Namespace; 4]) -> Result<[[[u8; 6]; 2]; 4]> {
    let mut macs = [[[0; 6]; 2]; 4];
    for (party, namespace) in Party::ALL.into_iter().zip(namespaces) {
        let (other, router) = match party {
            Party::A => (Some(Party::B), GATEWAY),
            Party::B => (Some(Party::A), GATEWAY),
            Party::Server => (None, [203, 0, 113, 1]),
            Party::Narrow => (None, [192, 0, 2, 1]),
        };
        if party.is_container() {
            // So that the routers on the way find their neighbours, too.
            for far in [Party::Server, Party::Narrow] {
                namespace
                    .run(|| icmp::ping(Ipv4Addr::from(far.address()), 56, PATIENCE))
                    .with_context(|| format!("{party:?} → {far:?}"))?;
            }
        }
        macs[party as usize][0] = neighbour(namespace, router)?;
        if let Some(other) = other {
            macs[party as usize][1] = neighbour(namespace, other.address())?;
        }
        // They stay: a story is not to be disturbed by who asks for whom.
        namespace.ip([format!(
            "neigh replace {} dev eth0 nud permanent lladdr {}",
            Ipv4Addr::from(router),
            text(macs[party as usize][0])
        )])?;
    }
    Ok(macs)
}

/// The MAC by which an address is reached.
fn neighbour(namespace: &Namespace, address: [u8; 4]) -> Result<[u8; 6]> {
    let address = Ipv4Addr::from(address);
    namespace
        .run(|| icmp::ping(address, 56, PATIENCE))
        .with_context(|| format!("{} → {address}", namespace.name()))?;
    let end = Instant::now() + PATIENCE;
    loop {
        let found = namespace.ip_json(&format!("neigh show {address} dev eth0"))?;
        if let Some(mac) = found[0]["lladdr"].as_str() {
            return crate::frames::mac(mac);
        }
        ensure!(Instant::now() < end, "no neighbour {address}: {found}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
