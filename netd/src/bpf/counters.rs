//! Reading the counters: sums over the CPUs.

use anyhow::{Context as _, Result};
use aya::maps::PerCpuValues;
use netd_common::{
    Drop, Way,
    abi::{self, FragmentRing},
};

use super::{
    Counter, Datapath, EndpointCounters, MAX_PORTS, MapFill, NodeCounters,
    maps::{counter_index, cpus},
};

impl Datapath {
    /// The counters of an endpoint's slot.
    pub fn endpoint_counters(&self, slot: u32) -> Result<EndpointCounters> {
        let values = self
            .maps
            .endpoint_counters
            .get(&slot, 0)
            .with_context(|| format!("reading the counters of slot {slot}"))?;
        Ok(values.iter().fold(EndpointCounters::default(), |sum, cpu| EndpointCounters {
            tx_packets: sum.tx_packets + cpu.tx_packets,
            tx_bytes: sum.tx_bytes + cpu.tx_bytes,
            rx_packets: sum.rx_packets + cpu.rx_packets,
            rx_bytes: sum.rx_bytes + cpu.rx_bytes,
            dropped: sum.dropped + cpu.dropped,
        }))
    }

    /// The counters of another node's slot.
    pub fn node_counters(&self, slot: u32) -> Result<NodeCounters> {
        let values = self
            .maps
            .node_counters
            .get(&slot, 0)
            .with_context(|| format!("reading the counters of node {slot}"))?;
        Ok(values.iter().fold(NodeCounters::default(), |sum, cpu| NodeCounters {
            tx_packets: sum.tx_packets + cpu.tx_packets,
            tx_bytes: sum.tx_bytes + cpu.tx_bytes,
            rx_packets: sum.rx_packets + cpu.rx_packets,
            rx_bytes: sum.rx_bytes + cpu.rx_bytes,
        }))
    }

    /// Zeroes the counters of another node's slot, for its next owner.
    pub fn reset_node_counters(&mut self, slot: u32) -> Result<()> {
        let zero = PerCpuValues::try_from(vec![abi::NodeCounters::default(); cpus()?])?;
        self.maps
            .node_counters
            .set(slot, zero, 0)
            .with_context(|| format!("zeroing the counters of node {slot}"))
    }

    /// Forwarded packets by the way they took, and dropped packets by reason (all of them, also those at zero).
    pub fn counters(&self) -> Result<(Vec<Counter>, Vec<Counter>)> {
        let ways = Way::ALL
            .iter()
            .map(|way| self.counter(*way as u32, true, way.label(), way.meaning()))
            .collect::<Result<_>>()?;
        let drops = Drop::ALL
            .iter()
            .map(|drop| self.counter(*drop as u32, false, drop.label(), drop.meaning()))
            .collect::<Result<_>>()?;
        Ok((ways, drops))
    }

    fn counter(&self, number: u32, way: bool, name: &str, meaning: &str) -> Result<Counter> {
        let values = self
            .maps
            .counters
            .get(&counter_index(number, way), 0)
            .with_context(|| format!("reading the counter of {name}"))?;
        let sum = values.iter().fold(abi::Counter::default(), |sum, cpu| abi::Counter {
            packets: sum.packets + cpu.packets,
            bytes: sum.bytes + cpu.bytes,
        });
        Ok(Counter {
            number,
            name: name.to_owned(),
            meaning: meaning.to_owned(),
            packets: sum.packets,
            bytes: sum.bytes,
        })
    }

    /// Fill of each map that can fill up.
    pub fn maps(&self) -> Result<Vec<MapFill>> {
        let fill = |name: &str, entries: usize, capacity: u32| MapFill {
            name: name.to_owned(),
            entries: entries as u64,
            capacity: u64::from(capacity),
        };
        let flows: u32 = self.flow_counts()?.iter().sum();
        let fragments = self.fragments()?;
        Ok(vec![
            fill("endpoints", self.maps.v4.endpoints.keys().count(), self.maps.max_endpoints),
            fill("flows", flows as usize, self.maps.v4.max_flows + self.maps.v6.max_flows),
            // A table a family.
            fill("fragments", fragments, 2 * FragmentRing::ENTRIES),
            fill("ports", self.published(), 2 * MAX_PORTS),
        ])
    }
}
