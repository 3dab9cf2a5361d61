//! A packet in memory.

use std::cell::Cell;

use crate::{
    Packet, V6, checksum,
    wire::{Ethernet, Vxlan, Wire},
};

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
    /// The transport checksum is left to the device: its field holds the pseudo-header's sum (CHECKSUM_PARTIAL).
    pub partial: bool,
    /// Payload bytes of each segment; 0: it is one packet.
    pub segment_size: u32,
    /// How the kernel is to encapsulate it: node, own address, VNI, traffic class.
    pub tunnel: Option<(V6, V6, u32, u8)>,
    /// How many of its first bytes are within reach; of the rest, more has to be pulled first.
    pub reach: Cell<u32>,
    /// The device has summed it up, from behind the Ethernet header (CHECKSUM_COMPLETE): that sum. Who changes bytes without a checksum in
    /// the packet that makes up for it has to tell.
    pub sum: Option<u32>,
}

impl Frame {
    /// A frame with all its checksums.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            bytes: bytes.into(),
            partial: false,
            segment_size: 0,
            tunnel: None,
            reach: Cell::new(u32::MAX),
            sum: None,
        }
    }

    /// The same of which only so many bytes are within reach.
    #[must_use]
    pub fn reaching(self, reach: u32) -> Self {
        Self { reach: Cell::new(reach), ..self }
    }

    /// The same, which the device has summed up.
    #[must_use]
    pub fn summed_up(self) -> Self {
        Self { sum: Some(sum(self.bytes.get(14..).unwrap_or_default())), ..self }
    }

    /// Whether the device's sum is right, where it has made one.
    pub fn is_sum_right(&self) -> bool {
        let now = sum(self.bytes.get(14..).unwrap_or_default());
        // One's complement has two zeros.
        self.sum.is_none_or(|sum| checksum::fold(checksum::diff(sum, now)).is_multiple_of(0xffff))
    }

    fn is_in_reach(&self, offset: u32, size: usize) -> bool {
        u64::from(offset) + size as u64 <= u64::from(self.reach.get())
    }

    /// The sum changes by this.
    fn add_to_sum(&mut self, diff: u32) {
        self.sum = self.sum.map(|sum| checksum::add(sum, diff));
    }
}

/// The sum of bytes, in the byte order of the machine; an odd one counts as if a zero followed.
fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
    bytes.chunks(2).fold(0, |sum, pair| checksum::add(sum, u32::from(word(pair))))
}

impl Packet for Frame {
    fn len(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn get<T: Wire>(&self, offset: u32) -> Option<T> {
        if !self.is_in_reach(offset, size_of::<T>()) {
            return None;
        }
        let bytes = self.bytes.get(offset as usize..)?.get(..size_of::<T>())?;
        // SAFETY: as many bytes as a `T` has, and any bytes are a valid one (Wire).
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    fn set<T: Wire>(&mut self, offset: u32, value: T) -> Option<()> {
        if !self.is_in_reach(offset, size_of::<T>()) {
            return None;
        }
        let bytes = self.bytes.get_mut(offset as usize..)?.get_mut(..size_of::<T>())?;
        // SAFETY: as many bytes as a `T` has, none of which is padding (Wire).
        unsafe { bytes.as_mut_ptr().cast::<T>().write_unaligned(value) };
        Some(())
    }

    fn pull(&self, length: u32) {
        self.reach.set(self.reach.get().max(length.min(self.len())));
    }

    fn summed(&mut self, diff: u32) {
        self.add_to_sum(diff);
    }

    fn segment_size(&self) -> u32 {
        self.segment_size
    }

    fn hash(&mut self) -> u32 {
        // Any function of the flow.
        self.bytes.iter().skip(26).take(12).fold(0, |hash: u32, byte| hash.rotate_left(5) ^ u32::from(*byte))
    }

    fn encapsulate(&mut self, v6: bool) -> Option<()> {
        let room = std::iter::repeat_n(0xee, Vxlan::overhead(v6) as usize);
        self.bytes.splice(14..14, room).for_each(drop);
        self.reach.set(self.reach.get().saturating_add(Vxlan::overhead(v6)));
        // What leaves is summed up by nobody.
        self.sum = None;
        Some(())
    }

    fn tunnel(&mut self, node: &V6, own: &V6, vni: u32, class: u8) -> Option<()> {
        self.tunnel = Some((*node, *own, vni, class));
        Some(())
    }

    fn decapsulate(&mut self, v6: bool, _inner_v6: bool) -> Option<()> {
        let end = (Ethernet::LEN + Vxlan::overhead(v6)) as usize;
        if self.bytes.len() < end {
            return None;
        }
        self.add_to_sum(!sum(&self.bytes[14..end]));
        self.bytes.drain(14..end);
        self.reach.set(self.reach.get().saturating_sub(Vxlan::overhead(v6)));
        Some(())
    }

    fn resize(&mut self, length: u32) -> Option<()> {
        self.bytes.resize(length as usize, 0);
        // The helper brings all of it into reach. What is resized becomes an error of netd's own, to a container about what it has sent
        // itself, which no device has summed up.
        self.reach.set(u32::MAX);
        self.sum = None;
        self.segment_size = 0;
        Some(())
    }

    fn l4_checksum(&mut self, offset: u32, pseudo: u32, data: u32, udp: bool, v6: bool) -> Option<()> {
        self.pull(offset + 2);
        let field: u16 = self.get(offset)?;
        if self.partial {
            return self.set(offset, checksum::fold(checksum::add(u32::from(field), pseudo)));
        }
        if udp && field == 0 {
            return Some(());
        }
        if !v6 {
            // IPv4's header makes up for its addresses itself, so that what changes the sum is this field.
            self.add_to_sum(!pseudo);
        }
        let new = checksum::update(field, checksum::add(pseudo, data));
        self.set(offset, if udp && new == 0 { 0xffff } else { new })
    }
}
