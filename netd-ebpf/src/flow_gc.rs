//! Removal of flows for the daemon. User space cannot do it: between its look at a flow and its deletion a packet may
//! revive the flow, or a new one may own the port. Here the decision and the deletion are one step.

use netd_common::{
    Addr, Common as _, Packet, Tables, V4, V6,
    abi::{FlowList, Tuple},
    flow::{When, remove_with},
};

use crate::{
    functions::{remove_listed4, remove_listed6},
    maps::Maps,
    skb::Skb,
};

/// Runs over the list; returns how many flows were removed.
#[inline(always)]
pub(crate) fn run(list: &Skb) -> u32 {
    let Some(head) = list.get::<FlowList>(0) else { return 0 };
    match head.family {
        FlowList::IPV4 => all::<V4>(list, &head),
        FlowList::IPV6 => all::<V6>(list, &head),
        _ => 0,
    }
}

#[inline(always)]
fn all<A: Listed>(list: &Skb, head: &FlowList) -> u32
where
    Maps: Tables<A>,
{
    let now = Maps.now();
    let mut removed = 0;
    let mut index = 0;
    while index < FlowList::MAX as u32 {
        let offset = (size_of::<FlowList>() + index as usize * size_of::<Tuple<A>>()) as u32;
        if index >= head.count {
            break;
        }
        let Some(tuple) = list.get::<Tuple<A>>(offset) else { break };
        removed += A::remove(&tuple, now, head.what);
        index += 1;
    }
    removed
}

/// An address family whose flows the daemon lists.
trait Listed: Addr {
    /// Removes a flow if it is as it has to be ([`FlowList::what`]); how many that were.
    fn remove(tuple: &Tuple<Self>, now: u32, what: u32) -> u32;
}

impl Listed for V4 {
    #[inline(always)]
    fn remove(tuple: &Tuple<Self>, now: u32, what: u32) -> u32 {
        remove_listed4(tuple, now, what)
    }
}

impl Listed for V6 {
    #[inline(always)]
    fn remove(tuple: &Tuple<Self>, now: u32, what: u32) -> u32 {
        remove_listed6(tuple, now, what)
    }
}

#[inline(always)]
pub(crate) fn remove_one<A: Addr>(tuple: &Tuple<A>, now: u32, what: u32) -> u32
where
    Maps: Tables<A>,
{
    let when = match what {
        FlowList::EXPIRE => When::TimedOut,
        FlowList::RECLAIM => When::Reusable,
        FlowList::REMOVE => When::Now,
        _ => return 0,
    };
    match Maps.flow(tuple) {
        // The daemon's threads and packets may come in between, on the same CPU: the programs' own memory is theirs.
        Some(flow) => u32::from(remove_with(&Maps, tuple, &flow, now, when, &mut { Tuple::NONE })),
        None => 0,
    }
}
