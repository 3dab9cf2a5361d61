//! The numbers of counters, of the live endpoints and of other nodes: small, dense, and unique among them.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

/// Which numbers are taken.
#[derive(Clone, Debug)]
pub struct Slots {
    limit: u32,
    /// All slots from here on are free.
    next: u32,
    /// Free slots below `next`.
    freed: BTreeSet<u32>,
}

impl Slots {
    /// Slots below `limit`, all free.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { limit, next: 0, freed: BTreeSet::new() }
    }

    /// Takes a free slot, if there is one.
    pub fn take(&mut self) -> Option<u32> {
        if let Some(slot) = self.freed.pop_first() {
            return Some(slot);
        }
        let slot = (self.next < self.limit).then_some(self.next)?;
        self.next += 1;
        Some(slot)
    }

    /// Takes that very slot.
    ///
    /// # Errors
    /// It is taken, or beyond the limit.
    pub fn claim(&mut self, slot: u32) -> Result<()> {
        if slot >= self.limit {
            bail!("slot {slot} is beyond {}", self.limit);
        }
        if slot >= self.next {
            self.freed.extend(self.next..slot);
            self.next = slot + 1;
        } else if !self.freed.remove(&slot) {
            bail!("slot {slot} is taken");
        }
        Ok(())
    }

    /// Gives a slot back.
    pub fn free(&mut self, slot: u32) {
        if slot < self.next {
            self.freed.insert(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_given_out_once() {
        let mut slots = Slots::new(4);
        slots.claim(2).unwrap();
        assert_eq!(slots.claim(2).unwrap_err().to_string(), "slot 2 is taken");
        assert_eq!(slots.claim(4).unwrap_err().to_string(), "slot 4 is beyond 4");
        let taken: Vec<_> = std::iter::from_fn(|| slots.take()).collect();
        assert_eq!(taken, [0, 1, 3]);
        slots.free(1);
        assert_eq!(slots.take(), Some(1));
        assert_eq!(slots.take(), None);
    }
}
