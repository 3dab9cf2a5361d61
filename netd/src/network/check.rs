//! What a network can have: subnets, MTUs, slices.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

use super::overlap;
use crate::{ipam::MAX_PREFIX, pair};

/// Larger networks than this are typing errors.
const MIN_PREFIX: u8 = 8;
/// The same of IPv6.
const MIN_PREFIX6: u8 = 16;
/// MTUs that are accepted: from what every IPv4 host must take (RFC 791) to the largest packet.
const MTU: std::ops::RangeInclusive<i64> = 576..=65535;

/// Why something cannot be the subnet of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SubnetError {
    /// An address instead of a subnet.
    #[error("{subnet} has host bits set: did you mean {}?", subnet.trunc())]
    HostBits {
        /// What was given.
        subnet: IpNet,
    },
    /// Longer than [`MAX_PREFIX`].
    #[error("{0} has no room for a gateway and an endpoint: at most /{MAX_PREFIX}")]
    TooSmall(Ipv4Net),
    /// Shorter than `/8`, or `/16` of IPv6.
    #[error("{0} is too large: at least /{1}")]
    TooLarge(IpNet, u8),
    /// An IPv6 subnet with fewer addresses than the IPv4 subnet beside it.
    #[error("{subnet6} has no address for each of {subnet}: at most /{}", pair::longest_prefix(*subnet))]
    NoPairs {
        /// The IPv6 subnet.
        subnet6: Ipv6Net,
        /// The IPv4 subnet.
        subnet: Ipv4Net,
    },
    /// In a range that is for something else.
    #[error("{subnet} is of the {what} range {range}")]
    Reserved {
        /// The subnet.
        subnet: IpNet,
        /// What the range is for.
        what: &'static str,
        /// The range.
        range: IpNet,
    },
}

/// Checks that a subnet can be a network's.
///
/// # Errors
/// Says why not.
pub fn check_subnet(subnet: Ipv4Net) -> Result<Ipv4Net, SubnetError> {
    if subnet != subnet.trunc() {
        return Err(SubnetError::HostBits { subnet: subnet.into() });
    }
    if subnet.prefix_len() < MIN_PREFIX {
        return Err(SubnetError::TooLarge(subnet.into(), MIN_PREFIX));
    }
    if subnet.prefix_len() > MAX_PREFIX {
        return Err(SubnetError::TooSmall(subnet));
    }
    // RFC 6890. The ranges for documentation and benchmarks are fine: tests use them.
    for (what, first, prefix) in [
        ("\"this network\"", Ipv4Addr::UNSPECIFIED, 8),
        ("loopback", Ipv4Addr::new(127, 0, 0, 0), 8),
        ("link-local", Ipv4Addr::new(169, 254, 0, 0), 16),
        ("multicast", Ipv4Addr::new(224, 0, 0, 0), 4),
        ("reserved", Ipv4Addr::new(240, 0, 0, 0), 4),
    ] {
        let range = Ipv4Net::new_assert(first, prefix);
        if overlap(range, subnet) {
            return Err(SubnetError::Reserved { subnet: subnet.into(), what, range: range.into() });
        }
    }
    Ok(subnet)
}

/// Checks that a subnet can be a network's IPv6 subnet, whatever the IPv4 one beside it is: unique local and global ranges
/// can.
///
/// # Errors
/// Says why not.
pub fn check_subnet6(subnet: Ipv6Net) -> Result<Ipv6Net, SubnetError> {
    if subnet != subnet.trunc() {
        return Err(SubnetError::HostBits { subnet: subnet.into() });
    }
    if subnet.prefix_len() < MIN_PREFIX6 {
        return Err(SubnetError::TooLarge(subnet.into(), MIN_PREFIX6));
    }
    let v4_mapped = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
    // RFC 4291, RFC 6890. The range for documentation is fine: tests use it.
    for (what, first, prefix) in [
        ("loopback", Ipv6Addr::LOCALHOST, 128),
        ("IPv4-mapped", v4_mapped, 96),
        ("reserved", Ipv6Addr::UNSPECIFIED, 8),
        ("link-local", Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
        ("multicast", Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
    ] {
        let range = Ipv6Net::new_assert(first, prefix);
        if range.contains(&subnet) || subnet.contains(&range) {
            return Err(SubnetError::Reserved { subnet: subnet.into(), what, range: range.into() });
        }
    }
    Ok(subnet)
}

/// Checks that the subnets of a network can be one's, and go together.
///
/// # Errors
/// Says why not.
pub fn check_subnets(subnet: Ipv4Net, subnet6: Option<Ipv6Net>) -> Result<(), SubnetError> {
    check_subnet(subnet)?;
    if let Some(subnet6) = subnet6 {
        check_subnet6(subnet6)?;
        if !pair::has_room(subnet, subnet6) {
            return Err(SubnetError::NoPairs { subnet6, subnet });
        }
    }
    Ok(())
}

/// Reads an MTU as people write it: 0 means that of the uplink.
///
/// # Errors
/// It is not one.
pub fn check_mtu(mtu: i64) -> Result<Option<u32>> {
    if mtu == 0 {
        return Ok(None);
    }
    match u32::try_from(mtu) {
        Ok(bytes) if MTU.contains(&mtu) => Ok(Some(bytes)),
        _ => bail!("{mtu} is not between {} and {} (0: the uplink's)", MTU.start(), MTU.end()),
    }
}

/// The smallest MTU of a link that can have IPv6 addresses (RFC 8200 section 5): the kernel takes IPv6 away below.
pub const MTU6: u32 = 1280;

/// Checks that an MTU is large enough for the IPv6 subnet beside it, if there is one.
///
/// # Errors
/// It is not.
pub fn check_mtu6(mtu: Option<u32>, subnet6: Option<Ipv6Net>) -> Result<()> {
    match mtu.zip(subnet6) {
        Some((mtu, _)) if mtu < MTU6 => {
            bail!("{mtu} is less than the {MTU6} that IPv6 needs: raise it, or leave out the IPv6 subnet")
        }
        _ => Ok(()),
    }
}

/// Reads a subnet as people write it. Not so numbers that begin with 0, which are octal to some (`inet_aton`) and decimal to
/// others.
#[must_use]
pub fn parse_subnet(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let is_number = length == "0" || !length.starts_with(['0', '+']);
    // The standard library's addresses have no such zeros.
    let address: IpAddr = address.parse().ok()?;
    IpNet::new(address, length.parse().ok().filter(|_| is_number)?).ok()
}

/// Checks that nodes' slices of a subnet can have a prefix length.
///
/// # Errors
/// Says which can be.
pub fn check_slice(subnet: Ipv4Net, length: i64) -> Result<u8> {
    let lengths = subnet.prefix_len()..=MAX_PREFIX;
    match u8::try_from(length) {
        Ok(length) if lengths.contains(&length) => Ok(length),
        _ => bail!("{length} is not a prefix length from {} to {MAX_PREFIX}", subnet.prefix_len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_read_in_one_way() {
        for good in ["10.88.0.0/16", "10.88.0.1/32", "0.0.0.0/0", "fd88::/48", "::/0", "10.0.0.0/8"] {
            assert_eq!(parse_subnet(good).unwrap().to_string(), good);
        }
        for bad in [
            "010.88.0.0/16",
            "10.088.0.0/16",
            "10.88.0.0/016",
            "10.88.0.0/+16",
            "10.88.0.0/00",
            "10.88.0.0",
            "10.88/16",
            "10.88.0.0/33",
            "0x0a.0.0.0/8",
            "fd88::/129",
            "/8",
            "10.88.0.0/",
            "fd88::%1/64",
            " 10.88.0.0/16",
            "",
        ] {
            assert_eq!(parse_subnet(bad), None, "{bad}");
        }
    }

    #[test]
    fn ipv6_subnets() {
        for (subnet, expected) in [
            ("fd88::/48", "Ok"),
            ("2001:db8::/64", "Ok"),
            ("fd88::1/48", "fd88::1/48 has host bits set: did you mean fd88::/48?"),
            ("fc00::/7", "fc00::/7 is too large: at least /16"),
            ("fe80::/64", "fe80::/64 is of the link-local range fe80::/10"),
            ("ff02::/64", "ff02::/64 is of the multicast range ff00::/8"),
            ("::1/128", "::1/128 is of the loopback range ::1/128"),
            ("::ffff:10.0.0.0/104", "::ffff:10.0.0.0/104 is of the IPv4-mapped range ::ffff:0.0.0.0/96"),
            ("64:ff9b::/96", "64:ff9b::/96 is of the reserved range ::/8"),
            ("fd88::/113", "fd88::/113 has no address for each of 10.88.0.0/16: at most /112"),
        ] {
            let checked = check_subnets("10.88.0.0/16".parse().unwrap(), Some(subnet.parse().unwrap()));
            assert_eq!(checked.map_or_else(|error| error.to_string(), |()| "Ok".to_owned()), expected);
        }
    }
}
