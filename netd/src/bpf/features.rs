//! What not every kernel and not every device has: found by trying, and told by `netd status`.

use anyhow::{Context as _, Result};
use netd_common::abi::HelperFlags;

use super::{Attachment, Datapath, Feature, XdpChoice, XdpMode, has_netkit};

/// The program that tries what the helpers of this kernel know.
pub(super) const FEATURES: &str = "features";

/// A feature of a helper: its bit, its name, what it is for, and what is done without it.
const HELPERS: [(u32, &str, &str, &str); 2] = [
    (
        HelperFlags::IPV6_SUMS,
        "ipv6-checksum-flag",
        "checksums of IPv6 are changed in one step (BPF_F_IPV6 of bpf_l4_csum_replace)",
        "this kernel's bpf_l4_csum_replace has no BPF_F_IPV6: checksums of IPv6 are changed in two steps",
    ),
    (
        HelperFlags::DECAPSULATE,
        "decap-family-flag",
        "VXLAN around the other family is taken off in one step (BPF_F_ADJ_ROOM_DECAP_L3_*)",
        "this kernel's bpf_skb_adjust_room has no BPF_F_ADJ_ROOM_DECAP_L3_*: VXLAN around the other family is taken off in two \
         steps",
    ),
];

impl Datapath {
    /// The features. `mode` is how the uplink runs an XDP program, `choice` what the configuration says of it.
    ///
    /// # Errors
    /// The kernel does not run the program that tries.
    pub fn features(&self, mode: Option<XdpMode>, choice: XdpChoice) -> Result<Vec<Feature>> {
        let known = self.helpers()?;
        let helpers = HELPERS.iter().map(|&(bit, name, with, without)| {
            let on = known & bit != 0;
            feature(name, on, if on { with } else { without })
        });
        let others = [tcx(Attachment::of_this_kernel()), netkit(has_netkit()), xdp(mode, choice)];
        Ok(others.into_iter().chain(helpers).collect())
    }

    /// What the helpers know ([`HelperFlags`]).
    fn helpers(&self) -> Result<u32> {
        let run = self.test_run(FEATURES, &trial(), 0, 0, 1).context("trying what helpers know")?;
        Ok(run.verdict as u32)
    }
}

fn feature(name: &str, on: bool, detail: impl Into<String>) -> Feature {
    Feature { name: name.to_owned(), on, detail: detail.into() }
}

fn tcx(attachment: Attachment) -> Feature {
    let (on, detail) = match attachment {
        Attachment::Tcx => (true, "programs are on TCX links, which nobody takes away"),
        Attachment::Clsact => (
            false,
            "this kernel has no TCX links: programs are filters of clsact qdiscs, put back when somebody takes them away",
        ),
    };
    feature("tcx", on, detail)
}

fn netkit(on: bool) -> Feature {
    let detail = if on {
        "links can be netkit, where a network or an attachment says so"
    } else {
        "this kernel has no netkit (Linux 6.7, CONFIG_NETKIT): links are veth or taps"
    };
    feature("netkit", on, detail)
}

fn xdp(mode: Option<XdpMode>, choice: XdpChoice) -> Feature {
    let detail = match (mode, choice) {
        (None, _) => "the uplink runs no XDP program: there is one only while sources are denied",
        (Some(XdpMode::Native), _) => "the uplink's driver runs the XDP program",
        (Some(XdpMode::Offloaded), _) => "the uplink's device runs the XDP program",
        (Some(XdpMode::Generic), XdpChoice::Generic) => {
            "the uplink runs the XDP program behind its driver: generic, as node.xdp says"
        }
        (Some(XdpMode::Generic), _) => {
            "the uplink runs the XDP program behind its driver: generic, as its driver had no native XDP when it was attached"
        }
    };
    feature("xdp-native", matches!(mode, Some(XdpMode::Native | XdpMode::Offloaded)), detail)
}

/// What the helpers are tried on: a frame of IPv4, long enough for VXLAN and an IPv6 header in it.
fn trial() -> [u8; 128] {
    let mut frame = [0; 128];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    // The header's version and length; its own length.
    frame[14] = 0x45;
    frame[17] = (128 - 14) as u8;
    frame
}
