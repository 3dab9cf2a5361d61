//! [`Packet`] over a frame at an XDP hook, for reading only.

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_get_buff_len, programs::XdpContext};
use netd_common::{Packet, V6, wire::Wire};

use netd_common::packet::MAX_OFFSET;

/// A frame. What does not fit one buffer (a NIC that splits headers from payload, a large MTU) is read in its first.
pub(crate) struct Frame {
    ctx: *mut xdp_md,
}

impl Frame {
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext) -> Self {
        Self { ctx: ctx.ctx }
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: a helper that takes the context alone.
        unsafe { bpf_xdp_get_buff_len(self.ctx) as u32 }
    }

    #[inline(always)]
    fn get<T: Wire>(&self, offset: u32) -> Option<T> {
        const { assert!(size_of::<T>() > 1, "a single byte cannot be read at a variable offset") };
        if offset > MAX_OFFSET {
            return None;
        }
        // SAFETY: loads from the context. Volatile, and anew at each access, as in `Skb`.
        let (data, end) = unsafe {
            ((&raw const (*self.ctx).data).read_volatile(), (&raw const (*self.ctx).data_end).read_volatile())
        };
        let start = data as usize + offset as usize;
        if start + size_of::<T>() > end as usize {
            return None;
        }
        // SAFETY: all of it is in the frame, and any bytes are a valid `T` (Wire); unaligned as in `Skb`.
        Some(unsafe { *(start as *const T) })
    }

    #[inline(always)]
    fn set<T: Wire>(&mut self, _: u32, _: T) -> Option<()> {
        None
    }

    #[inline(always)]
    fn l4_checksum(&mut self, _: u32, _: u32, _: u32, _: bool, _: bool) -> Option<()> {
        None
    }

    #[inline(always)]
    fn hash(&mut self) -> u32 {
        0
    }

    #[inline(always)]
    fn encapsulate(&mut self, _: bool) -> Option<()> {
        None
    }

    #[inline(always)]
    fn tunnel(&mut self, _: &V6, _: &V6, _: u32, _: u8) -> Option<()> {
        None
    }

    #[inline(always)]
    fn decapsulate(&mut self, _: bool, _: bool) -> Option<()> {
        None
    }

    #[inline(always)]
    fn resize(&mut self, _: u32) -> Option<()> {
        None
    }
}
