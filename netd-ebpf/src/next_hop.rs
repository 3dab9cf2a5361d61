//! Out of an interface to the next hop that the kernel's routes and neighbours name.
//!
//! `bpf_redirect_neigh` asks for the route and the neighbour for each packet, and takes a reference to them, which costs more than
//! all that the program does (docs/performance.md). So each CPU remembers, for the pairs of addresses that it has lately seen, the
//! Ethernet addresses that the kernel named: for 2^[`SHIFT`] ticks of the kernel's clock, and not beyond the next change of a route, a
//! rule, a neighbour or a link that the daemon hears of ([`NEXT_HOPS_TURN`]). The packet that makes a CPU ask again goes by
//! `bpf_redirect_neigh`, so that the kernel sees that its neighbour is in use, and asks the neighbour whether it is still there.
//!
//! Where no route leads to a destination, `bpf_redirect_neigh` takes it for a neighbour: with the default route away for a moment, the
//! kernel would ask the link for each address of the internet, and hold packets back meanwhile. So what the kernel says has no route is
//! dropped here. Most packets are known to have one; those that are not ask only while there are some that have none ([`NO_ROUTE`]).

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_NOT_FWDED, TC_ACT_SHOT, bpf_fib_lookup as Lookup,
        bpf_redir_neigh,
    },
    btf_maps::{Array, PerCpuArray},
    helpers::generated::{bpf_fib_lookup, bpf_jiffies64, bpf_redirect, bpf_redirect_neigh},
    macros::btf_map,
};
use netd_common::{
    Addr, Common as _, Drop, Packet as _, Tables, V4, V6,
    abi::spread,
    plan::NO_SLOT,
    wire::{Ethernet, Ipv4, Ipv6, MacPair},
};

use crate::{AF_INET, AF_INET6, Context, maps::Maps, skb::Skb};

/// 64 ticks are 64 ms to 640 ms, by the kernel's configuration (CONFIG_HZ): 256 ms with its default.
const SHIFT: u32 = 6;
/// Pairs of addresses that a CPU remembers.
const ENTRIES: u32 = 1 << 10;
/// The loopback interface: routes from there are those of the host's own packets, as `bpf_redirect_neigh` asks for them. The daemon
/// makes it a forwarding one, without which the helper says nothing.
const LOOPBACK: u32 = 1;

/// What is remembered: between two addresses, out of one interface.
#[repr(C)]
#[derive(Clone, Copy)]
struct Hop<A> {
    /// Zero where the destination is the next hop itself.
    source: A,
    destination: A,
    ifindex: u32,
    /// The daemon's count of changes then.
    turn: u32,
    /// The kernel's clock then, in 2^SHIFT ticks.
    time: u32,
    /// What the kernel said: [`KNOWN`], [`UNKNOWN`] or [`NOWHERE`].
    known: u32,
    /// The Ethernet header's addresses.
    macs: MacPair,
    /// What the kernel is asked, and what it answers: here because no stack has room for it.
    lookup: Lookup,
}

/// The kernel names a next hop, out of that interface.
const KNOWN: u32 = 0;
/// It does not, or has not been asked: there is no neighbour yet, or the destination is behind a tunnel or another interface.
const UNKNOWN: u32 = 1;
/// No route leads there.
const NOWHERE: u32 = 2;

/// When a CPU last heard that no route leads to some destination.
#[repr(C)]
#[derive(Clone, Copy)]
struct Nowhere {
    /// The kernel's clock then, in 2^SHIFT ticks...
    time: u32,
    /// ... and the count of changes, which is never 0.
    turn: u32,
    /// What the kernel is asked.
    lookup: Lookup,
}

/// What each CPU remembers of IPv4. One place for a pair: where two pairs meet, the first has it until its time is over.
#[btf_map]
static NEXT_HOPS4: PerCpuArray<Hop<V4>, { ENTRIES as usize }> = PerCpuArray::new();
/// The same of IPv6.
#[btf_map]
static NEXT_HOPS6: PerCpuArray<Hop<V6>, { ENTRIES as usize }> = PerCpuArray::new();
/// Counted up with each change of routes, rules, neighbours or links. 0: nothing is remembered.
#[btf_map]
static NEXT_HOPS_TURN: Array<u32, 1> = Array::new();

/// As long as this is fresh, packets of which nothing is known ask whether there is a route.
#[btf_map]
static NO_ROUTE: PerCpuArray<Nowhere, 1> = PerCpuArray::new();

/// Sends a packet out of an interface. `via`: by this next hop, IPv4-mapped if it is IPv4; zero: by the one that the kernel's routes
/// name for the packet's destination.
#[inline(always)]
pub(crate) fn send(skb: &mut Skb, ifindex: u32, via: &V6) -> i64 {
    let known =
        if skb.is_ipv6() { remember6(skb.context(), ifindex, via) } else { remember4(skb, ifindex, via) };
    if known == KNOWN {
        // SAFETY: a helper without preconditions.
        return unsafe { bpf_redirect(ifindex, 0) };
    }
    if *via != V6::ZERO {
        return redirect_via(ifindex, via);
    }
    if is_refused(skb.context(), known) != 0 {
        return i64::from(TC_ACT_SHOT);
    }
    // SAFETY: without parameters, the helper looks up the next hop by the packet's destination.
    unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) }
}

/// Whether no route leads to a packet's destination: 1, and the packet is counted as dropped, against who sent it (it has been counted as
/// sent, too).
///
/// A subprogram: what it needs of stack, all would pay for.
#[inline(never)]
fn is_refused(ctx: Context, known: u32) -> u32 {
    let skb = Skb::again(ctx);
    if known != NOWHERE && !is_nowhere(&skb) {
        return 0;
    }
    let from = Tables::<V4>::interface(&Maps, skb.hook().ifindex);
    Maps.count_drop(Drop::NoRoute, from.map_or(NO_SLOT, |interface| interface.slot), skb.len());
    1
}

/// Asks for the route of a packet of which nothing is known; only if there was one just now that had none.
#[inline(always)]
fn is_nowhere(skb: &Skb) -> bool {
    let Some(nowhere) = NO_ROUTE.get_ptr_mut(0) else { return false };
    // SAFETY: the entry of this CPU, which no other program uses as long as this one runs, and plain data.
    let nowhere = unsafe { &mut *nowhere };
    let Some(turn) = NEXT_HOPS_TURN.get(0).copied() else { return false };
    if nowhere.turn == 0 || nowhere.turn != turn || nowhere.time != now() {
        return false;
    }
    // SAFETY: plain data, for which zero is valid.
    nowhere.lookup = unsafe { core::mem::zeroed() };
    if skb.is_ipv6() {
        let Some(ip) = skb.get::<Ipv6>(Ethernet::LEN) else { return false };
        question6(&mut nowhere.lookup, &ip.source, &ip.destination);
    } else {
        let Some(ip) = skb.get::<Ipv4>(Ethernet::LEN) else { return false };
        question4(&mut nowhere.lookup, &ip.source, &ip.destination);
        // Routes may depend on it.
        nowhere.lookup.__bindgen_anon_2.tos = ip.tos & DSCP;
    }
    is_no_route(ask(skb.context(), &mut nowhere.lookup))
}

/// The kernel's clock, in 2^SHIFT ticks.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: a helper without arguments.
    (unsafe { bpf_jiffies64() } >> SHIFT) as u32
}

/// Whether an answer says that there is no route: none at all, or one that says so itself (blackhole, unreachable, prohibit).
#[inline(always)]
const fn is_no_route(answer: i64) -> bool {
    BPF_FIB_LKUP_RET_BLACKHOLE as i64 <= answer && answer <= BPF_FIB_LKUP_RET_NOT_FWDED as i64
}

/// Writes the addresses of an IPv4 packet's next hop, if this CPU remembers them and they still hold: [`KNOWN`]. If not, the kernel is asked
/// for the packets that follow.
#[inline(always)]
fn remember4(skb: &mut Skb, ifindex: u32, via: &V6) -> u32 {
    let Some(ip) = skb.get::<Ipv4>(Ethernet::LEN) else { return UNKNOWN };
    if ip.tos & DSCP != 0 {
        return UNKNOWN;
    }
    let (source, destination) =
        if *via == V6::ZERO { (ip.source, ip.destination) } else { (V4(0), V4(via.0[3])) };
    let mixed = source.0.rotate_left(16) ^ destination.0;
    let Some(hop) = NEXT_HOPS4.get_ptr_mut(spread::<ENTRIES>(mixed)) else { return UNKNOWN };
    // SAFETY: the entry of this CPU, which no other program uses as long as this one runs, and plain data.
    recall(skb, unsafe { &mut *hop }, &source, &destination, ifindex)
}

/// The same of IPv6.
///
/// A subprogram: what it needs of stack, IPv4 would pay for.
#[inline(never)]
fn remember6(ctx: Context, ifindex: u32, via: &V6) -> u32 {
    let mut skb = Skb::again(ctx);
    let Some(ip) = skb.get::<Ipv6>(Ethernet::LEN) else { return UNKNOWN };
    if ip.version.host() >> 20 & u32::from(DSCP) != 0 {
        return UNKNOWN;
    }
    let (source, destination) = if *via == V6::ZERO { (ip.source, ip.destination) } else { (V6::ZERO, *via) };
    let mixed = source.0[3].rotate_left(16) ^ destination.0[3] ^ destination.0[1];
    let Some(hop) = NEXT_HOPS6.get_ptr_mut(spread::<ENTRIES>(mixed)) else { return UNKNOWN };
    // SAFETY: as above.
    recall(&mut skb, unsafe { &mut *hop }, &source, &destination, ifindex)
}

/// Routes may depend on a packet's DSCP: one that has one goes the kernel's way.
const DSCP: u8 = 0xfc;

#[inline(always)]
fn recall<A: Asked>(skb: &mut Skb, hop: &mut Hop<A>, source: &A, destination: &A, ifindex: u32) -> u32 {
    let Some(turn) = NEXT_HOPS_TURN.get(0).copied() else { return UNKNOWN };
    let time = now();
    if turn == 0 {
        return UNKNOWN;
    }
    if hop.time == time && hop.turn == turn {
        if hop.destination != *destination || hop.source != *source || hop.ifindex != ifindex {
            return UNKNOWN;
        }
        if hop.known == KNOWN && skb.set(0, hop.macs).is_none() {
            return UNKNOWN;
        }
        return hop.known;
    }
    (hop.source, hop.destination, hop.ifindex) = (*source, *destination, ifindex);
    (hop.turn, hop.time, hop.known) = (turn, time, UNKNOWN);
    A::ask(skb.context(), hop);
    // For the neighbour's sake, this packet goes the kernel's way (see above), if there is any.
    if hop.known == NOWHERE { NOWHERE } else { UNKNOWN }
}

/// What is different between the families in what the kernel is asked.
trait Asked: Addr {
    /// Asks the kernel for the next hop between two addresses, and whether it is out of that interface. A subprogram: it is rare.
    fn ask(ctx: Context, hop: &mut Hop<Self>);
}

impl Asked for V4 {
    #[inline(never)]
    fn ask(ctx: Context, hop: &mut Hop<Self>) {
        // SAFETY: plain data, for which zero is valid.
        hop.lookup = unsafe { core::mem::zeroed() };
        question4(&mut hop.lookup, &hop.source, &hop.destination);
        // SAFETY: any bits are an address.
        answered(ctx, hop, |lookup| V4(unsafe { lookup.__bindgen_anon_4.ipv4_dst }));
    }
}

impl Asked for V6 {
    #[inline(never)]
    fn ask(ctx: Context, hop: &mut Hop<Self>) {
        // SAFETY: plain data, for which zero is valid.
        hop.lookup = unsafe { core::mem::zeroed() };
        question6(&mut hop.lookup, &hop.source, &hop.destination);
        // SAFETY: any bits are an address.
        answered(ctx, hop, |lookup| V6(unsafe { lookup.__bindgen_anon_4.ipv6_dst }));
    }
}

/// Asks, and takes in the answer. `next`: the address of the next hop in it.
#[inline(always)]
fn answered<A: Addr>(ctx: Context, hop: &mut Hop<A>, next: impl Fn(&Lookup) -> A) {
    let answer = ask(ctx, &mut hop.lookup);
    let is_there = answer == 0 && hop.lookup.ifindex == hop.ifindex;
    // Where the destination is the next hop, the kernel must not go by a router.
    if is_there && (hop.source != A::ZERO || next(&hop.lookup) == hop.destination) {
        hop.macs = MacPair::new(hop.lookup.dmac, hop.lookup.smac);
        hop.known = KNOWN;
    } else if hop.source != A::ZERO && is_no_route(answer) {
        hop.known = NOWHERE;
        if let Some(nowhere) = NO_ROUTE.get_ptr_mut(0) {
            // SAFETY: as in `is_nowhere`.
            let nowhere = unsafe { &mut *nowhere };
            (nowhere.time, nowhere.turn) = (hop.time, hop.turn);
        }
    }
}

/// Which route a packet between two IPv4 addresses takes.
#[inline(always)]
const fn question4(lookup: &mut Lookup, source: &V4, destination: &V4) {
    lookup.family = AF_INET as u8;
    lookup.__bindgen_anon_3.ipv4_src = source.0;
    lookup.__bindgen_anon_4.ipv4_dst = destination.0;
}

/// The same of IPv6.
#[inline(always)]
const fn question6(lookup: &mut Lookup, source: &V6, destination: &V6) {
    lookup.family = AF_INET6 as u8;
    lookup.__bindgen_anon_3.ipv6_src = source.0;
    lookup.__bindgen_anon_4.ipv6_dst = destination.0;
}

/// Asks the kernel, as for a packet of the host's own.
#[inline(always)]
fn ask(ctx: Context, lookup: &mut Lookup) -> i64 {
    lookup.ifindex = LOOPBACK;
    // SAFETY: the parameters are as long as we say.
    unsafe { bpf_fib_lookup(ctx.cast(), lookup, size_of::<Lookup>() as i32, 0) }
}

/// Out of an interface by a next hop.
///
/// A subprogram: what it needs of stack, all would pay for.
#[inline(never)]
fn redirect_via(ifindex: u32, via: &V6) -> i64 {
    // SAFETY: plain data, for which zero is valid.
    let mut next: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    if let Some(via) = via.unmapped() {
        next.nh_family = AF_INET;
        next.__bindgen_anon_1.ipv4_nh = via.0;
    } else {
        next.nh_family = AF_INET6;
        next.__bindgen_anon_1.ipv6_nh = via.0;
    }
    // SAFETY: a helper without preconditions; the parameters are as long as we say.
    unsafe { bpf_redirect_neigh(ifindex, &mut next, size_of_val(&next) as i32, 0) }
}
