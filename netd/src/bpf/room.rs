//! Making the tables where memory is short: with room for fewer flows than were asked for, rather than not at all.

use std::{io, thread, time::Duration};

use anyhow::{Context as _, Error, Result, bail};
use aya::Ebpf;
use netd_common::{
    V4, V6,
    abi::{Flow, Tuple},
};

use super::{Datapath, OBJECT, Options, family::Family, maps, pins::Pins, syscall};

/// The least number of flows that is tried.
const LEAST: u32 = 1024;
/// Bytes that are to be left for the programs' verification and for the daemon.
const SPARE: u32 = 32 << 20;
/// About what all but the flow tables takes, that included, in MiB.
const WITHOUT_FLOWS: u64 = 128;
/// How long the kernel may take to free maps that nobody has any more: it does so some time later, and says nothing of it.
const FREED: Duration = Duration::from_millis(100);

/// Loads the eBPF object: makes the maps, or takes over those that are pinned. Where there is no memory for the flow tables,
/// they get half the room until there is.
///
/// # Errors
/// There is none for the least, or something else is wrong.
pub(super) fn load(options: &Options, pins: &Pins) -> Result<Ebpf> {
    let mut options = options.clone();
    loop {
        let before = pins.maps()?;
        let are_new = [V4::NAMES.flows, V6::NAMES.flows].iter().any(|name| !before.contains(*name));
        match attempt(&options, pins, are_new) {
            Err(error) if are_new && is_no_memory(&error) => {
                pins.forget_maps_but(&before)?;
                if options.max_flows <= LEAST {
                    bail!(
                        "there is no memory for the tables: netd takes {WITHOUT_FLOWS} MiB, and {} MiB for each 100000 of \
                         nat.max-flows (MemoryMax= of its service, the machine's memory): {error:#}",
                        mib(100_000)
                    );
                }
                options.max_flows = (options.max_flows / 2).max(LEAST);
                thread::sleep(FREED);
            }
            loaded => return loaded,
        }
    }
}

fn attempt(options: &Options, pins: &Pins, are_new: bool) -> Result<Ebpf> {
    const WHAT: &str = "loading the eBPF object";
    let mut loader = maps::loader(options, pins)?;
    // Held while the maps are made, so that they do not get the last of it.
    let _spare = are_new.then(|| syscall::hold_memory(SPARE)).transpose().context(WHAT)?;
    loader.load(OBJECT).context(WHAT)
}

fn is_no_memory(error: &Error) -> bool {
    let errors = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    errors.into_iter().any(|error| error.raw_os_error() == Some(libc::ENOMEM))
}

/// What tables with room for so many flows of each family take, in MiB.
fn mib(max_flows: u32) -> u64 {
    (bytes::<V4>(max_flows) + bytes::<V6>(max_flows)).div_ceil(1 << 20)
}

/// The same for one family, in bytes (`struct htab_elem` and `struct bucket` in the kernel's kernel/bpf/hashtab.c).
fn bytes<A: Family>(max_flows: u32) -> u64 {
    const ELEMENT: u64 = 48;
    const BUCKET: u64 = 16;
    let entries = 2 * u64::from(max_flows);
    let entry = [size_of::<Tuple<A>>(), size_of::<Flow<A>>()].map(|size| size.next_multiple_of(8) as u64);
    entries * (ELEMENT + entry[0] + entry[1]) + entries.next_power_of_two() * BUCKET
}

impl Datapath {
    /// What is wrong where the flow tables have less room than is asked for, in words.
    #[must_use]
    pub fn shortage(&self, max_flows: u32) -> Option<String> {
        let room = self.maps.v4.max_flows.min(self.maps.v6.max_flows);
        (room < max_flows).then(|| {
            format!(
                "there is room for {room} flows of each family, not for {max_flows}: that takes {} MiB of memory \
                 (MemoryMax= of netd's service, the machine's memory), and a start after `netd run --purge`",
                mib(max_flows)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tables_take() {
        // As `bpftool map` says of the tables of the default size: some 104 and 144 bytes for each entry.
        assert!((200..300).contains(&(bytes::<V4>(262_144) / 262_144)));
        assert!((260..400).contains(&(bytes::<V6>(262_144) / 262_144)));
        assert!((100..180).contains(&mib(262_144)));
    }
}
