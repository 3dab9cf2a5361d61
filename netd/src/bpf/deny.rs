//! The list of denied sources, and the XDP program that goes by it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    maps::{LpmTrie, Map, MapData, PerCpuArray, PerCpuValues},
    programs::{
        ProgramError, Xdp, XdpMode,
        links::{FdLink, LinkError, PinnedLink},
    },
};
use ipnet::IpNet;
use netd_common::{V4, V6, abi::Denied};

use super::{
    Datapath, ProgramStatus, XdpChoice, XdpMode as Mode,
    family::Family,
    full,
    links::{self, Hook, XDP_UPLINK},
    maps::{cpus, gone, keys},
    pins::Pins,
};
use crate::netlink::xdp_mode;

/// Prefixes that the list can hold.
pub const MAX_DENIED: u32 = Denied::ENTRIES;

/// The maps of the list.
pub(super) struct DenyMaps {
    v4: LpmTrie<MapData, V4, Denied>,
    v6: LpmTrie<MapData, V6, Denied>,
    counters: PerCpuArray<MapData, u64>,
    /// What is in the maps, whose only writer this is; none: not read yet.
    known: Option<BTreeMap<IpNet, u32>>,
}

impl DenyMaps {
    /// Takes them out of the loaded object.
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self> {
        let mut take = |name: &str| -> Result<Map> {
            programs.take_map(name).with_context(|| format!("the eBPF object has no map {name}"))
        };
        Ok(Self {
            v4: take("DENIED4")?.try_into()?,
            v6: take("DENIED6")?.try_into()?,
            counters: take("DENIED_COUNTERS")?.try_into()?,
            known: None,
        })
    }

    fn insert(&mut self, source: IpNet, entry: Denied) -> Result<()> {
        let inserted = match (V4::prefix(source), V6::prefix(source)) {
            (Some(key), _) => self.v4.insert(&key, entry, 0),
            (_, Some(key)) => self.v6.insert(&key, entry, 0),
            (None, None) => Ok(()),
        };
        inserted.with_context(|| format!("writing {source} to the list of denied sources (is it full?)"))
    }

    /// Removes an entry; one that is not there is fine.
    fn remove(&mut self, source: IpNet) -> Result<()> {
        const WHAT: &str = "removing from the list of denied sources";
        let removed = match (V4::prefix(source), V6::prefix(source)) {
            (Some(key), _) => self.v4.remove(&key),
            (_, Some(key)) => self.v6.remove(&key),
            (None, None) => Ok(()),
        };
        gone(removed).context(WHAT)
    }

    /// Makes the maps hold what is wanted, and keeps what is known of them true.
    fn change(&mut self, known: &mut BTreeMap<IpNet, u32>, wanted: &BTreeMap<IpNet, u32>) -> Result<()> {
        let new = wanted.iter().filter(|(source, slot)| known.get(*source) != Some(*slot));
        for (source, slot) in new.map(|(source, slot)| (*source, *slot)).collect::<Vec<_>>() {
            let zero = PerCpuValues::try_from(vec![0; cpus()?])?;
            self.counters.set(slot, zero, 0).with_context(|| format!("zeroing the counter of {source}"))?;
            self.insert(source, Denied { slot })?;
            known.insert(source, slot);
        }
        let old = known.keys().filter(|source| !wanted.contains_key(*source));
        for source in old.copied().collect::<Vec<_>>() {
            self.remove(source)?;
            known.remove(&source);
        }
        Ok(())
    }

    /// What is in the maps.
    fn read(&self) -> Result<BTreeMap<IpNet, u32>> {
        let mut found = BTreeMap::new();
        read(&self.v4, &mut found)?;
        read(&self.v6, &mut found)?;
        Ok(found)
    }
}

pub(super) fn read<A: Family>(
    map: &LpmTrie<MapData, A, Denied>,
    found: &mut BTreeMap<IpNet, u32>,
) -> Result<()> {
    const WHAT: &str = "reading the list of denied sources";
    for key in keys(map.keys()).context(WHAT)? {
        let source = IpNet::new(key.data().ip(), u8::try_from(key.prefix_len())?).context(WHAT)?;
        found.insert(source, map.get(&key, 0).context(WHAT)?.slot);
    }
    Ok(())
}

impl Datapath {
    /// Makes the list hold exactly these sources, with the numbers of their counters. A counter that gets a new owner is
    /// zeroed.
    ///
    /// # Errors
    /// The kernel refuses an entry.
    pub fn set_denied(&mut self, wanted: &BTreeMap<IpNet, u32>) -> Result<()> {
        let mut known = match self.deny.known.take() {
            Some(known) => known,
            None => self.deny.read()?,
        };
        let changed = self.deny.change(&mut known, wanted);
        // Also after an error: it says what was done.
        self.deny.known = Some(known);
        changed
    }

    /// Packets that an entry of the list has dropped.
    ///
    /// # Errors
    /// There is no such counter.
    pub fn denied_packets(&self, slot: u32) -> Result<u64> {
        let values = self.deny.counters.get(&slot, 0).with_context(|| format!("reading counter {slot}"))?;
        Ok(values.iter().sum())
    }

    /// Makes an interface run the XDP program, in the place of the one of ours that it runs, if it does. Detaches from any other
    /// interface. One that runs already stays as it is, native or generic, unless the other is asked for.
    ///
    /// # Errors
    /// Another XDP program is there, or it cannot run as it is asked for.
    pub fn attach_xdp(&mut self, ifindex: u32, choice: XdpChoice) -> Result<()> {
        for (other, hook) in self.pins.links()? {
            if hook == Hook::Xdp && other != ifindex {
                self.pins.remove_link(other, hook)?;
            }
        }
        attach(program(&mut self.programs)?, &self.pins, ifindex, choice)
    }

    /// Detaches the XDP program, wherever it is attached. Nothing there is not an error.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn detach_xdp(&mut self) -> Result<()> {
        for (ifindex, hook) in self.pins.links()? {
            if hook == Hook::Xdp {
                self.pins.remove_link(ifindex, hook)?;
            }
        }
        Ok(())
    }

    /// The XDP program, for the list of programs.
    pub(super) fn xdp_status(&self, attached: u32) -> Result<ProgramStatus> {
        let program: &Xdp = self.programs.program(XDP_UPLINK).context("a program is missing")?.try_into()?;
        let info = program.info().with_context(|| format!("asking for program {XDP_UPLINK}"))?;
        Ok(ProgramStatus { name: XDP_UPLINK.to_owned(), hook: "xdp".to_owned(), id: info.id(), attached })
    }
}

/// Loads the program.
pub(super) fn load(programs: &mut Ebpf) -> Result<(), ProgramError> {
    match program(programs) {
        Ok(program) => program.load(),
        Err(_) => Err(ProgramError::UnexpectedProgramType),
    }
}

fn program(programs: &mut Ebpf) -> Result<&mut Xdp> {
    let what = || format!("the eBPF object has no program {XDP_UPLINK}");
    Ok(programs.program_mut(XDP_UPLINK).with_context(what)?.try_into()?)
}

fn attach(program: &mut Xdp, pins: &Pins, ifindex: u32, choice: XdpChoice) -> Result<()> {
    if take_over(program, pins, ifindex, choice)? {
        return Ok(());
    }
    let device = links::device(ifindex).context("attaching the XDP program")?;
    let mut attach = |mode| match program.attach_to_if_index(ifindex, mode) {
        Err(error) if matches!(links::os_error(&error), Some(libc::EBUSY | libc::EEXIST)) => {
            bail!(
                "another XDP program is attached to {device}: remove it, e.g. `ip link set {device} xdp off`"
            )
        }
        other => Ok(other),
    };
    let generic = || format!("attaching an XDP program to {device}");
    let id = match choice {
        XdpChoice::Generic => attach(XdpMode::Skb)?.with_context(generic)?,
        XdpChoice::Native => attach(XdpMode::Driver)?.with_context(|| {
            format!("{device} has no native XDP: set node.xdp to \"auto\" or \"generic\"")
        })?,
        XdpChoice::Auto => match attach(XdpMode::Driver)? {
            Ok(id) => id,
            Err(error) => {
                tracing::info!("{device}: no native XDP ({}), generic instead", full(&error));
                attach(XdpMode::Skb)?.with_context(generic)?
            }
        },
    };
    let link: FdLink = program.take_link(id)?.try_into().context("an XDP link is a file descriptor")?;
    let path = pins.link(ifindex, Hook::Xdp);
    link.pin(&path).with_context(|| format!("pinning {}", path.display()))?;
    let mode = xdp_mode(ifindex)?.map_or_else(|| "no mode".to_owned(), |mode| mode.to_string());
    tracing::info!("{device}: denied sources are dropped by XDP ({mode})");
    Ok(())
}

/// Has the link that is pinned run the program, if there is one and it runs as it is asked for. Where it does not, removes it: the two
/// ways exclude each other.
fn take_over(program: &mut Xdp, pins: &Pins, ifindex: u32, choice: XdpChoice) -> Result<bool> {
    let path = pins.link(ifindex, Hook::Xdp);
    let pinned = match PinnedLink::from_pin(&path) {
        Ok(pinned) => pinned,
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(false);
        }
        Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
    };
    let other = match choice {
        XdpChoice::Auto => None,
        XdpChoice::Native => Some(Mode::Generic),
        XdpChoice::Generic => Some(Mode::Native),
    };
    if other.is_some() && xdp_mode(ifindex)? == other {
        pins.remove_link(ifindex, Hook::Xdp)?;
        return Ok(false);
    }
    let link = FdLink::from(pinned).try_into().context("the pin of the XDP program")?;
    match program.attach_to_link(link) {
        // Taken and dropped: the pin holds the link.
        Ok(id) => {
            program.take_link(id).context("keeping the XDP program")?;
            Ok(true)
        }
        // The device of the link is gone, and its index has come to be another's.
        Err(error) if links::os_error(&error) == Some(libc::ENOLINK) => {
            pins.remove_link(ifindex, Hook::Xdp)?;
            Ok(false)
        }
        Err(error) => Err(error).with_context(|| format!("replacing the program of {}", path.display())),
    }
}
