//! Removing flows beside the task that owns the datapath: a walk over a full table takes half a second.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::{maps::MapData, programs::SchedClassifier};
use netd_common::{
    V4, V6,
    abi::{FlowList, Tuple},
    wire::protocol,
};

use super::{
    Datapath, FLOW_GC, FlowFilter, PublishedPort,
    family::Family,
    flows::{Record, each_inbound, run_gc},
    ports::{Entries, came_by, entries},
};

/// Which flows are to be removed.
#[derive(Clone, Debug)]
pub enum FlowsOf {
    /// Those that a filter fits.
    Filter(FlowFilter),
    /// Those that came by ports that are published no more.
    Ports(Vec<PublishedPort>),
    /// The masqueraded ones of the address's family that are translated to any other.
    AllBut(IpAddr),
    /// Those of an address that the host no longer has, but for TCP's by published ports: those end by themselves, and go on
    /// should it come back, as with netfilter.
    Lost(IpAddr),
}

impl FlowsOf {
    /// All flows of an endpoint, by its slot.
    #[must_use]
    pub fn endpoint(slot: u32) -> Self {
        Self::Filter(FlowFilter { slot: Some(slot), ..FlowFilter::default() })
    }
}

/// What removes flows, with handles of its own to the tables and to the program that does it.
pub struct FlowRemover {
    v4: MapData,
    v6: MapData,
    gc: SchedClassifier,
}

impl Datapath {
    /// What removes flows and needs the datapath no more.
    ///
    /// # Errors
    /// A table's pin is gone, or the kernel gives no descriptor.
    pub fn flow_remover(&self) -> Result<FlowRemover> {
        let (v4, v6) = self.flow_tables()?;
        let what = || format!("asking for program {FLOW_GC}");
        let info = self.gc()?.info().with_context(what)?;
        Ok(FlowRemover { v4, v6, gc: SchedClassifier::from_program_info(info, FLOW_GC.into())? })
    }
}

impl FlowRemover {
    /// Removes all flows that are meant, of both families, in one walk over each table; a flow counts for the first that
    /// means it. Returns how many each has removed.
    ///
    /// # Errors
    /// A table cannot be read.
    pub fn remove(&self, which: &[FlowsOf]) -> Result<Vec<usize>> {
        let v4 = self.remove_of::<V4>(&self.v4, which)?;
        let v6 = self.remove_of::<V6>(&self.v6, which)?;
        Ok(v4.into_iter().zip(v6).map(|(v4, v6)| v4 + v6).collect())
    }

    fn remove_of<A: Family>(&self, flows: &MapData, which: &[FlowsOf]) -> Result<Vec<usize>> {
        let which: Vec<Of<A>> = which.iter().map(Of::new).collect::<Result<_>>()?;
        let mut lists = vec![Vec::new(); which.len()];
        each_inbound(flows, |tuple, flow| {
            if let Some(n) = which.iter().position(|of| of.fits(tuple, flow)) {
                lists[n].push(*tuple);
            }
        })?;
        lists.iter().map(|list| run_gc(&self.gc, list, FlowList::REMOVE)).collect()
    }
}

/// [`FlowsOf`] for one family.
enum Of<A: Family> {
    Filter(FlowFilter),
    Ports(Entries<A>),
    AllBut(A),
    Lost(A),
    /// Of the other family.
    None,
}

impl<A: Family> Of<A> {
    fn new(of: &FlowsOf) -> Result<Self> {
        Ok(match of {
            FlowsOf::Filter(filter) => Self::Filter(*filter),
            FlowsOf::Ports(ports) => Self::Ports(entries(ports)?),
            FlowsOf::AllBut(address) => A::of(*address).map_or(Self::None, Self::AllBut),
            FlowsOf::Lost(address) => A::of(*address).map_or(Self::None, Self::Lost),
        })
    }

    fn fits(&self, tuple: &Tuple<A>, flow: &Record<A>) -> bool {
        match self {
            Self::Filter(filter) => filter.fits(tuple, flow),
            Self::Ports(ports) => came_by(ports, tuple, flow),
            Self::AllBut(address) => flow.is_masqueraded() && tuple.destination != *address,
            Self::Lost(address) => {
                tuple.destination == *address && (flow.is_masqueraded() || tuple.protocol != protocol::TCP)
            }
            Self::None => false,
        }
    }
}
