//! Stories of real sockets: the kernels of the parties talk, and what programs see of it is compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use netd::lab::socket;
use netd_common::wire::protocol;

use super::{Copy, Family, Kind, PUBLISHED, Party, Published, generate::Random};

/// Ports that are served.
const OPEN: [u16; 2] = [7001, 7002];
/// One that is not.
const CLOSED: u16 = 9;
/// Operations of a story.
const LENGTH: usize = 25;
/// Connections of a story.
const CONNECTIONS: u64 = 6;
/// How long a connection may take to come, or to be refused.
const PATIENCE: Duration = Duration::from_secs(3);
/// As in the stories of packets: before and after which time what has come is compared.
const AT_LEAST: Duration = Duration::from_millis(4);
const AT_MOST: Duration = Duration::from_millis(400);

/// What a program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Opens a connection.
    Connect {
        /// Who.
        from: Party,
        /// To whom.
        to: Whom,
        /// To which port.
        port: u16,
    },
    /// One side of a connection (0: who opened it) sends so many bytes.
    Send {
        /// The connection's number.
        connection: usize,
        /// The side.
        side: usize,
        /// Bytes.
        length: usize,
    },
    /// One side of a connection ends it.
    End {
        /// The connection's number.
        connection: usize,
        /// The side.
        side: usize,
        /// In which way.
        how: How,
    },
    /// A container sends a datagram; who gets one sends it back.
    Datagram {
        /// Who.
        from: Party,
        /// To whom.
        to: Whom,
        /// To which port.
        port: u16,
        /// Bytes.
        length: usize,
    },
}

/// To whom a program talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// To another party.
    Party(Party),
    /// To the host by its address on the uplink, and a published port.
    Node,
    /// To the host as containers see it, likewise; not all ports are published there.
    Gateway,
}

/// How a side ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It sends no more, but goes on listening.
    HalfClose,
    /// It closes its socket.
    Close,
    /// It resets the connection (SO_LINGER with no time).
    Reset,
}

/// The story of a seed, and what it is told in.
#[must_use]
pub fn story(seed: u64) -> (Family, Vec<Operation>) {
    let mut random = Random(seed);
    let family = random.pick(&Family::ALL);
    let mut connections = 0;
    let operations = (0..LENGTH)
        .map(|index| {
            let mut from = random.pick(&[Party::A, Party::B]);
            let other = if from == Party::A { Party::B } else { Party::A };
            let mut to = Whom::Party(random.pick(&[Party::Server, Party::Server, Party::Narrow, other]));
            let mut port = random.pick(&[OPEN[0], OPEN[1], OPEN[0], CLOSED]);
            if random.once_in(3) {
                from = random.pick(&[Party::Server, Party::Narrow, Party::B, Party::A]);
                let by_gateway = from.is_container() && random.once_in(2);
                to = if by_gateway { Whom::Gateway } else { Whom::Node };
            }
            let is_published = !matches!(to, Whom::Party(_));
            let (connection, side) = (random.below(connections.max(1)) as usize, random.below(2) as usize);
            match random.below(10) {
                kind if index < 2 || kind < 3 && connections < CONNECTIONS => {
                    connections += 1;
                    if is_published {
                        port = PUBLISHED[random.pick(&[0, 0, 2])].port;
                    }
                    Operation::Connect { from, to, port }
                }
                0..6 => Operation::Send { connection, side, length: random.pick(&[1, 700, 5000, 20_000]) },
                6..8 => {
                    let how = random.pick(&[How::HalfClose, How::HalfClose, How::Close, How::Reset]);
                    Operation::End { connection, side, how }
                }
                _ => {
                    if is_published {
                        port = PUBLISHED[random.pick(&[1, 1, 3])].port;
                    }
                    let length = random.pick(&[1, 1000, 1400, 4000, 20_000, 60_000]);
                    Operation::Datagram { from, to, port, length }
                }
            }
        })
        .collect();
    (family, operations)
}

/// Who sends datagrams, to whom and to which port.
type Ends = (Party, Whom, u16);

/// A copy with servers, and what its programs have open.
#[derive(Debug)]
struct Programs {
    listeners: Vec<(Party, u16, TcpListener)>,
    servers: Vec<(Party, u16, UdpSocket)>,
    clients: Vec<(Ends, UdpSocket)>,
    connections: Vec<[Option<TcpStream>; 2]>,
    /// The ends of connections that have been seen: connection and side.
    ended: BTreeSet<(usize, usize)>,
    /// What was read in this step, by connection and side: bytes, and their hash.
    read: BTreeMap<(usize, usize), (usize, u32)>,
    events: Vec<String>,
    family: Family,
    copy: Copy,
}

impl Programs {
    fn new(kind: Kind) -> Result<Self> {
        let copy = Copy::new(kind)?;
        let (mut listeners, mut servers) = (Vec::new(), Vec::new());
        for party in Party::ALL {
            let behind = PUBLISHED.iter().filter(|one| one.owner == party).map(|one| one.inner);
            for port in OPEN.into_iter().chain(behind) {
                let (listener, server) = copy.namespace(party).run(|| {
                    // Both families.
                    let any = (Ipv6Addr::UNSPECIFIED, port);
                    Ok((TcpListener::bind(any)?, UdpSocket::bind(any)?))
                })?;
                listener.set_nonblocking(true)?;
                server.set_nonblocking(true)?;
                listeners.push((party, port, listener));
                servers.push((party, port, server));
            }
        }
        Ok(Self {
            copy,
            family: Family::V4,
            listeners,
            servers,
            clients: Vec::new(),
            connections: Vec::new(),
            ended: BTreeSet::new(),
            read: BTreeMap::new(),
            events: Vec::new(),
        })
    }

    /// Forgets a story; the next one is in this family.
    fn forget(&mut self, family: Family) -> Result<()> {
        self.connections.clear();
        self.ended.clear();
        self.clients.clear();
        self.look();
        for (_, _, listener) in &self.listeners {
            while listener.accept().is_ok() {}
        }
        (self.read, self.events) = Default::default();
        self.family = family;
        self.copy.forget(family)
    }

    /// The address of a party's, or of the host's.
    fn address(&self, of: Whom) -> IpAddr {
        match of {
            Whom::Party(party) => party.ip(self.family),
            Whom::Node => self.family.node(),
            Whom::Gateway => self.family.gateway(),
        }
    }

    fn act(&mut self, operation: Operation) -> Result<()> {
        match operation {
            Operation::Connect { from, to, port } => {
                let line = self.connect(from, to, port)?;
                self.events.push(line);
            }
            Operation::Send { connection, side, length } => {
                let Some(stream) = self.stream(connection, side) else { return Ok(()) };
                let data: Vec<u8> = (0..length).map(|index| (index % 249) as u8).collect();
                stream.set_nonblocking(false)?;
                let sent = stream.write_all(&data);
                stream.set_nonblocking(true)?;
                self.events.extend(
                    sent.err().map(|error| format!("{connection}.{side} cannot send: {:?}", error.kind())),
                );
            }
            Operation::End { connection, side, how } => {
                let Some(stream) = self.stream(connection, side) else { return Ok(()) };
                if how == How::HalfClose {
                    // An error says that the other side has ended it already; both copies have it.
                    let ended = stream.shutdown(Shutdown::Write);
                    self.events
                        .extend(ended.err().map(|error| format!("{connection}.{side}: {:?}", error.kind())));
                    return Ok(());
                }
                if how == How::Reset {
                    let now = libc::linger { l_onoff: 1, l_linger: 0 };
                    socket::set_option(stream, libc::SOL_SOCKET, libc::SO_LINGER, &now)?;
                }
                self.connections[connection][side] = None;
            }
            Operation::Datagram { from, to, port, length } => {
                let key = (from, to, port);
                let index = match self.clients.iter().position(|(known, _)| *known == key) {
                    Some(index) => index,
                    None => {
                        let address = self.address(to);
                        let client = self.copy.namespace(from).run(|| {
                            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                            let client = UdpSocket::bind(any).context("cannot bind")?;
                            client.connect((address, port))?;
                            Ok(client)
                        })?;
                        client.set_nonblocking(true)?;
                        self.clients.push((key, client));
                        self.clients.len() - 1
                    }
                };
                let sent = self.clients[index].1.send(&vec![length as u8; length]);
                self.events.extend(
                    sent.err().map(|error| format!("{key:?} cannot send: {:?}", error.raw_os_error())),
                );
            }
        }
        Ok(())
    }

    fn stream(&mut self, connection: usize, side: usize) -> Option<&mut TcpStream> {
        self.connections.get_mut(connection)?[side].as_mut()
    }

    /// Opens a connection and accepts it; what both sides see.
    fn connect(&mut self, from: Party, to: Whom, port: u16) -> Result<String> {
        let number = self.connections.len();
        let address = SocketAddr::new(self.address(to), port);
        let opened = self.copy.namespace(from).run(|| Ok(TcpStream::connect_timeout(&address, PATIENCE)))?;
        let stream = match opened {
            Ok(stream) => stream,
            Err(error) => {
                self.connections.push([None, None]);
                return Ok(format!("{number}: no connection: {:?}", error.kind()));
            }
        };
        let place = match to {
            Whom::Party(to) => Some((to, port)),
            _ => Published::find(protocol::TCP, port).map(|one| (one.owner, one.inner)),
        };
        let listener = self.listeners.iter().find(|(party, own, _)| Some((*party, *own)) == place);
        let listener = &listener.context("a connection to a port that nobody serves")?.2;
        socket::readable([listener], Some(PATIENCE))?;
        let (accepted, peer) = listener.accept().context("nobody is there to be accepted")?;
        for stream in [&stream, &accepted] {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            stream.set_write_timeout(Some(PATIENCE))?;
        }
        self.connections.push([Some(stream), Some(accepted)]);
        Ok(format!("{number}: connected, seen as {}", name(peer)))
    }

    /// Reads whatever there is.
    fn look(&mut self) {
        let mut buffer = vec![0; 65_536];
        for (party, port, server) in &self.servers {
            while let Ok((length, peer)) = server.recv_from(&mut buffer) {
                self.events.push(format!(
                    "{party:?}:{port} got {length} bytes {} from {}",
                    buffer[0],
                    name(peer)
                ));
                let _ = server.send_to(&buffer[..length], peer);
            }
        }
        for (key, client) in &self.clients {
            loop {
                match client.recv(&mut buffer) {
                    Ok(length) => {
                        self.events.push(format!("{key:?} was answered {length} bytes {}", buffer[0]));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => self.events.push(format!("{key:?} was told {:?}", error.raw_os_error())),
                }
            }
        }
        for (number, sides) in self.connections.iter_mut().enumerate() {
            for (side, stream) in sides.iter_mut().enumerate() {
                let Some(open) = stream else { continue };
                loop {
                    match open.read(&mut buffer) {
                        // Its end is told again whenever somebody looks: once is enough.
                        Ok(0) => {
                            if self.ended.insert((number, side)) {
                                self.events.push(format!("{number}.{side} has come to the end"));
                            }
                            break;
                        }
                        Ok(length) => {
                            let (count, sum) = self.read.entry((number, side)).or_insert((0, 1));
                            *count += length;
                            for byte in &buffer[..length] {
                                *sum = sum.wrapping_mul(31).wrapping_add(u32::from(*byte));
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => {
                            self.events.push(format!("{number}.{side} is told {:?}", error.kind()));
                            *stream = None;
                            break;
                        }
                    }
                }
            }
        }
    }

    /// What has been seen since the last step.
    fn seen(&self) -> Vec<String> {
        let mut lines = self.events.clone();
        lines.extend(self.read.iter().map(|((number, side), (count, sum))| {
            format!("{number}.{side} has read {count} bytes #{sum:x}")
        }));
        lines.sort();
        lines
    }
}

/// Who has an address. Which of its addresses the host takes for a container that asks for a published port differs, and is said in
/// docs/nat.md.
fn name(address: SocketAddr) -> String {
    let address = address.ip().to_canonical();
    let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
    match Party::ALL.into_iter().find(|party| party.ip(family) == address) {
        Some(party) => format!("{party:?}"),
        None if [family.node(), family.gateway()].contains(&address) => "node".into(),
        None => address.to_string(),
    }
}

/// Both copies, with programs in them.
#[derive(Debug)]
pub struct SocketTwins {
    copies: [Programs; 2],
    /// The last story that was played, and what came of it.
    pub transcript: String,
}

impl SocketTwins {
    /// Builds both.
    ///
    /// # Errors
    /// Something cannot be made.
    pub fn new() -> Result<Self> {
        let copies = [Programs::new(Kind::Netd)?, Programs::new(Kind::Netfilter)?];
        Ok(Self { copies, transcript: String::new() })
    }

    /// What netd's daemon has printed.
    #[must_use]
    pub fn log(&self) -> String {
        self.copies[0].copy.log()
    }

    /// Plays a story. Whether programs see the same; what they see differently, they have to see twice.
    ///
    /// # Errors
    /// A copy does not work.
    pub fn play(&mut self, family: Family, story: &[Operation]) -> Result<bool> {
        Ok(self.once(family, story)? || self.once(family, story)?)
    }

    fn once(&mut self, family: Family, story: &[Operation]) -> Result<bool> {
        self.copies.iter_mut().try_for_each(|programs| programs.forget(family))?;
        self.transcript.clear();
        for (number, operation) in story.iter().enumerate() {
            self.transcript.push_str(&format!("{number}. {operation:?}\n"));
            for programs in &mut self.copies {
                (programs.read, programs.events) = Default::default();
                programs.act(*operation)?;
            }
            let start = Instant::now();
            let [netd, netfilter] = loop {
                self.copies.iter_mut().for_each(Programs::look);
                let seen = [self.copies[0].seen(), self.copies[1].seen()];
                let passed = start.elapsed();
                if passed >= AT_MOST || passed >= AT_LEAST && seen[0] == seen[1] {
                    break seen;
                }
                thread::sleep(Duration::from_micros(500));
            };
            if netd == netfilter {
                netd.iter().for_each(|line| self.transcript.push_str(&format!("     {line}\n")));
                continue;
            }
            for (name, lines) in [("netd     ", &netd), ("netfilter", &netfilter)] {
                lines.iter().for_each(|line| self.transcript.push_str(&format!("   {name} {line}\n")));
            }
            return Ok(false);
        }
        Ok(true)
    }
}
