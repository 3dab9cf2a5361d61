//! Nodes, with a route to each.

use anyhow::Result;

use super::Subject;
use crate::{
    bench::scene::{self, Path},
    lab::Lab,
};

/// Two hosts that know more and more others. For each count there are two new ones: netd reads its peers when it starts.
pub(super) struct Routed<'a> {
    lab: &'a Lab,
    ours: bool,
    path: Path,
}

impl<'a> Routed<'a> {
    pub(super) fn new(lab: &'a Lab, ours: bool) -> Result<Self> {
        Ok(Self { lab, ours, path: scene::among(ours, lab, 0)? })
    }
}

impl Subject for Routed<'_> {
    fn grow(&mut self, count: u32) -> Result<()> {
        self.path = scene::among(self.ours, self.lab, count)?;
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
