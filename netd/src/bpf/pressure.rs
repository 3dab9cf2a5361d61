//! Who is at the limit of what it may have in the flow tables.

use anyhow::{Context as _, Result};
use netd_common::quota::{Account, share};

use super::Datapath;

/// Something that is used up to nine tenths or more: new flows are refused, or will be soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// The flows that an endpoint may have on one of its accounts.
    Endpoint {
        /// Its slot.
        slot: u32,
        /// Whether they are those that others open, by its published ports.
        inward: bool,
        /// How many it has.
        flows: u32,
        /// How many it may have.
        limit: u32,
        /// Whether that is its quota (`nat.max-flows-per-endpoint`), or its share of what is left of the table (`nat.max-flows`).
        quota: bool,
    },
    /// A table.
    Table {
        /// Whether it is that of IPv6.
        v6: bool,
        /// How many flows there are.
        flows: u32,
        /// How many it has room for.
        room: u32,
    },
}

impl Datapath {
    /// What is used up, or nearly so; the tables first, then endpoints by their slots.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn pressure(&self) -> Result<Vec<Pressure>> {
        let totals = self.maps.flow_totals.iter().collect::<Result<Vec<_>, _>>();
        let totals = totals.context("reading map FLOW_TOTALS")?;
        let rooms = [self.maps.v4.max_flows, self.maps.v6.max_flows];
        let quota = self.config.map_or(u32::MAX, |config| config.max_flows_per_endpoint);
        Ok(pressure(&self.flow_counts()?, &totals, rooms, quota))
    }
}

/// The same, given the counts of all slots' accounts, those of the tables', and the limits.
fn pressure(counts: &[u32], totals: &[u32], rooms: [u32; 2], quota: u32) -> Vec<Pressure> {
    let is_short = |flows: u32, limit: u32| u64::from(flows) * 10 >= u64::from(limit) * 9;
    let families: Vec<_> = totals.chunks_exact(Account::COUNT as usize).zip(rooms).collect();
    let mut found = Vec::new();
    for (v6, (totals, room)) in [false, true].into_iter().zip(&families) {
        let flows = totals.iter().sum();
        if is_short(flows, *room) {
            found.push(Pressure::Table { v6, flows, room: *room });
        }
    }
    for (account, index) in Account::ALL.into_iter().zip(0..) {
        // What is refused in one family is refused.
        let shares = families.iter().map(|(totals, room)| share(*room, totals[0], totals[1], account));
        let share = shares.min().unwrap_or(u32::MAX);
        let limit = share.min(quota);
        let own = counts.iter().skip(index).step_by(Account::COUNT as usize);
        found.extend((0..).zip(own).filter(|(_, flows)| **flows > 0 && is_short(**flows, limit)).map(
            |(slot, flows)| Pressure::Endpoint {
                slot,
                inward: account == Account::Inward,
                flows: *flows,
                limit,
                quota: quota <= share,
            },
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: u32 = 1000;

    #[test]
    fn who_is_short_of_flows() {
        let of =
            |counts: &[u32], out: u32, inward: u32| pressure(counts, &[out, inward, 0, 0], [ROOM, ROOM], 100);
        assert_eq!(of(&[0, 0, 0, 0], 0, 0), []);
        assert_eq!(of(&[89, 0, 0, 0], 89, 0), []);
        let short =
            |slot, inward, flows, limit, quota| Pressure::Endpoint { slot, inward, flows, limit, quota };
        assert_eq!(of(&[0, 0, 90, 0], 90, 0), [short(1, false, 90, 100, true)]);
        assert_eq!(of(&[0, 100, 0, 0], 0, 100), [short(0, true, 100, 100, true)]);
        // The table is filling up.
        assert_eq!(
            of(&[50, 0, 40, 0], 900, 0),
            [Pressure::Table { v6: false, flows: 900, room: ROOM }, short(0, false, 50, 50, false),]
        );
    }
}
