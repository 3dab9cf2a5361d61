//! One copy of the small internet.

use std::{
    net::{IpAddr, Ipv4Addr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use netd::lab::{Container, End, Host, Lab, Namespace, World, icmp};

use super::{
    Family, GATEWAY, NARROW_MTU, NODE, PORTS, PUBLISHED, Party, Published,
    canon::{self, Names},
    fragments::Reassembly,
    parts::Parts,
    rules,
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
    /// Rows by [`Family`].
    taps: [[Tap; 4]; 2],
    /// What the story is told in.
    family: Family,
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

/// The router's IPv6 addresses towards the servers.
const NARROW_ROUTER6: &str = "2001:db8:0:fe::1";
const SERVER_ROUTER6: &str = "2001:db8:0:ff::1";

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
        world.router.ip([format!("address add {NARROW_ROUTER6}/64 dev narrow nodad")])?;
        narrow.ip([
            format!("address add {}/64 dev eth0 nodad", Party::Narrow.ip(Family::V6)),
            format!("route add ::/0 via {NARROW_ROUTER6}"),
        ])?;
        let (node, host, containers, [a, b]) = match kind {
            Kind::Netd => {
                let ports = format!("[nat]\nports = \"{}-{}\"\n", PORTS.start(), PORTS.end());
                let mut host = Host::new(&lab, &world, "host", &ports)?;
                host.start()?;
                let container = |name, party| {
                    let own = PUBLISHED.iter().filter(|one| one.owner == party);
                    let options: Vec<String> = own.flat_map(Published::options).collect();
                    host.container(name, &options.iter().map(String::as_str).collect::<Vec<_>>())
                };
                let (a, b) = (container("a", Party::A)?, container("b", Party::B)?);
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
            namespace.set_sysctl("net.ipv6.icmp.ratelimit", "0")?;
            // Two kernels would choose two.
            namespace.set_sysctl("net.ipv6.auto_flowlabels", "0")?;
            let _ = namespace.set_sysctl("net.ipv4.icmp_msgs_per_sec", "1000000");
            let _ = namespace.set_sysctl("net.ipv4.icmp_msgs_burst", "1000000");
        }
        let namespaces = [a, b, world.server.clone(), narrow];
        let macs = neighbours(&namespaces)?;
        let [a, b, server, narrow] = &namespaces;
        let tap = |namespace, family| Tap::new(namespace, "eth0", family);
        let taps = |family| -> Result<[Tap; 4]> {
            Ok([tap(a, family)?, tap(b, family)?, tap(server, family)?, tap(narrow, family)?])
        };
        let taps = [taps(Family::V4)?, taps(Family::V6)?];
        Ok(Self {
            kind,
            taps,
            family: Family::V4,
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
        self.namespaces.iter().try_for_each(|namespace| {
            Family::ALL
                .into_iter()
                .try_for_each(|family| rules::restore(namespace, family, &rules::mute(family)))
        })
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
            None => {
                let family = if self.family == Family::V4 { "ipv4" } else { "ipv6" };
                self.node.output("conntrack", ["-F", "-f", family]).map(drop)
            }
        }
    }

    /// As if those with a server had.
    fn expire_with(&mut self, remote: Party) -> Result<()> {
        let address = remote.ip(self.family).to_string();
        self.names.forget(remote);
        // What was sent before may have had another port.
        self.last = Default::default();
        if let Some(host) = &self.host {
            return host.json(["flows", "--json", "--remote", &address, "flush"]).map(drop);
        }
        let family = if self.family == Family::V4 { "ipv4" } else { "ipv6" };
        for side in ["--orig-dst", "--orig-src"] {
            // Where there is none, that is an error to it.
            let mut command = self.node.command("conntrack")?;
            command.args(["-D", "-f", family, side, &address]).output().context("cannot run conntrack")?;
        }
        Ok(())
    }

    /// Has a step happen. `false`: it is about something that is not there.
    pub(super) fn act(&mut self, step: &Step, number: u16) -> Result<bool> {
        self.names.sent = None;
        let (from, packets) = match step {
            // Ports may have other owners from now on.
            Step::Expire => return self.forget(self.family).map(|()| true),
            Step::ExpireWith(remote) => return self.expire_with(*remote).map(|()| true),
            Step::Packet(packet) => {
                self.names.sent = packet.flow();
                if let To::Flow(flow) = packet.to {
                    self.names.spoken_to(&flow, packet.from, packet.body.source());
                }
                (packet.from, packet.bytes(self.family, &self.names, number))
            }
            Step::Error(error) => {
                let about = self.last[error.about as usize].as_ref();
                (error.from, about.and_then(|about| error.bytes(about)).map(|packet| vec![packet]))
            }
        };
        let Some(packets) = packets else { return Ok(false) };
        for packet in &packets {
            let to = Parts::new(packet).context("no packet")?.destination;
            let to_container = [Party::A, Party::B].map(|party| party.ip(self.family)).contains(&to);
            let mac = self.macs[from as usize][usize::from(from.is_container() && to_container)];
            self.taps[self.family as usize][from as usize].send(mac, packet)?;
        }
        Ok(true)
    }

    /// What the parties have got since the last call: whole packets, fragments put together.
    pub(super) fn receive(&mut self) -> Result<Vec<(Party, String)>> {
        let mut all = Vec::new();
        for party in Party::ALL {
            while let Some(packet) = self.taps[self.family as usize][party as usize].receive()? {
                let Some(whole) = self.reassembly[party as usize].add(packet) else { continue };
                let parts = Parts::new(&whole);
                if parts.is_some_and(|parts| parts.is_discovery()) {
                    continue;
                }
                let is_error = parts.is_some_and(|parts| parts.is_error());
                all.push((party, canon::describe(&whole, party, &mut self.names)));
                if !is_error {
                    self.last[party as usize] = Some(whole);
                }
            }
        }
        Ok(all)
    }

    /// Forgets all, for another story in this family.
    pub(super) fn forget(&mut self, family: Family) -> Result<()> {
        self.family = family;
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
        format!("address add {}/48 dev br0 nodad", Family::V6.gateway()),
        "link set br0 up".to_owned(),
    ])?;
    ensure!(
        uplink.address6.map(IpAddr::from) == Some(Family::V6.node()),
        "the host has another IPv6 address"
    );
    node.set_sysctl("net.ipv4.ip_forward", "1")?;
    node.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
    // The path MTUs that the host learns itself are its own: netd does not have containers' packets wait for them (docs/nat.md).
    node.set_sysctl("net.ipv6.route.mtu_expires", "0")?;
    // Where the module is there, it is on in every namespace.
    for name in ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"] {
        let _ = node.set_sysctl(name, "0");
    }
    let mut containers = Vec::new();
    for (name, party) in [("a", Party::A), ("b", Party::B)] {
        let namespace = lab.namespace(&format!("bridge-{name}"))?;
        let address = format!("{}/16", Ipv4Addr::from(party.address()));
        lab.cable(
            End { namespace: &node, interface: &format!("port-{name}"), address: None },
            End { namespace: &namespace, interface: "eth0", address: Some(&address) },
        )?;
        node.ip([
            format!("link set port-{name} master br0"),
            // So that a container gets to its own published port.
            format!("link set port-{name} type bridge_slave hairpin on"),
        ])?;
        namespace.ip([
            format!("address add {}/48 dev eth0 nodad", party.ip(Family::V6)),
            format!("route add default via {}", Ipv4Addr::from(GATEWAY)),
            format!("route add ::/0 via {}", Family::V6.gateway()),
        ])?;
        containers.push(namespace);
    }
    for family in Family::ALL {
        rules::restore(&node, family, &rules::docker(family))?;
    }
    // netd leaves sequence numbers to the two ends (docs/nat.md).
    node.set_sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "1")?;
    let containers = containers.try_into().ok().context("two containers")?;
    Ok((node, containers))
}

/// Has everybody find everybody, and returns the MACs that they found.
fn neighbours(namespaces: &[Namespace; 4]) -> Result<[[[u8; 6]; 2]; 4]> {
    let mut macs = [[[0; 6]; 2]; 4];
    for family in Family::ALL {
        for (party, namespace) in Party::ALL.into_iter().zip(namespaces) {
            let router = match (party, family) {
                (Party::A | Party::B, _) => family.gateway(),
                (Party::Server, Family::V4) => [203, 0, 113, 1].into(),
                (Party::Narrow, Family::V4) => [192, 0, 2, 1].into(),
                (Party::Server, Family::V6) => SERVER_ROUTER6.parse()?,
                (Party::Narrow, Family::V6) => NARROW_ROUTER6.parse()?,
            };
            let other = match party {
                Party::A => Some(Party::B),
                Party::B => Some(Party::A),
                _ => None,
            };
            if party.is_container() {
                // So that the routers on the way find their neighbours, too.
                for far in [Party::Server, Party::Narrow] {
                    namespace
                        .run(|| icmp::ping(far.ip(family), 56, PATIENCE))
                        .with_context(|| format!("{party:?} → {far:?}"))?;
                }
            }
            let mut found = [neighbour(namespace, router)?; 2];
            if let Some(other) = other {
                found[1] = neighbour(namespace, other.ip(family))?;
            }
            ensure!(family == Family::V4 || macs[party as usize] == found, "a neighbour has two MACs");
            macs[party as usize] = found;
            // They stay: a story is not to be disturbed by who asks for whom.
            namespace.ip([format!(
                "neigh replace {router} dev eth0 nud permanent lladdr {}",
                text(macs[party as usize][0])
            )])?;
        }
    }
    Ok(macs)
}

/// The MAC by which an address is reached.
fn neighbour(namespace: &Namespace, address: IpAddr) -> Result<[u8; 6]> {
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
