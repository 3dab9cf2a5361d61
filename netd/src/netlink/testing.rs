//! Namespaces for tests: unnamed, so that nothing is left of them, however a test ends.

use std::{net::IpAddr, panic, thread};

use anyhow::Result;
use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};

use super::{Netns, PairKind, PairSpec};

/// Runs a test on a thread with a network and mount namespace of its own, with a tokio runtime. Skips it where that is
/// not allowed.
pub(super) fn isolated<F: Future<Output = Result<()>>>(name: &str, test: impl FnOnce() -> F + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS) {
                eprintln!("SKIP {name}: cannot make namespaces ({})", errno.desc());
                return;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test()).unwrap();
        });
        thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
    });
}

/// A new network namespace.
pub(super) fn netns() -> Netns {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            Netns::open("/proc/thread-self/ns/net").unwrap()
        });
        thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

/// A veth pair `ndtest` - `eth0`.
pub(super) fn veth(netns: &Netns) -> PairSpec<'_> {
    PairSpec {
        kind: PairKind::Veth,
        host_name: "ndtest",
        host_mac: [2, 0, 0, 0, 0, 1],
        container_name: "eth0",
        container_mac: [2, 0, 0, 0, 0, 2],
        netns,
        mtu: 1400,
        big_tcp: false,
        alias: "netd:web",
    }
}

pub(super) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
