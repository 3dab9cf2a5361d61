//! Addresses of one network: which are taken, and which is next.
//!
//! Pure: nothing in here knows of the kernel or the store.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

/// The longest prefix that holds a gateway and an endpoint besides the network and broadcast addresses.
pub const MAX_PREFIX: u8 = 30;

/// Why an address cannot be given out.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IpamError {
    /// Not of this network.
    #[error("{address} is not in {subnet}")]
    Outside {
        /// What was asked for.
        address: Ipv4Addr,
        /// The network's subnet.
        subnet: Ipv4Net,
    },
    /// The first address of the subnet.
    #[error("{0} is the network address of {1}")]
    NetworkAddress(Ipv4Addr, Ipv4Net),
    /// The last address of the subnet.
    #[error("{0} is the broadcast address of {1}")]
    Broadcast(Ipv4Addr, Ipv4Net),
    /// The host's own address in the network.
    #[error("{0} is the gateway of {1}")]
    Gateway(Ipv4Addr, Ipv4Net),
    /// In the network, but not in this node's part of it.
    #[error("{address} is not in {slice}, this node's slice of {subnet}")]
    Elsewhere {
        /// What was asked for.
        address: Ipv4Addr,
        /// The node's part.
        slice: Ipv4Net,
        /// The network's subnet.
        subnet: Ipv4Net,
    },
    /// Another endpoint has it.
    #[error("{address} is in use by endpoint `{holder}`")]
    InUse {
        /// What was asked for.
        address: Ipv4Addr,
        /// The endpoint that has it.
        holder: String,
    },
    /// In a LAN of which nothing is given out.
    #[error("no range of {0} is given out: say --ip ADDRESS, or give the network a range")]
    NoRange(Ipv4Net),
    /// In a network of which this node has no part.
    #[error("this node has no slice of {0} yet: `netd status` says why")]
    NoSlice(Ipv4Net),
    /// All are taken.
    #[error("all {count} addresses of {subnet} are in use")]
    Exhausted {
        /// How many there are for endpoints.
        count: u32,
        /// The network's subnet.
        subnet: Ipv4Net,
    },
}

/// The gateway of a subnet: its first usable address.
#[must_use]
pub fn gateway(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(subnet.network().to_bits() + 1)
}

/// The same of an IPv6 subnet: what goes with the IPv4 one.
#[must_use]
pub fn gateway6(subnet: Ipv6Net) -> Ipv6Addr {
    Ipv6Addr::from_bits(subnet.network().to_bits() + 1)
}

/// The same of a subnet of either family.
#[must_use]
pub fn gateway_of(subnet: IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(subnet) => gateway(subnet).into(),
        IpNet::V6(subnet) => gateway6(subnet).into(),
    }
}

/// The addresses of one network.
///
/// Automatic ones are given out next-fit: the search goes on after the last one, so that an address that was just freed,
/// and that peers may still send to, is not given to another container at once.
#[derive(Clone, Debug)]
pub struct Pool {
    subnet: Ipv4Net,
    /// The part of it that addresses are given out of; none: the node has got none yet.
    slice: Option<Ipv4Net>,
    /// Whether it is a LAN: any address of the subnet can be chosen, and the first one is as good as others.
    lan: bool,
    used: BTreeMap<u32, String>,
    /// Where the search for a free address begins; always one that endpoints may have.
    cursor: u32,
}

impl Pool {
    /// An empty pool.
    ///
    /// # Panics
    /// When the prefix is longer than [`MAX_PREFIX`]: the caller checks that.
    #[must_use]
    pub fn new(subnet: Ipv4Net) -> Self {
        assert!(subnet.prefix_len() <= MAX_PREFIX, "{subnet} has no room for an endpoint");
        Self::within(subnet, Some(subnet))
    }

    /// An empty pool of a node that has only a slice of the subnet, or none of it.
    ///
    /// # Panics
    /// As [`Pool::new`].
    #[must_use]
    pub fn within(subnet: Ipv4Net, slice: Option<Ipv4Net>) -> Self {
        assert!(slice.is_none_or(|slice| slice.prefix_len() <= MAX_PREFIX), "{slice:?} has no room");
        let (subnet, slice) = (subnet.trunc(), slice.map(|slice| slice.trunc()));
        let mut pool = Self { subnet, slice, lan: false, used: BTreeMap::new(), cursor: 0 };
        pool.cursor = pool.first();
        pool
    }

    /// An empty pool of a LAN: addresses are given out of a range of it, if there is one, and others can be chosen.
    #[must_use]
    pub fn of_lan(subnet: Ipv4Net, range: Option<Ipv4Net>) -> Self {
        let mut pool = Self { lan: true, ..Self::within(subnet, range) };
        pool.cursor = pool.first();
        pool
    }

    /// The part of the subnet that addresses are given out of.
    #[must_use]
    pub fn slice(&self) -> Option<Ipv4Net> {
        self.slice
    }

    /// Gives addresses out of another part from now on.
    ///
    /// # Errors
    /// An address that is taken is not in it: says which, and whose. Nothing is changed then.
    pub fn set_slice(&mut self, slice: Option<Ipv4Net>) -> Result<(), IpamError> {
        let mut moved = Self::within(self.subnet, slice);
        for (address, holder) in &self.used {
            moved.take(Ipv4Addr::from_bits(*address), holder)?;
        }
        moved.set_cursor(self.cursor());
        *self = moved;
        Ok(())
    }

    /// Where the search for a free address begins; kept over restarts.
    #[must_use]
    pub fn cursor(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.cursor)
    }

    /// Goes on where an earlier pool was. An address that no endpoint may have (the subnet was changed) is ignored.
    pub fn set_cursor(&mut self, cursor: Ipv4Addr) {
        let cursor_bits = cursor.to_bits();
        if self.usable(cursor).is_ok() && (!self.lan || (self.first()..=self.last()).contains(&cursor_bits)) {
            self.cursor = cursor.to_bits();
        }
    }

    /// How many addresses endpoints may have.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        (self.last() + 1).saturating_sub(self.first())
    }

    /// How many are taken.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.len()
    }

    /// Who has an address.
    #[must_use]
    pub fn holder(&self, address: Ipv4Addr) -> Option<&str> {
        self.used.get(&address.to_bits()).map(String::as_str)
    }

    /// Takes the next free address.
    ///
    /// # Errors
    /// There is none.
    pub fn take_next(&mut self, holder: &str) -> Result<Ipv4Addr, IpamError> {
        if self.slice.is_none() {
            return Err(match self.lan {
                true => IpamError::NoRange(self.subnet),
                false => IpamError::NoSlice(self.subnet),
            });
        }
        let address =
            self.next_free().ok_or(IpamError::Exhausted { count: self.capacity(), subnet: self.subnet })?;
        self.used.insert(address, holder.to_owned());
        self.cursor = self.after(address);
        Ok(Ipv4Addr::from_bits(address))
    }

    /// Takes a chosen address.
    ///
    /// # Errors
    /// It is taken, or not one that an endpoint may have.
    pub fn take(&mut self, address: Ipv4Addr, holder: &str) -> Result<(), IpamError> {
        self.usable(address)?;
        if let Some(other) = self.holder(address) {
            return Err(IpamError::InUse { address, holder: other.to_owned() });
        }
        self.used.insert(address.to_bits(), holder.to_owned());
        Ok(())
    }

    /// Gives an address back; one that is not taken is left alone.
    pub fn free(&mut self, address: Ipv4Addr) {
        // A chosen address may lie right where the search begins; it must not be the next one given out either.
        if self.used.remove(&address.to_bits()).is_some() && self.next_free() == Some(address.to_bits()) {
            self.cursor = self.after(address.to_bits());
        }
    }

    /// Whether an endpoint may have an address, be it taken or not.
    ///
    /// # Errors
    /// Says why not.
    pub fn usable(&self, address: Ipv4Addr) -> Result<(), IpamError> {
        let subnet = self.subnet;
        if !subnet.contains(&address) {
            Err(IpamError::Outside { address, subnet })
        } else if address == subnet.network() {
            Err(IpamError::NetworkAddress(address, subnet))
        } else if address == subnet.broadcast() {
            Err(IpamError::Broadcast(address, subnet))
        } else if self.lan {
            Ok(())
        } else if address == gateway(subnet) {
            Err(IpamError::Gateway(address, subnet))
        } else {
            match self.slice {
                None => Err(IpamError::NoSlice(subnet)),
                Some(slice) if !slice.contains(&address) => {
                    Err(IpamError::Elsewhere { address, slice, subnet })
                }
                Some(_) => Ok(()),
            }
        }
    }

    /// The first free address at or after the cursor, around the end of the subnet.
    ///
    /// Walks over the run of taken addresses there. That run is short until the pool has wrapped around, and costs
    /// nanoseconds an address after that.
    fn next_free(&self) -> Option<u32> {
        self.first_gap(self.cursor, self.last())
            .or_else(|| self.first_gap(self.first(), self.cursor.checked_sub(1)?))
    }

    /// The lowest free address from `from` to `to`, inclusive.
    fn first_gap(&self, from: u32, to: u32) -> Option<u32> {
        if from > to {
            return None;
        }
        let mut candidate = from;
        for &taken in self.used.range(from..=to).map(|(address, _)| address) {
            if taken != candidate {
                break;
            }
            candidate += 1;
        }
        (candidate <= to).then_some(candidate)
    }

    fn after(&self, address: u32) -> u32 {
        if address >= self.last() { self.first() } else { address + 1 }
    }

    /// The first address that an endpoint gets: behind the gateway. The first and the last of a slice would do, but people
    /// (and their programs) take them for a network's and a broadcast address.
    fn first(&self) -> u32 {
        let slice = self.slice.unwrap_or(self.subnet);
        let first = slice.network().to_bits() + 1;
        if self.lan { first } else { first.max(gateway(self.subnet).to_bits() + 1) }
    }

    /// The last address that an endpoint gets: before the broadcast address.
    fn last(&self) -> u32 {
        self.slice.map_or(self.subnet.network().to_bits(), |slice| slice.broadcast().to_bits() - 1)
    }
}

#[cfg(test)]
mod tests;
