//! Who may have how many flows. Counts are exact at any moment: a flow is counted before it can be seen, and counted down by
//! whoever removes it (see [`crate::flow::remove`]), or where it is not made after all.

use crate::{
    abi::{Config, DESTINATIONS, Flow, Tuple, UnansweredRing},
    addr::Addr,
    flow::{self, When, mix},
    reason::Drop,
    tables::{Tables, Whose},
    wire::Be16,
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
/// threshold, as Choudhury and Hahne have it for shared memory). So who takes all that it gets leaves two thirds of what was free
/// before, and an endpoint that has few never finds the table full. Inward flows of all endpoints together have half of it.
#[inline(always)]
pub const fn share(room: u32, outward: u32, inward: u32, account: Account) -> u32 {
    let free = room.saturating_sub(outward.saturating_add(inward));
    let half = (room / 2).saturating_sub(inward);
    let free = if matches!(account, Account::Inward) && half < free { half } else { free };
    free.div_ceil(2)
}

/// Flows of an account that an endpoint may have now.
#[inline(always)]
fn limit<A: Addr, T: Tables<A>>(tables: &T, config: &Config<A>, account: Account) -> u32 {
    let (outward, inward) =
        (tables.flows_in_table(Account::Outward, 0), tables.flows_in_table(Account::Inward, 0));
    let share = share(config.flows, outward, inward, account);
    if share < config.quota { share } else { config.quota }
}

/// The ring of an endpoint's account.
#[inline(always)]
const fn ring(slot: u32, account: Account) -> u32 {
    slot.wrapping_mul(Account::COUNT).wrapping_add(account as u32) & (UnansweredRing::RINGS - 1)
}

/// The number of a flow that is to be made: the next of its ring, in which it says which place is the flow's. See [`flow::State`].
#[inline(always)]
pub fn number<A: Addr, T: Tables<A>>(tables: &T, slot: u32, account: Account) -> u32 {
    tables.unanswered_turn(ring(slot, account)) & (UnansweredRing::PLACES - 1)
}

/// Counts a flow that is to be made, with this number. Returns 0, or the number of the [`Drop`] reason: then it is not counted.
#[inline(always)]
pub fn take<A: Addr, T: Tables<A>>(
    tables: &T,
    config: &Config<A>,
    slot: u32,
    account: Account,
    number: u32,
) -> u32 {
    let own = tables.flows_of(slot, account, 1);
    let limit = limit(tables, config, account);
    // In its place comes one that nobody answers, if there is one.
    let replaces = own > limit / 2 && evict(tables, config, slot, account, number);
    if own >= limit && !replaces {
        tables.flows_of(slot, account, -1);
        return if own >= config.quota { Drop::FlowQuota } else { Drop::FlowTableFull } as u32;
    }
    tables.flows_in_table(account, 1);
    0
}

/// Counts a flow no more. `cell`: where it was counted, see [`cell`].
#[inline(always)]
pub fn give_back<A: Addr, T: Tables<A>>(tables: &T, slot: u32, account: Account, cell: u32) {
    tables.flows_of(slot, account, -1);
    tables.flows_in_table(account, -1);
    tables.flows_to(cell, -1);
}

/// The place of a flow in the rings of unanswered ones.
#[inline(always)]
fn place<A: Addr>(config: &Config<A>, slot: u32, account: Account, number: u32) -> u32 {
    ring(slot, account) * UnansweredRing::PLACES + (number & config.ring & (UnansweredRing::PLACES - 1))
}

/// A flow has been made, and nobody has answered yet: it takes the place of its endpoint's ring that its number says. Where the
/// endpoint has more than half of what it may have, the flow that was there has gone, unless it was answered: see [`take`].
///
/// So who opens connections that nobody answers, or is sent SYNs by nobody, has as many of them as there are places in a ring and half
/// of what it may have, and there is always room for one that will be answered.
#[inline(always)]
pub fn enter<A: Addr, T: Tables<A>>(tables: &T, inward: &Tuple<A>, slot: u32, account: Account, number: u32) {
    if let Some(config) = tables.config() {
        tables.unanswered_set(place(&config, slot, account, number), inward);
    }
}

/// Removes the flow in the place of a ring that a new flow's number says, if it is of this endpoint's account and has not been answered.
/// Whether it did.
#[inline(always)]
fn evict<A: Addr, T: Tables<A>>(
    tables: &T,
    config: &Config<A>,
    slot: u32,
    account: Account,
    number: u32,
) -> bool {
    let Some(mut scratch) = tables.scratch(Whose::Evict) else { return false };
    let oldest = &mut scratch.inward;
    tables.unanswered(place(config, slot, account, number), oldest);
    let Some(flow) = tables.flow(oldest) else { return false };
    flow.slot == slot
        && flow.account() == account
        && flow::remove(tables, oldest, &flow, tables.now(), When::Unanswered)
}

/// Where it is counted how many flows an endpoint has to a destination: to an address, a port and a protocol. Others may share a
/// place, and then more are counted than there are.
#[inline(always)]
pub fn cell<A: Addr>(seed: u32, slot: u32, address: &A, port: Be16, protocol: u8) -> u32 {
    let hash = mix(mix(seed, slot), address.folded());
    mix(hash, u32::from(port.raw()) << 8 | u32::from(protocol)) >> (32 - DESTINATIONS.trailing_zeros())
}

/// That of a flow, given its inbound tuple; none for inward ones, which take no ports.
#[inline(always)]
pub fn cell_of<A: Addr, T: Tables<A>>(tables: &T, slot: u32, account: Account, inward: &Tuple<A>) -> u32 {
    match tables.config() {
        Some(config) if matches!(account, Account::Outward) => {
            cell(config.seed, slot, &inward.source, inward.source_port, inward.protocol)
        }
        _ => NO_CELL,
    }
}

/// No cell.
pub const NO_CELL: u32 = u32::MAX;

/// Flows to a destination of which each may have any port.
const FEW: u32 = 16;

/// How many of the range's ports, the first ones, an endpoint may take towards a destination that it has this many flows to: all for
/// its first 16. With each further flow it is a 512th of them less, down to half: the last ones are for who has few flows there. So one
/// endpoint has little more than half of a destination's ports, and it takes many to shut another out.
#[inline(always)]
pub const fn ports(all: u32, flows: u32) -> u32 {
    let each = if all < 512 { 1 } else { all / 512 };
    let (reserved, half) = (flows.saturating_sub(FEW).saturating_mul(each), all / 2);
    all - if reserved < half { reserved } else { half }
}
