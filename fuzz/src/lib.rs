//! Bytes as a story of packets, and what must hold whatever they are.
//!
//! The world is that of the table of cases, in IPv4 and IPv6: two masqueraded containers, a routed one, a near node and a far one. A story is a
//! sequence of steps: time passes, flows are collected, a packet comes to one of the programs. Packets are raw bytes, or made
//! of addresses and ports that mean something, or the last packet turned around, with right checksums, whole or cut off.

mod bytes;
mod check;
mod packet;
mod packet6;
mod view;

use std::thread;

use netd_common::{
    To, V4,
    flow::When,
    host::{
        Frame, Memory,
        cases::{At, FAR_NODE, Member, UPLINK_MACS, World, run},
        schedule,
    },
};

use self::{
    bytes::Bytes,
    check::{Checked, Senders},
};

/// The world of the stories.
pub(crate) const WORLD: World = World::new([11, 12, 13, 20, 30]);
/// Longer stories find nothing that shorter ones do not.
const STEPS: usize = 40;

/// Plays a story, and checks what must hold after each step.
///
/// # Panics
/// Something does not hold.
pub fn play(story: &[u8]) {
    let mut bytes = Bytes::new(story);
    let tables = tables();
    tables.seed.set(u64::from(bytes.next()) + 1);
    let (mut senders, mut last) = (Senders::default(), Vec::new());
    for _ in 0..STEPS {
        if bytes.is_empty() {
            return;
        }
        step(&tables, &mut bytes, &mut last, Some(&mut senders));
        check::flows(&tables);
    }
}

/// Plays stories on several threads over the same tables, each thread all of them, but beginning with another one. While they run nothing
/// is certain but that nothing panics; then every flow has both its entries, all are counted, and no endpoint has more than its quota.
///
/// # Panics
/// Something does not hold.
pub fn play_together(stories: &[Vec<u8>], threads: usize) {
    let tables = tables();
    thread::scope(|scope| {
        for thread in 0..threads {
            let tables = &tables;
            let (before, after) = stories.split_at(stories.len() / threads * thread);
            let all = after.iter().chain(before);
            scope.spawn(move || schedule::with_pauses(|| all.for_each(|story| steps(tables, story))));
        }
    });
    check::flows(&tables);
    check::quotas(&tables);
}

/// The steps of a story, without a look at what comes of them.
fn steps(tables: &Memory<V4>, story: &[u8]) {
    let mut bytes = Bytes::new(story);
    let mut last = Vec::new();
    bytes.next();
    for _ in 0..STEPS {
        if bytes.is_empty() {
            return;
        }
        step(tables, &mut bytes, &mut last, None);
    }
}

/// The next step of a story. `last`: the last packet that has gone somewhere. With `senders`, what becomes of a packet is checked.
fn step(tables: &Memory<V4>, bytes: &mut Bytes<'_>, last: &mut Vec<u8>, senders: Option<&mut Senders>) {
    match bytes.next() % 8 {
        0 => {
            let ticks = 1 << (bytes.next() % 16);
            tables.time.update(|now| now + ticks);
        }
        1 => {
            let when = if bytes.next().is_multiple_of(2) { When::TimedOut } else { When::Reusable };
            tables.collect(when);
            tables.collect6(when);
        }
        choice => {
            let at = place(choice, bytes);
            let packet = packet::make(bytes, at, last);
            let sent = frame(at, &packet, bytes);
            let mut frame = Frame::new(sent.clone());
            let checked = Checked::before(&sent);
            let verdict = run(&WORLD, tables, at, &mut frame);
            if let Some(senders) = senders {
                checked.after((tables, senders), at, &verdict, &sent, &frame.bytes);
            }
            if verdict.to != To::Drop && frame.bytes.len() > 34 {
                *last = frame.bytes[14..].to_vec();
            }
        }
    }
}

/// The tables of the world, with few ports, so that they collide.
fn tables() -> Memory<V4> {
    let mut tables = WORLD.tables();
    let mut config = **tables.config.as_ref().expect("the world has a node");
    (config.first_port, config.last_port) = packet::RANGE;
    tables.config = Some(config.into());
    let v6 = tables.v6.as_mut().expect("the world has IPv6");
    let mut config = **v6.config.as_ref().expect("the node has IPv6");
    (config.first_port, config.last_port) = packet::RANGE;
    v6.config = Some(config.into());
    tables
}

/// Which program the packet comes to.
fn place(choice: u8, bytes: &mut Bytes<'_>) -> At {
    match choice {
        2 | 3 => At::FromContainer(WORLD.a.ifindex),
        4 => At::FromContainer([WORLD.b, WORLD.c][usize::from(bytes.next() % 2)].ifindex),
        5 | 6 => At::FromUplink,
        _ => match bytes.next() % 4 {
            0 => At::ToContainer(WORLD.a.ifindex, WORLD.uplink),
            1 => At::ToContainer(WORLD.c.ifindex, 0),
            2 => At::FromOverlay(FAR_NODE, 0x6e_0001),
            _ => At::FromContainer(WORLD.stranger),
        },
    }
}

/// The packet in the Ethernet frame that it would come in; now and then with other addresses.
fn frame(at: At, packet: &[u8], bytes: &mut Bytes<'_>) -> Vec<u8> {
    let (mut destination, source) = match at {
        At::FromContainer(ifindex) => {
            let from = member(ifindex).unwrap_or(WORLD.a);
            (from.host_mac, from.mac)
        }
        _ => UPLINK_MACS,
    };
    let mut ethertype = if packet.first().is_some_and(|first| first >> 4 == 6) { 0x86dd } else { 0x0800 };
    match bytes.next() {
        0 => destination = [0xff; 6],
        1 => ethertype = 0x0806,
        2 => ethertype = 0x0800,
        3 => ethertype = 0x86dd,
        _ => {}
    }
    netd_common::host::build::ethernet(destination, source, ethertype, packet)
}

/// The container behind a link.
pub(crate) fn member(ifindex: u32) -> Option<Member> {
    [WORLD.a, WORLD.b, WORLD.c].into_iter().find(|member| member.ifindex == ifindex)
}
