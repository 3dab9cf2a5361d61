//! The kinds of link that a container can have.

use std::{fmt, str::FromStr};

use clap::{ValueEnum, builder::PossibleValue};
use serde::{Deserialize, Serialize};

use crate::{bpf, netlink::Link};

/// The kind of link that an endpoint has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    /// A veth pair.
    Veth,
    /// A netkit pair (Linux 6.7) with Ethernet addresses: its program runs where the container sends.
    Netkit,
    /// A netkit pair without: no ARP, no neighbour discovery.
    NetkitL3,
    /// A tap device of the host's, which a virtual machine monitor opens.
    Tap,
}

impl LinkKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Veth, Self::Netkit, Self::NetkitL3, Self::Tap];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Netkit => "netkit",
            Self::NetkitL3 => "netkit-l3",
            Self::Tap => "tap",
        }
    }

    /// What the kernel calls such links (`IFLA_INFO_KIND`).
    #[must_use]
    pub const fn kernel_kind(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Netkit | Self::NetkitL3 => "netkit",
            Self::Tap => "tun",
        }
    }

    /// The kind of a link that the kernel has, if it is one of these.
    #[must_use]
    pub fn of(link: &Link) -> Option<Self> {
        let has_mac = link.mac.is_some_and(|mac| mac != [0; 6]);
        let kind = link.kind.as_deref()?;
        Self::ALL.into_iter().find(|one| one.kernel_kind() == kind && one.has_macs() == has_mac)
    }

    /// How programs get at what goes by.
    #[must_use]
    pub const fn wiring(self) -> bpf::Wiring {
        match self {
            Self::Veth => bpf::Wiring::Pair,
            Self::Netkit | Self::NetkitL3 => bpf::Wiring::Netkit,
            Self::Tap => bpf::Wiring::Single,
        }
    }

    /// Whether its ends have MAC addresses.
    #[must_use]
    pub const fn has_macs(self) -> bool {
        !matches!(self, Self::NetkitL3)
    }

    /// Whether its other end is in the namespace of a container.
    #[must_use]
    pub const fn has_netns(self) -> bool {
        !matches!(self, Self::Tap)
    }

    /// Why this kernel has no such links, with the mend; none: it has.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        let netkit = matches!(self, Self::Netkit | Self::NetkitL3);
        (netkit && !bpf::has_netkit()).then(|| {
            format!(
                "this kernel has no netkit (Linux 6.7, CONFIG_NETKIT): choose veth instead of {}",
                self.as_str()
            )
        })
    }
}

/// Who may open a tap, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tap {
    /// The user that may open it, by number. (Without one the kernel would let anybody.)
    #[serde(default)]
    pub owner: u32,
    /// The group that this user must be in besides; none: it does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// How many queues it is to be opened with. The kernel keeps only whether that is more than one.
    #[serde(default = "one")]
    pub queues: u16,
}

const fn one() -> u16 {
    1
}

impl Tap {
    /// What the kernel takes (`MAX_TAP_QUEUES` in `drivers/net/tun.c`).
    pub const MAX_QUEUES: u16 = 256;
}

impl Default for Tap {
    fn default() -> Self {
        Self { owner: 0, group: None, queues: one() }
    }
}

/// The kind of link that a network's endpoints get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LinkChoice {
    /// veth: see docs/links.md for what netkit costs.
    #[default]
    Auto,
    /// This one.
    Kind(LinkKind),
}

impl LinkChoice {
    /// All that can be chosen.
    const ALL: [Self; 1 + LinkKind::ALL.len()] = {
        let mut all = [Self::Auto; 1 + LinkKind::ALL.len()];
        let mut at = 0;
        while at < LinkKind::ALL.len() {
            all[1 + at] = Self::Kind(LinkKind::ALL[at]);
            at += 1;
        }
        all
    };

    /// The word for it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kind(kind) => kind.as_str(),
        }
    }

    /// The kind that it comes to on this kernel.
    #[must_use]
    pub fn kind(self) -> LinkKind {
        match self {
            Self::Auto => LinkKind::Veth,
            Self::Kind(kind) => kind,
        }
    }
}

impl fmt::Display for LinkChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl ValueEnum for LinkChoice {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.as_str()))
    }
}

impl FromStr for LinkChoice {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|choice| choice.as_str() == word).ok_or_else(|| {
            format!("{word:?} is not a kind of link: {}", Self::ALL.map(Self::as_str).join(", "))
        })
    }
}

impl TryFrom<String> for LinkChoice {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        word.parse()
    }
}

impl From<LinkChoice> for String {
    fn from(choice: LinkChoice) -> Self {
        choice.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_written_as_it_is_read() {
        for choice in LinkChoice::ALL {
            assert_eq!(choice.to_string().parse(), Ok(choice));
            let json = serde_json::to_string(&choice).unwrap();
            assert_eq!(serde_json::from_str::<LinkChoice>(&json).unwrap(), choice);
        }
        let error = "wire".parse::<LinkChoice>().unwrap_err();
        assert!(error.starts_with("\"wire\" is not a kind of link: auto, veth"), "{error}");
    }

    #[test]
    fn what_is_kept_is_the_word() {
        for kind in LinkKind::ALL {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{}\"", kind.as_str()));
        }
    }
}
