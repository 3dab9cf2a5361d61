//! The flow table from user space: it reads, and lets the `flow_gc` program remove.

use std::{collections::HashSet, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use aya::{
    maps::MapData,
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use netd_common::{
    V4,
    abi::{Flow, FlowList, Fragment, FragmentKey, Tuple},
    flow::{State, TICK_SHIFT, Ticks, service},
    fragment,
    wire::Be16,
};

use super::{Datapath, Expired, FLOW_GC, syscall::Walk, v4};

/// A flow of the table: its inbound entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) seen: Ticks,
    pub(super) state: u32,
    pub(super) slot: u32,
    pub(super) address: V4,
    pub(super) port: Be16,
    pub(super) flags: u16,
}

impl Datapath {
    /// Looks at the next part of the table, some 30,000 entries in some 10 ms, and removes the flows that have timed out.
    /// Where the table or an endpoint's quota is more than half used up, connections that are closed go too.
    pub fn expire_flows(&mut self) -> Result<Expired> {
        const STEPS: usize = 8;
        let counts = self.flow_counts()?;
        let all: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        if all == 0 {
            self.expiry = Walk::default();
            return Ok(Expired::default());
        }
        let table_is_filling = all > u64::from(self.maps.max_flows) / 2;
        let quota = self.config.map_or(u32::MAX, |config| config.max_flows_per_endpoint);
        let pressed: HashSet<u32> = (0u32..)
            .zip(&counts)
            .filter(|(_, count)| table_is_filling || **count > quota / 2)
            .map(|(slot, _)| slot)
            .collect();
        let now = now();
        let (mut expired, mut reclaimed) = (Vec::new(), Vec::new());
        let mut walk = std::mem::take(&mut self.expiry);
        let mut more = true;
        for _ in 0..STEPS {
            more = self.flows_of_step(&mut walk, |tuple, flow| {
                // A first look; whether the flow may go is for the program to say, which sees its other direction too.
                let idle = now.wrapping_sub(flow.seen);
                let may_go = |limit| idle > limit && idle < Ticks::MAX / 2;
                if may_go(State::timeout(flow.state, tuple.protocol, service(tuple))) {
                    expired.push(*tuple);
                } else if pressed.contains(&flow.slot)
                    && may_go(State::reuse(flow.state, tuple.protocol, service(tuple)))
                {
                    reclaimed.push(*tuple);
                }
            })?;
            if !more {
                break;
            }
        }
        self.expiry = walk;
        let removed =
            self.run_gc(&expired, FlowList::EXPIRE)? + self.run_gc(&reclaimed, FlowList::RECLAIM)?;
        Ok(Expired { removed, more })
    }

    /// Removes all flows of an address, an endpoint's or one that the uplink no longer has. Returns how many.
    pub fn flush_flows(&mut self, address: Ipv4Addr) -> Result<usize> {
        let address = v4(address);
        self.remove_flows(|tuple, flow| flow.address == address || tuple.destination == address)
    }

    /// Removes the flows for which `which` says so.
    pub(super) fn remove_flows(&mut self, which: impl Fn(&Tuple<V4>, &Record) -> bool) -> Result<usize> {
        let mut list = Vec::new();
        self.each_flow(|tuple, flow| {
            if which(tuple, flow) {
                list.push(*tuple);
            }
        })?;
        self.run_gc(&list, FlowList::REMOVE)
    }

    /// Packets whose fragments may still be under way.
    pub(super) fn fragments(&self) -> Result<usize> {
        let now = now();
        let (mut walk, mut count) = (Walk::default(), 0);
        // Words, as in `flows_of_step`.
        type Words = [u32; size_of::<Fragment<V4>>() / 4];
        let mut more = true;
        while more {
            more = walk
                .step::<[u32; size_of::<FragmentKey<V4>>() / 4], Words>(
                    &self.maps.fragments,
                    |_, [seen, ..]| {
                        count += usize::from(fragment::is_fresh(*seen, now));
                    },
                )
                .context("reading map FRAGMENTS4")?;
        }
        Ok(count)
    }

    /// How many flows each slot has.
    pub(super) fn flow_counts(&self) -> Result<Vec<u32>> {
        self.maps.flow_counts.iter().collect::<Result<_, _>>().context("reading map FLOW_COUNTS")
    }

    fn each_flow(&self, mut each: impl FnMut(&Tuple<V4>, &Record)) -> Result<()> {
        let mut walk = Walk::default();
        while self.flows_of_step(&mut walk, &mut each)? {}
        Ok(())
    }

    /// The flows of the next batch of the table, and whether there are more.
    fn flows_of_step(&self, walk: &mut Walk, mut each: impl FnMut(&Tuple<V4>, &Record)) -> Result<bool> {
        step(&self.maps.flows, walk, |tuple, record| {
            if tuple.direction == Tuple::<V4>::IN {
                each(tuple, record);
            }
        })
    }

    fn run_gc(&self, tuples: &[Tuple<V4>], what: u32) -> Result<usize> {
        let program: &SchedClassifier =
            self.programs.program(FLOW_GC).context("no program flow_gc")?.try_into()?;
        let mut removed = 0;
        for chunk in tuples.chunks(FlowList::MAX) {
            let mut list = Vec::with_capacity(size_of::<FlowList>() + size_of_val(chunk));
            for word in [what, chunk.len() as u32, 0, 0] {
                list.extend_from_slice(&word.to_ne_bytes());
            }
            for tuple in chunk {
                // SAFETY: a Tuple<V4> has no padding (asserted where it is defined), so all its bytes are defined.
                let bytes: [u8; size_of::<Tuple<V4>>()] = unsafe { std::mem::transmute(*tuple) };
                list.extend_from_slice(&bytes);
            }
            let result = program
                .test_run(TestRunOptions { data_in: Some(&list), ..TestRunOptions::default() })
                .context("running program flow_gc")?;
            removed += result.return_value as usize;
        }
        Ok(removed)
    }
}

/// The entries of the next batch of the table, of both directions, and whether there are more.
pub(super) fn step(
    flows: &MapData,
    walk: &mut Walk,
    mut each: impl FnMut(&Tuple<V4>, &Record),
) -> Result<bool> {
    // Words, because a map's value is to be read as what it is for any bit pattern.
    type Words = [u32; size_of::<Flow<V4>>() / 4];
    walk.step::<[u32; 4], Words>(flows, |key, value| {
        // SAFETY: a Tuple<V4> is words and bytes for which any bit pattern is valid, of the same size.
        let tuple: Tuple<V4> = unsafe { std::mem::transmute(*key) };
        let [state, seen, slot, address, port] = *value;
        let [high, low, flags @ ..] = port.to_ne_bytes();
        let port = Be16::new(u16::from_be_bytes([high, low]));
        let flags = u16::from_ne_bytes(flags);
        each(&tuple, &Record { seen, state, slot, address: V4(address), port, flags });
    })
    .context("reading map FLOWS4")
}

/// The time as the programs tell it: coarse, since boot without suspend.
pub(super) fn now() -> Ticks {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE);
    let nanoseconds = time.map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64);
    (nanoseconds >> TICK_SHIFT) as Ticks
}
