//! Ports that the host's own sockets are kept away from.

use std::{
    fs::{self, File},
    io::Read,
};

use anyhow::{Context, Result, bail};

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// More than the longest list: every second port, in five digits and a comma.
const LONGEST: usize = 256 * 1024;

/// Adds `lo` to `hi` (inclusive) to `net.ipv4.ip_local_reserved_ports` of the calling thread's namespace: the kernel no
/// longer gives these ports to sockets that ask for any. What is reserved already stays.
///
/// # Errors
/// `lo` is above `hi` or is 0, or the setting cannot be read or written.
pub fn reserve_ports(lo: u16, hi: u16) -> Result<()> {
    change(lo, hi, Ports::add).with_context(|| format!("reserving ports {lo}-{hi} in {RESERVED}"))
}

/// Takes `lo` to `hi` (inclusive) out of the reserved ports again, and only these. The kernel keeps no owners: where
/// another's reservation overlaps that range, the overlap is lost to the other too; where it only touches, it stays.
///
/// # Errors
/// As for [`reserve_ports`].
pub fn release_ports(lo: u16, hi: u16) -> Result<()> {
    change(lo, hi, Ports::remove).with_context(|| format!("releasing ports {lo}-{hi} in {RESERVED}"))
}

fn change(lo: u16, hi: u16, how: impl FnOnce(&mut Ports, u16, u16)) -> Result<()> {
    if lo == 0 || lo > hi {
        bail!("{lo}-{hi} is not a range of ports");
    }
    let before = Ports::parse(&read()?)?;
    let mut after = before.clone();
    how(&mut after, lo, hi);
    if after != before {
        // Even an empty list needs a line: a write of nothing changes nothing.
        fs::write(RESERVED, format!("{after}\n"))?;
    }
    Ok(())
}

fn read() -> Result<String> {
    // The kernel gives the whole list in the first read, cut off at its size, and nothing in a second one. So not
    // `fs::read_to_string`, which begins with a small read.
    let mut buffer = vec![0; LONGEST];
    let length = File::open(RESERVED)?.read(&mut buffer)?;
    buffer.truncate(length);
    Ok(String::from_utf8(buffer)?)
}

/// A set of ports: ranges, inclusive, ascending, with gaps between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ports(Vec<(u16, u16)>);

impl Ports {
    fn parse(text: &str) -> Result<Self> {
        let mut ports = Self::default();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (lo, hi) = part.split_once('-').unwrap_or((part, part));
            let parsed = lo.trim().parse().and_then(|lo| Ok((lo, hi.trim().parse()?)));
            match parsed {
                Ok((lo, hi)) if lo <= hi => ports.add(lo, hi),
                _ => bail!("cannot read {part:?} as a range of ports"),
            }
        }
        Ok(ports)
    }

    fn add(&mut self, lo: u16, hi: u16) {
        self.0.push((lo, hi));
        self.0.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(self.0.len());
        for &(lo, hi) in &self.0 {
            match merged.last_mut() {
                Some(last) if u32::from(lo) <= u32::from(last.1) + 1 => last.1 = last.1.max(hi),
                _ => merged.push((lo, hi)),
            }
        }
        self.0 = merged;
    }

    fn remove(&mut self, lo: u16, hi: u16) {
        let around = |&(from, to): &(u16, u16)| {
            let below = (from < lo).then(|| (from, to.min(lo - 1)));
            let above = (to > hi).then(|| (from.max(hi + 1), to));
            [below, above].into_iter().flatten()
        };
        self.0 = self.0.iter().flat_map(around).collect();
    }
}

impl std::fmt::Display for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, &(lo, hi)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            if lo == hi { write!(f, "{comma}{lo}")? } else { write!(f, "{comma}{lo}-{hi}")? }
        }
        Ok(())
    }
}
