//! Reading the flow table for people, beside the task that owns the datapath: a walk over a full one takes half a second.

use std::{collections::HashMap, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use netd_common::{
    V4,
    abi::Tuple,
    flow::{State, TICK_SHIFT, Ticks, service},
};

use super::{
    Datapath,
    flows::{Record, now, step},
    syscall::Walk,
};

/// A flow, seen from the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEntry {
    /// The IP protocol's number.
    pub protocol: u8,
    /// The container's address...
    pub address: Ipv4Addr,
    /// ... and its port, or echo identifier.
    pub port: u16,
    /// Whom it talks to...
    pub remote: Ipv4Addr,
    /// ... and the port there.
    pub remote_port: u16,
    /// What stands for the container on the wire...
    pub translated: Ipv4Addr,
    /// ... and the port or echo identifier of that.
    pub translated_port: u16,
    /// How far it has got.
    pub phase: Phase,
    /// Since its last packet.
    pub idle: Duration,
    /// What it is kept for after its last packet.
    pub timeout: Duration,
}

/// How far a flow has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing came back yet.
    Unreplied,
    /// Packets go both ways.
    Established,
    /// One side has closed.
    Closing,
    /// Both sides have closed.
    Closed,
    /// One side has reset it.
    Reset,
}

impl Phase {
    fn of(state: u32) -> Self {
        let has = |bits| state & bits != 0;
        if has(State::RST_IN | State::RST_OUT) {
            Self::Reset
        } else if has(State::FIN_IN) && has(State::FIN_OUT) {
            Self::Closed
        } else if has(State::FIN_IN | State::FIN_OUT) {
            Self::Closing
        } else if has(State::REPLIED) {
            Self::Established
        } else {
            Self::Unreplied
        }
    }
}

/// Which flows are meant; what is not said is any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Those of a container's address.
    pub address: Option<Ipv4Addr>,
    /// Those of an IP protocol.
    pub protocol: Option<u8>,
    /// Those with another party.
    pub remote: Option<Ipv4Addr>,
}

impl FlowFilter {
    pub(super) fn fits(&self, tuple: &Tuple<V4>, record: &Record) -> bool {
        let is = |wanted: Option<Ipv4Addr>, found: V4| wanted.is_none_or(|wanted| wanted == addr(found));
        self.protocol.is_none_or(|protocol| protocol == tuple.protocol)
            && is(self.address, record.address)
            && is(self.remote, tuple.source)
    }
}

/// A reader of the flow table.
#[derive(Debug)]
pub struct FlowReader(MapData);

impl Datapath {
    /// A reader of the flow table that needs the datapath no more.
    ///
    /// # Errors
    /// The table's pin is gone.
    pub fn flow_reader(&self) -> Result<FlowReader> {
        MapData::from_pin(self.pins.map("FLOWS4")).map(FlowReader).context("opening map FLOWS4")
    }

    /// Removes the flows that are meant. Returns how many.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn remove_flows_that(&mut self, filter: &FlowFilter) -> Result<usize> {
        self.remove_flows(|tuple, record| filter.fits(tuple, record))
    }
}

impl FlowReader {
    /// The flows that are meant, at most `limit`, and how many there are in all. Those that come and go meanwhile may be
    /// seen or not.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn read(&self, filter: &FlowFilter, limit: usize) -> Result<(Vec<FlowEntry>, usize)> {
        let (mut found, mut total) = (Vec::new(), 0);
        let mut outward: HashMap<Tuple<V4>, Ticks> = HashMap::new();
        let mut walk = Walk::default();
        let mut more = true;
        while more {
            more = step(&self.0, &mut walk, |tuple, record| {
                if tuple.direction == Tuple::<V4>::OUT {
                    outward.insert(*tuple, record.seen);
                } else if filter.fits(tuple, record) {
                    total += 1;
                    if found.len() < limit {
                        found.push((*tuple, *record));
                    }
                }
            })?;
        }
        let now = now();
        let entry = |(tuple, record): (Tuple<V4>, Record)| {
            let other = outward.get(&tuple.opposite(record.address, record.port)).copied();
            entry(&tuple, &record, other, now)
        };
        Ok((found.into_iter().map(entry).collect(), total))
    }
}

fn entry(tuple: &Tuple<V4>, record: &Record, other: Option<Ticks>, now: Ticks) -> FlowEntry {
    // A clock read on another CPU may be a tick ahead.
    let idle = |seen: Ticks| Some(now.wrapping_sub(seen)).filter(|idle| *idle < Ticks::MAX / 2).unwrap_or(0);
    let idle = other.map_or(idle(record.seen), |other| idle(record.seen).min(idle(other)));
    let time = |ticks: Ticks| Duration::from_nanos(u64::from(ticks) << TICK_SHIFT);
    FlowEntry {
        protocol: tuple.protocol,
        address: addr(record.address),
        port: record.port.host(),
        remote: addr(tuple.source),
        remote_port: tuple.source_port.host(),
        translated: addr(tuple.destination),
        translated_port: tuple.destination_port.host(),
        phase: Phase::of(record.state),
        idle: time(idle),
        timeout: time(State::timeout(record.state, tuple.protocol, service(tuple))),
    }
}

fn addr(address: V4) -> Ipv4Addr {
    address.bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases() {
        for (state, expected) in [
            (0, Phase::Unreplied),
            (State::REPLIED, Phase::Established),
            (State::REPLIED | State::FIN_IN, Phase::Closing),
            (State::REPLIED | State::FIN_OUT, Phase::Closing),
            (State::REPLIED | State::FIN_OUT | State::FIN_IN, Phase::Closed),
            (State::REPLIED | State::RST_IN, Phase::Reset),
            (State::RST_OUT, Phase::Reset),
        ] {
            assert_eq!(Phase::of(state), expected, "{state:#b}");
        }
    }
}
