//! `netd demo`: the set-ups that a tutorial builds from veth, a bridge and iptables, on this machine, without either.
//!
//! Real daemons, real programs, real traffic, in network namespaces of their own: a router and a server are the world
//! outside. Each configuration prints who reached whom, what carried it, and what the kernel's own container networking
//! would have left on the host.

mod output;
mod probe;
mod progress;
mod report;
mod scene;

use std::{
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

use self::{
    progress::Progress,
    report::{Configuration, Report},
    scene::{Plan, Scene, Wiring},
};
use crate::lab::{self, Closer, Lab, World, signals};

/// What labs of the demo are called.
const KIND: &str = "demo";

/// The configurations of the design, in its order.
const PLANS: [Plan; 4] = [
    Plan {
        number: 1,
        name: "one container, one host",
        wiring: Wiring::Alone,
        note: None,
        hosts: &[("host1", &[("web", "default")])],
        carried: None,
    },
    Plan {
        number: 2,
        name: "many containers, one host",
        wiring: Wiring::Alone,
        note: None,
        hosts: &[("host2", &[("web", "default"), ("api", "default"), ("db", "default"), ("guest", "other")])],
        carried: None,
    },
    Plan {
        number: 3,
        name: "many hosts on one layer-2 network",
        wiring: Wiring::Switch,
        note: Some(
            "three hosts on one switch; packets are routed from host to host as they are (transport direct)",
        ),
        hosts: &[
            ("host3a", &[("web", "default"), ("api", "default")]),
            ("host3b", &[("db", "default"), ("guest", "other")]),
            ("host3c", &[("mail", "default"), ("visitor", "other")]),
        ],
        carried: Some((&["to-node", "from-node"], &["to-node-vxlan", "from-node-vxlan", "from-node-kernel"])),
    },
    Plan {
        number: 4,
        name: "many hosts across routers",
        wiring: Wiring::Routed,
        note: Some(
            "two hosts, each in a subnet of its own behind the router, which knows no container; packets between them travel in \
             VXLAN",
        ),
        hosts: &[
            ("host4a", &[("web", "default"), ("guest", "other")]),
            ("host4b", &[("db", "default"), ("visitor", "other")]),
        ],
        carried: Some((&["to-node-vxlan", "from-node-vxlan"], &["to-node", "from-node"])),
    },
];

/// Runs the demo; success only if every configuration passes. With `json`, one JSON document is all that
/// goes to the standard output. With `keep`, the network stays, and commands to explore it are printed.
///
/// # Errors
/// The lab cannot be made: not root, or the kernel lacks something. What a configuration fails at is not an error here: it
/// is in the report.
pub fn run(keep: bool, json: bool) -> Result<ExitCode> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "netd demo makes network namespaces and loads programs, which only root may: run it with sudo"
    );
    let interruption = Interruption::catch()?;
    let result = demonstrate(keep, json, &interruption);
    interruption.wait_if_interrupted();
    result
}

/// Removes the networks that `--keep` left, or only the one of that name; prints what went.
///
/// # Errors
/// The caller is not root, or there is none of that name.
pub fn clean(only: Option<&str>) -> Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), "netd demo --clean needs root: run it with sudo");
    let removed = lab::clean_kept(KIND, only);
    if removed.is_empty() {
        match only {
            Some(name) => bail!("there is no demo {name} to remove"),
            None => println!("There is no demo to remove."),
        }
    }
    for prefix in removed {
        println!("Removed {prefix}: its daemons, namespaces, pins and files.");
    }
    Ok(ExitCode::SUCCESS)
}

fn demonstrate(keep: bool, json: bool, interruption: &Interruption) -> Result<ExitCode> {
    let start = Instant::now();
    let progress = Progress::new();
    let mut lab = interruption.lab(|| Lab::new(KIND))?;
    progress.step("building a router and a server");
    let world = World::new(&lab).context("cannot build the world outside")?;
    let mut report = Report::default();
    let mut scenes = Vec::new();
    if !json {
        output::introduction(&world);
    }
    for plan in PLANS {
        let (configuration, scene) = configuration(plan, &lab, &world, &progress);
        progress.clear();
        if interruption.happened() {
            // What failed, failed because the lab is being removed.
            return Ok(ExitCode::FAILURE);
        }
        if !json {
            output::configuration(&configuration);
        }
        report.configurations.push(configuration);
        scenes.extend(scene);
    }
    report.seconds = start.elapsed().as_secs_f64();
    if keep {
        lab.keep()?;
        report.kept = Some(lab.prefix().to_owned());
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&report.json()).context("cannot write JSON")?);
    } else {
        output::summary(&report);
    }
    if keep {
        output::explore(&scenes, &world, lab.prefix(), json);
    }
    progress.step("removing everything");
    drop((scenes, world, lab));
    progress.clear();
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds a configuration and drives traffic through it. What goes wrong is in the result.
fn configuration(
    plan: Plan,
    lab: &Lab,
    world: &World,
    progress: &Progress,
) -> (Configuration, Option<Scene>) {
    let start = Instant::now();
    let mut configuration = Configuration::new(plan.number, plan.name, plan.note);
    let mut scene = match Scene::start(&plan, lab, world, progress) {
        Ok(scene) => scene,
        Err(failure) => {
            configuration.fail(format!("{:#}", failure.error), failure.log);
            configuration.seconds = start.elapsed().as_secs_f64();
            return (configuration, None);
        }
    };
    configuration.note = configuration.note.map(|note| match scene.store() {
        Some(store) => format!("{note}; {store}"),
        None => note,
    });
    if let Err(error) = scene.prove(&plan, world, progress, &mut configuration) {
        configuration.fail(format!("{error:#}"), String::new());
    }
    configuration.seconds = start.elapsed().as_secs_f64();
    if !configuration.passed() {
        configuration.log = scene.log();
    }
    (configuration, Some(scene))
}

/// What happens on SIGINT, SIGTERM and SIGHUP: everything is removed, then the process ends.
struct Interruption {
    happened: Arc<AtomicBool>,
    closer: Arc<Mutex<Option<Closer>>>,
}

impl Interruption {
    fn catch() -> Result<Self> {
        let interruption = Self { happened: Arc::default(), closer: Arc::default() };
        let (happened, closer) = (Arc::clone(&interruption.happened), Arc::clone(&interruption.closer));
        signals::catch(move |signal| {
            happened.store(true, Ordering::SeqCst);
            // Waits while the lab is being made.
            if let Some(closer) = &*closer.lock().unwrap_or_else(PoisonError::into_inner) {
                closer.close();
            }
            eprintln!("\nnetd demo: {signal}: everything is removed");
            std::process::exit(128 + signal as i32);
        })?;
        Ok(interruption)
    }

    /// Makes the lab in such a way that a signal at any moment finds it.
    fn lab(&self, make: impl FnOnce() -> Result<Lab>) -> Result<Lab> {
        let mut closer = self.closer.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = make()?;
        *closer = Some(lab.closer());
        Ok(lab)
    }

    fn happened(&self) -> bool {
        self.happened.load(Ordering::SeqCst)
    }

    /// The thread that removes everything must not be cut short by the end of this one: it ends the process itself.
    fn wait_if_interrupted(&self) {
        while self.happened() {
            std::thread::park();
        }
    }
}
