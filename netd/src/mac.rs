//! MAC addresses, derived from IP addresses.
//!
//! An address that moves to another container, or comes back after a restart, keeps its MAC, so no neighbour cache ever
//! holds a wrong one.

use std::{fmt, net::Ipv4Addr};

use crate::bpf::Mac;

/// The MAC of an IPv4 address: `02:6e:` and its four bytes. `02` marks it as locally administered; `6e` is `n`.
///
/// Containers take that of their own address; the host's side of every link of a network takes that of the gateway.
#[must_use]
pub const fn of_address(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    Mac([0x02, 0x6e, a, b, c, d])
}

/// The address that a MAC of [`of_address`] is of.
#[must_use]
pub const fn to_address(mac: Mac) -> Option<Ipv4Addr> {
    match mac.0 {
        [0x02, 0x6e, a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d)),
        _ => None,
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_from_the_address() {
        assert_eq!(of_address(Ipv4Addr::new(10, 88, 0, 2)).to_string(), "02:6e:0a:58:00:02");
        assert_eq!(to_address(Mac([2, 0x6e, 10, 88, 0, 2])), Some(Ipv4Addr::new(10, 88, 0, 2)));
        assert_eq!(to_address(Mac([2, 0, 10, 88, 0, 2])), None);
        // Unicast and locally administered, whatever the address.
        let Mac([first, ..]) = of_address(Ipv4Addr::BROADCAST);
        assert_eq!(first & 0b11, 0b10);
    }
}
