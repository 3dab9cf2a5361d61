//! What routers say of packets to other nodes that are too big for their way (RFC 4443 section 3.2, RFC 8201).
//!
//! Over IPv6 no router cuts a packet, so VXLAN that does not fit is lost, and the node that sent it is told. (Over IPv4 netd lets
//! routers cut what it encapsulates, and none has a reason to say anything.) Anybody can send such a message with any
//! source, so what it quotes is held against what this node would have sent: [`super::Remotes::take_in`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netd_common::{
    abi::network_of_vni,
    wire::{Ethernet, Ipv4, Ipv6, Vxlan, protocol, udp},
};

/// A message of a router's: a packet of VXLAN was too big.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig {
    /// What the next link of the way takes, bytes.
    pub mtu: u32,
    /// The node that has sent the packet.
    pub from: Ipv6Addr,
    /// The node that it was for.
    pub to: Ipv6Addr,
    /// The number of the network that it was of.
    pub network: u32,
    /// Who has sent what was in it...
    pub source: IpAddr,
    /// ... and to whom.
    pub destination: IpAddr,
}

impl TooBig {
    /// The type of these messages.
    pub const KIND: u8 = 2;
    /// All that is read of one.
    pub const LENGTH: usize = QUOTE + INNER_IP + Ipv6::LEN as usize;

    /// Reads a message, from its ICMPv6 header on. None: it is not about VXLAN as netd sends it, or cannot be true.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        let (header, quote) = message.split_at_checked(QUOTE)?;
        let mtu = u32::from_be_bytes(bytes(header, 4)?);
        let length = Ipv6::LEN + u32::from(u16::from_be_bytes(bytes(quote, 4)?));
        let [port_from, port] = [0, 2].map(|at| bytes(quote, UDP + at).map(u16::from_be_bytes));
        let [flags, vni] =
            [0, 4].map(|at| bytes(quote, UDP + udp::LEN as usize + at).map(u32::from_be_bytes));
        let is_vxlan = header[0] == Self::KIND
            && quote.first()? >> 4 == 6
            && quote.get(6) == Some(&protocol::UDP)
            && port? == Vxlan::PORT.host()
            // netd's own source ports: RFC 7348 section 5.
            && port_from? >= 0xc000
            && flags? & Vxlan::VALID != 0;
        // What fits was not too big.
        if !is_vxlan || length <= mtu {
            return None;
        }
        let (source, destination) = addresses(quote)?;
        let [from, to] = [8, 24].map(|at| bytes::<16>(quote, at).map(Ipv6Addr::from));
        Some(Self { mtu, from: from?, to: to?, network: network_of_vni(vni? >> 8)?, source, destination })
    }
}

/// Offset of the quoted packet in a message.
const QUOTE: usize = 8;
/// From there: to the UDP header, and to the packet that was encapsulated.
const UDP: usize = Ipv6::LEN as usize;
const INNER_IP: usize = UDP + (Vxlan::OVERHEAD - Ipv4::LEN) as usize;

/// The addresses of the packet that was encapsulated.
fn addresses(quote: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let inner = quote.get(INNER_IP..)?;
    let ethertype = u16::from_be_bytes(bytes(quote, INNER_IP - 2)?);
    let v4 = |at| bytes::<4>(inner, at).map(|octets| IpAddr::from(Ipv4Addr::from(octets)));
    let v6 = |at| bytes::<16>(inner, at).map(|octets| IpAddr::from(Ipv6Addr::from(octets)));
    match ethertype {
        _ if ethertype == Ethernet::IPV4.host() => v4(12).zip(v4(16)),
        _ if ethertype == Ethernet::IPV6.host() => v6(8).zip(v6(24)),
        _ => None,
    }
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a router says of a packet of 1500 bytes between two nodes, from one container to another.
    pub(in super::super) fn message(
        mtu: u32,
        from: &str,
        to: &str,
        source: &str,
        destination: &str,
    ) -> Vec<u8> {
        let mut message = vec![TooBig::KIND, 0, 0, 0];
        message.extend(mtu.to_be_bytes());
        message.extend([0x60, 0, 0, 0]);
        message.extend((1500_u16 - 40).to_be_bytes());
        message.extend([protocol::UDP, 64]);
        let v6 = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        message.extend(v6(from));
        message.extend(v6(to));
        message.extend([0xc1, 0x23, 0x12, 0xb5, 0x05, 0xb4, 0, 0]);
        message.extend([8, 0, 0, 0, 0x6e, 0, 7, 0]);
        message.extend([0; 12]);
        match (source.parse::<IpAddr>().unwrap(), destination.parse::<IpAddr>().unwrap()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                message.extend([8, 0, 0x45, 0]);
                message.extend([0; 10]);
                message.extend(source.octets());
                message.extend(destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                message.extend([0x86, 0xdd, 0x60, 0]);
                message.extend([0; 6]);
                message.extend(source.octets());
                message.extend(destination.octets());
            }
            _ => panic!("of one family"),
        }
        message.extend([0; 600]);
        message
    }

    #[test]
    fn what_is_said() {
        let good = message(1400, "2001:db8::1", "2001:db8:1::2", "10.88.1.2", "10.88.2.3");
        let expected = TooBig {
            mtu: 1400,
            from: "2001:db8::1".parse().unwrap(),
            to: "2001:db8:1::2".parse().unwrap(),
            network: 7,
            source: "10.88.1.2".parse().unwrap(),
            destination: "10.88.2.3".parse().unwrap(),
        };
        assert_eq!(TooBig::parse(&good), Some(expected));
        let v6 = message(1400, "2001:db8::1", "2001:db8:1::2", "fd88::102", "fd88::203");
        let inner = |text: &str| text.parse::<IpAddr>().unwrap();
        let expected = TooBig { source: inner("fd88::102"), destination: inner("fd88::203"), ..expected };
        assert_eq!(TooBig::parse(&v6[..TooBig::LENGTH]), Some(expected));
        for (what, at, byte) in [
            ("another type", 0, 3),
            ("what fits", 6, 0x06),
            ("a quote of IPv4", 8, 0x45),
            ("a quote of TCP", 14, 6),
            ("another source port", 48, 0x30),
            ("another port", 51, 0xb6),
            ("no VNI", 56, 0),
            ("another's VNI", 60, 0x6f),
            ("something else in it", 77, 6),
        ] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(TooBig::parse(&bad), None, "{what}");
        }
        // Cut off anywhere.
        for length in 0..TooBig::LENGTH {
            let read = TooBig::parse(&v6[..length]);
            assert_eq!(read, None, "{length}");
        }
    }
}
