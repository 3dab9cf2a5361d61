//! A word in a map's value that several CPUs read and write at once.
//!
//! In BPF, `core::sync::atomic` does not compile for 32-bit words (LLVM: "Cannot select: AtomicLoad"), so plain reads and
//! writes are volatile and what is atomic is the instruction itself (BPF_CMPXCHG, BPF_FETCH: kernel 5.12). On the host it is
//! an `AtomicU32`.

/// A word that may change under our hands.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Shared(imp::Word);

impl Shared {
    /// A word that holds `value`.
    #[inline(always)]
    pub const fn new(value: u32) -> Self {
        Self(imp::new(value))
    }

    /// Its value now.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "bpf"), track_caller)]
    pub fn get(&self) -> u32 {
        imp::get(&self.0)
    }

    /// Overwrites it.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "bpf"), track_caller)]
    pub fn set(&self, value: u32) {
        imp::set(&self.0, value);
    }

    /// Makes it `new` if it is `old`, as one step that no other CPU can come between. Whether it did.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "bpf"), track_caller)]
    pub fn replace(&self, old: u32, new: u32) -> bool {
        imp::compare_exchange(&self.0, old, new)
    }

    /// Adds to it, as one step; what it was. Wraps around, so that one can take away as well.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "bpf"), track_caller)]
    pub fn add(&self, change: i32) -> u32 {
        imp::add(&self.0, change as u32)
    }

    /// Sets bits of it, as one step.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "bpf"), track_caller)]
    pub fn set_bits(&self, bits: u32) {
        imp::or(&self.0, bits);
    }
}

impl Clone for Shared {
    fn clone(&self) -> Self {
        Self::new(self.get())
    }
}

#[cfg(target_arch = "bpf")]
mod imp {
    use core::{arch::asm, cell::UnsafeCell, ptr};

    pub(super) type Word = UnsafeCell<u32>;

    pub(super) const fn new(value: u32) -> Word {
        UnsafeCell::new(value)
    }

    #[inline(always)]
    pub(super) fn get(word: &Word) -> u32 {
        // SAFETY: the pointer comes from a reference; an aligned 32-bit load is one access.
        unsafe { ptr::read_volatile(word.get()) }
    }

    #[inline(always)]
    pub(super) fn set(word: &Word, value: u32) {
        // SAFETY: the pointer comes from a reference; an aligned 32-bit store is one access.
        unsafe { ptr::write_volatile(word.get(), value) }
    }

    #[inline(always)]
    pub(super) fn compare_exchange(word: &Word, old: u32, new: u32) -> bool {
        let mut seen = u64::from(old);
        // SAFETY: BPF_ATOMIC | BPF_CMPXCHG on a word of ours; r0 holds the expected value and receives the one found.
        unsafe {
            asm!(
                "w0 = cmpxchg32_32(r1 + 0, w0, w2)",
                in("r1") word.get(),
                in("r2") u64::from(new),
                inout("r0") seen,
            );
        }
        seen as u32 == old
    }

    #[inline(always)]
    pub(super) fn add(word: &Word, change: u32) -> u32 {
        let mut value = u64::from(change);
        // SAFETY: BPF_ATOMIC | BPF_ADD | BPF_FETCH on a word of ours.
        unsafe {
            asm!(
                "w2 = atomic_fetch_add((u32 *)(r1 + 0), w2)",
                in("r1") word.get(),
                inout("r2") value,
            );
        }
        value as u32
    }

    #[inline(always)]
    pub(super) fn or(word: &Word, bits: u32) {
        // SAFETY: BPF_ATOMIC | BPF_OR | BPF_FETCH on a word of ours; what it was is of no interest.
        unsafe {
            asm!(
                "w2 = atomic_fetch_or((u32 *)(r1 + 0), w2)",
                in("r1") word.get(),
                inout("r2") u64::from(bits) => _,
            );
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
mod imp {
    use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

    #[cfg(feature = "host")]
    use crate::host::schedule::point;

    /// See `host::schedule`.
    #[cfg(not(feature = "host"))]
    fn point() {}

    pub(super) type Word = AtomicU32;

    pub(super) const fn new(value: u32) -> Word {
        AtomicU32::new(value)
    }

    #[track_caller]
    pub(super) fn get(word: &Word) -> u32 {
        point();
        word.load(SeqCst)
    }

    #[track_caller]
    pub(super) fn set(word: &Word, value: u32) {
        point();
        word.store(value, SeqCst);
    }

    #[track_caller]
    pub(super) fn compare_exchange(word: &Word, old: u32, new: u32) -> bool {
        point();
        word.compare_exchange(old, new, SeqCst, SeqCst).is_ok()
    }

    #[track_caller]
    pub(super) fn add(word: &Word, change: u32) -> u32 {
        point();
        word.fetch_add(change, SeqCst)
    }

    #[track_caller]
    pub(super) fn or(word: &Word, bits: u32) {
        point();
        word.fetch_or(bits, SeqCst);
    }
}
