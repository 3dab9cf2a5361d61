//! Settings of a namespace: ports that the host's own sockets are kept away from, whether there is IPv6, and whether the kernel says
//! to programs where packets go.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// More than the longest list: every second port, in five digits and a comma.
const LONGEST: usize = 256 * 1024;

/// Adds `lo` to `hi` (inclusive) to `net.ipv4.ip_local_reserved_ports` of the calling thread's namespace: the kernel no
/// longer gives these ports to sockets that ask for any. What is reserved already stays. Returns whether something had to be changed.
///
/// # Errors
/// `lo` is above `hi` or is 0, or the setting cannot be read or written.
pub fn reserve_ports(lo: u16, hi: u16) -> Result<bool> {
    change(lo, hi, Ports::add).with_context(|| format!("reserving ports {lo}-{hi} in {RESERVED}"))
}

/// Takes `lo` to `hi` (inclusive) out of the reserved ports again, and only these. The kernel keeps no owners: where
/// another's reservation overlaps that range, the overlap is lost to the other too; where it only touches, it stays.
///
/// # Errors
/// As for [`reserve_ports`].
fn release_ports(lo: u16, hi: u16) -> Result<()> {
    let changed = change(lo, hi, Ports::remove);
    changed.map(drop).with_context(|| format!("releasing ports {lo}-{hi} in {RESERVED}"))
}

/// Whether links of the calling thread's namespace have IPv6: `interface` (`default`: those that are yet to be made) is not
/// one for which it is switched off, and the kernel has it at all.
#[must_use]
pub fn has_ipv6(interface: &str) -> bool {
    fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"))
        .is_ok_and(|disabled| disabled.trim() == "0")
}

/// Makes the loopback interface of the calling thread's namespace a forwarding one, without which `bpf_fib_lookup` says nothing of the
/// routes of the host's own packets. It forwards no more by that: what comes from there is the host's own, or goes to it.
/// Returns whether something had to be changed.
///
/// # Errors
/// The setting cannot be read or written.
pub fn forward_from_loopback() -> Result<bool> {
    FAMILIES.iter().try_fold(false, |changed, family| Ok(forward(family, true)? || changed))
}

/// `on`: false: it becomes what the host's other interfaces are.
fn forward(family: &str, on: bool) -> Result<bool> {
    let (own, all) = (forwarding(family, "lo"), forwarding(family, "all"));
    if !Path::new(&own).exists() {
        return Ok(false);
    }
    let value = if on {
        "1".to_owned()
    } else {
        fs::read_to_string(&all).with_context(|| format!("reading {all}"))?.trim().to_owned()
    };
    let old = fs::read_to_string(&own).with_context(|| format!("reading {own}"))?;
    let changes = old.trim() != value;
    if changes {
        fs::write(&own, &value).with_context(|| format!("writing {value} to {own}"))?;
    }
    Ok(changes)
}

fn forwarding(family: &str, interface: &str) -> String {
    format!("/proc/sys/net/{family}/conf/{interface}/forwarding")
}

fn change(lo: u16, hi: u16, how: impl FnOnce(&mut Ports, u16, u16)) -> Result<bool> {
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
    Ok(after != before)
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

    fn without(mut self, others: &Self) -> Self {
        others.0.iter().for_each(|&(lo, hi)| self.remove(lo, hi));
        self
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

/// What netd changes of these settings, as it was before: so that only what netd has taken is given back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// The reserved ports.
    reserved: String,
    /// Whether loopback forwarded already, by [`FAMILIES`].
    forwarding: [bool; 2],
}

impl Before {
    /// As it is now.
    ///
    /// # Errors
    /// A setting cannot be read.
    pub fn observe() -> Result<Self> {
        let reserved = Ports::parse(&read().with_context(|| format!("reading {RESERVED}"))?)?.to_string();
        let is_on = |family| fs::read_to_string(forwarding(family, "lo")).is_ok_and(|on| on.trim() == "1");
        Ok(Self { reserved, forwarding: FAMILIES.map(is_on) })
    }

    /// As it is now, where netd has changed it already: without these ports.
    ///
    /// # Errors
    /// As [`Self::observe`].
    pub fn observe_without(lo: u16, hi: u16) -> Result<Self> {
        let mut reserved = Ports::parse(&Self::observe()?.reserved)?;
        reserved.remove(lo, hi);
        Ok(Self { reserved: reserved.to_string(), forwarding: [false; 2] })
    }

    /// Takes `lo` to `hi` out of the reserved ports, but for those that were reserved before.
    ///
    /// # Errors
    /// As for [`reserve_ports`].
    pub fn release_ports(&self, lo: u16, hi: u16) -> Result<()> {
        let before = Ports::parse(&self.reserved)?;
        let own = Ports(vec![(lo, hi)]).without(&before);
        own.0.iter().try_for_each(|&(lo, hi)| release_ports(lo, hi))
    }

    /// Makes loopback forward no more than the host's other interfaces, unless it did before.
    ///
    /// # Errors
    /// As for [`forward_from_loopback`].
    pub fn stop_forwarding(&self) -> Result<()> {
        let mut others = FAMILIES.iter().zip(self.forwarding).filter(|(_, before)| !before);
        others.try_for_each(|(family, _)| forward(family, false).map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::isolated, *};

    #[test]
    fn lists_are_read_merged_and_cut() {
        let add: fn(&mut Ports, u16, u16) = Ports::add;
        let remove: fn(&mut Ports, u16, u16) = Ports::remove;
        for (before, how, lo, hi, after) in [
            ("", add, 49152, 65535, "49152-65535"),
            ("\n", add, 80, 80, "80"),
            ("8080,1-9\n", add, 100, 200, "1-9,100-200,8080"),
            ("100-200", add, 150, 250, "100-250"),
            ("100-200", add, 201, 250, "100-250"),
            ("100-200", add, 202, 250, "100-200,202-250"),
            ("100-200", add, 120, 130, "100-200"),
            ("100-200", add, 50, 300, "50-300"),
            ("1,3,5", add, 2, 4, "1-5"),
            ("65535", add, 65534, 65534, "65534-65535"),
            ("49152-65535", remove, 49152, 65535, ""),
            ("80,49152-65535", remove, 49152, 65535, "80"),
            ("40000-65535", remove, 49152, 65535, "40000-49151"),
            ("100-200", remove, 120, 130, "100-119,131-200"),
            ("100-200", remove, 100, 100, "101-200"),
            ("100-200", remove, 200, 300, "100-199"),
            ("100-110,120-130", remove, 105, 125, "100-104,126-130"),
            ("100-200", remove, 1, 99, "100-200"),
            ("1-65535", remove, 1, 65535, ""),
            ("", remove, 1, 65535, ""),
        ] {
            let mut ports = Ports::parse(before).unwrap();
            how(&mut ports, lo, hi);
            assert_eq!(ports.to_string(), after, "{before} with {lo}-{hi}");
        }
        for wrong in ["x", "1-", "-1", "5-4", "65536", "1-2-3", "1 2"] {
            assert!(Ports::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ipv6_can_be_switched_off() {
        isolated("ipv6_can_be_switched_off", || async {
            if !Path::new("/proc/sys/net/ipv6").exists() {
                println!("SKIP ipv6_can_be_switched_off: no IPv6 in this kernel");
                return Ok(());
            }
            assert!(has_ipv6("lo") && has_ipv6("default") && !has_ipv6("nd-none"));
            fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")?;
            assert!(!has_ipv6("lo") && !has_ipv6("default"));
            Ok(())
        });
    }

    #[test]
    fn reserved_and_released() {
        isolated("reserved_and_released", || async {
            let list = || Ok::<_, anyhow::Error>(read()?.trim().to_owned());
            assert_eq!(list()?, "");
            assert!(reserve_ports(49152, 65535)?);
            assert!(!reserve_ports(49152, 65535)?);
            assert_eq!(list()?, "49152-65535");
            release_ports(49152, 65535)?;
            release_ports(49152, 65535)?;
            assert_eq!(list()?, "");

            // Others' reservations, in a list longer than a page.
            let others: Vec<_> = (0..6000).map(|n| (10_000 + 2 * n).to_string()).collect();
            fs::write(RESERVED, others.join(","))?;
            reserve_ports(49152, 65535)?;
            assert_eq!(list()?, format!("{},49152-65535", others.join(",")));
            release_ports(49152, 65535)?;
            assert_eq!(list()?, others.join(","));

            for (lo, hi) in [(0, 5), (6, 5)] {
                let error = format!("{:#}", reserve_ports(lo, hi).unwrap_err());
                assert!(error.contains(&format!("{lo}-{hi} is not a range of ports")), "{error}");
            }
            Ok(())
        });
    }

    #[test]
    fn only_what_was_taken_is_given_back() {
        isolated("only_what_was_taken_is_given_back", || async {
            let set = |list: &str| fs::write(RESERVED, format!("{list}\n"));
            let list = || Ok::<_, anyhow::Error>(read()?.trim().to_owned());
            for others in ["", "80", "80,50000-50010,65535", "49152-65535", "49000-49200", "1-65535"] {
                set(others)?;
                let before = Before::observe()?;
                reserve_ports(49152, 65535)?;
                assert_eq!(Before::observe_without(49152, 65535)?.reserved, {
                    let mut ports = Ports::parse(others)?;
                    ports.remove(49152, 65535);
                    ports.to_string()
                });
                before.release_ports(49152, 65535)?;
                assert_eq!(list()?, others);
            }
            for on in [["0", "0"], ["1", "0"], ["0", "1"], ["1", "1"]] {
                let paths = FAMILIES.map(|family| forwarding(family, "lo"));
                if !Path::new(&paths[1]).exists() {
                    continue;
                }
                paths.iter().zip(on).try_for_each(|(path, on)| fs::write(path, on))?;
                let before = Before::observe()?;
                forward_from_loopback()?;
                before.stop_forwarding()?;
                let after = paths.each_ref().map(|path| fs::read_to_string(path).unwrap_or_default());
                assert_eq!(after.each_ref().map(|on| on.trim()), on);
            }
            Ok(())
        });
    }
}
