//! What must hold of the tables whenever nobody is at work on them.

use std::{collections::BTreeMap, fmt::Debug, hash::Hash};

use super::Memory;
use crate::{Addr, abi::Tuple, flow::State, quota::Account};

impl<A: Addr + Hash + Debug> Memory<A> {
    /// Whether every flow has two entries that name each other, of which none is being removed (so that each port has one owner), and
    /// flows are counted: each endpoint's, on each of its accounts; each table's; and those to each destination. Those of the other
    /// family are counted with them.
    ///
    /// # Errors
    /// What does not hold.
    pub fn consistent(&self) -> Result<(), String> {
        let mut flows = BTreeMap::new();
        halves(self, &mut flows)?;
        self.v6.as_ref().map_or(Ok(()), |v6| halves(v6, &mut flows))?;
        let mut counted = self.flow_counts.borrow().clone();
        counted.retain(|_, count| *count > 0);
        if flows != counted {
            return Err(format!("flows by slot: {flows:?}, but counted: {counted:?}"));
        }
        let of =
            |account| flows.iter().filter(|((_, on), _)| *on == account).map(|(_, count)| count).sum::<u32>();
        for account in Account::ALL {
            let total = |totals: &BTreeMap<Account, u32>| totals.get(&account).copied().unwrap_or(0);
            let totals = total(&self.flow_totals.all())
                + self.v6.as_ref().map_or(0, |v6| total(&v6.flow_totals.all()));
            if totals != of(account) {
                return Err(format!("{} flows on {account:?}, but {totals} in the tables", of(account)));
            }
        }
        let to: u32 = self.destinations.all().values().sum();
        if to != of(Account::Outward) {
            return Err(format!("{} flows outward, but {to} to destinations", of(Account::Outward)));
        }
        Ok(())
    }
}

/// Adds up the flows of a family's tables by their slots and accounts.
fn halves<A: Addr + Hash + Debug>(
    tables: &Memory<A>,
    counts: &mut BTreeMap<(u32, Account), u32>,
) -> Result<(), String> {
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
            *counts.entry((flow.slot, flow.account())).or_default() += 1;
        }
    }
    Ok(())
}
