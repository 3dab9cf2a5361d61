//! What is compared: networks between the same two ends, each built in another way.

mod bridge;
mod docker;
mod netd;
mod plain;

use std::{fmt, net::Ipv4Addr};

use anyhow::{Context, Result};

use super::case::Route;
use crate::lab::{Lab, Namespace, World};

/// A way to build the network.
#[derive(Debug)]
pub struct Variant {
    /// Its name on the command line and in the JSON.
    pub name: &'static str,
    /// What it is, for people.
    pub what: &'static str,
    build: fn(&Lab, &World) -> Result<Scene>,
}

/// The variant that all others are compared with.
pub const OURS: &str = "netd";

/// Every variant, in the order of the report.
pub const VARIANTS: &[Variant] = &[
    Variant { name: OURS, what: "two containers of a netd daemon, network default", build: netd::build },
    Variant {
        name: "bridge",
        what: "two containers on a Linux bridge, with the rules and settings of Docker",
        build: bridge::build,
    },
    Variant {
        name: "veth",
        what: "two namespaces and a veth cable: what a datapath over veth can reach at best",
        build: plain::veth,
    },
    Variant { name: "loopback", what: "both ends in one namespace", build: plain::loopback },
];

impl PartialEq for Variant {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Variant {
    /// Builds it. An error says why this machine cannot have it.
    pub(super) fn build(&self, lab: &Lab, world: &World) -> Result<Scene> {
        let scene = (self.build)(lab, world)?;
        for path in [Some(&scene.local), scene.egress.as_ref()].into_iter().flatten() {
            for end in [&path.client, &path.server] {
                choose_congestion_control(end)?;
            }
        }
        Ok(scene)
    }
}

/// A variant that is up.
pub(super) struct Scene {
    local: Path,
    egress: Option<Path>,
    evidence: Option<Evidence>,
}

/// Says, after the traffic, what carried it.
type Evidence = Box<dyn Fn() -> Result<String>>;

impl fmt::Debug for Scene {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Scene")
            .field("local", &self.local)
            .field("egress", &self.egress)
            .finish_non_exhaustive()
    }
}

impl Scene {
    /// The way that a case goes; `None` where this variant has no such way.
    pub(super) fn path(&self, route: Route) -> Option<&Path> {
        match route {
            Route::SameHost => Some(&self.local),
            Route::Egress => self.egress.as_ref(),
        }
    }

    /// What carried the traffic so far, counted by the kernel.
    pub(super) fn evidence(&self) -> Option<Result<String>> {
        self.evidence.as_ref().map(|evidence| evidence())
    }
}

/// Two ends, and how the client reaches the server.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) client: Namespace,
    pub(super) server: Namespace,
    pub(super) address: Ipv4Addr,
}

/// The one that is the kernel's default where nobody has chosen another, or else the one that every kernel has. A machine's
/// own choice, such as BBR, which paces its packets by timers, measures its clocks as much as the path.
fn choose_congestion_control(end: &Namespace) -> Result<()> {
    const SYSCTL: &str = "net.ipv4.tcp_congestion_control";
    // Refused where it is not built in.
    if end.set_sysctl(SYSCTL, "cubic").is_ok() {
        return Ok(());
    }
    end.set_sysctl(SYSCTL, "reno").context("neither cubic nor reno can be chosen")
}
