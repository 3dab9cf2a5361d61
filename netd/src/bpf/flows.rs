//! The flow table from user space: it reads, and lets the `flow_gc` program remove.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
};

use anyhow::{Context as _, Result};
use aya::{
    maps::MapData,
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use netd_common::{
    V4, V6,
    abi::{Flow, FlowList, Tuple},
    flow::{State, TICK_SHIFT, Ticks, service},
    fragment,
    quota::Account,
    wire::Be16,
};

use super::{
    Datapath, Expired, FLOW_GC,
    family::Family,
    maps::{Tables, reading},
    syscall::Walk,
};

/// A flow of the table: its inbound entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<A> {
    pub(super) seen: Ticks,
    pub(super) state: u32,
    pub(super) slot: u32,
    pub(super) address: A,
    pub(super) port: Be16,
    pub(super) flags: u16,
}

impl<A> Record<A> {
    /// Whether it has the address that leads to the world, because its container asked for nothing else.
    pub(super) fn is_masqueraded(&self) -> bool {
        self.flags & (Flow::<A>::PUBLISHED | Flow::<A>::HAIRPIN) == 0
    }
}

/// Where the search for flows that have timed out is: in the tables one after the other.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    walk: Walk,
    v6: bool,
}

impl Datapath {
    /// Looks at the next part of the table, some 30,000 entries in some 10 ms, and removes the flows that have timed out.
    /// Where the table or an endpoint's quota is more than half used up, connections that are closed go too.
    pub fn expire_flows(&mut self) -> Result<Expired> {
        const STEPS: usize = 8;
        let counts = self.flow_counts()?;
        let all: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        if all == 0 {
            self.expiry = Expiry::default();
            return Ok(Expired::default());
        }
        // Of one family, as all may be.
        let table_is_filling = all > u64::from(self.maps.v4.max_flows) / 2;
        let quota = self.config.map_or(u32::MAX, |config| config.max_flows_per_endpoint);
        let pressed: HashSet<u32> = (0u32..)
            .zip(&counts)
            .filter(|(_, count)| table_is_filling || **count > quota / 2)
            .map(|(index, _)| index / Account::COUNT)
            .collect();
        let Expiry { mut walk, v6 } = std::mem::take(&mut self.expiry);
        let (removed, more) = match v6 {
            false => self.expire_some(&self.maps.v4, &mut walk, STEPS, &pressed)?,
            true => self.expire_some(&self.maps.v6, &mut walk, STEPS, &pressed)?,
        };
        self.expiry = Expiry { walk, v6: if more { v6 } else { !v6 } };
        Ok(Expired { removed, more: more || !v6 })
    }

    /// Goes some steps through a table. How many flows it has removed, and whether there is more of the table.
    fn expire_some<A: Family>(
        &self,
        tables: &Tables<A>,
        walk: &mut Walk,
        steps: usize,
        pressed: &HashSet<u32>,
    ) -> Result<(usize, bool)> {
        let now = now();
        let (mut expired, mut reclaimed) = (Vec::new(), Vec::new());
        let mut more = true;
        for _ in 0..steps {
            more = inbound(&tables.flows, walk, |tuple: &Tuple<A>, flow| {
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
        let removed =
            self.run_gc(&expired, FlowList::EXPIRE)? + self.run_gc(&reclaimed, FlowList::RECLAIM)?;
        Ok((removed, more))
    }

    /// Removes all flows of an address, an endpoint's or one that the uplink no longer has. Returns how many.
    pub fn flush_flows(&mut self, address: IpAddr) -> Result<usize> {
        match address {
            IpAddr::V4(_) => self.flush_flows_of::<V4>(address),
            IpAddr::V6(_) => self.flush_flows_of::<V6>(address),
        }
    }

    fn flush_flows_of<A: Family>(&mut self, address: IpAddr) -> Result<usize>
    where
        Datapath: HasTables<A>,
    {
        let Some(address) = A::of(address) else { return Ok(0) };
        self.remove_flows::<A>(|tuple, flow| flow.address == address || tuple.destination == address)
    }

    /// The host's addresses that there are flows of.
    pub fn flow_addresses(&self) -> Result<BTreeSet<IpAddr>> {
        let mut found = BTreeSet::new();
        self.add_flow_addresses::<V4>(&mut found)?;
        self.add_flow_addresses::<V6>(&mut found)?;
        Ok(found)
    }

    fn add_flow_addresses<A: Family>(&self, found: &mut BTreeSet<IpAddr>) -> Result<()>
    where
        Datapath: HasTables<A>,
    {
        let mut walk = Walk::default();
        while inbound(&self.tables().flows, &mut walk, |tuple: &Tuple<A>, _| {
            found.insert(tuple.destination.ip());
        })? {}
        Ok(())
    }

    /// Removes the flows of a family for which `which` says so.
    pub(super) fn remove_flows<A: Family>(
        &mut self,
        which: impl Fn(&Tuple<A>, &Record<A>) -> bool,
    ) -> Result<usize>
    where
        Datapath: HasTables<A>,
    {
        let mut list = Vec::new();
        each_inbound(&self.tables().flows, |tuple, flow| {
            if which(tuple, flow) {
                list.push(*tuple);
            }
        })?;
        self.run_gc(&list, FlowList::REMOVE)
    }

    /// Packets whose fragments may still be under way.
    pub(super) fn fragments(&self) -> Result<usize> {
        Ok(fresh::<V4>(&self.maps.v4.fragments)? + fresh::<V6>(&self.maps.v6.fragments)?)
    }

    /// How many flows each slot has on each of its accounts, one after the other.
    pub(super) fn flow_counts(&self) -> Result<Vec<u32>> {
        // In a few system calls, not one for each.
        let (mut walk, mut counts) = (Walk::default(), Vec::with_capacity(self.maps.max_endpoints as usize));
        let counters = aya::maps::IterableMap::map(&self.maps.flow_counts);
        while walk
            .step::<u32, u32>(counters, |_, count| counts.push(*count))
            .context("reading map FLOW_COUNTS")?
        {}
        Ok(counts)
    }

    fn run_gc<A: Family>(&self, tuples: &[Tuple<A>], what: u32) -> Result<usize> {
        run_gc(self.gc()?, tuples, what)
    }

    /// The program that removes flows.
    pub(super) fn gc(&self) -> Result<&SchedClassifier> {
        Ok(self.programs.program(FLOW_GC).context("no program flow_gc")?.try_into()?)
    }
}

/// Has a program look at flows, and remove those that may go. Returns how many it has.
pub(super) fn run_gc<A: Family>(program: &SchedClassifier, tuples: &[Tuple<A>], what: u32) -> Result<usize> {
    let mut removed = 0;
    for chunk in tuples.chunks(FlowList::MAX) {
        let mut list = Vec::with_capacity(size_of::<FlowList>() + size_of_val(chunk));
        for word in [what, chunk.len() as u32, A::LIST, 0] {
            list.extend_from_slice(&word.to_ne_bytes());
        }
        for tuple in chunk {
            let bytes = std::ptr::from_ref(tuple).cast::<u8>();
            // SAFETY: a tuple has no padding (asserted where it is defined), so all its bytes are defined, and they are
            // borrowed for this statement only.
            list.extend_from_slice(unsafe { std::slice::from_raw_parts(bytes, size_of::<Tuple<A>>()) });
        }
        let result = program
            .test_run(TestRunOptions { data_in: Some(&list), ..TestRunOptions::default() })
            .context("running program flow_gc")?;
        removed += result.return_value as usize;
    }
    Ok(removed)
}

/// Whose tables of a family these are.
pub(super) trait HasTables<A: Family> {
    fn tables(&self) -> &Tables<A>;
}

impl HasTables<V4> for Datapath {
    fn tables(&self) -> &Tables<V4> {
        &self.maps.v4
    }
}

impl HasTables<V6> for Datapath {
    fn tables(&self) -> &Tables<V6> {
        &self.maps.v6
    }
}

/// The flows of the next batch of a table, and whether there are more.
fn inbound<A: Family>(
    flows: &MapData,
    walk: &mut Walk,
    mut each: impl FnMut(&Tuple<A>, &Record<A>),
) -> Result<bool> {
    step(flows, walk, |tuple, record| {
        if tuple.direction == Tuple::<A>::IN {
            each(tuple, record);
        }
    })
}

/// All flows of a table.
pub(super) fn each_inbound<A: Family>(
    flows: &MapData,
    mut each: impl FnMut(&Tuple<A>, &Record<A>),
) -> Result<()> {
    let mut walk = Walk::default();
    while inbound(flows, &mut walk, &mut each)? {}
    Ok(())
}

/// The entries of the next batch of a table, of both directions, and whether there are more.
pub(super) fn step<A: Family>(
    flows: &MapData,
    walk: &mut Walk,
    mut each: impl FnMut(&Tuple<A>, &Record<A>),
) -> Result<bool> {
    walk.step::<A::Tuple, A::Flow>(flows, |key, value| each(&A::tuple(key), &A::record(value)))
        .with_context(|| reading(A::NAMES.flows))
}

/// Packets of a family whose fragments may still be under way.
fn fresh<A: Family>(fragments: &MapData) -> Result<usize> {
    let now = now();
    let (mut walk, mut count) = (Walk::default(), 0);
    let mut more = true;
    while more {
        more = walk
            .step::<A::FragmentKey, A::Fragment>(fragments, |_, words| {
                let seen = words.as_ref().first().copied().unwrap_or_default();
                count += usize::from(fragment::is_fresh(seen, now));
            })
            .with_context(|| reading(A::NAMES.fragments))?;
    }
    Ok(count)
}

/// The time as the programs tell it: coarse, since boot without suspend.
pub(super) fn now() -> Ticks {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE);
    let nanoseconds = time.map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64);
    (nanoseconds >> TICK_SHIFT) as Ticks
}
