//! What must hold of the tables whenever nobody is at work on them.

use std::{collections::BTreeMap, fmt::Debug, hash::Hash};

use super::Memory;
use crate::{Addr, abi::Tuple, flow::State};

impl<A: Addr + Hash + Debug> Memory<A> {
    /// Whether every flow has two entries that name each other, of which none is being removed (so that each port has one owner), and each
    /// endpoint's flows are counted. Those of the other family are counted with them.
    ///
    /// # Errors
    /// What does not hold.
    pub fn consistent(&self) -> Result<(), String> {
        let mut flows = BTreeMap::new();
        halves(self, &mut flows)?;
        self.v6.as_ref().map_or(Ok(()), |v6| halves(v6, &mut flows))?;
        let mut counted = self.flow_counts.borrow().clone();
        counted.retain(|_, count| *count > 0);
        if flows == counted {
            return Ok(());
        }
        Err(format!("flows by slot: {flows:?}, but counted: {counted:?}"))
    }
}

/// Adds up the flows of a family's tables by their slots.
fn halves<A: Addr + Hash + Debug>(tables: &Memory<A>, counts: &mut BTreeMap<u32, u32>) -> Result<(), String> {
    let flows = tables.flows.borrow();
    for (tuple, flow) in flows.iter() {
        let opposite = tuple.opposite(flow.address, flow.port);
        let other = flows.get(&opposite).ok_or_else(|| format!("half a flow: {tuple:?} {flow:?}"))?;
        if opposite.opposite(other.address, other.port) != *tuple {
            return Err(format!("halves of two flows: {tuple:?} {flow:?} and {other:?}"));
        }
        if flow.slot != other.slot {
            return Err(format!("of two endpoints: {tuple:?} {flow:?} and {other:?}"));
        }
        if flow.state.get() & State::DEAD != 0 {
            return Err(format!("half removed: {tuple:?} {flow:?}"));
        }
        if tuple.direction == Tuple::<A>::IN {
            *counts.entry(flow.slot).or_default() += 1;
        }
    }
    Ok(())
}
