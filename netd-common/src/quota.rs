//! Who may have how many flows. Counts are exact at any moment: a flow is counted before it can be seen, and counted down by
//! whoever removes it (see [`crate::flow::remove`]), or where it is not made after all.

use crate::{
    abi::{Config, Flow},
    addr::Addr,
    reason::Drop,
    tables::Tables,
};

/// What a flow of an endpoint's counts on. Each has a quota of its own, so that what comes in cannot use up what goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Account {
    /// The endpoint opened it.
    Outward = 0,
    /// Somebody else did, by a published port.
    Inward = 1,
}

impl Account {
    /// How many there are.
    pub const COUNT: u32 = 2;
    /// All of them, by number.
    pub const ALL: [Self; Self::COUNT as usize] = [Self::Outward, Self::Inward];
}

impl<A> Flow<A> {
    /// What it counts on.
    #[inline(always)]
    pub const fn account(&self) -> Account {
        if self.flags & Self::PUBLISHED != 0 { Account::Inward } else { Account::Outward }
    }
}

/// Flows of an account that one endpoint may have where the table has these: half as many as there is room for (a dynamic
/// threshold, as Choudhury and Hahne have it for shared memory). So k endpoints that take all they get leave 2 / (2 + k) of the
/// table free, and an endpoint that has few never finds it full. Inward flows of all endpoints together have half of the table.
#[inline(always)]
pub const fn share(room: u32, outward: u32, inward: u32, account: Account) -> u32 {
    let free = room.saturating_sub(outward.saturating_add(inward));
    let half = (room / 2).saturating_sub(inward);
    let free = if matches!(account, Account::Inward) && half < free { half } else { free };
    free.div_ceil(2)
}

/// Counts a flow that is to be made. Returns 0, or the number of the [`Drop`] reason: then it is not counted.
#[inline(always)]
pub fn take<A: Addr, T: Tables<A>>(tables: &T, config: &Config<A>, slot: u32, account: Account) -> u32 {
    let (outward, inward) =
        (tables.flows_in_table(Account::Outward, 0), tables.flows_in_table(Account::Inward, 0));
    let own = tables.flows_of(slot, account, 1);
    let refused = if own >= config.quota {
        Drop::FlowQuota as u32
    } else if own >= share(config.flows, outward, inward, account) {
        Drop::FlowTableFull as u32
    } else {
        0
    };
    if refused == 0 {
        tables.flows_in_table(account, 1);
    } else {
        tables.flows_of(slot, account, -1);
    }
    refused
}

/// Counts a flow no more.
#[inline(always)]
pub fn give_back<A: Addr, T: Tables<A>>(tables: &T, slot: u32, account: Account) {
    tables.flows_of(slot, account, -1);
    tables.flows_in_table(account, -1);
}
