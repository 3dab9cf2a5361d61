//! Where the two ends of a case run.

use std::fmt;

use anyhow::{Context, Result, bail};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// How many CPUs a case gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpus {
    /// Both ends on one: every cost of the path adds up, and no wake-up of another CPU hides or adds any.
    One,
    /// The client on the first half of all CPUs, the server on the other half.
    All,
}

/// Which CPUs the two ends run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    pub(super) client: Vec<usize>,
    pub(super) server: Vec<usize>,
}

impl std::str::FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1" => Ok(Self::One),
            "all" => Ok(Self::All),
            _ => Err("it is 1 or all".to_owned()),
        }
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::One => "1",
            Self::All => "all",
        })
    }
}

impl Cpus {
    /// Divides the CPUs that there are. The one CPU is the last: interrupts are mostly handled by the first.
    pub(super) fn place(self, allowed: &[usize]) -> Placement {
        let (first, second) = match (self, allowed) {
            (Self::One, [.., last]) => (std::slice::from_ref(last), std::slice::from_ref(last)),
            (Self::All, [_, _, ..]) => allowed.split_at(allowed.len() / 2),
            _ => (allowed, allowed),
        };
        Placement { client: first.to_vec(), server: second.to_vec() }
    }

    /// How many that is, for the report.
    pub(super) fn count(self, allowed: &[usize]) -> usize {
        match self {
            Self::One => 1,
            Self::All => allowed.len(),
        }
    }
}

/// The CPUs that this process may run on.
pub(super) fn allowed() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("cannot ask which CPUs this process may use")?;
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu) == Ok(true)).collect();
    if cpus.is_empty() {
        bail!("this process may use no CPU");
    }
    Ok(cpus)
}

/// These CPUs, as the kernel wants them.
pub(super) fn set(cpus: &[usize]) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu).with_context(|| format!("bad CPU {cpu}"))?;
    }
    Ok(set)
}

/// Binds the calling thread to some CPUs.
pub(super) fn pin(cpus: &[usize]) -> Result<()> {
    let set = set(cpus)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot run on the CPUs {cpus:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placements() {
        for (cpus, allowed, client, server) in [
            (Cpus::One, &[0, 1][..], &[1][..], &[1][..]),
            (Cpus::One, &[5], &[5], &[5]),
            (Cpus::All, &[0, 1], &[0], &[1]),
            (Cpus::All, &[5], &[5], &[5]),
            (Cpus::All, &[0, 2, 4, 6, 8], &[0, 2], &[4, 6, 8]),
        ] {
            let placement = cpus.place(allowed);
            assert_eq!(
                (&placement.client[..], &placement.server[..]),
                (client, server),
                "{cpus} of {allowed:?}"
            );
        }
    }

    #[test]
    fn words() {
        for cpus in [Cpus::One, Cpus::All] {
            assert_eq!(cpus.to_string().parse(), Ok(cpus));
        }
        assert!("2".parse::<Cpus>().is_err());
    }

    #[test]
    fn this_process_may_use_a_cpu() {
        assert!(!allowed().expect("an affinity").is_empty());
    }
}
