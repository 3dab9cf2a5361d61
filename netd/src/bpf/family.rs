//! What differs between the families where the maps are read and written.

use std::net::IpAddr;

use aya::maps::{Array, MapData, lpm_trie::Key};
use ipnet::IpNet;
use netd_common::{
    V4, V6,
    abi::{Flow, FlowList, Fragment, FragmentKey, Tuple},
    addr::Addr,
    wire::Be16,
};

use super::{
    flows::Record,
    maps::{Maps, Tables},
};

/// The names of a family's maps.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) config: &'static str,
    pub(super) interfaces: &'static str,
    pub(super) interface_places: &'static str,
    pub(super) endpoints: &'static str,
    pub(super) endpoint_places: &'static str,
    pub(super) routes: &'static str,
    pub(super) flows: &'static str,
    pub(super) ports: &'static str,
    pub(super) fragments: &'static str,
    pub(super) fragment_places: &'static str,
    pub(super) unanswered: &'static str,
}

/// An address family.
pub(super) trait Family: Addr + aya::Pod + std::hash::Hash {
    /// The names of its maps.
    const NAMES: Names;
    /// What a list of its flows is marked with.
    const LIST: u32;
    /// A flow's key as words: a map's value is to be read as what it is for any bit pattern.
    type Tuple: Copy + Default;
    /// A flow likewise.
    type Flow: Clone + Default;
    /// The key of a packet's fragments likewise.
    type FragmentKey: Copy + Default;
    /// What is known of those, which begins with when the first of them came.
    type Fragment: Clone + Default + AsRef<[u32]>;

    /// An address as the maps hold it, if it is of this family.
    fn of(address: IpAddr) -> Option<Self>;
    /// A family's tables, and the bits of published ports, which both share.
    fn tables(maps: &mut Maps) -> (&mut Tables<Self>, &mut Array<MapData, u64>);
    /// An address of the maps.
    fn ip(self) -> IpAddr;
    /// A flow's key.
    fn tuple(words: &Self::Tuple) -> Tuple<Self>;
    /// What the daemon wants to know of a flow.
    fn record(words: &Self::Flow) -> Record<Self>;

    /// A prefix as a key of the map of routes, if it is of this family.
    fn prefix(prefix: IpNet) -> Option<Key<Self>> {
        Self::of(prefix.network()).map(|network| Key::new(u32::from(prefix.prefix_len()), network))
    }
}

/// A flow's flags, out of the word that ends with them.
fn flags(word: u32) -> u16 {
    let [.., low, high] = word.to_ne_bytes();
    u16::from_ne_bytes([low, high])
}

/// A port, out of the word that begins with it.
fn port(word: u32) -> Be16 {
    let [high, low, ..] = word.to_ne_bytes();
    Be16::new(u16::from_be_bytes([high, low]))
}

impl Family for V4 {
    const NAMES: Names = Names {
        config: "CONFIG4",
        interfaces: "INTERFACES4",
        interface_places: "INTERFACE_PLACES4",
        endpoints: "ENDPOINTS4",
        endpoint_places: "ENDPOINT_PLACES4",
        routes: "ROUTES4",
        flows: "FLOWS4",
        ports: "PORTS4",
        fragments: "FRAGMENTS4",
        fragment_places: "FRAGMENT_PLACES4",
        unanswered: "UNANSWERED4",
    };
    const LIST: u32 = FlowList::IPV4;
    type Tuple = [u32; size_of::<Tuple<V4>>() / 4];
    type Flow = [u32; size_of::<Flow<V4>>() / 4];
    type FragmentKey = [u32; size_of::<FragmentKey<V4>>() / 4];
    type Fragment = [u32; size_of::<Fragment<V4>>() / 4];

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(Self::new(address.octets())),
            IpAddr::V6(_) => None,
        }
    }

    fn tables(maps: &mut Maps) -> (&mut Tables<Self>, &mut Array<MapData, u64>) {
        (&mut maps.v4, &mut maps.port_bits)
    }

    fn ip(self) -> IpAddr {
        self.bytes().into()
    }

    fn tuple(words: &Self::Tuple) -> Tuple<Self> {
        // SAFETY: words and bytes for which any bit pattern is valid, of the same size.
        unsafe { std::mem::transmute(*words) }
    }

    fn record(words: &Self::Flow) -> Record<Self> {
        let [state, seen, _mark, slot, address, last] = *words;
        Record { seen, state, slot, address: Self(address), port: port(last), flags: flags(last) }
    }
}

impl Family for V6 {
    const NAMES: Names = Names {
        config: "CONFIG6",
        interfaces: "INTERFACES6",
        interface_places: "INTERFACE_PLACES6",
        endpoints: "ENDPOINTS6",
        endpoint_places: "ENDPOINT_PLACES6",
        routes: "ROUTES6",
        flows: "FLOWS6",
        ports: "PORTS6",
        fragments: "FRAGMENTS6",
        fragment_places: "FRAGMENT_PLACES6",
        unanswered: "UNANSWERED6",
    };
    const LIST: u32 = FlowList::IPV6;
    type Tuple = [u32; size_of::<Tuple<V6>>() / 4];
    type Flow = [u32; size_of::<Flow<V6>>() / 4];
    type FragmentKey = [u32; size_of::<FragmentKey<V6>>() / 4];
    type Fragment = [u32; size_of::<Fragment<V6>>() / 4];

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(v6(address)),
        }
    }

    fn tables(maps: &mut Maps) -> (&mut Tables<Self>, &mut Array<MapData, u64>) {
        (&mut maps.v6, &mut maps.port_bits)
    }

    fn ip(self) -> IpAddr {
        std::net::Ipv6Addr::from_bits(u128::from_be_bytes(bytes(self))).into()
    }

    fn tuple(words: &Self::Tuple) -> Tuple<Self> {
        // SAFETY: as above.
        unsafe { std::mem::transmute(*words) }
    }

    fn record(words: &Self::Flow) -> Record<Self> {
        let [state, seen, _mark, slot, a, b, c, d, last] = *words;
        Record { seen, state, slot, address: Self([a, b, c, d]), port: port(last), flags: flags(last) }
    }
}

/// An IPv6 address as the maps hold it.
pub(super) fn v6(address: std::net::Ipv6Addr) -> V6 {
    let [a, b, c, d] = [0, 4, 8, 12].map(|at| {
        let octets = address.octets();
        u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
    });
    V6([a, b, c, d])
}

/// The address of a node: IPv4-mapped if it is IPv4.
pub(super) fn mapped(address: IpAddr) -> V6 {
    match address {
        IpAddr::V4(address) => v6(address.to_ipv6_mapped()),
        IpAddr::V6(address) => v6(address),
    }
}

/// The other way.
pub(super) fn unmapped(address: V6) -> IpAddr {
    match address.ip() {
        IpAddr::V6(address) => address.to_ipv4_mapped().map_or(address.into(), IpAddr::from),
        other => other,
    }
}

fn bytes(address: V6) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, word) in bytes.chunks_exact_mut(4).zip(address.0) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_there_and_back() {
        for text in ["10.88.0.2", "fd88::102", "2001:db8:1:2:3:4:5:6", "::"] {
            let address: IpAddr = text.parse().unwrap();
            let found = V4::of(address).map(V4::ip).or(V6::of(address).map(V6::ip));
            assert_eq!(found, Some(address));
            assert_eq!(unmapped(mapped(address)), address);
        }
        assert_eq!(mapped("192.0.2.1".parse().unwrap()).ip(), "::ffff:192.0.2.1".parse::<IpAddr>().unwrap());
    }
}
