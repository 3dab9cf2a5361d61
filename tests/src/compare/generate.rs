//! Stories out of a seed: connections that are opened, used and closed, datagrams, pings, errors about all of these, and now and
//! then something that should not be.

use netd_common::wire::tcp::{ACK, FIN, RST, SYN};

use super::{
    Family, PUBLISHED, Party, Published,
    story::{Body, Error, Flow, Packet, Step, To},
};

/// PSH, which nobody looks at.
const PSH: u8 = 8;
/// Steps of a story.
const LENGTH: usize = 40;
/// Of a container; some are in netd's range, and both containers use the same ones.
const PORTS: [u16; 6] = [40_000, 40_001, 50_000, 50_001, 50_002, 1_000];
const REMOTE_PORTS: [u16; 2] = [80, 53];
/// Ports on which nothing is, and which no flow can get.
const CLOSED: [u16; 2] = [9, 19];

/// Random numbers that a seed determines (SplitMix64).
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next one.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// One below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.word() % limit
    }

    /// Whether something happens that does so once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// A connection, as far as it has got.
#[derive(Clone, Copy, Debug)]
struct Connection {
    /// To a published port: to which address of the host's, and port.
    by: Option<(To, u16)>,
    owner: Party,
    port: u16,
    remote: Party,
    remote_port: u16,
    /// Next sequence numbers: the owner's, the other side's.
    next: [u32; 2],
    state: State,
    /// Which sides have sent FIN.
    finished: [bool; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening,
    Answered,
    Open,
    Reset,
    /// Reset before anything else.
    Refused,
}

/// The story of a seed, and what it is told in.
#[must_use]
pub fn story(seed: u64) -> (Family, Vec<Step>) {
    let mut random = Random(seed);
    let family = random.pick(&Family::ALL);
    let odd = random.once_in(3);
    let mut teller =
        Teller { random, family, odd, connections: Vec::new(), datagrams: Vec::new(), visits: Vec::new() };
    (family, (0..LENGTH).map(|_| teller.step()).collect())
}

struct Teller {
    random: Random,
    family: Family,
    /// Whether it has things that are known to end differently: most stories are to go to their end.
    odd: bool,
    connections: Vec<Connection>,
    /// UDP and echo.
    datagrams: Vec<Flow>,
    /// UDP to a published port: who, from which port, and to which.
    visits: Vec<(Party, u16, &'static Published)>,
}

impl Teller {
    fn step(&mut self) -> Step {
        let step = match self.random.below(100) {
            0..8 => self.connect(),
            8..12 => self.visit(),
            12..50 if !self.connections.is_empty() => self.go_on(),
            50..57 => self.datagram(),
            57..60 => self.visit_by_datagram(),
            60..63 if !self.visits.is_empty() => self.answer_visit(),
            60..72 if !self.datagrams.is_empty() => self.answer(),
            72..84 => return self.error(),
            84..90 => self.host(),
            90..95 => self.neighbour(),
            95..97 if self.odd => self.odd(),
            97 if self.random.once_in(2) => return Step::Expire,
            97 => return Step::ExpireWith(self.remote()),
            _ => self.datagram(),
        };
        Step::Packet(step)
    }

    fn container(&mut self) -> Party {
        self.random.pick(&[Party::A, Party::A, Party::B])
    }

    fn remote(&mut self) -> Party {
        self.random.pick(&[Party::Server, Party::Server, Party::Narrow])
    }

    fn connect(&mut self) -> Packet {
        let connection = Connection {
            by: None,
            owner: self.container(),
            port: self.random.pick(&PORTS),
            remote: self.remote(),
            remote_port: self.random.pick(&REMOTE_PORTS),
            next: [self.random.word() as u32, self.random.word() as u32],
            state: State::Opening,
            finished: [false; 2],
        };
        self.open(connection)
    }

    fn open(&mut self, connection: Connection) -> Packet {
        let same = |other: &Connection| {
            (other.owner, other.port, other.remote, other.remote_port)
                == (connection.owner, connection.port, connection.remote, connection.remote_port)
        };
        // Where there is such a connection, its SYN is sent again, or it is opened anew if it is closed.
        let index = match self.connections.iter().position(same) {
            Some(index) => {
                let old = &mut self.connections[index];
                if matches!(old.state, State::Reset | State::Refused) || old.finished == [true; 2] {
                    *old = connection;
                } else if old.state == State::Open {
                    return self.segment(index, 0, ACK, 0);
                } else {
                    old.next[0] = old.next[0].wrapping_sub(u32::from(
                        old.state != State::Opening || old.next[0] != connection.next[0],
                    ));
                }
                index
            }
            None => {
                self.connections.push(connection);
                self.connections.len() - 1
            }
        };
        let packet = self.segment(index, 0, SYN, 0);
        self.connections[index].next[0] = self.connections[index].next[0].wrapping_add(1);
        packet
    }

    /// A segment of a connection, from side 0 (the container) or 1.
    fn segment(&mut self, index: usize, side: usize, flags: u8, length: u16) -> Packet {
        let connection = self.connections[index];
        let [from, _] = [[connection.owner, connection.remote], [connection.remote, connection.owner]][side];
        let to = match (side, connection.by) {
            (0, Some((to, _))) => to,
            (0, None) => To::Party(connection.remote),
            (_, Some(_)) if !connection.owner.is_container() => To::Party(connection.owner),
            _ => To::Flow(Flow {
                protocol: netd_common::wire::protocol::TCP,
                owner: connection.owner,
                port: connection.port,
                remote: connection.remote,
                remote_port: connection.remote_port,
            }),
        };
        let asked = connection.by.map_or(connection.remote_port, |(_, port)| port);
        let [source, destination] =
            [[connection.port, asked], [connection.remote_port, connection.port]][side];
        let seq = connection.next[side];
        let ack = if flags & ACK == 0 { 0 } else { connection.next[1 - side] };
        self.varied(Packet::new(from, to, Body::Tcp { source, destination, flags, seq, ack, length }))
    }

    /// What may come next on a connection.
    fn go_on(&mut self) -> Packet {
        let index = self.random.below(self.connections.len() as u64) as usize;
        let connection = self.connections[index];
        let length = self.random.pick(&[0, 1, 100, 1000]);
        let (side, flags, length) = match (connection.state, self.random.below(10)) {
            (State::Opening, 0) => (1, RST | ACK, 0),
            (State::Opening, 1) => (0, RST, 0),
            (State::Opening, _) => (1, SYN | ACK, 0),
            (State::Answered, 0) => (1, RST, 0),
            (State::Answered, 1) => (0, RST, 0),
            (State::Answered, _) => (0, ACK, length),
            (State::Open, 0) => (self.random.below(2) as usize, RST | ACK, 0),
            (State::Open, 1..4) => (self.random.below(2) as usize, FIN | ACK, length),
            (State::Open, _) => (self.random.below(2) as usize, PSH | ACK, length),
            (State::Reset, _) => (self.random.below(2) as usize, ACK, 0),
            (State::Refused, _) => (if self.odd { self.random.below(2) as usize } else { 0 }, ACK, 0),
        };
        // After its FIN a side only acknowledges.
        let (flags, length) =
            if connection.finished[side] && flags & RST == 0 { (ACK, 0) } else { (flags, length) };
        let packet = self.segment(index, side, flags, length);
        let connection = &mut self.connections[index];
        let ends = u32::from(flags & (SYN | FIN) != 0);
        connection.next[side] = connection.next[side].wrapping_add(u32::from(length) + ends);
        connection.finished[side] |= flags & FIN != 0;
        connection.state = match connection.state {
            State::Opening if flags & RST != 0 => State::Refused,
            State::Refused => State::Refused,
            _ if flags & RST != 0 => State::Reset,
            State::Opening => State::Answered,
            State::Answered => State::Open,
            state => state,
        };
        // Without data there is nothing to cut.
        self.cut(packet, length)
    }

    fn datagram(&mut self) -> Packet {
        let (owner, remote) = (self.container(), self.remote());
        let port = self.random.pick(&PORTS);
        let length = self.random.pick(&[0, 1, 64, 512, 1300, 1400]);
        let (protocol, remote_port, body) = if self.random.once_in(3) {
            (1, 0, Body::Echo { reply: false, identifier: port, length })
        } else {
            let destination = self.random.pick(&REMOTE_PORTS);
            let unchecked = self.unchecked();
            (17, destination, Body::Udp { source: port, destination, length, unchecked })
        };
        let flow = Flow { protocol, owner, port, remote, remote_port };
        if !self.datagrams.contains(&flow) {
            self.datagrams.push(flow);
        }
        let packet = self.varied(Packet::new(owner, To::Party(remote), body));
        self.cut(packet, length)
    }

    /// What a server answers to a datagram.
    fn answer(&mut self) -> Packet {
        let flow = self.random.pick(&self.datagrams.clone());
        let length = self.random.pick(&[0, 1, 64, 512, 1100]);
        // Not always by whom and from the port that was asked: that is no answer. (Nor another flow's: a port may be that of one
        // flow in one copy and of two in the other.)
        let asked = flow.protocol == 1 || !self.random.once_in(6);
        let from = if asked { flow.remote } else { self.remote() };
        let body = if flow.protocol == 1 {
            Body::Echo { reply: true, identifier: 0, length }
        } else {
            let source = if asked { flow.remote_port } else { 81 };
            Body::Udp { source, destination: 0, length, unchecked: self.unchecked() }
        };
        let packet = self.varied(Packet::new(from, To::Flow(flow), body));
        self.cut(packet, length)
    }

    /// Who comes to a published port, from which port, and to which address of the host's.
    fn visitor(&mut self) -> (Party, u16, To) {
        let from = self.random.pick(&[Party::Server, Party::Server, Party::Narrow, Party::B, Party::A]);
        let to = if from.is_container() && self.random.once_in(3) { To::Gateway } else { To::Node };
        (from, self.random.pick(&PORTS), to)
    }

    /// A connection to a published port.
    fn visit(&mut self) -> Packet {
        let (owner, port, to) = self.visitor();
        let published = self.random.pick(&[&PUBLISHED[0], &PUBLISHED[0], &PUBLISHED[2]]);
        let next = [self.random.word() as u32, self.random.word() as u32];
        self.open(Connection {
            by: Some((to, published.port)),
            owner,
            port,
            remote: published.owner,
            remote_port: published.inner,
            next,
            state: State::Opening,
            finished: [false; 2],
        })
    }

    /// A datagram to a published port.
    fn visit_by_datagram(&mut self) -> Packet {
        let (from, source, to) = self.visitor();
        let published = self.random.pick(&[&PUBLISHED[1], &PUBLISHED[1], &PUBLISHED[3]]);
        if !self.visits.contains(&(from, source, published)) {
            self.visits.push((from, source, published));
        }
        let length = self.random.pick(&[0, 1, 64, 512, 1100]);
        let destination = published.port;
        let body = Body::Udp { source, destination, length, unchecked: self.unchecked() };
        let packet = self.varied(Packet::new(from, to, body));
        self.cut(packet, length)
    }

    /// What the container answers to such a datagram.
    fn answer_visit(&mut self) -> Packet {
        let (client, port, published) = self.random.pick(&self.visits.clone());
        let Published { protocol, inner: source, owner: remote, .. } = *published;
        let flow = Flow { protocol, owner: client, port, remote, remote_port: source };
        let to = if client.is_container() { To::Flow(flow) } else { To::Party(client) };
        let length = self.random.pick(&[0, 1, 64, 512, 1300, 1400]);
        let body = Body::Udp { source, destination: port, length, unchecked: self.unchecked() };
        let packet = self.varied(Packet::new(remote, to, body));
        self.cut(packet, length)
    }

    /// Whether a datagram has no checksum: in IPv6, all have one.
    fn unchecked(&mut self) -> bool {
        self.random.once_in(5) && self.family == Family::V4
    }

    /// Now and then in fragments.
    fn cut(&mut self, mut packet: Packet, length: u16) -> Packet {
        if length >= 512 && !packet.options && self.random.once_in(2) {
            packet.cut = self.random.pick(&[256, 512, 104]);
            packet.df = false;
            // An error about it would quote the whole packet in one copy, its first fragment in the other.
            packet.ttl = packet.ttl.max(4);
            packet.reversed = self.odd && self.random.once_in(6);
        }
        packet
    }

    /// An error about what somebody has got.
    fn error(&mut self) -> Step {
        let about = self.random.pick(&Party::ALL);
        let from = match about {
            // Routers on the way have other addresses than the server.
            Party::Server | Party::Narrow if self.random.once_in(4) => self.remote(),
            Party::A | Party::B if self.odd && self.random.once_in(8) => self.container(),
            _ => about,
        };
        let mtu = self.random.pick(&[576, 1000, 1400]);
        let kinds = [
            (3, 0, 0),
            (3, 1, 0),
            (3, 3, 0),
            (3, 4, mtu),
            (3, 13, 0),
            (11, 0, 0),
            (11, 1, 0),
            (12, 0, 0x0900_0000),
        ];
        let kind = if self.odd && self.random.once_in(12) { (4, 0, 0) } else { self.random.pick(&kinds) };
        let quoted = self.random.pick(&[28, 28, 40, 64, 548]);
        let other_port = self.random.once_in(12) && (self.odd || !from.is_container());
        Step::Error(Error { from, about, kind, quoted, other_port })
    }

    /// The host is asked itself.
    fn host(&mut self) -> Packet {
        let from = self.random.pick(&Party::ALL);
        let to = if from.is_container() && self.random.once_in(2) { To::Gateway } else { To::Node };
        let (source, destination) = (self.random.pick(&PORTS), self.random.pick(&CLOSED));
        let body = match self.random.below(4) {
            0 => Body::Tcp { source, destination, flags: SYN, seq: 1, ack: 0, length: 0 },
            1 => Body::Tcp { source, destination, flags: ACK, seq: 1, ack: 7, length: 0 },
            2 => Body::Udp { source, destination, length: 10, unchecked: false },
            _ => Body::Echo { reply: false, identifier: source, length: 56 },
        };
        Packet::new(from, to, body)
    }

    /// Containers among each other.
    fn neighbour(&mut self) -> Packet {
        let (from, to) = self.random.pick(&[(Party::A, Party::B), (Party::B, Party::A)]);
        let (source, destination) = (self.random.pick(&PORTS), self.random.pick(&PORTS));
        let length = self.random.pick(&[0, 20, 1000]);
        let body = match self.random.below(4) {
            0 => Body::Tcp { source, destination, flags: SYN, seq: 1, ack: 0, length: 0 },
            1 => Body::Udp { source, destination, length, unchecked: self.unchecked() },
            2 => Body::Echo { reply: false, identifier: source, length },
            _ => Body::Echo { reply: true, identifier: source, length },
        };
        let packet = self.varied(Packet::new(from, To::Party(to), body));
        let packet = self.cut(packet, length);
        Packet { reversed: false, ..packet }
    }

    /// What should not be.
    fn odd(&mut self) -> Packet {
        let (from, to) = (self.container(), To::Party(self.remote()));
        let (source, destination) = (self.random.pick(&PORTS), self.random.pick(&REMOTE_PORTS));
        let flags =
            self.random.pick(&[0, SYN, FIN, RST, SYN | ACK, FIN | ACK, RST | ACK, SYN | FIN, 0x3f, ACK, PSH]);
        let segment = Body::Tcp { source, destination, flags, seq: 5, ack: 6, length: 0 };
        match self.random.below(6) {
            0 => Packet::new(
                from,
                to,
                Body::Other { protocol: self.random.pick(&[132, 47, 50, 253]), length: 40 },
            ),
            1 => Packet::new(
                from,
                to,
                Body::Icmp { kind: self.random.pick(&[13, 15, 17]), identifier: source },
            ),
            2 => Packet::new(from, to, Body::Echo { reply: true, identifier: source, length: 8 }),
            3 => Packet {
                spoiled: true,
                ..Packet::new(from, to, Body::Udp { source, destination, length: 8, unchecked: false })
            },
            4 if !self.connections.is_empty() => {
                // Another flag than may be now.
                let index = self.random.below(self.connections.len() as u64) as usize;
                let side = self.random.below(2) as usize;
                self.segment(index, side, flags, 0)
            }
            _ => Packet::new(from, to, segment),
        }
    }

    /// With what headers may have.
    fn varied(&mut self, mut packet: Packet) -> Packet {
        packet.df = self.random.once_in(2);
        packet.options = self.random.once_in(25);
        if self.random.once_in(15) {
            // An answer's time is up at the host with two hops.
            let two = if self.odd || packet.from.is_container() { 2 } else { 3 };
            packet.ttl = self.random.pick(&[1, two, 3, 4, 255]);
        }
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_story() {
        assert_eq!(story(7), story(7));
        assert_ne!(story(7), story(8));
    }
}
