//! The IPv6 address that goes with an IPv4 one: both lie at the same offset in the subnets of their network.
//!
//! So one allocation serves both families: 10.88.1.9 in 10.88.0.0/16 is fd88::109 in fd88::/48, and whoever has the slice
//! 10.88.1.0/24 has fd88::100/120. Pure: nothing in here knows of the kernel or the store.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Bits that an IPv6 address has more than an IPv4 one: prefixes that hold equally many addresses differ by them.
const MORE_BITS: u8 = 128 - 32;

/// Whether an IPv6 subnet has an address for each of an IPv4 subnet's.
#[must_use]
pub fn has_room(subnet: Ipv4Net, subnet6: Ipv6Net) -> bool {
    subnet6.prefix_len() <= longest_prefix(subnet)
}

/// The longest prefix of an IPv6 subnet that has an address for each of an IPv4 subnet's.
#[must_use]
pub fn longest_prefix(subnet: Ipv4Net) -> u8 {
    MORE_BITS + subnet.prefix_len()
}

/// The IPv6 address that goes with an address of `subnet`.
#[must_use]
pub fn address6(subnet: Ipv4Net, subnet6: Ipv6Net, address: Ipv4Addr) -> Ipv6Addr {
    let offset = address.to_bits() & subnet.hostmask().to_bits();
    Ipv6Addr::from_bits(subnet6.network().to_bits() | u128::from(offset))
}

/// The address of `subnet` that an IPv6 address goes with; none: it is beyond the subnet, or not in `subnet6`.
#[must_use]
pub fn address4(subnet: Ipv4Net, subnet6: Ipv6Net, address: Ipv6Addr) -> Option<Ipv4Addr> {
    if !subnet6.contains(&address) {
        return None;
    }
    let offset = u32::try_from(address.to_bits() & subnet6.hostmask().to_bits()).ok()?;
    (offset & subnet.netmask().to_bits() == 0)
        .then(|| Ipv4Addr::from_bits(subnet.network().to_bits() | offset))
}

/// The IPv6 addresses that go with a slice of `subnet`.
#[must_use]
pub fn slice6(subnet: Ipv4Net, subnet6: Ipv6Net, slice: Ipv4Net) -> Ipv6Net {
    // The prefix length of an IPv4 prefix is at most 32.
    Ipv6Net::new_assert(address6(subnet, subnet6, slice.network()), MORE_BITS + slice.prefix_len())
}

/// The subnets of a network, IPv4 first.
#[must_use]
pub fn both(subnet: Ipv4Net, subnet6: Option<Ipv6Net>) -> Vec<IpNet> {
    [IpNet::from(subnet)].into_iter().chain(subnet6.map(IpNet::from)).collect()
}

/// The subnets of a network as people write them: `10.88.0.0/16` or `10.88.0.0/16 fd88::/48`.
#[must_use]
pub fn text(subnet: Ipv4Net, subnet6: Option<Ipv6Net>) -> String {
    both(subnet, subnet6).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Whether an address is one that a single interface of a node can have and others can send to: of no range that is for
/// something else.
#[must_use]
pub fn is_node_address(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !(address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast()
                || address.is_broadcast())
        }
        IpAddr::V6(address) => {
            !(address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast()
                || address.is_unicast_link_local()
                || address.to_ipv4_mapped().is_some())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets(subnet: &str, subnet6: &str) -> (Ipv4Net, Ipv6Net) {
        (subnet.parse().unwrap(), subnet6.parse().unwrap())
    }

    #[test]
    fn pairs() {
        for (subnet, subnet6, address, expected) in [
            ("10.88.0.0/16", "fd88::/48", "10.88.0.1", "fd88::1"),
            ("10.88.0.0/16", "fd88::/48", "10.88.0.7", "fd88::7"),
            ("10.88.0.0/16", "fd88::/48", "10.88.1.9", "fd88::109"),
            ("10.88.0.0/16", "fd88::/112", "10.88.255.254", "fd88::fffe"),
            ("10.88.7.0/24", "fd88:0:0:7::/64", "10.88.7.9", "fd88:0:0:7::9"),
            ("10.88.7.16/28", "fd88::10/124", "10.88.7.17", "fd88::11"),
            ("10.0.0.0/8", "2001:db8::/32", "10.1.2.3", "2001:db8::1:203"),
        ] {
            let (subnet, subnet6) = nets(subnet, subnet6);
            let (address, expected): (Ipv4Addr, Ipv6Addr) =
                (address.parse().unwrap(), expected.parse().unwrap());
            assert!(has_room(subnet, subnet6));
            assert_eq!(address6(subnet, subnet6, address), expected);
            assert_eq!(address4(subnet, subnet6, expected), Some(address));
        }
    }

    #[test]
    fn addresses_that_go_with_none() {
        let (subnet, subnet6) = nets("10.88.0.0/16", "fd88::/48");
        for address in ["fd88::1:0", "fd88:0:0:1::1", "fd89::1", "::1"] {
            assert_eq!(address4(subnet, subnet6, address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn room() {
        for (subnet, subnet6, expected) in [
            ("10.88.0.0/16", "fd88::/112", true),
            ("10.88.0.0/16", "fd88::/113", false),
            ("10.88.0.0/30", "fd88::/126", true),
            ("10.0.0.0/8", "fd88::/104", true),
            ("10.0.0.0/8", "fd88::/105", false),
        ] {
            let (subnet, subnet6) = nets(subnet, subnet6);
            assert_eq!(has_room(subnet, subnet6), expected, "{subnet} {subnet6}");
        }
    }

    #[test]
    fn slices() {
        for (slice, expected) in [
            ("10.88.1.0/24", "fd88::100/120"),
            ("10.88.0.0/24", "fd88::/120"),
            ("10.88.0.0/16", "fd88::/112"),
            ("10.88.3.128/25", "fd88::380/121"),
        ] {
            let (subnet, subnet6) = nets("10.88.0.0/16", "fd88::/48");
            assert_eq!(slice6(subnet, subnet6, slice.parse().unwrap()).to_string(), expected);
        }
    }

    proptest! {
        #[test]
        fn there_and_back(prefix in 8u8..=30, free in 0u8..=64, bits: u32, bits6: u128) {
            let subnet = Ipv4Net::new(Ipv4Addr::from_bits(bits), prefix).unwrap().trunc();
            let length = longest_prefix(subnet) - free.min(longest_prefix(subnet));
            let subnet6 = Ipv6Net::new(Ipv6Addr::from_bits(bits6), length).unwrap().trunc();
            let address = Ipv4Addr::from_bits(bits);
            let other = address6(subnet, subnet6, address);
            prop_assert!(subnet6.contains(&other));
            prop_assert_eq!(address4(subnet, subnet6, other), Some(address));
            // Nothing else goes with an address.
            let found = address4(subnet, subnet6, Ipv6Addr::from_bits(bits6));
            if let Some(found) = found {
                prop_assert_eq!(address6(subnet, subnet6, found), Ipv6Addr::from_bits(bits6));
            }
            let slice = Ipv4Net::new(address, prefix + 2).unwrap().trunc();
            prop_assert!(slice6(subnet, subnet6, slice).contains(&other));
        }
    }
}
