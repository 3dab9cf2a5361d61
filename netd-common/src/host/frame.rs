//! A packet in memory.

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
}

impl Frame {
    /// A frame with all its checksums.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), partial: false, segment_size: 0, tunnel: None }
    }
}

impl Packet for Frame {
    fn len(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn get<T: Wire>(&self, offset: u32) -> Option<T> {
        let bytes = self.bytes.get(offset as usize..)?.get(..size_of::<T>())?;
        // SAFETY: as many bytes as a `T` has, and any bytes are a valid one (Wire).
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    fn set<T: Wire>(&mut self, offset: u32, value: T) -> Option<()> {
        let bytes = self.bytes.get_mut(offset as usize..)?.get_mut(..size_of::<T>())?;
        // SAFETY: as many bytes as a `T` has, none of which is padding (Wire).
        unsafe { bytes.as_mut_ptr().cast::<T>().write_unaligned(value) };
        Some(())
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
        Some(())
    }

    fn tunnel(&mut self, node: &V6, own: &V6, vni: u32, class: u8) -> Option<()> {
        self.tunnel = Some((*node, *own, vni, class));
        Some(())
    }

    fn decapsulate(&mut self, v6: bool, _inner_v6: bool) -> Option<()> {
        let end = (Ethernet::LEN + Vxlan::overhead(v6)) as usize;
        (self.bytes.len() >= end).then(|| drop(self.bytes.drain(14..end)))
    }

    fn resize(&mut self, length: u32) -> Option<()> {
        self.bytes.resize(length as usize, 0);
        self.segment_size = 0;
        Some(())
    }

    fn l4_checksum(&mut self, offset: u32, pseudo: u32, data: u32, udp: bool, _v6: bool) -> Option<()> {
        let field: u16 = self.get(offset)?;
        if self.partial {
            return self.set(offset, checksum::fold(checksum::add(u32::from(field), pseudo)));
        }
        if udp && field == 0 {
            return Some(());
        }
        let new = checksum::update(field, checksum::add(pseudo, data));
        self.set(offset, if udp && new == 0 { 0xffff } else { new })
    }
}
