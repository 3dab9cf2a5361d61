//! The table of [`super::cases`]: ICMP errors about connections from one container to another by a published port, of both families.

use std::net::IpAddr;

use super::{
    build::{Body, Ip, Ip6, MacBytes, ethernet, icmp_error, ipv4_of, ipv6_of},
    cases::{At, Case, Fate, Member, NODE, OTHER, QUOTA, SERVER, Step, UPLINK_MACS, World, case, unchanged},
    ipv6::{NODE6, OTHER6, SERVER6},
};
use crate::{
    Drop, To, Way,
    wire::tcp::{ACK, SYN},
};

/// A container's port, within the range, so that it is kept.
const KEPT: u16 = 50_200;
/// What is quoted behind the network header at least (RFC 792), and more.
const SHORT: usize = 8;
const LONG: usize = 90;

/// What an error says: type, code and second word in IPv4 and in IPv6.
type Kind = [(u8, u8, u32); 2];
const PORT: Kind = [(3, 3, 0), (1, 4, 0)];
const TOO_BIG: Kind = [(3, 4, 1400), (2, 0, 1400)];
const TIME: Kind = [(11, 0, 0), (3, 0, 0)];
const PARAMETER: Kind = [(12, 0, 0x0800_0000), (4, 1, 40)];
const PROHIBITED: Kind = [(3, 13, 0), (1, 1, 0)];
const REDIRECT: Kind = [(5, 1, 0x0a00_0001), (137, 0, 0)];

pub(super) fn cases(world: &World) -> Vec<Case> {
    [Family { v6: false }, Family { v6: true }]
        .into_iter()
        .flat_map(|family| {
            [family.both_ways(world), family.not_theirs(world), family.forged(world), family.own(world)]
                .concat()
        })
        .collect()
}

/// One address family.
#[derive(Clone, Copy)]
struct Family {
    v6: bool,
}

/// A connection from `client`'s port [`KEPT`] by a port of the host's.
#[derive(Clone, Copy)]
struct Connection {
    host: IpAddr,
    client: Member,
    server: Member,
    host_port: u16,
    port: u16,
}

fn packet(source: IpAddr, destination: IpAddr, ttl: u8, body: &Body) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ipv4_of(&Ip { ttl, ..Ip::new(source.octets(), destination.octets()) }, body)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ipv6_of(&Ip6 { hops: ttl, ..Ip6::new(source.octets(), destination.octets()) }, body)
        }
        _ => panic!("a packet has addresses of one family"),
    }
}

fn framed(destination: MacBytes, source: MacBytes, packet: &[u8]) -> Vec<u8> {
    ethernet(destination, source, if packet[0] >> 4 == 6 { 0x86dd } else { 0x0800 }, packet)
}

/// A packet of a connection, TCP's or UDP's by the host's port.
fn body(source: u16, destination: u16, flags: u8) -> Body {
    if source == 5353 || source == 53 || destination == 5353 || destination == 53 {
        return Body::Udp(source, destination, vec![5; 200]);
    }
    Body::Tcp(source, destination, flags, vec![])
}

impl Family {
    fn of(self, member: Member) -> IpAddr {
        if self.v6 { member.address6().into() } else { member.address.into() }
    }

    fn pick(self, v4: [u8; 4], v6: [u8; 16]) -> IpAddr {
        if self.v6 { v6.into() } else { v4.into() }
    }

    fn named(self, name: &str) -> String {
        if self.v6 { format!("IPv6: {name}") } else { name.to_owned() }
    }

    fn node(self) -> IpAddr {
        self.pick(NODE, NODE6)
    }

    fn gateway(self, of: Member) -> IpAddr {
        self.pick(of.network.gateway, of.network.gateway6())
    }

    /// An error that quotes so many bytes of a packet from behind its network header on.
    fn error(self, kind: Kind, quoted: &[u8], length: usize) -> Body {
        let header = if self.v6 { 40 } else { 20 };
        let quote = &quoted[..quoted.len().min(header + length)];
        let (number, code, word) = kind[usize::from(self.v6)];
        if self.v6 {
            Body::Icmp6(number, code, word, quote.to_vec())
        } else {
            icmp_error((number, code, word), quote)
        }
    }

    /// What a container sends to an address of the host's.
    fn sends(self, from: Member, to: IpAddr, ttl: u8, body: &Body) -> Vec<u8> {
        framed(from.host_mac, from.mac, &packet(self.of(from), to, ttl, body))
    }

    /// A packet that comes from one container to another, translated twice.
    fn across(self, host: IpAddr, (from, to): (Member, Member), before: &Body, after: &Body) -> Step {
        Step {
            at: At::FromContainer(from.ifindex),
            frame: self.sends(from, host, 64, before),
            fate: Fate::Goes(To::Peer, Way::Hairpin),
            after: framed(to.mac, to.host_mac, &packet(host, self.of(to), 63, after)),
            free: &[],
        }
    }

    fn to_host(self, from: Member, to: IpAddr, body: &Body) -> Step {
        let frame = self.sends(from, to, 64, body);
        unchanged(At::FromContainer(from.ifindex), frame, Fate::Goes(To::Stack, Way::ToHost))
    }

    /// What goes nowhere, and its sender is told.
    fn told(self, from: Member, sent: Vec<u8>, kind: Kind, reason: Drop) -> Step {
        let error = self.error(kind, &sent[14..], SHORT);
        let (gateway, to) = (self.gateway(from), self.of(from));
        let mut answer = packet(gateway, to, 64, &error);
        if let (IpAddr::V4(gateway), IpAddr::V4(to)) = (gateway, to) {
            answer = ipv4_of(&Ip { id: 0, ..Ip::new(gateway.octets(), to.octets()) }, &error);
        }
        Step {
            at: At::FromContainer(from.ifindex),
            frame: sent,
            fate: Fate::Answered(reason),
            after: framed(from.mac, from.host_mac, &answer),
            free: &[],
        }
    }

    fn ask(self, c: &Connection) -> Step {
        let (before, after) = (body(KEPT, c.host_port, SYN), body(KEPT, c.port, SYN));
        self.across(c.host, (c.client, c.server), &before, &after)
    }

    fn answer(self, c: &Connection) -> Step {
        let (before, after) = (body(c.port, KEPT, SYN | ACK), body(c.host_port, KEPT, SYN | ACK));
        self.across(c.host, (c.server, c.client), &before, &after)
    }

    /// The question as its receiver has got it, and as its sender has sent it.
    fn questions(self, c: &Connection) -> (Vec<u8>, Vec<u8>) {
        (
            packet(c.host, self.of(c.server), 1, &body(KEPT, c.port, SYN)),
            packet(self.of(c.client), c.host, 1, &body(KEPT, c.host_port, SYN)),
        )
    }

    /// The answer likewise.
    fn answers(self, c: &Connection) -> (Vec<u8>, Vec<u8>) {
        (
            packet(c.host, self.of(c.client), 1, &body(c.host_port, KEPT, SYN | ACK)),
            packet(self.of(c.server), c.host, 1, &body(c.port, KEPT, SYN | ACK)),
        )
    }

    /// The server's error about the question.
    fn refuses(self, c: &Connection, kind: Kind, length: usize) -> Step {
        let (got, sent) = self.questions(c);
        let (before, after) = (self.error(kind, &got, length), self.error(kind, &sent, length));
        self.across(c.host, (c.server, c.client), &before, &after)
    }

    /// The client's error about the answer.
    fn complains(self, c: &Connection, kind: Kind, length: usize) -> Step {
        let (got, sent) = self.answers(c);
        let (before, after) = (self.error(kind, &got, length), self.error(kind, &sent, length));
        self.across(c.host, (c.client, c.server), &before, &after)
    }

    fn udp(self, world: &World) -> Connection {
        Connection { host: self.node(), client: world.b, server: world.a, host_port: 5353, port: 53 }
    }

    fn both_ways(self, world: &World) -> Vec<Case> {
        let (a, b, c) = (world.a, world.b, world.c);
        let udp = self.udp(world);
        let tcp = Connection { host_port: 8080, port: 80, ..udp };
        let all = [
            ("UDP", udp),
            ("TCP", tcp),
            ("UDP by the gateway's address", Connection { host: self.gateway(b), ..udp }),
            ("TCP by another address of the host's", Connection { host: self.pick(OTHER, OTHER6), ..tcp }),
            ("UDP from another network", Connection { client: c, ..udp }),
            ("TCP to a routed network", Connection { client: a, server: c, host_port: 8088, ..tcp }),
            ("UDP to itself", Connection { client: a, ..udp }),
        ];
        let story = |(name, connection): (&str, Connection)| {
            let mut steps = vec![self.ask(&connection), self.answer(&connection)];
            for kind in [PORT, TOO_BIG, TIME, PARAMETER] {
                for length in [SHORT, LONG] {
                    steps.push(self.refuses(&connection, kind, length));
                    steps.push(self.complains(&connection, kind, length));
                }
            }
            case(self.named(&format!("errors across a published port: {name}")), steps)
        };
        let mut cases: Vec<_> = all.into_iter().map(story).collect();
        let bare = |from, to| Body::UdpUnchecked(from, to, vec![5; 40]);
        let (got, sent) = (
            packet(udp.host, self.of(a), 1, &bare(KEPT, 53)),
            packet(self.of(b), udp.host, 1, &bare(KEPT, 5353)),
        );
        cases.push(case(
            self.named("errors across a published port: UDP without a checksum stays without"),
            vec![
                self.ask(&udp),
                self.across(
                    udp.host,
                    (a, b),
                    &self.error(PORT, &got, SHORT),
                    &self.error(PORT, &sent, SHORT),
                ),
            ],
        ));
        cases
    }

    /// Errors of containers that are about no connection between them.
    fn not_theirs(self, world: &World) -> Vec<Case> {
        let udp = self.udp(world);
        let (a, host) = (world.a, udp.host);
        let (got, _) = self.questions(&udp);
        let pass = |body: &Body| self.to_host(a, host, body);
        let stranger = packet(host, self.of(a), 1, &body(KEPT + 1, 53, 0));
        let echo = packet(host, self.of(a), 1, &Body::Icmp(if self.v6 { 128 } else { 8 }, 0, KEPT, vec![]));
        let elsewhere = self.pick(OTHER, OTHER6);
        let from_outside = Connection { host, ..udp };
        let (router, node) = (UPLINK_MACS.1, UPLINK_MACS.0);
        let server = self.pick(SERVER, SERVER6);
        let visit = Step {
            at: At::FromUplink,
            frame: framed(node, router, &packet(server, host, 64, &body(KEPT, 5353, 0))),
            fate: Fate::Goes(To::Peer, if self.v6 { Way::Reply } else { Way::Published }),
            after: framed(a.mac, a.host_mac, &packet(server, self.of(a), 63, &body(KEPT, 53, 0))),
            free: &[],
        };
        let mut steps = vec![
            // Before there is a connection.
            pass(&self.error(PORT, &got, SHORT)),
            visit,
            pass(&self.error(PORT, &got, SHORT)),
            self.ask(&from_outside),
            // About another port, to another than its sender, cut short, about no packet that has ports.
            pass(&self.error(PORT, &stranger, SHORT)),
            self.to_host(a, elsewhere, &self.error(PORT, &got, SHORT)),
            pass(&self.error(PORT, &got, SHORT - 1)),
            pass(&self.error(PORT, &echo, SHORT)),
        ];
        if !self.v6 {
            // A redirect says nothing of a connection; IPv6's is neighbour discovery.
            steps.push(pass(&self.error(REDIRECT, &got, SHORT)));
        }
        steps.push(self.refuses(&udp, PORT, SHORT));
        let gone = self.sends(a, host, 1, &self.error(PORT, &got, SHORT));
        steps.push(unchanged(At::FromContainer(a.ifindex), gone, Fate::Dropped(Drop::TtlExpired)));
        vec![case(self.named("errors of containers that are the host's, or whose time is up"), steps)]
    }

    /// Errors about connections between containers of those that have no part in them.
    fn forged(self, world: &World) -> Vec<Case> {
        let udp = self.udp(world);
        let (router, node) = (UPLINK_MACS.1, UPLINK_MACS.0);
        let (got, sent) = self.questions(&udp);
        let spoofed = |from: Member, quoted: &[u8]| {
            let frame = self.sends(from, udp.host, 64, &self.error(PORT, quoted, SHORT));
            unchanged(At::FromContainer(from.ifindex), frame, Fate::Dropped(Drop::SpoofedError))
        };
        // As it would be outside, where nobody sees it.
        let between = packet(udp.host, udp.host, 1, &body(KEPT, 5353, 0));
        let outside = |from| {
            let error = packet(from, udp.host, 64, &self.error(PORT, &between, SHORT));
            unchanged(At::FromUplink, framed(node, router, &error), Fate::Passes)
        };
        vec![case(
            self.named("errors about others' connections by a published port"),
            vec![
                self.ask(&udp),
                spoofed(world.c, &got),
                spoofed(udp.client, &got),
                spoofed(udp.client, &sent),
                outside(udp.host),
                outside(self.pick(SERVER, SERVER6)),
            ],
        )]
    }

    /// Errors of netd's own about packets to other containers.
    fn own(self, world: &World) -> Vec<Case> {
        let udp = self.udp(world);
        let Connection { host, client: b, server: a, .. } = udp;
        let expired =
            |from, body: &Body| self.told(from, self.sends(from, host, 1, body), TIME, Drop::TtlExpired);
        let another = |n: u16, port| Body::Udp(KEPT + n, port, vec![1]);
        let mut steps: Vec<_> = (0..QUOTA as u16)
            .map(|n| self.across(host, (b, a), &another(n, 5353), &another(n, 53)))
            .collect();
        let refused = |from, n| {
            let sent = self.sends(from, host, 64, &another(n, 5353));
            self.told(from, sent, PROHIBITED, Drop::FlowQuota)
        };
        // Its own, and then the receiver's.
        steps.extend([refused(b, QUOTA as u16), refused(world.c, 0)]);
        vec![
            case(
                self.named("time up on the way to another container by a published port"),
                vec![
                    expired(b, &body(KEPT, 5353, 0)),
                    self.ask(&udp),
                    expired(b, &body(KEPT, 5353, 0)),
                    expired(a, &body(53, KEPT, 0)),
                ],
            ),
            case(self.named("more connections to other containers than an endpoint may have"), steps),
        ]
    }
}
