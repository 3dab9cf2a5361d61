//! What the figures were measured on.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
};

use serde::Serialize;

use super::cpus;

/// The machine, as far as it matters to the figures. `None`: not there, or not to be found out.
#[derive(Debug, Default, Serialize)]
pub(super) struct Machine {
    pub(super) kernel: Option<String>,
    pub(super) cpu: Option<String>,
    /// CPUs that this process may use.
    pub(super) cores: usize,
    /// Whether the CPU says that it is a virtual machine's.
    pub(super) virtual_machine: bool,
    pub(super) netd: &'static str,
    pub(super) iptables: Option<String>,
    /// What else takes part, as far as it is installed, in its own words.
    pub(super) versions: BTreeMap<&'static str, String>,
    /// Whether frames on a bridge can meet the rules of iptables at all.
    pub(super) br_netfilter: bool,
    /// How many threads have run or waited for a CPU, on average over the minute before the first sample.
    pub(super) load: Option<f64>,
}

/// From this load on, what else runs is likely to be seen in the figures.
const BUSY: f64 = 0.5;

impl Machine {
    pub(super) fn here() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| cpu_field(&cpuinfo, name);
        Self {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned()),
            cpu: field("model name").map(str::to_owned),
            cores: cpus::allowed().map_or(0, |cpus| cpus.len()),
            virtual_machine: field("flags")
                .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor")),
            netd: env!("CARGO_PKG_VERSION"),
            iptables: said("iptables", "--version"),
            versions: PROGRAMS
                .iter()
                .filter_map(|(name, option)| Some((*name, said(name, option)?)))
                .collect(),
            br_netfilter: fs::exists("/proc/sys/net/bridge/bridge-nf-call-iptables").unwrap_or(false),
            load: fs::read_to_string("/proc/loadavg").ok().and_then(|text| load(&text)),
        }
    }

    /// What speaks against the figures.
    pub(super) fn warning(&self) -> Option<String> {
        let load = self.load.filter(|load| *load >= BUSY)?;
        Some(format!(
            "WARNING: other work was running (load {load:.1} in the minute before): the figures are less certain"
        ))
    }

    /// In one line.
    pub(super) fn line(&self) -> String {
        let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
        let kind = if self.virtual_machine { ", a virtual machine" } else { "" };
        format!(
            "Linux {}, {} × {}{kind}; netd {}; {}",
            or_unknown(&self.kernel),
            self.cores,
            or_unknown(&self.cpu),
            self.netd,
            self.iptables.as_deref().unwrap_or("no iptables"),
        )
    }
}

/// Programs that take part, and the option that makes them say their version.
const PROGRAMS: [(&str, &str); 5] = [
    ("ip", "-V"),
    ("nginx", "-v"),
    ("wrk", "-v"),
    ("dockerd", "--version"),
    ("/usr/lib/cni/bridge", "--version"),
];

/// The first line that a program says of its version, e.g. `iptables v1.8.9 (nf_tables)`, where the word in parentheses tells
/// which of its two kinds it is. Some say it on the standard error, or end with an error all the same.
fn said(program: &str, option: &str) -> Option<String> {
    let output = Command::new(program).arg(option).stdin(Stdio::null()).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).ok()?;
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

/// The first of the three averages: that of one minute.
fn load(loadavg: &str) -> Option<f64> {
    loadavg.split(' ').next()?.parse().ok()
}

/// The first value of a field in `/proc/cpuinfo`.
fn cpu_field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_cpuinfo() {
        let text =
            "processor\t: 0\nmodel name\t: A CPU @ 2.0GHz\nflags\t\t: fpu hypervisor\n\nprocessor\t: 1\n";
        assert_eq!(cpu_field(text, "model name"), Some("A CPU @ 2.0GHz"));
        assert_eq!(cpu_field(text, "processor"), Some("0"));
        assert_eq!(cpu_field(text, "model"), None);
    }

    #[test]
    fn a_busy_machine_is_warned_of() {
        assert_eq!(load("0.25 1.00 2.00 1/100 4711\n"), Some(0.25));
        for (load, busy) in [(None, false), (Some(0.1), false), (Some(2.0), true)] {
            let machine = Machine { load, ..Machine::default() };
            assert_eq!(machine.warning().is_some(), busy, "{load:?}");
        }
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_cpu() {
        let machine = Machine::here();
        assert!(machine.kernel.is_some());
        assert!(machine.cores > 0);
    }
}
