//! Attaching programs to interfaces with TCX links (kernel 6.6), pinned, and replacing them.

use std::io;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError, PinnedLink},
        tc::TcAttachOptions,
    },
};

use super::{pins::Pins, program};

/// Where a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Hook {
    /// Ingress of the host side of a container's link.
    Ingress,
    /// Egress of it.
    Egress,
    /// Ingress of the uplink.
    Uplink,
    /// Ingress of the VXLAN device.
    Overlay,
}

impl Hook {
    const ALL: [Self; 4] = [Self::Ingress, Self::Egress, Self::Uplink, Self::Overlay];

    /// Its name in a pin's path.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
            Self::Uplink => "uplink",
            Self::Overlay => "overlay",
        }
    }

    /// The hook of that name.
    pub(super) fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.label() == label)
    }

    const fn kind(self) -> TcAttachType {
        match self {
            Self::Ingress | Self::Uplink | Self::Overlay => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }
}

/// Makes an interface run a program: replaces the program of the pinned link, in one step, or makes and pins a link.
pub(super) fn attach(programs: &mut Ebpf, name: &str, pins: &Pins, ifindex: u32, hook: Hook) -> Result<()> {
    let program = program(programs, name)?;
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
    let device = nix::net::if_::if_indextoname(ifindex)
        .with_context(|| format!("attaching {name}: no interface has index {ifindex}"))?;
    let device = device.to_string_lossy();
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

fn os_error(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}
