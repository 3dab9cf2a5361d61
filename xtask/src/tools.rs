//! The programs that builds, tests and benchmarks call, and the packages that bring them.

use std::path::Path;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::apt::Apt;
use crate::system;

/// What a set-up is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Goal {
    /// Compile netd and its eBPF programs.
    Build,
    /// Run netd and its demo.
    Run,
    /// Run the tests.
    Test,
    /// Run the benchmarks.
    Bench,
    /// Check formatting, lints and documentation.
    Lint,
    /// Fuzz the decision core.
    Fuzz,
    /// Run the tests on other kernels.
    Vm,
    /// All of these.
    All,
}

/// A program and why it is needed.
struct Tool {
    /// Debian's package.
    package: &'static str,
    /// What the package brings, programs by name or files by path; any one of these means that the tool is there.
    finds: &'static [&'static str],
    /// What it is for, as set-up says it before it installs.
    why: &'static str,
    /// The goals that need it.
    goals: &'static [Goal],
    /// What the package starts at boot, as systemd calls it. Only the program is wanted.
    services: &'static [&'static str],
}

impl Tool {
    const fn new(
        package: &'static str,
        finds: &'static [&'static str],
        goals: &'static [Goal],
        why: &'static str,
    ) -> Self {
        Self { package, finds, why, goals, services: &[] }
    }

    const fn with_services(self, services: &'static [&'static str]) -> Self {
        Self { services, ..self }
    }

    fn is_for(&self, goal: Goal) -> bool {
        goal == Goal::All || self.goals.contains(&goal)
    }

    fn is_missing(&self) -> bool {
        !self.finds.iter().any(|name| {
            Path::new(name).is_absolute() && Path::new(name).exists() || system::find(name).is_some()
        })
    }
}

const EVERY_BUILD: &[Goal] = &[Goal::Build, Goal::Run, Goal::Test, Goal::Bench, Goal::Lint, Goal::Vm];
const EVERY_RUN: &[Goal] = &[Goal::Run, Goal::Test, Goal::Bench, Goal::Vm];
const TEST: &[Goal] = &[Goal::Test, Goal::Vm];
const BENCH: &[Goal] = &[Goal::Bench];
const FUZZ: &[Goal] = &[Goal::Fuzz];
const VM: &[Goal] = &[Goal::Vm];
const TEST_AND_BENCH: &[Goal] = &[Goal::Test, Goal::Bench, Goal::Vm];

const TOOLS: [Tool; 31] = [
    Tool::new("protobuf-compiler", &["protoc"], EVERY_BUILD, "generates the client of the etcd store"),
    Tool::new(
        "libprotobuf-dev",
        &[
            "/usr/include/google/protobuf/descriptor.proto",
            "/usr/local/include/google/protobuf/descriptor.proto",
        ],
        EVERY_BUILD,
        "what protoc needs for that",
    ),
    Tool::new("iproute2", &["ip"], EVERY_RUN, "makes the namespaces that stand for hosts and containers"),
    Tool::new("iputils-ping", &["ping"], EVERY_RUN, "sends the pings of the demo and of the tests"),
    Tool::new("ethtool", &["ethtool"], TEST_AND_BENCH, "switches the offloads of links"),
    Tool::new("iptables", &["iptables"], TEST_AND_BENCH, "sets the rules that netd is compared with"),
    Tool::new("tcpdump", &["tcpdump"], TEST, "captures what is on the wire"),
    Tool::new("nftables", &["nft"], TEST, "shows that netd leaves netfilter alone"),
    Tool::new("dnsmasq-base", &["dnsmasq"], TEST, "serves DNS over UDP through netd"),
    Tool::new("bpftool", &["bpftool"], TEST, "looks at programs, maps and links from outside"),
    Tool::new(
        "containernetworking-plugins",
        &["/usr/lib/cni/bridge", "/opt/cni/bin/bridge"],
        TEST_AND_BENCH,
        "the CNI plugins that netd is chained with, and compared with",
    ),
    Tool::new("etcd-server", &["etcd"], TEST_AND_BENCH, "the cluster's shared store")
        .with_services(&["etcd"]),
    Tool::new("busybox-static", &["busybox"], TEST_AND_BENCH, "the root file system of containers"),
    Tool::new(
        "conntrack",
        &["conntrack"],
        TEST,
        "removes the flows of the netfilter that netd is compared with",
    ),
    Tool::new("curl", &["curl"], TEST, "fetches over HTTP and FTP through netd"),
    Tool::new("bind9-dnsutils", &["dig"], TEST, "asks for names through netd"),
    Tool::new("traceroute", &["traceroute"], TEST, "finds the routers on the way"),
    Tool::new("openssh-server", &["/usr/sbin/sshd"], TEST, "holds a session over a restart")
        .with_services(&["ssh"]),
    Tool::new("openssh-client", &["ssh"], TEST, "the client of that session"),
    Tool::new(
        "python3-pyftpdlib",
        &["/usr/lib/python3/dist-packages/pyftpdlib/__init__.py"],
        TEST,
        "serves FTP through netd",
    ),
    Tool::new("nginx", &["nginx"], TEST_AND_BENCH, "the web server of tests and benchmarks")
        .with_services(&["nginx"]),
    Tool::new("wrk", &["wrk"], TEST_AND_BENCH, "the client of the request benchmark, and of a test"),
    Tool::new("iperf3", &["iperf3"], BENCH, "measures throughput"),
    Tool::new("sockperf", &["sockperf"], BENCH, "measures latency"),
    // A package of its own in the list, so that a containerd which was there before goes on.
    Tool::new("containerd", &["containerd"], BENCH, "what dockerd starts containers with")
        .with_services(&["containerd"]),
    Tool::new("docker.io", &["dockerd"], BENCH, "the dockerd that netd is compared with")
        .with_services(&["docker.socket", "docker"]),
    // Before Debian 13 in docker.io.
    Tool::new("docker-cli", &["docker"], BENCH, "its client"),
    Tool::new("g++", &["c++"], FUZZ, "compiles libFuzzer"),
    Tool::new("qemu-system-x86", &["qemu-system-x86_64"], VM, "the test VM"),
    // Before Debian 13 in what qemu-system-x86 needs.
    Tool::new(
        "virtiofsd",
        &["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"],
        VM,
        "gives it this machine's root, read-only",
    ),
    Tool::new("xz-utils", &["xz"], VM, "unpacks its kernel's modules"),
];

/// Installs what `goal` needs and the machine lacks.
///
/// Tests and benchmarks do without a tool that is not to be had, and say so: only what netd's own build and demo need is
/// vital to them.
pub(crate) fn ensure(goal: Goal, apt: &mut Apt) -> Result<()> {
    let missing: Vec<&Tool> = TOOLS.iter().filter(|tool| tool.is_for(goal) && tool.is_missing()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("set-up: missing programs");
    for tool in &missing {
        eprintln!("  {:<28} {}", tool.package, tool.why);
    }
    let result = install(&missing, apt);
    let vital = |tool: &&&Tool| {
        !matches!(goal, Goal::Test | Goal::Bench | Goal::Vm)
            || tool.is_for(Goal::Run)
            || goal == Goal::Vm && !tool.is_for(Goal::Test)
    };
    let still: Vec<&&Tool> = missing.iter().filter(|tool| tool.is_missing()).collect();
    match result {
        _ if still.is_empty() => Ok(()),
        Err(error) if still.iter().any(vital) => Err(error),
        Ok(()) if still.iter().any(vital) => {
            bail!("no package brings {}: install it by hand, then try again", names(&still))
        }
        Err(error) => {
            eprintln!("  {error:#}");
            eprintln!("  what needs {} will be skipped", names(&still));
            Ok(())
        }
        Ok(()) => {
            eprintln!("  no package brings {}: what needs it will be skipped", names(&still));
            Ok(())
        }
    }
}

fn names(tools: &[&&Tool]) -> String {
    tools.iter().map(|tool| tool.finds[0]).collect::<Vec<_>>().join(", ")
}

/// Installs those of the tools that this distribution has packages for.
fn install(tools: &[&Tool], apt: &mut Apt) -> Result<()> {
    let packages: Vec<&str> = tools.iter().map(|tool| tool.package).collect();
    let known = apt.known(&packages)?;
    apt.install(&known)?;
    for tool in tools {
        if known.contains(&tool.package) {
            tool.services.iter().for_each(|service| apt.disable_service(service));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_needs_little() {
        let packages: Vec<&str> = TOOLS.iter().filter(|t| t.is_for(Goal::Run)).map(|t| t.package).collect();
        assert_eq!(packages, ["protobuf-compiler", "libprotobuf-dev", "iproute2", "iputils-ping"]);
    }

    #[test]
    fn every_tool_is_for_something_and_stands_once() {
        for tool in &TOOLS {
            assert!(tool.is_for(Goal::All) && !tool.goals.is_empty() && !tool.finds.is_empty());
            assert_eq!(
                TOOLS.iter().filter(|other| other.package == tool.package).count(),
                1,
                "{}",
                tool.package
            );
        }
    }
}
