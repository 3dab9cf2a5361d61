//! Reading the flow table for people, beside the task that owns the datapath: a walk over a full one takes half a second.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use netd_common::{
    V4, V6,
    abi::Tuple,
    flow::{State, TICK_SHIFT, Ticks, service},
};

use super::{
    Datapath,
    family::Family,
    flows::{Record, now, step},
    syscall::Walk,
};

/// A flow, seen from the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEntry {
    /// The IP protocol's number.
    pub protocol: u8,
    /// The container's address...
    pub address: IpAddr,
    /// ... and its port, or echo identifier.
    pub port: u16,
    /// Whom it talks to...
    pub remote: IpAddr,
    /// ... and the port there.
    pub remote_port: u16,
    /// What stands for the container on the wire...
    pub translated: IpAddr,
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
        } else if State::is_answered(state) {
            Self::Established
        } else {
            Self::Unreplied
        }
    }
}

/// Which flows are meant; what is not said is any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Those of an endpoint, by its slot.
    pub slot: Option<u32>,
    /// Those of a protocol.
    pub protocol: Option<Protocol>,
    /// Those with another party.
    pub remote: Option<IpAddr>,
}

/// A protocol by its number, which may depend on the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Over IPv4.
    pub v4: u8,
    /// Over IPv6.
    pub v6: u8,
}

impl FlowFilter {
    pub(super) fn fits<A: Family>(&self, tuple: &Tuple<A>, record: &Record<A>) -> bool {
        let number = |protocol: Protocol| if A::V6 { protocol.v6 } else { protocol.v4 };
        self.protocol.is_none_or(|protocol| number(protocol) == tuple.protocol)
            && self.slot.is_none_or(|slot| slot == record.slot)
            && self.remote.is_none_or(|remote| remote == tuple.source.ip())
    }
}

/// A reader of the flow tables.
#[derive(Debug)]
pub struct FlowReader {
    v4: MapData,
    v6: MapData,
}

impl Datapath {
    /// A reader of the flow tables that needs the datapath no more.
    ///
    /// # Errors
    /// A table's pin is gone.
    pub fn flow_reader(&self) -> Result<FlowReader> {
        let (v4, v6) = self.flow_tables()?;
        Ok(FlowReader { v4, v6 })
    }

    /// More handles to the tables.
    pub(super) fn flow_tables(&self) -> Result<(MapData, MapData)> {
        let open = |name: &str| {
            MapData::from_pin(self.pins.map(name)).with_context(|| format!("opening map {name}"))
        };
        Ok((open(V4::NAMES.flows)?, open(V6::NAMES.flows)?))
    }
}

impl FlowReader {
    /// The flows that are meant, at most `limit`, and how many there are in all. Those that come and go meanwhile may be
    /// seen or not.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn read(&self, filter: &FlowFilter, limit: usize) -> Result<(Vec<FlowEntry>, usize)> {
        let (mut found, total) = read::<V4>(&self.v4, filter, limit)?;
        let (more, total6) = read::<V6>(&self.v6, filter, limit - found.len())?;
        found.extend(more);
        Ok((found, total + total6))
    }
}

fn read<A: Family>(flows: &MapData, filter: &FlowFilter, limit: usize) -> Result<(Vec<FlowEntry>, usize)> {
    let (mut found, mut total) = (Vec::new(), 0);
    let mut outward: HashMap<Tuple<A>, Ticks> = HashMap::new();
    let mut walk = Walk::default();
    let mut more = true;
    while more {
        more = step(flows, &mut walk, |tuple, record| {
            if tuple.direction == Tuple::<A>::OUT {
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
    let entry = |(tuple, record): (Tuple<A>, Record<A>)| {
        let other = outward.get(&tuple.opposite(record.address, record.port)).copied();
        entry(&tuple, &record, other, now)
    };
    Ok((found.into_iter().map(entry).collect(), total))
}

fn entry<A: Family>(tuple: &Tuple<A>, record: &Record<A>, other: Option<Ticks>, now: Ticks) -> FlowEntry {
    // A clock read on another CPU may be a tick ahead.
    let idle = |seen: Ticks| Some(now.wrapping_sub(seen)).filter(|idle| *idle < Ticks::MAX / 2).unwrap_or(0);
    let idle = other.map_or(idle(record.seen), |other| idle(record.seen).min(idle(other)));
    let time = |ticks: Ticks| Duration::from_nanos(u64::from(ticks) << TICK_SHIFT);
    FlowEntry {
        protocol: tuple.protocol,
        address: record.address.ip(),
        port: record.port.host(),
        remote: tuple.source.ip(),
        remote_port: tuple.source_port.host(),
        translated: tuple.destination.ip(),
        translated_port: tuple.destination_port.host(),
        phase: Phase::of(record.state),
        idle: time(idle),
        timeout: time(State::timeout(record.state, tuple.protocol, service(tuple))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases() {
        for (state, expected) in [
            (0, Phase::Unreplied),
            (State::SENT, Phase::Unreplied),
            (State::REPLIED, Phase::Unreplied),
            (State::SENT | State::REPLIED, Phase::Established),
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
