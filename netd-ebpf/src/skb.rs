//! [`Packet`] over a socket buffer at a TC hook.

use aya_ebpf::{
    bindings::{
        BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_CSUM_LEVEL_DEC, BPF_F_ADJ_ROOM_ENCAP_L2_ETH,
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR,
        BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_hdr_start_off,
        bpf_tunnel_key,
    },
    helpers::generated::{
        bpf_csum_level, bpf_csum_update, bpf_get_hash_recalc, bpf_l4_csum_replace, bpf_skb_adjust_room,
        bpf_skb_change_head, bpf_skb_change_proto, bpf_skb_change_tail, bpf_skb_change_type,
        bpf_skb_get_tunnel_key, bpf_skb_load_bytes_relative, bpf_skb_pull_data, bpf_skb_set_tunnel_key,
    },
    programs::TcContext,
};
use netd_common::{
    Addr as _, Hook, Packet, V4, V6,
    abi::DELIVERED,
    from_container::Told,
    packet::MAX_OFFSET,
    wire::{Be16, Ethernet, Ipv4, Ipv6, Vxlan, Wire, tcp},
};

use crate::Context;

/// `BPF_F_IPV6` (kernel 6.16): the pseudo-header is IPv6's. Older kernels refuse it.
const BPF_F_IPV6: u64 = 1 << 7;
/// `BPF_F_ADJ_ROOM_DECAP_L3_IPV4` and `..._IPV6` (kernel 6.3): what is left is of that family.
const ADJ_ROOM_DECAP_L3_IPV4: u64 = 1 << 7;
const ADJ_ROOM_DECAP_L3_IPV6: u64 = 1 << 8;

/// `skb->pkt_type` of a frame to the interface's own MAC address (linux/if_packet.h).
const PACKET_HOST: u32 = 0;

/// A socket buffer.
pub(crate) struct Skb {
    ctx: Context,
}

impl Skb {
    /// Brings the headers into the linear part, where programs can read them: the kernel promises only the Ethernet
    /// header there, and a NIC's driver or a sender with AF_PACKET gives no more.
    #[inline(always)]
    pub(crate) fn new(ctx: &TcContext) -> Self {
        const HEADERS: u32 = Ethernet::LEN + Ipv4::LEN + tcp::LEN;
        let skb = Self { ctx: ctx.skb.skb };
        let len = skb.len();
        let want = if len < HEADERS { len } else { HEADERS };
        if skb.data() + want as usize > skb.data_end() {
            // IPv4 options may take 40 bytes more.
            let want = if len < HEADERS + 40 { len } else { HEADERS + 40 };
            // SAFETY: the context is the program's own; on failure the reads that follow fail.
            unsafe { bpf_skb_pull_data(skb.ctx, want) };
        }
        skb
    }

    /// One whose headers are where programs can read them, in a subprogram.
    #[inline(always)]
    pub(crate) fn again(ctx: Context) -> Self {
        Self { ctx }
    }

    /// For helpers.
    #[inline(always)]
    pub(crate) fn context(&self) -> Context {
        self.ctx
    }

    /// What the hook knows.
    #[inline(always)]
    pub(crate) fn hook(&self) -> Hook {
        // SAFETY: loads from the context, which the verifier rewrites to loads from the sk_buff.
        unsafe {
            Hook {
                ifindex: (*self.ctx).ifindex,
                vlan: (*self.ctx).vlan_present != 0,
                forwarded: (*self.ctx).ingress_ifindex != 0,
                ..Hook::default()
            }
        }
    }

    /// The same where the host's own stack and other programs send to a container.
    #[inline(always)]
    pub(crate) fn egress_hook(&self) -> Hook {
        // SAFETY: a load from the context.
        Hook { delivered: unsafe { (*self.ctx).mark } == DELIVERED, ..self.hook() }
    }

    /// Puts the mark on that says that all is decided.
    #[inline(always)]
    pub(crate) fn mark_delivered(&mut self) {
        // SAFETY: a store to the context.
        unsafe { (*self.ctx).mark = DELIVERED };
    }

    /// Whether the program runs where an interface receives (TC's ingress). netkit's runs where its container sends: the kernel has
    /// forgotten by then which interface a packet came in by, if any (`netkit_prep_forward`), and has not said so anew.
    #[inline(always)]
    pub(crate) fn is_received(&self) -> bool {
        // SAFETY: a load from the context.
        unsafe { (*self.ctx).ingress_ifindex != 0 }
    }

    /// Whether it is IPv6, by its frame.
    #[inline(always)]
    pub(crate) fn is_ipv6(&self) -> bool {
        self.get::<Be16>(Ethernet::ETHERTYPE) == Some(Ethernet::IPV6)
    }

    /// What the program before this one has said of a packet, in the part of the sk_buff that is ours.
    #[inline(always)]
    pub(crate) fn told(&self) -> Told {
        // SAFETY: loads from the context.
        unsafe {
            Told {
                reason: (*self.ctx).cb[0],
                mtu: (*self.ctx).cb[1],
                quiet: (*self.ctx).cb[2] != 0,
                tries: (*self.ctx).cb[3],
            }
        }
    }

    /// Says it.
    #[inline(always)]
    pub(crate) fn tell(&mut self, told: &Told) {
        // SAFETY: stores to the context.
        unsafe {
            (*self.ctx).cb[0] = told.reason;
            (*self.ctx).cb[1] = told.mtu;
            (*self.ctx).cb[2] = u32::from(told.quiet);
            (*self.ctx).cb[3] = told.tries;
        }
    }

    /// The same at an interface that is shared with others: a tag that only gives a priority (VLAN 0) makes no other network; and not
    /// every frame is for this host.
    #[inline(always)]
    pub(crate) fn uplink_hook(&self) -> Hook {
        const VLAN: u32 = 0x0fff;
        let hook = self.hook();
        // SAFETY: a load from the context.
        let vlan = hook.vlan && unsafe { (*self.ctx).vlan_tci } & VLAN != 0;
        // SAFETY: as above.
        let foreign = unsafe { (*self.ctx).pkt_type } != PACKET_HOST;
        Hook { vlan, foreign, ..hook }
    }

    /// Has the packet count as one for this host, whatever MAC address it came to.
    #[inline(always)]
    pub(crate) fn count_as_hosts(&mut self) {
        // SAFETY: a helper that takes the context and a number.
        unsafe { bpf_skb_change_type(self.ctx, PACKET_HOST) };
    }

    /// What the hook of a collect-metadata tunnel device knows besides: the outer addresses and the VNI.
    #[inline(always)]
    pub(crate) fn tunnel_hook(&self) -> Hook {
        // SAFETY: plain data, for which zero is valid.
        let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
        // With the local address, which kernels since 6.0 know.
        const SIZE: u32 = size_of::<bpf_tunnel_key>() as u32;
        // SAFETY: the key is that large. Without tunnel metadata, or where it is IPv6's and not asked for as that, it stays zero or
        // becomes so.
        let (node, own) = if unsafe { bpf_skb_get_tunnel_key(self.ctx, &mut key, SIZE, 0) } == 0 {
            // The helper gives it in host byte order.
            let mapped = |address: u32| V4(address.to_be()).mapped();
            // SAFETY: any bits are an address.
            unsafe { (mapped(key.__bindgen_anon_1.remote_ipv4), mapped(key.__bindgen_anon_3.local_ipv4)) }
        } else {
            // SAFETY: as above.
            unsafe { bpf_skb_get_tunnel_key(self.ctx, &mut key, SIZE, u64::from(BPF_F_TUNINFO_IPV6)) };
            // SAFETY: any bits are an address; IPv6's are in network byte order.
            unsafe { (V6(key.__bindgen_anon_1.remote_ipv6), V6(key.__bindgen_anon_3.local_ipv6)) }
        };
        Hook { node, own, vni: key.tunnel_id, ..self.hook() }
    }

    // Volatile, and anew at each access: a pointer that is kept over a helper that may move the packet is invalid.
    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: a load from the context.
        unsafe { (&raw const (*self.ctx).data).read_volatile() as usize }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: a load from the context.
        unsafe { (&raw const (*self.ctx).data_end).read_volatile() as usize }
    }

    /// Whether the helper for checksums can be told that a pseudo-header is IPv6's.
    #[inline(always)]
    pub(crate) fn knows_ipv6_sums(&self) -> bool {
        let flags = u64::from(BPF_F_PSEUDO_HDR) | BPF_F_IPV6;
        // SAFETY: the helper checks the offset against the packet; a difference of 0 changes nothing.
        unsafe { bpf_l4_csum_replace(self.ctx, Ethernet::LEN + Ipv4::LEN, 0, 0, flags) == 0 }
    }

    /// [`Packet::decapsulate`] by one helper, which has to know how to change the family of what is left. Where it does not, nothing has
    /// happened.
    #[inline(always)]
    pub(crate) fn decapsulate_at_once(&mut self, v6: bool, inner_v6: bool) -> bool {
        // Only where the family changes: older kernels know no such flag, and need none where it stays.
        let family = match (v6, inner_v6) {
            (true, false) => ADJ_ROOM_DECAP_L3_IPV4,
            (false, true) => ADJ_ROOM_DECAP_L3_IPV6,
            _ => 0,
        };
        self.shrink(Vxlan::overhead(v6), family)
    }

    /// Takes so many bytes away behind the Ethernet header.
    #[inline(always)]
    fn shrink(&mut self, bytes: u32, flags: u64) -> bool {
        const FLAGS: u64 = BPF_F_ADJ_ROOM_FIXED_GSO as u64 | BPF_F_ADJ_ROOM_NO_CSUM_RESET as u64;
        // SAFETY: the helper checks what it is given against the packet.
        unsafe { bpf_skb_adjust_room(self.ctx, -(bytes as i32), BPF_ADJ_ROOM_MAC, FLAGS | flags) == 0 }
    }

    /// Makes the packet one of the other family: its network header is one of that family's, of zeros.
    #[inline(always)]
    fn change_family(&mut self, to_v6: bool) -> bool {
        let ethertype = if to_v6 { Ethernet::IPV6 } else { Ethernet::IPV4 };
        // SAFETY: a helper that takes the context and numbers; of segments of UDP it takes none.
        unsafe { bpf_skb_change_proto(self.ctx, ethertype.raw(), 0) == 0 }
    }

    #[inline(always)]
    fn at<T>(&self, offset: u32) -> Option<*mut T> {
        // LLVM turns `start + 1 > end` into `start >= end`, from which the verifier learns nothing.
        const { assert!(size_of::<T>() > 1, "a single byte cannot be read at a variable offset") };
        if offset > MAX_OFFSET {
            return None;
        }
        let start = self.data() + offset as usize;
        if start + size_of::<T>() > self.data_end() {
            return None;
        }
        Some(start as *mut T)
    }
}

/// [`Packet::decapsulate`] for a kernel that cannot change the family in one step: the outer header becomes one of the other family's, which
/// is longer or shorter by so much, and is taken away with the rest. A subprogram, as its callers have no room on the stack.
#[inline(never)]
fn decapsulate_in_steps(ctx: Context, v6: bool) -> bool {
    const MORE: u32 = Ipv6::LEN - Ipv4::LEN;
    let mut skb = Skb::again(ctx);
    let overhead = Vxlan::overhead(v6);
    let overhead = if v6 { overhead - MORE } else { overhead + MORE };
    skb.change_family(!v6) && skb.shrink(overhead, 0)
}

/// [`Packet::restore_link_header`]: where generic XDP has copied a packet, the kernel has forgotten how long the Ethernet header is (the
/// copy's `mac_len` is 0, seen on 6.18), and gives a program what is behind it. The header still lies before that. A subprogram,
/// as its callers have no room on the stack.
#[inline(never)]
fn restore_link_header(ctx: Context) -> bool {
    // SAFETY: a load from the context; in network byte order, as it lies in memory.
    let protocol = unsafe { (*ctx).protocol } as u16;
    if protocol != Ethernet::IPV4.raw() && protocol != Ethernet::IPV6.raw() {
        return false;
    }
    let mut header = [0u16; Ethernet::LEN as usize / 2];
    let (to, start) = (header.as_mut_ptr().cast(), bpf_hdr_start_off::BPF_HDR_START_MAC);
    // SAFETY: the helper writes as many bytes as the array has.
    if unsafe { bpf_skb_load_bytes_relative(ctx.cast(), 0, to, Ethernet::LEN, start) } != 0 {
        return false;
    }
    if header[Ethernet::ETHERTYPE as usize / 2] != protocol {
        return false;
    }
    // SAFETY: a helper that takes the context and numbers.
    let grown = unsafe { bpf_skb_change_head(ctx, Ethernet::LEN, 0) } == 0;
    grown && Skb::again(ctx).set(0, header).is_some()
}

impl Packet for Skb {
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: a load from the context.
        unsafe { (*self.ctx).len }
    }

    #[inline(always)]
    fn get<T: Wire>(&self, offset: u32) -> Option<T> {
        // SAFETY: `at` has checked that all of it is in the packet, and any bytes are a valid `T` (Wire). The pointer may
        // be unaligned for T, which BPF on the machines that netd runs on does not mind (see netd_common::wire).
        self.at::<T>(offset).map(|pointer| unsafe { *pointer })
    }

    #[inline(always)]
    fn set<T: Wire>(&mut self, offset: u32, value: T) -> Option<()> {
        // SAFETY: as in `get`; a `T` has no padding (Wire), so only defined bytes are written.
        self.at::<T>(offset).map(|pointer| unsafe { *pointer = value })
    }

    #[inline(always)]
    fn pull(&self, length: u32) {
        let len = self.len();
        let want = if len < length { len } else { length };
        if self.data() + want as usize > self.data_end() {
            // SAFETY: the context is the program's own; on failure the reads that follow fail.
            unsafe { bpf_skb_pull_data(self.ctx, want) };
        }
    }

    #[inline(always)]
    fn restore_link_header(&self) -> bool {
        restore_link_header(self.ctx)
    }

    #[inline(always)]
    fn segment_size(&self) -> u32 {
        // SAFETY: a load from the context.
        unsafe { (*self.ctx).gso_size }
    }

    #[inline(always)]
    fn segments(&self) -> u32 {
        // SAFETY: a load from the context.
        let segments = unsafe { (*self.ctx).gso_segs };
        if segments == 0 { 1 } else { segments }
    }

    #[inline(always)]
    fn hash(&mut self) -> u32 {
        // SAFETY: a helper that takes the context alone.
        unsafe { bpf_get_hash_recalc(self.ctx) }
    }

    #[inline(always)]
    fn summed(&mut self, diff: u32) {
        // SAFETY: a helper that takes the context and a number. Where the device has not summed up the packet it refuses,
        // which is fine.
        unsafe { bpf_csum_update(self.ctx, diff) };
    }

    #[inline(always)]
    fn encapsulate(&mut self, v6: bool) -> Option<()> {
        // Segments keep their size (FIXED_GSO): the container's MTU leaves room for the headers. Without the ENCAP flags the
        // kernel would not know where the inner packet begins, and TCP segments would never be cut right.
        const FLAGS: u64 = BPF_F_ADJ_ROOM_FIXED_GSO as u64
            | BPF_F_ADJ_ROOM_ENCAP_L4_UDP as u64
            | BPF_F_ADJ_ROOM_ENCAP_L2_ETH as u64
            | (Ethernet::LEN as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
        let family = if v6 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 };
        let flags = FLAGS | u64::from(family);
        // SAFETY: the helper checks what it is given against the packet.
        let done =
            unsafe { bpf_skb_adjust_room(self.ctx, Vxlan::overhead(v6) as i32, BPF_ADJ_ROOM_MAC, flags) };
        if done == 0 { Some(()) } else { None }
    }

    #[inline(always)]
    fn tunnel(&mut self, node: &V6, own: &V6, vni: u32, class: u8) -> Option<()> {
        // SAFETY: plain data, for which zero is valid.
        let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
        key.tunnel_id = vni;
        key.tunnel_ttl = 64;
        key.tunnel_tos = class;
        // No outer checksum, as in `encapsulate`. The helper takes IPv4 addresses in host byte order.
        let mut flags = u64::from(BPF_F_ZERO_CSUM_TX);
        if let (Some(node), Some(own)) = (node.unmapped(), own.unmapped()) {
            key.__bindgen_anon_1.remote_ipv4 = u32::from_be(node.0);
            key.__bindgen_anon_3.local_ipv4 = u32::from_be(own.0);
        } else {
            key.__bindgen_anon_1.remote_ipv6 = node.0;
            key.__bindgen_anon_3.local_ipv6 = own.0;
            flags |= u64::from(BPF_F_TUNINFO_IPV6);
        }
        // SAFETY: the helper reads as many bytes as we say, which are initialised.
        let done = unsafe { bpf_skb_set_tunnel_key(self.ctx, &mut key, size_of_val(&key) as u32, flags) };
        if done == 0 { Some(()) } else { None }
    }

    #[inline(always)]
    fn decapsulate(&mut self, v6: bool, inner_v6: bool) -> Option<()> {
        if !self.decapsulate_at_once(v6, inner_v6) && (v6 == inner_v6 || !decapsulate_in_steps(self.ctx, v6))
        {
            return None;
        }
        // One of the checksums that the device has verified was the outer one (which there is none of: UDP's is 0).
        // SAFETY: a helper that takes the context and a number. Where nothing was verified it refuses, which is fine.
        unsafe { bpf_csum_level(self.ctx, u64::from(BPF_CSUM_LEVEL_DEC)) };
        Some(())
    }

    #[inline(always)]
    fn resize(&mut self, length: u32) -> Option<()> {
        // SAFETY: the helper checks the length.
        let done = unsafe { bpf_skb_change_tail(self.ctx, length, 0) };
        if done == 0 { Some(()) } else { None }
    }

    #[inline(always)]
    fn l4_checksum(&mut self, offset: u32, pseudo: u32, data: u32, udp: bool, v6: bool) -> Option<()> {
        if offset > MAX_OFFSET {
            return None;
        }
        // A UDP checksum of zero means that there is none, and stays.
        let udp = if udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let flags = u64::from(BPF_F_PSEUDO_HDR) | udp;
        let ctx = self.ctx;
        // SAFETY: the helper checks the offset against the packet. Size 0 in the flags: `to` is a difference.
        let replace =
            |diff: u32, flags: u64| unsafe { bpf_l4_csum_replace(ctx, offset, 0, u64::from(diff), flags) };
        if !v6 {
            if replace(pseudo, flags) < 0 {
                return None;
            }
        } else if replace(pseudo, flags | BPF_F_IPV6) < 0 {
            // An older kernel, or a packet that is too short. The device's sum of the packet stays, as the header that holds
            // the addresses has no checksum that would make up for them: what the helper does to it is undone.
            if replace(pseudo, flags) < 0 {
                return None;
            }
            self.summed(pseudo);
        }
        if data != 0 && replace(data, udp) < 0 {
            return None;
        }
        Some(())
    }
}
