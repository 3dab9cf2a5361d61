//! What the programs may remember of the kernel's next hops.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, MapData},
};

/// How often next hops have changed, as the programs know it: what they remember holds as long as that is the same, and at most some
/// hundred milliseconds (`netd-ebpf/src/next_hop.rs`). At the start they remember nothing.
pub struct NextHopsTurn {
    map: Array<MapData, u32>,
    turn: u32,
}

impl NextHopsTurn {
    /// Takes it out of the loaded object.
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self> {
        let map = programs.take_map("NEXT_HOPS_TURN").context("the eBPF object has no map NEXT_HOPS_TURN")?;
        Ok(Self { map: map.try_into()?, turn: 0 })
    }

    /// Lets the programs forget what they remember, and remember what is to come.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn forget(&mut self) -> Result<()> {
        self.turn = self.turn.wrapping_add(1).max(1);
        self.write(self.turn)
    }

    /// Lets them remember nothing any more.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn stop(&mut self) -> Result<()> {
        self.write(0)
    }

    fn write(&mut self, turn: u32) -> Result<()> {
        self.map.set(0, turn, 0).context("writing map NEXT_HOPS_TURN")
    }
}
