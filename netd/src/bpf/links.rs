//! Attaching programs to interfaces, and replacing them.
//!
//! On interfaces that netd shares with others, the uplink above all, TCX links do it where the kernel has them. On the links
//! of endpoints, which are netd's own, it is filters: attaching a TCX program waits for an RCU grace period
//! (`tcx_entry_sync`), detaching it for another. That is 12 ms each on a kernel with 250 ticks a second, 24 ms for an endpoint
//! each way, against 0.3 ms for two filters, which is more than all the rest of an attach.
//!
//! But a TCX program costs a packet some 50 ns less than a filter, and does not go when somebody removes the qdisc. So both are moved
//! to TCX links when nobody waits ([`promote`]), and stay there.

use std::{fs, io, sync::OnceLock};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError, PinnedLink},
        tc::{
            NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
            qdisc_detach_program,
        },
    },
};

use super::{FROM_CONTAINER, FROM_OVERLAY, FROM_UPLINK, TO_CONTAINER, netkit, pins::Pins, program, syscall};

/// Where a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Hook {
    /// Ingress of the host side of a container's link.
    Ingress,
    /// Where the container sends, if its link is netkit.
    Netkit,
    /// Egress of the host side of a container's link.
    Egress,
    /// Ingress of the uplink.
    Uplink,
    /// Ingress of the VXLAN device.
    Overlay,
    /// XDP of the uplink.
    Xdp,
}

/// The program of [`Hook::Xdp`], as it is called in the object.
pub(super) const XDP_UPLINK: &str = "xdp_uplink";

impl Hook {
    pub(super) const ALL: [Self; 6] =
        [Self::Ingress, Self::Netkit, Self::Egress, Self::Uplink, Self::Overlay, Self::Xdp];

    /// Its name in a pin's path.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Netkit => "netkit",
            Self::Egress => "egress",
            Self::Uplink => "uplink",
            Self::Overlay => "overlay",
            Self::Xdp => "xdp",
        }
    }

    /// The hook of that name.
    pub(super) fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.label() == label)
    }

    /// Whether it is on an endpoint's link.
    pub(super) const fn is_endpoints(self) -> bool {
        matches!(self, Self::Ingress | Self::Netkit | Self::Egress)
    }

    /// The program that belongs there.
    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::Ingress | Self::Netkit => FROM_CONTAINER,
            Self::Egress => TO_CONTAINER,
            Self::Uplink => FROM_UPLINK,
            Self::Overlay => FROM_OVERLAY,
            Self::Xdp => XDP_UPLINK,
        }
    }

    const fn kind(self) -> TcAttachType {
        match self {
            Self::Ingress | Self::Netkit | Self::Uplink | Self::Overlay | Self::Xdp => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }
}

/// What holds a program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// TCX links (kernel 6.6), pinned: others keep their programs on the hook, and cannot remove ours.
    Tcx,
    /// Filters of a clsact qdisc, which stay until they are removed. The pin is the program itself, and only says that there
    /// is a filter. As with TCX, a program is replaced in one step.
    Clsact,
}

impl Attachment {
    /// The better for interfaces that are shared with others, of those that this kernel has.
    pub fn of_this_kernel() -> Self {
        static FOUND: OnceLock<Attachment> = OnceLock::new();
        // Where it cannot be asked, nothing can be loaded either; that says why.
        *FOUND.get_or_init(|| if syscall::has_tcx().unwrap_or(false) { Self::Tcx } else { Self::Clsact })
    }

    /// Its name.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Makes an interface run a program, in the place of the one that it runs, if it does.
pub(super) fn attach(programs: &mut Ebpf, pins: &Pins, ifindex: u32, hook: Hook) -> Result<()> {
    let name = hook.program();
    let program = program(programs, name)?;
    if hook == Hook::Netkit {
        return netkit::attach(program, pins, ifindex);
    }
    match pins.attachment(hook) {
        Attachment::Tcx => attach_link(program, name, pins, ifindex, hook),
        Attachment::Clsact if hook.is_endpoints() && pins.is_link(ifindex, hook) => {
            attach_link(program, name, pins, ifindex, hook)?;
            // Should the daemon before this one have ended between the two steps of `promote`.
            detach_filter(ifindex, hook);
            Ok(())
        }
        Attachment::Clsact => attach_filter(program, name, pins, ifindex, hook),
    }
}

/// Moves what an endpoint's link runs at a hook from a filter to a TCX link. In between it runs both, the link's first; where that leaves the
/// packet to the host's stack the filter sees it again and does the same, so that it may be counted twice.
///
/// Whoever calls this waits for an RCU grace period, with the lock of all network devices held (`tcx_link_attach`).
pub(super) fn promote(programs: &mut Ebpf, pins: &Pins, ifindex: u32, hook: Hook) -> Result<()> {
    if pins.is_link(ifindex, hook) {
        return Ok(());
    }
    let name = hook.program();
    let program = program(programs, name)?;
    let device = device(ifindex).with_context(|| format!("attaching {name}"))?;
    let id = program
        .attach_with_options(&device, hook.kind(), TcAttachOptions::TcxOrder(LinkOrder::default()))
        .with_context(|| format!("attaching {name} to {device}"))?;
    let link: FdLink = program.take_link(id)?.try_into().context("a TCX link is a file descriptor")?;
    // A daemon that ends here leaves a filter without a pin, which the next one finds all the same.
    let path = pins.link(ifindex, hook);
    fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    link.pin(&path).with_context(|| format!("pinning {}", path.display()))?;
    detach_filter(ifindex, hook);
    Ok(())
}

fn attach_link(
    program: &mut SchedClassifier,
    name: &str,
    pins: &Pins,
    ifindex: u32,
    hook: Hook,
) -> Result<()> {
    let path = pins.link(ifindex, hook);
    match PinnedLink::from_pin(&path) {
        Ok(pinned) => match replace(program, pinned) {
            Ok(()) => return Ok(()),
            // The device of the link is gone, and its index has come to be another's: a link of no use.
            Err(error) if os_error(&error) == Some(libc::ENOLINK) => pins.remove_link(ifindex, hook)?,
            Err(error) => {
                return Err(error).with_context(|| format!("replacing program {name} of {}", path.display()));
            }
        },
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
    }
    let device = device(ifindex).with_context(|| format!("attaching {name}"))?;
    let id = program
        .attach_with_options(&device, hook.kind(), TcAttachOptions::TcxOrder(LinkOrder::default()))
        .with_context(|| format!("attaching {name} to {device}"))?;
    let link: FdLink = program.take_link(id)?.try_into().context("a TCX link is a file descriptor")?;
    link.pin(&path).with_context(|| format!("pinning {}", path.display()))?;
    Ok(())
}

fn replace(program: &mut SchedClassifier, pinned: PinnedLink) -> Result<(), ProgramError> {
    let link = FdLink::from(pinned).try_into().map_err(|_| ProgramError::UnexpectedProgramType)?;
    let id = program.attach_to_link(link)?;
    // Taken and dropped: the pin holds the link, and the program's list of links is not to grow.
    program.take_link(id).map(drop)
}

/// Priority and handle of our filters: always the same, so that one can be found again and replaced.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 1);

fn attach_filter(
    program: &mut SchedClassifier,
    name: &str,
    pins: &Pins,
    ifindex: u32,
    hook: Hook,
) -> Result<()> {
    let device = device(ifindex).with_context(|| format!("attaching {name}"))?;
    match qdisc_add_clsact(&device) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        other => other.with_context(|| format!("adding a clsact qdisc to {device}"))?,
    }
    let known = SchedClassifierLink::attached(&device, hook.kind(), PRIORITY, HANDLE, None)?;
    let id = program.attach_to_link(known).or_else(|_| {
        let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
        program.attach_with_options(&device, hook.kind(), TcAttachOptions::Netlink(options))
    });
    let id = id.with_context(|| format!("attaching {name} to {device}"))?;
    // Dropped, it would detach.
    std::mem::forget(program.take_link(id)?);
    let path = pins.link(ifindex, hook);
    // A netd before this one may have used a link.
    if syscall::detach_link(&path).is_ok() {
        tracing::debug!("{device}: a filter has taken the place of the link {}", path.display());
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", path.display()));
        }
        _ => {}
    }
    program.pin(&path).with_context(|| format!("pinning {}", path.display()))
}

/// Removes our filter from an interface. Fine if there is none, or no interface. By the program's name: should the interface
/// have got the index of one that is gone, a filter of somebody else's is not ours to remove.
pub(super) fn detach_filter(ifindex: u32, hook: Hook) {
    let Ok(device) = device(ifindex) else { return };
    if let Err(error) = qdisc_detach_program(&device, hook.kind(), hook.program()) {
        tracing::debug!("detaching from {device}: {error}");
    }
}

pub(super) fn device(ifindex: u32) -> Result<String> {
    let name = nix::net::if_::if_indextoname(ifindex)
        .with_context(|| format!("no interface has index {ifindex}"))?;
    Ok(name.to_string_lossy().into_owned())
}

pub(super) fn os_error(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}
