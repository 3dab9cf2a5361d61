//! `netd bench scale`: what a packet costs against how much there is of something: endpoints, published ports, flows, routes.
//!
//! Each is measured for netd and for a bridge with Docker's rules at growing counts, samples of the two in turns.

mod endpoints;
mod flows;
mod ports;
mod routes;

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::json;

use super::{
    Output,
    case::{Case, Route, Traffic},
    cpus::Cpus,
    interruption::Interruption,
    machine::Machine,
    progress::Progress,
    report::{Outcome, Report, Series},
    sample::{self, Timing},
    scene::{OURS, Path},
    schedule,
};
use crate::lab::{Lab, World};

/// What is varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Containers on the host
    Endpoints,
    /// Translated connections
    Flows,
    /// Nodes with a route each
    Routes,
    /// Published ports
    Ports,
}

/// How it is measured.
#[derive(Debug)]
pub struct Scale {
    /// In this order.
    pub what: Vec<What>,
    /// Larger counts are left out.
    pub max: u32,
    /// Samples of each.
    pub rounds: usize,
    /// How long a sample measures.
    pub time: Duration,
    /// Where the results go.
    pub output: Output,
}

/// What is compared, in the order of the report.
const VARIANTS: [&str; 2] = [OURS, "bridge"];
/// What the names in the report mean.
pub(super) const LEGEND: &str = "  netd   a netd daemon, or one on each of two hosts
  bridge a Linux bridge with Docker's rules; between hosts, with a route to each as flannel's host-gw sets it
";

/// A network in which there can be more and more of something.
trait Subject {
    /// Adds to what there is until it is so much. Counts only grow.
    fn grow(&mut self, count: u32) -> Result<()>;
    /// The way that is measured.
    fn path(&self) -> &Path;
    /// Called before each sample: what has timed out is made again.
    fn refresh(&mut self) -> Result<()> {
        Ok(())
    }
}

impl What {
    fn counts(self) -> &'static [u32] {
        match self {
            Self::Endpoints | Self::Ports => &[10, 100, 1_000, 10_000],
            Self::Flows => &[1_000, 10_000, 100_000, 250_000],
            Self::Routes => &[5, 50, 500, 5_000],
        }
    }

    fn group(self) -> &'static str {
        match self {
            Self::Endpoints => {
                "against the number of endpoints (netd: real ones up to 1,000, then entries in its maps)"
            }
            Self::Flows => "against the number of flows, masqueraded",
            Self::Routes => "against the number of nodes, routed",
            Self::Ports => "against the number of published ports",
        }
    }

    fn cases(self) -> &'static [Case] {
        const fn case(name: &'static str, what: &'static str, traffic: Traffic, route: Route) -> Case {
            Case { name, what, traffic, route }
        }
        const ENDPOINTS: &[Case] = &[
            case("endpoints-tcp-rr", "TCP, 1 byte there and back", Traffic::TcpRr, Route::SameHost),
            case("endpoints-tcp-crr", "TCP, connect, 1 byte, close", Traffic::TcpCrr, Route::SameHost),
        ];
        const FLOWS: &[Case] = &[
            case("flows-udp-rr", "UDP, 64 bytes there and back: a known flow", Traffic::UdpRr, Route::Egress),
            case("flows-tcp-crr", "TCP, connect, 1 byte, close: new flows", Traffic::TcpCrr, Route::Egress),
        ];
        const ROUTES: &[Case] = &[
            case("routes-udp-rr", "UDP, 64 bytes there and back", Traffic::UdpRr, Route::SameHost),
            case(
                "routes-udp-64",
                "UDP, datagrams of 64 bytes, one way",
                Traffic::UdpPackets,
                Route::SameHost,
            ),
        ];
        const PORTS: &[Case] = &[
            case("ports-tcp-rr", "TCP, 1 byte there and back, from outside", Traffic::TcpRr, Route::Egress),
            case(
                "ports-tcp-crr",
                "TCP, connect, 1 byte, close, from outside: new connections to the port in the middle",
                Traffic::TcpCrr,
                Route::Egress,
            ),
        ];
        match self {
            Self::Endpoints => ENDPOINTS,
            Self::Flows => FLOWS,
            Self::Routes => ROUTES,
            Self::Ports => PORTS,
        }
    }

    fn build<'a>(self, variant: &str, lab: &'a Lab, world: &World) -> Result<Box<dyn Subject + 'a>> {
        let ours = variant == OURS;
        Ok(match self {
            Self::Endpoints if ours => Box::new(endpoints::Netd::new(lab, world)?),
            Self::Endpoints => Box::new(endpoints::Bridge::new(lab, world)?),
            Self::Flows if ours => Box::new(flows::netd(lab, world)?),
            Self::Flows => Box::new(flows::bridge(lab, world)?),
            Self::Routes => Box::new(routes::Routed::new(lab, ours)?),
            Self::Ports if ours => Box::new(ports::Netd::new(lab, world)?),
            Self::Ports => Box::new(ports::Bridge::new(lab, world)?),
        })
    }
}

/// Measures it all.
///
/// # Errors
/// The lab cannot be made. What a variant fails at is in the report.
pub(super) fn measure(scale: &Scale, interruption: &Interruption, progress: &mut Progress) -> Result<Report> {
    let machine = Machine::here();
    let mut report = Report {
        machine,
        outcomes: Vec::new(),
        unavailable: Vec::new(),
        evidence: Vec::new(),
        targets: Vec::new(),
        settings: json!({ "rounds": scale.rounds, "seconds": scale.time.as_secs_f64(), "max": scale.max }),
    };
    for what in &scale.what {
        // Each in a lab of its own: what one has filled is gone before the next.
        let lab = interruption.lab("scale")?;
        let world = World::new(&lab)?;
        let mut subjects: Vec<(&'static str, Box<dyn Subject>)> = Vec::new();
        for variant in VARIANTS {
            progress.step(format!("building {variant} ({what:?})"));
            interruption.wait_if_happened();
            match what.build(variant, &lab, &world) {
                Ok(subject) => subjects.push((variant, subject)),
                Err(error) => report.unavailable.push((variant, format!("{what:?}: {error:#}"))),
            }
        }
        let mut outcomes: Vec<Vec<Outcome>> = what.cases().iter().map(|_| Vec::new()).collect();
        for count in what.counts().iter().filter(|count| **count <= scale.max) {
            subjects.retain_mut(|(variant, subject)| {
                progress.step(format!("{what:?}: {variant} grows to {count}"));
                let grown = subject.grow(*count).and_then(|()| subject.path().prepare());
                interruption.wait_if_happened();
                let Err(error) = grown else { return true };
                report.unavailable.push((*variant, format!("{what:?}, {count} and more: {error:#}")));
                false
            });
            progress.begin(scale.rounds * what.cases().len() * subjects.len());
            for (case, outcome) in
                at(*what, *count, &mut subjects, scale, interruption, progress)?.into_iter().enumerate()
            {
                outcomes[case].push(outcome);
            }
        }
        progress.step("removing everything");
        report.outcomes.extend(outcomes.into_iter().flatten());
        // The subjects, the world, the lab: in this order, at the end of their scope.
    }
    progress.clear();
    Ok(report)
}

/// All cases at one count.
fn at(
    what: What,
    count: u32,
    subjects: &mut [(&'static str, Box<dyn Subject + '_>)],
    scale: &Scale,
    interruption: &Interruption,
    progress: &mut Progress,
) -> Result<Vec<Outcome>> {
    let placement = Cpus::One.place(&super::cpus::allowed()?);
    let timing = Timing { warmup: super::compare::warmup(scale.time), time: scale.time };
    let outcome = |case: &Case| Outcome {
        group: what.group(),
        case: case.name,
        what: case.what,
        unit: case.unit(),
        cpus: 1,
        operation: case.traffic.operation().0,
        count: Some(count),
        series: subjects.iter().map(|(variant, _)| Series::new(variant)).collect(),
    };
    let mut outcomes: Vec<Outcome> = what.cases().iter().map(outcome).collect();
    for round in 0..scale.rounds {
        for (case, outcome) in what.cases().iter().zip(&mut outcomes) {
            for index in schedule::order(round, subjects.len()) {
                let (variant, subject) = &mut subjects[index];
                progress.step(format!(
                    "{} at {count}, round {} of {}: {variant}",
                    case.name,
                    round + 1,
                    scale.rounds
                ));
                let sample =
                    subject.refresh().and_then(|()| sample::take(case, subject.path(), &placement, timing));
                interruption.wait_if_happened();
                outcome.series[index].samples.push(sample.map_err(|error| format!("{error:#}")));
                progress.count();
            }
        }
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_grow_and_names_say_what() {
        for what in What::value_variants() {
            assert!(what.counts().is_sorted(), "{what:?}");
            let name = format!("{what:?}").to_lowercase();
            assert!(what.cases().iter().all(|case| case.name.starts_with(&name)), "{what:?}");
        }
    }
}
