//! The datapath as the daemon sees it: programs, maps and links, all pinned, so that they outlive the daemon.

mod counters;
mod crowd;
mod deny;
mod family;
mod features;
mod flow_list;
mod flow_removal;
mod flows;
mod left;
mod links;
mod maps;
mod netkit;
mod next_hops;
mod pins;
mod places;
mod ports;
mod pressure;
mod room;
mod routes;
mod sockets;
mod syscall;
mod types;
pub mod verify;

use std::{
    collections::{BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf,
    maps::ProgramArray,
    programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions},
};
use ipnet::IpNet;
use netd_common::{
    V4, V6,
    abi::{self, UnansweredRing},
    wire::{Be16, Mac as WireMac, MacPair, Vxlan},
};

pub use self::crowd::add_crowd;
pub use self::deny::MAX_DENIED;
pub use self::flow_list::{FlowEntry, FlowFilter, FlowReader, Phase, Protocol};
pub use self::flow_removal::{FlowRemover, FlowsOf};
pub use self::left::{LeftEndpoint, LeftTables};
pub use self::links::Attachment;
pub use self::netkit::has_netkit;
pub use self::next_hops::NextHopsTurn;
pub use self::ports::{MAX_PORTS, PublishedPort};
pub use self::pressure::Pressure;
pub use self::routes::node_behind;
pub use self::types::{
    Counter, Endpoint, EndpointCounters, EndpointV6, Expired, Feature, MAX_NODES, Mac, MapFill, NodeConfig,
    NodeCounters, Options, ProgramStatus, Route, TestRun, Uplink, Wiring, XdpChoice, XdpMode,
};
use self::{
    deny::DenyMaps,
    family::{Family as _, v6},
    features::FEATURES,
    flows::Expiry,
    links::{Hook, XDP_UPLINK},
    maps::Maps,
    pins::Pins,
    ports::Ports,
    routes::Routes,
    sockets::Sockets,
};

/// The programs, as they are called in the object.
const PROGRAMS: [&str; 6] = [FROM_CONTAINER, TO_CONTAINER, FROM_UPLINK, FROM_OVERLAY, FLOW_GC, FEATURES];
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
    deny: DenyMaps,
    next_hops: Option<NextHopsTurn>,
    pins: Pins,
    config: Option<NodeConfig>,
    /// The VXLAN device that the programs know of; 0: none.
    overlay: u32,
    routes: [Routes; 2],
    ports: Ports,
    sockets: Option<Sockets>,
    /// Where the search for flows that have timed out is.
    expiry: Expiry,
}

impl Datapath {
    /// Loads the programs and creates the maps, or takes over those that are pinned: running programs go on until the new
    /// ones replace them, link by link, atomically.
    ///
    /// # Errors
    /// The pin directory is not usable, a pinned map has another shape than this build expects, there is no memory for the
    /// maps, or the kernel refuses a program.
    pub fn open(options: &Options) -> Result<Self> {
        Self::open_with(options, Attachment::Clsact, Attachment::of_this_kernel())
    }

    /// The same with a choice of how programs are attached to endpoints' links and to all others.
    ///
    /// # Errors
    /// As [`Datapath::open`].
    pub fn open_with(options: &Options, endpoints: Attachment, others: Attachment) -> Result<Self> {
        let pins = Pins::open(&options.directory, [endpoints, others])?;
        let mut programs = room::load(options, &pins)?;
        for name in PROGRAMS {
            program(&mut programs, name)?
                .load()
                .map_err(|error| anyhow!("the kernel refuses program {name}: {}", refusal(&error)))?;
        }
        deny::load(&mut programs)
            .map_err(|error| anyhow!("the kernel refuses program {XDP_UPLINK}: {}", refusal(&error)))?;
        set_steps(&mut programs)?;
        let maps = Maps::take(&mut programs)?;
        let deny = DenyMaps::take(&mut programs)?;
        let next_hops = Some(NextHopsTurn::take(&mut programs)?);
        pins.adopt_links()?;
        let (routes, ports) = Default::default();
        // That of the daemon before, until this one has looked.
        let overlay = maps.v4.config().map_or(0, |config| config.overlay);
        Ok(Self {
            programs,
            maps,
            deny,
            next_hops,
            pins,
            config: None,
            overlay,
            routes,
            ports,
            sockets: None,
            expiry: Expiry::default(),
        })
    }

    /// What tells the programs of changes of next hops; none: somebody has it already.
    pub fn take_next_hops(&mut self) -> Option<NextHopsTurn> {
        self.next_hops.take()
    }

    /// Tells the programs about the node.
    pub fn configure(&mut self, config: &NodeConfig) -> Result<()> {
        let uplink = config.uplink;
        let [away, away6] = config.away;
        let address = uplink.map_or(V4(0), |uplink| v4(uplink.address));
        let address6 = uplink.and_then(|uplink| uplink.address6).map_or(V6([0; 4]), v6);
        let seed = self.seed()?;
        let value = abi::Config {
            uplink: uplink.filter(|_| !away).map_or(0, |uplink| uplink.ifindex),
            address,
            underlay4: address,
            underlay6: address6,
            first_port: config.ports.0,
            last_port: config.ports.1,
            quota: config.max_flows_per_endpoint,
            flows: self.maps.v4.max_flows,
            ring: ring(config.max_flows_per_endpoint),
            seed,
            mtu: config.mtu,
            overlay: self.overlay,
            overlay_port: if config.in_cluster { Vxlan::PORT } else { Be16::ZERO },
            reserved: 0,
        };
        let value6 = with_address(&value, address6);
        // What other nodes get in VXLAN needs no IPv6 address here.
        let uplink6 = if away6 && value.overlay == 0 { 0 } else { value.uplink };
        let value6 = abi::Config { uplink: uplink6, flows: self.maps.v6.max_flows, ..value6 };
        self.config = Some(*config);
        if self.maps.v4.config()? == value && self.maps.v6.config()? == value6 {
            return Ok(());
        }
        syscall::wait_for_programs();
        self.maps.v4.configure(value)?;
        self.maps.v6.configure(value6)
    }

    /// What the programs' keyed hashes are keyed with: as long as the maps are there, what it was when they were made.
    fn seed(&self) -> Result<u32> {
        let known = self.maps.v4.config()?.seed;
        if known != 0 {
            return Ok(known);
        }
        let mut bytes = [0; 4];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
            .context("reading /dev/urandom")?;
        Ok(u32::from_ne_bytes(bytes) | 1)
    }

    /// The uplink and its MTU as the programs know them from a daemon before this one; none: they know of no address, or are attached
    /// to no uplink.
    pub fn pinned_uplink(&self) -> Result<Option<(Uplink, u32)>> {
        let v4 = self.maps.v4.config()?;
        let v6 = self.maps.v6.config()?;
        let links = self.pins.links()?;
        let link = links.iter().find(|(_, hook)| *hook == Hook::Uplink).map(|(ifindex, _)| *ifindex);
        let (Some(ifindex), IpAddr::V4(address)) = (link, v4.address.ip()) else { return Ok(None) };
        let address6 = match v6.address.ip() {
            IpAddr::V6(address) if !address.is_unspecified() => Some(address),
            _ => None,
        };
        let known = !address.is_unspecified();
        Ok(known.then_some((Uplink { ifindex, address, address6 }, v4.mtu)))
    }

    /// Attaches the uplink's program, or replaces what is attached. Idempotent. Detaches from any other uplink.
    pub fn attach_uplink(&mut self, ifindex: u32) -> Result<()> {
        self.attach_only(ifindex, Hook::Uplink)
    }

    /// Attaches the program of the VXLAN device, or replaces what is attached. Idempotent. Detaches from any other.
    /// From then on the programs leave to it what they cannot encapsulate.
    pub fn attach_overlay(&mut self, ifindex: u32) -> Result<()> {
        self.attach_only(ifindex, Hook::Overlay)?;
        self.set_overlay(ifindex)
    }

    /// Tells the programs that there is no VXLAN device.
    pub fn forget_overlay(&mut self) -> Result<()> {
        self.set_overlay(0)
    }

    fn set_overlay(&mut self, ifindex: u32) -> Result<()> {
        if self.overlay == ifindex {
            return Ok(());
        }
        self.overlay = ifindex;
        // Without a configuration the programs forward nothing yet.
        let config = self.config;
        config.map_or(Ok(()), |config| self.configure(&config))
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
        let (network, slot, ifindex) = (endpoint.network, endpoint.slot, endpoint.ifindex);
        self.set_interface(endpoint)?;
        let single = endpoint.wiring == Wiring::Single;
        let sends = if endpoint.wiring == Wiring::Netkit { Hook::Netkit } else { Hook::Ingress };
        links::attach(&mut self.programs, &self.pins, ifindex, sends)?;
        links::attach(&mut self.programs, &self.pins, ifindex, Hook::Egress)?;
        // Last: from here on others reach it.
        let ifindex = if single { ifindex | abi::Endpoint::SINGLE } else { ifindex };
        let by_address = abi::Endpoint { ifindex, macs, network, slot };
        self.maps.v4.set_endpoint(v4(endpoint.address), by_address)?;
        if let Some(own) = &endpoint.v6 {
            self.maps.v6.set_endpoint(v6(own.address), by_address)?;
        }
        Ok(())
    }

    /// Moves an endpoint's programs to hooks that are faster, and that nobody takes away with a qdisc, if this kernel has them and
    /// that has not been done yet (`links.rs`). Takes some 10 ms for each; whether there was anything to do.
    pub fn promote_endpoint(&mut self, ifindex: u32) -> Result<bool> {
        let mut moved = false;
        for hook in Hook::ALL.into_iter().filter(|hook| hook.is_endpoints() && self.pins.has(ifindex, *hook))
        {
            if Attachment::of_this_kernel() == Attachment::Tcx && !self.pins.is_link(ifindex, hook) {
                links::promote(&mut self.programs, &self.pins, ifindex, hook)?;
                moved = true;
            }
        }
        Ok(moved)
    }

    /// Puts those filters of some interfaces back that should be there. Returns the interfaces that should have any: links are
    /// nobody's to take away. Goes on past errors and reports the first.
    pub fn put_back(&mut self, of: impl Fn(u32) -> bool) -> Result<BTreeSet<u32>> {
        let (mut filters, mut result) = (BTreeSet::new(), Ok(()));
        for (ifindex, hook) in self.pins.links()?.into_iter().filter(|(ifindex, _)| of(*ifindex)) {
            if !self.pins.is_link(ifindex, hook) {
                let attached = links::attach(&mut self.programs, &self.pins, ifindex, hook);
                result = result.and(attached.with_context(|| format!("link number {ifindex}")));
                filters.insert(ifindex);
            }
        }
        result.map(|()| filters)
    }

    /// Writes what the programs know of who sends from an endpoint's link.
    pub fn set_interface(&mut self, endpoint: &Endpoint) -> Result<()> {
        let flag = |set, flag| if set { flag } else { 0 };
        let subnet4 = v4(endpoint.subnet.network());
        let mac = WireMac::new(endpoint.mac.0);
        let macs = MacPair::new(endpoint.mac.0, endpoint.host_mac.0);
        let flags = flag(endpoint.masquerade, abi::Interface::<V4>::MASQUERADE)
            | flag(endpoint.published, abi::Interface::<V4>::PUBLISHED);
        let (network, slot, ifindex) = (endpoint.network, endpoint.slot, endpoint.ifindex);
        let interface = abi::Interface {
            address: v4(endpoint.address),
            subnet: subnet4,
            mask: v4(endpoint.subnet.netmask()),
            gateway: v4(endpoint.gateway),
            subnet4,
            mac,
            flags,
            macs,
            network,
            slot,
        };
        self.maps.v4.set_interface(ifindex, interface)?;
        let Some(own) = &endpoint.v6 else { return self.maps.v6.remove_interface(ifindex) };
        let interface6 = abi::Interface {
            address: v6(own.address),
            subnet: v6(own.subnet.network()),
            mask: v6(own.subnet.netmask()),
            gateway: v6(own.gateway),
            subnet4,
            mac,
            flags,
            macs,
            network,
            slot,
        };
        self.maps.v6.set_interface(ifindex, interface6)
    }

    /// Removes an endpoint's entries: nobody reaches it any more, and what its link sends or is sent is dropped by the programs
    /// that are still there. Idempotent; goes on past errors and reports the first.
    pub fn close_endpoint(&mut self, endpoint: &Endpoint) -> Result<()> {
        let own6 = endpoint.v6.as_ref();
        let entry6 =
            own6.map_or(Ok(()), |own| self.maps.v6.remove_endpoint(v6(own.address), endpoint.ifindex));
        let entry4 = self.maps.v4.remove_endpoint(v4(endpoint.address), endpoint.ifindex);
        let interface4 = self.maps.v4.remove_interface(endpoint.ifindex);
        let interface6 = self.maps.v6.remove_interface(endpoint.ifindex);
        entry4.and(entry6).and(interface4).and(interface6)
    }

    /// Removes the programs of an endpoint's link and their pins, best after the link itself: without a program the
    /// container's packets reach the host's own stack. Idempotent; goes on past errors and reports the first.
    pub fn remove_programs(&mut self, ifindex: u32) -> Result<()> {
        let mut result = Ok(());
        for hook in Hook::ALL.into_iter().filter(|hook| hook.is_endpoints()) {
            result = result.and(self.pins.remove_link(ifindex, hook));
        }
        result
    }

    /// Whether a slot has flows. Those of an endpoint that is gone are to be removed before its slot and addresses are
    /// another's.
    pub fn has_flows(&self, slot: u32) -> Result<bool> {
        Ok(self.maps.flows_of(slot)? > 0)
    }

    /// Zeroes the counters of a slot, for its next owner.
    pub fn reset_counters(&mut self, slot: u32) -> Result<()> {
        self.maps.reset_counters(slot)
    }

    /// All of the above, one after the other: an endpoint's entries, programs, flows and counters.
    pub fn detach_endpoint(&mut self, endpoint: &Endpoint) -> Result<()> {
        let closed = self.close_endpoint(endpoint).and(self.remove_programs(endpoint.ifindex));
        if self.has_flows(endpoint.slot)? {
            self.flow_remover()?.remove(&[FlowsOf::endpoint(endpoint.slot)])?;
        }
        closed.and(self.reset_counters(endpoint.slot))
    }

    /// Makes the pinned state hold exactly these endpoints: removes the entries, flows, link pins of all others. All that is attached is
    /// of this version then.
    pub fn retain_endpoints(&mut self, endpoints: &[Endpoint]) -> Result<()> {
        let links: HashSet<u32> = endpoints.iter().map(|endpoint| endpoint.ifindex).collect();
        let addresses: HashSet<V4> = endpoints.iter().map(|endpoint| v4(endpoint.address)).collect();
        let with_ipv6 = || endpoints.iter().filter_map(|endpoint| Some((endpoint, endpoint.v6.as_ref()?)));
        let links6: HashSet<u32> = with_ipv6().map(|(endpoint, _)| endpoint.ifindex).collect();
        let addresses6: HashSet<V6> = with_ipv6().map(|(_, own)| v6(own.address)).collect();
        self.maps.v4.retain(&links, &addresses)?;
        self.maps.v6.retain(&links6, &addresses6)?;
        for (ifindex, hook) in self.pins.links()? {
            if hook.is_endpoints() && !links.contains(&ifindex) {
                self.pins.remove_link(ifindex, hook)?;
            }
        }
        self.pins.forget_former()?;
        self.remove_flows::<V4>(|_, flow| !addresses.contains(&flow.address))?;
        self.remove_flows::<V6>(|_, flow| !addresses6.contains(&flow.address))?;
        let slots: HashSet<u32> = endpoints.iter().map(|endpoint| endpoint.slot).collect();
        self.maps.reset_other_counters(&slots)
    }

    /// Makes the route table hold exactly these routes.
    pub fn set_routes(&mut self, routes: &[(IpNet, Route)]) -> Result<()> {
        let [v4, v6] = &mut self.routes;
        v4.change(&mut self.maps.v4.routes, routes)?;
        v6.change(&mut self.maps.v6.routes, routes)
    }

    /// The subnets of the networks that the programs know of.
    pub fn pinned_networks(&self) -> Result<Vec<IpNet>> {
        let mut found = routes::networks(&self.maps.v4.routes)?;
        found.extend(routes::networks(&self.maps.v6.routes)?);
        Ok(found)
    }

    /// The loaded programs.
    pub fn programs(&self) -> Result<Vec<ProgramStatus>> {
        let links = self.pins.links()?;
        let mut all = Vec::new();
        for hook in Hook::ALL {
            let name = hook.program();
            let attached = links.iter().filter(|(_, at)| *at == hook).count() as u32;
            if hook == Hook::Netkit && attached == 0 {
                continue;
            }
            if hook == Hook::Xdp {
                all.push(self.xdp_status(attached)?);
                continue;
            }
            let program: &SchedClassifier =
                self.programs.program(name).context("a program is missing")?.try_into()?;
            all.push(ProgramStatus {
                name: name.to_owned(),
                hook: self.hooks(hook, &links).to_owned(),
                id: program.info().with_context(|| format!("asking for program {name}"))?.id(),
                attached,
            });
        }
        all.extend(self.socket_programs()?);
        Ok(all)
    }

    /// The names of what holds a program on its interfaces.
    fn hooks(&self, hook: Hook, links: &[(u32, Hook)]) -> &'static str {
        if hook == Hook::Netkit {
            return "netkit";
        }
        let usual = self.pins.attachment(hook).label();
        if !hook.is_endpoints() || usual == Attachment::Tcx.label() {
            return usual;
        }
        let own = || links.iter().filter(|(_, at)| *at == hook);
        let moved = own().filter(|(ifindex, _)| self.pins.is_link(*ifindex, hook)).count();
        match moved {
            0 => usual,
            all if all == own().count() => Attachment::Tcx.label(),
            _ => "clsact, tcx",
        }
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

/// Loads the programs that others go on with, and then has those of a daemon before this one go on with them, too. All are loaded before
/// the first is written: one that the kernel refuses leaves what runs as it is.
fn set_steps(programs: &mut Ebpf) -> Result<()> {
    // One that is attached too is loaded already.
    for name in abi::STEP_PROGRAMS.iter().filter(|name| !PROGRAMS.contains(name)) {
        program(programs, name)?
            .load()
            .map_err(|error| anyhow!("the kernel refuses program {name}: {}", refusal(&error)))?;
    }
    for (step, name) in (0..).zip(abi::STEP_PROGRAMS) {
        let fd = program(programs, name)?.fd().and_then(|fd| Ok(fd.try_clone()?));
        let fd = fd.with_context(|| format!("asking for program {name}"))?;
        let steps = programs.map_mut("STEPS").context("the eBPF object has no map STEPS")?;
        ProgramArray::try_from(steps)?
            .set(step, &fd, 0)
            .with_context(|| format!("writing program {name} to map STEPS"))?;
    }
    Ok(())
}

/// What the programs of another family know of the node: the same, but for the address.
const fn with_address<A: Copy, B>(config: &abi::Config<A>, address: B) -> abi::Config<B> {
    let abi::Config { uplink, underlay4, underlay6, first_port, last_port, quota, flows, .. } = *config;
    let abi::Config { ring, seed, mtu, overlay, overlay_port, reserved, .. } = *config;
    abi::Config {
        address,
        uplink,
        underlay4,
        underlay6,
        first_port,
        last_port,
        quota,
        flows,
        ring,
        seed,
        mtu,
        overlay,
        overlay_port,
        reserved,
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
        // What it counted comes after what it has to say.
        let says = |line: &&str| {
            !line.is_empty()
                && !["processed ", "verification time ", "stack depth "].iter().any(|s| line.starts_with(s))
        };
        let words: Vec<&str> = log.lines().rev().filter(says).take(3).collect();
        return format!("{io_error}: {}", words.into_iter().rev().collect::<Vec<_>>().join("; "));
    }
    full(error)
}

/// Places of a ring of unanswered flows, less one: a quarter of what an endpoint may have, in a power of two.
fn ring(quota: u32) -> u32 {
    (quota / 4 + 1).next_power_of_two().clamp(UnansweredRing::LEAST, UnansweredRing::PLACES) - 1
}

/// What is wrong with an option, said before anything is changed.
fn check(options: &Options) -> Result<()> {
    if options.max_flows == 0 || options.max_flows > 1 << 24 {
        bail!("nat.max-flows is {}: it must be between 1 and 16777216", options.max_flows);
    }
    Ok(())
}
