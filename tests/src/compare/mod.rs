//! netd and netfilter side by side: two copies of one small internet, the same packets into both, and what each party gets.
//!
//! A copy has two containers on a host, one behind netd, the other behind a bridge with the rules that Docker sets; a router; a
//! server; and a server behind a link with a smaller MTU. The kernels of containers and servers are mute (their INPUT is DROP), so
//! that all that is said is the story's: what a story has a party send goes out by a packet socket, and what comes is read there.

mod canon;
mod copy;
mod fragments;
pub mod generate;
pub mod known;
mod run;
pub mod sockets;
pub mod story;
mod tap;

pub use copy::{Copy, Kind};
pub use run::{Outcome, Twins};

/// Who sends and receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// A container.
    A,
    /// Another one of the same network.
    B,
    /// A server in the world.
    Server,
    /// A server behind a small MTU.
    Narrow,
}

impl Party {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::A, Self::B, Self::Server, Self::Narrow];

    /// Its address, the same in both copies.
    #[must_use]
    pub const fn address(self) -> [u8; 4] {
        match self {
            Self::A => [10, 88, 0, 2],
            Self::B => [10, 88, 0, 3],
            Self::Server => [203, 0, 113, 10],
            Self::Narrow => [192, 0, 2, 10],
        }
    }

    /// Whether it is a container.
    #[must_use]
    pub const fn is_container(self) -> bool {
        matches!(self, Self::A | Self::B)
    }
}

/// The host's address on the uplink.
pub const NODE: [u8; 4] = [198, 18, 1, 2];
/// The host's address towards its containers.
pub const GATEWAY: [u8; 4] = [10, 88, 0, 1];
/// The MTU of the link to [`Party::Narrow`].
pub const NARROW_MTU: u16 = 1200;
/// The ports that netd takes for flows whose own is not among them.
pub const PORTS: std::ops::RangeInclusive<u16> = 50_000..=50_999;
