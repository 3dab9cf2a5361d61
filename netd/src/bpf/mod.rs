//! The datapath as the daemon sees it: programs, maps and links, all pinned, so that they outlive the daemon.

mod counters;
mod flow_list;
mod flows;
mod links;
mod maps;
mod pins;
mod ports;
mod routes;
mod sockets;
mod syscall;
mod types;

use std::{collections::HashSet, net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf,
    maps::MapError,
    programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions},
};
use ipnet::Ipv4Net;
use netd_common::{
    V4, abi,
    wire::{Mac as WireMac, MacPair},
};

pub use self::flow_list::{FlowEntry, FlowFilter, FlowReader, Phase};
pub use self::links::Attachment;
pub use self::ports::{MAX_PORTS, PublishedPort};
pub use self::routes::node_behind;
pub use self::types::{
    Counter, Endpoint, EndpointCounters, Expired, MAX_NODES, Mac, MapFill, NodeConfig, NodeCounters, Options,
    ProgramStatus, Route, TestRun, Uplink,
};
use self::{
    links::Hook,
    maps::Maps,
    pins::Pins,
    ports::Ports,
    routes::{RouteTable, Routes, entry},
    syscall::Walk,
};

/// The programs, as they are called in the object.
const PROGRAMS: [&str; 5] = [FROM_CONTAINER, TO_CONTAINER, FROM_UPLINK, FROM_OVERLAY, FLOW_GC];
const FROM_CONTAINER: &str = "from_container";
const TO_CONTAINER: &str = "to_container";
const FROM_UPLINK: &str = "from_uplink";
const FROM_OVERLAY: &str = "from_overlay";
const FLOW_GC: &str = "flow_gc";

/// The eBPF object, in the binary.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netd.o"));

/// The loaded datapath.
pub struct Datapath {
    programs: Ebpf,
    maps: Maps,
    pins: Pins,
    config: Option<NodeConfig>,
    routes: Routes,
    ports: Ports,
    /// Where the search for flows that have timed out is.
    expiry: Walk,
}

impl Datapath {
    /// Loads the programs and creates the maps, or takes over those that are pinned: running programs go on until the new
    /// ones replace them, link by link, atomically.
    ///
    /// # Errors
    /// The pin directory is not usable, a pinned map has another shape than this build expects, or the kernel refuses a
    /// program.
    pub fn open(options: &Options) -> Result<Self> {
        Self::open_with(options, Attachment::Clsact, Attachment::of_this_kernel())
    }

    /// The same with a choice of how programs are attached to endpoints' links and to all others.
    ///
    /// # Errors
    /// As [`Datapath::open`].
    pub fn open_with(options: &Options, endpoints: Attachment, others: Attachment) -> Result<Self> {
        let pins = Pins::open(&options.directory, [endpoints, others])?;
        let mut programs = maps::loader(options, &pins)?
            .load(OBJECT)
            .map_err(|error| anyhow!("loading the eBPF object: {}", full(&error)))?;
        for name in PROGRAMS {
            program(&mut programs, name)?
                .load()
                .map_err(|error| anyhow!("the kernel refuses program {name}: {}", refusal(&error)))?;
        }
        let maps = Maps::take(&mut programs)?;
        pins.adopt_links()?;
        Ok(Self {
            programs,
            maps,
            pins,
            config: None,
            routes: Routes::default(),
            ports: Ports::default(),
            expiry: Walk::default(),
        })
    }

    /// Tells the programs about the node.
    pub fn configure(&mut self, config: &NodeConfig) -> Result<()> {
        let uplink = config.uplink;
        let value = abi::Config {
            uplink: uplink.map_or(0, |uplink| uplink.ifindex),
            address: uplink.map_or(V4(0), |uplink| v4(uplink.address)),
            first_port: config.ports.0,
            last_port: config.ports.1,
            quota: config.max_flows_per_endpoint,
            mtu: config.mtu,
        };
        self.maps.config.set(0, value, 0).context("writing the node's entry to map CONFIG4")?;
        self.config = Some(*config);
        Ok(())
    }

    /// Attaches the uplink's program, or replaces what is attached. Idempotent. Detaches from any other uplink.
    pub fn attach_uplink(&mut self, ifindex: u32) -> Result<()> {
        self.attach_only(ifindex, Hook::Uplink)
    }

    /// Attaches the program of the VXLAN device, or replaces what is attached. Idempotent. Detaches from any other.
    pub fn attach_overlay(&mut self, ifindex: u32) -> Result<()> {
        self.attach_only(ifindex, Hook::Overlay)
    }

    fn attach_only(&mut self, ifindex: u32, hook: Hook) -> Result<()> {
        links::attach(&mut self.programs, &self.pins, ifindex, hook)?;
        for (other, at) in self.pins.links()? {
            if at == hook && other != ifindex {
                self.pins.remove_link(other, hook)?;
            }
        }
        Ok(())
    }

    /// Detaches the uplink's program, wherever it is attached. Nothing there is not an error.
    pub fn detach_uplink(&mut self) -> Result<()> {
        for (ifindex, hook) in self.pins.links()? {
            if hook == Hook::Uplink {
                self.pins.remove_link(ifindex, hook)?;
            }
        }
        Ok(())
    }

    /// Writes an endpoint's entries and attaches its programs. Idempotent.
    pub fn attach_endpoint(&mut self, endpoint: &Endpoint) -> Result<()> {
        let macs = MacPair::new(endpoint.mac.0, endpoint.host_mac.0);
        let by_address =
            abi::Endpoint { ifindex: endpoint.ifindex, macs, network: endpoint.network, slot: endpoint.slot };
        self.set_interface(endpoint)?;
        links::attach(&mut self.programs, &self.pins, endpoint.ifindex, Hook::Ingress)?;
        links::attach(&mut self.programs, &self.pins, endpoint.ifindex, Hook::Egress)?;
        // Last: from here on others reach it.
        self.maps
            .endpoints
            .insert(v4(endpoint.address), by_address, 0)
            .with_context(|| full_map("ENDPOINTS4", endpoint))?;
        Ok(())
    }

    /// Writes what the programs know of who sends from an endpoint's link.
    pub fn set_interface(&mut self, endpoint: &Endpoint) -> Result<()> {
        let flag = |set, flag| if set { flag } else { 0 };
        let interface = abi::Interface {
            address: v4(endpoint.address),
            subnet: v4(endpoint.subnet.network()),
            mask: v4(endpoint.subnet.netmask()),
            gateway: v4(endpoint.gateway),
            mac: WireMac::new(endpoint.mac.0),
            flags: flag(endpoint.masquerade, abi::Interface::<V4>::MASQUERADE)
                | flag(endpoint.published, abi::Interface::<V4>::PUBLISHED),
            macs: MacPair::new(endpoint.mac.0, endpoint.host_mac.0),
            network: endpoint.network,
            slot: endpoint.slot,
        };
        self.maps
            .interfaces
            .insert(endpoint.ifindex, interface, 0)
            .with_context(|| full_map("INTERFACES4", endpoint))
    }

    /// Removes an endpoint's entries, flows, links and pins. Idempotent; goes on past errors and reports the first.
    pub fn detach_endpoint(&mut self, endpoint: &Endpoint) -> Result<()> {
        let address = v4(endpoint.address);
        let mut first = Ok(());
        let mut note = |result: Result<()>| {
            if let Err(error) = result
                && first.is_ok()
            {
                first = Err(error);
            }
        };
        // The address may have gone to another link meanwhile.
        match self.maps.endpoints.get(&address, 0) {
            Ok(entry) if entry.ifindex == endpoint.ifindex => {
                note(gone(self.maps.endpoints.remove(&address), "removing from map ENDPOINTS4"));
            }
            Ok(_) | Err(MapError::KeyNotFound) => {}
            Err(error) => note(Err(error).context("reading map ENDPOINTS4")),
        }
        note(gone(self.maps.interfaces.remove(&endpoint.ifindex), "removing from map INTERFACES4"));
        note(self.pins.remove_link(endpoint.ifindex, Hook::Ingress));
        note(self.pins.remove_link(endpoint.ifindex, Hook::Egress));
        if self.maps.flows_of(endpoint.slot).is_ok_and(|flows| flows > 0) {
            note(self.flush_flows(endpoint.address).map(drop));
        }
        note(self.maps.reset_counters(endpoint.slot));
        first
    }

    /// Makes the pinned state hold exactly these endpoints: removes the entries, flows, link pins of all others.
    pub fn retain_endpoints(&mut self, endpoints: &[Endpoint]) -> Result<()> {
        let links: HashSet<u32> = endpoints.iter().map(|endpoint| endpoint.ifindex).collect();
        let addresses: HashSet<V4> = endpoints.iter().map(|endpoint| v4(endpoint.address)).collect();
        for address in keys(self.maps.endpoints.keys(), "reading map ENDPOINTS4")? {
            if !addresses.contains(&address) {
                gone(self.maps.endpoints.remove(&address), "removing from map ENDPOINTS4")?;
            }
        }
        for ifindex in keys(self.maps.interfaces.keys(), "reading map INTERFACES4")? {
            if !links.contains(&ifindex) {
                gone(self.maps.interfaces.remove(&ifindex), "removing from map INTERFACES4")?;
            }
        }
        for (ifindex, hook) in self.pins.links()? {
            if matches!(hook, Hook::Ingress | Hook::Egress) && !links.contains(&ifindex) {
                self.pins.remove_link(ifindex, hook)?;
            }
        }
        self.remove_flows(|_, flow| !addresses.contains(&flow.address))?;
        let slots: HashSet<u32> = endpoints.iter().map(|endpoint| endpoint.slot).collect();
        self.maps.reset_other_counters(&slots)
    }

    /// Makes the route table hold exactly these routes.
    pub fn set_routes(&mut self, routes: &[(Ipv4Net, Route)]) -> Result<()> {
        let wanted: RouteTable = routes.iter().map(|(prefix, route)| (*prefix, entry(route))).collect();
        self.routes.change(&mut self.maps.routes, wanted)
    }

    /// The loaded programs.
    pub fn programs(&self) -> Result<Vec<ProgramStatus>> {
        let links = self.pins.links()?;
        let mut all = Vec::new();
        for hook in Hook::ALL {
            let name = hook.program();
            let program: &SchedClassifier =
                self.programs.program(name).context("a program is missing")?.try_into()?;
            all.push(ProgramStatus {
                name: name.to_owned(),
                hook: self.pins.attachment(hook).label().to_owned(),
                id: program.info().with_context(|| format!("asking for program {name}"))?.id(),
                attached: links.iter().filter(|(_, at)| *at == hook).count() as u32,
            });
        }
        all.extend(self.socket_programs()?);
        Ok(all)
    }

    /// Runs a program on a frame as if it had come by an interface of the calling thread's network namespace; nothing is
    /// sent. `forwarded_from` is the interface that the kernel forwards it from, 0 for none.
    pub fn test_run(
        &self,
        name: &str,
        frame: &[u8],
        ifindex: u32,
        forwarded_from: u32,
        repeat: u32,
    ) -> Result<TestRun> {
        let program: &SchedClassifier =
            self.programs.program(name).with_context(|| format!("no program {name}"))?.try_into()?;
        // struct __sk_buff: all that the kernel takes from us are these two (net/bpf/test_run.c).
        let mut context = [0u8; 192];
        context[36..40].copy_from_slice(&forwarded_from.to_ne_bytes());
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        let mut out = vec![0; frame.len() + 256];
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ctx_in: Some(&context),
                repeat,
                ..TestRunOptions::default()
            })
            .with_context(|| format!("running program {name} on a frame of {} bytes", frame.len()))?;
        out.truncate(result.data_size_out as usize);
        Ok(TestRun { verdict: result.return_value as i32, frame: out, duration: result.duration })
    }

    /// Removes every pin below `directory`: programs detach, maps go. Nothing there is not an error.
    pub fn purge(directory: &Path) -> Result<()> {
        pins::purge(directory)
    }
}

/// A program of the object.
fn program<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(programs
        .program_mut(name)
        .with_context(|| format!("the eBPF object has no program {name}"))?
        .try_into()?)
}

/// An address as the maps hold it.
fn v4(address: Ipv4Addr) -> V4 {
    V4::new(address.octets())
}

/// All keys, read before anything is removed: a removal under an iteration would start it over.
fn keys<K>(keys: impl Iterator<Item = Result<K, MapError>>, what: &'static str) -> Result<Vec<K>> {
    keys.collect::<Result<_, _>>().context(what)
}

/// A removal, for which it is fine that there was nothing.
fn gone(result: Result<(), MapError>, what: &'static str) -> Result<()> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(error).context(what),
    }
}

fn full_map(map: &str, endpoint: &Endpoint) -> String {
    format!("writing endpoint {} to map {map} (is it full?)", endpoint.address)
}

/// An error with its causes, in one line.
fn full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Why the verifier refused a program: its last words, in one line.
fn refusal(error: &ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        let log = verifier_log.to_string();
        let words: Vec<&str> = log.lines().rev().filter(|line| !line.is_empty()).take(3).collect();
        return format!("{io_error}: {}", words.into_iter().rev().collect::<Vec<_>>().join("; "));
    }
    full(error)
}

/// What is wrong with an option, said before anything is changed.
fn check(options: &Options) -> Result<()> {
    if options.max_flows == 0 || options.max_flows > 1 << 24 {
        bail!("nat.max-flows is {}: it must be between 1 and 16777216", options.max_flows);
    }
    Ok(())
}
