//! Settings of a namespace: ports that the host's own sockets are kept away from, whether there is IPv6, and whether the kernel says
//! to programs where packets go.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use anyhow::{Context, Result, bail};

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
pub fn release_ports(lo: u16, hi: u16) -> Result<()> {
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
/// `on`: false: it becomes what the host's other interfaces are. Returns whether something had to be changed.
///
/// # Errors
/// The setting cannot be read or written.
pub fn forward_from_loopback(on: bool) -> Result<bool> {
    let mut changed = false;
    for family in ["ipv4", "ipv6"] {
        let path = |interface: &str| format!("/proc/sys/net/{family}/conf/{interface}/forwarding");
        let (own, all) = (path("lo"), path("all"));
        if !Path::new(&own).exists() {
            continue;
        }
        let value = if on {
            "1".to_owned()
        } else {
            fs::read_to_string(&all).with_context(|| format!("reading {all}"))?.trim().to_owned()
        };
        let old = fs::read_to_string(&own).with_context(|| format!("reading {own}"))?;
        if old.trim() != value {
            fs::write(&own, &value).with_context(|| format!("writing {value} to {own}"))?;
            changed = true;
        }
    }
    Ok(changed)
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
}
