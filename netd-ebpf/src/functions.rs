//! Parts of the core as global functions, which the verifier looks at one by one (kernel 5.6, with pointers 5.12): as subprograms of
//! the usual kind it would look at each for every way that leads to a call, and give up after a million instructions.
//!
//! A pointer that such a function takes is one to as many bytes as its type has, or null: the verifier makes sure of that.

use netd_common::{
    Drop, V4, V6,
    abi::Tuple,
    hairpin::{self, Rewrite},
    nat::{self, Mapping},
    published,
    tables::Whose,
};

use crate::{
    flow_gc,
    maps::{Maps, SCRATCH4, SCRATCH6},
};

/// What a null pointer gets, which nobody passes.
const NOTHING: u32 = Drop::NoRoute as u32;

/// Copies a tuple to where it may be the key of a map: before Linux 6.2 a key is on the stack, which has no room for it here, or in a
/// map, not behind a pointer that a function was given.
macro_rules! key {
    ($scratch:ident, $whose:expr, $tuple:ident) => {
        $scratch.get_ptr_mut($whose as u32).map(|scratch| {
            // SAFETY: the entry of this CPU, and of this function. Programs of netd's that call it do not interrupt each other on one,
            // and no function calls itself.
            unsafe {
                let key = &raw mut (*scratch).inward;
                *key = *$tuple;
                &*key
            }
        })
    };
}

macro_rules! functions {
    ($address:ty, $scratch:ident, $create:ident, $open:ident, $hairpin:ident, $remove:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $create(
            tuple: *const Tuple<$address>,
            slot: u32,
            mapping: *mut Mapping<$address>,
        ) -> u32 {
            // SAFETY: see above; the caller has both borrowed.
            let (Some(tuple), Some(mapping)) = (unsafe { (tuple.as_ref(), mapping.as_mut()) }) else {
                return NOTHING;
            };
            let Some(tuple) = key!($scratch, Whose::GivenCreate, tuple) else { return NOTHING };
            nat::create(&Maps, tuple, slot, mapping)
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $open(
            inward: *const Tuple<$address>,
            tcp_flags: u32,
            mapping: *mut Mapping<$address>,
        ) -> u32 {
            // SAFETY: as above.
            let (Some(inward), Some(mapping)) = (unsafe { (inward.as_ref(), mapping.as_mut()) }) else {
                return NOTHING;
            };
            let Some(inward) = key!($scratch, Whose::GivenOpen, inward) else { return NOTHING };
            published::open(&Maps, inward, tcp_flags, mapping)
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $hairpin(
            tuple: *const Tuple<$address>,
            tcp_flags: u32,
            slot: u32,
            rewrite: *mut Rewrite<$address>,
        ) -> u32 {
            // SAFETY: as above.
            let (Some(tuple), Some(rewrite)) = (unsafe { (tuple.as_ref(), rewrite.as_mut()) }) else {
                return NOTHING;
            };
            let Some(tuple) = key!($scratch, Whose::GivenHairpin, tuple) else { return NOTHING };
            hairpin::translate(&Maps, tuple, tcp_flags, slot, rewrite)
        }

        /// For the loop over a list, in which the verifier would else look at this once a round.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $remove(tuple: *const Tuple<$address>, now: u32, what: u32) -> u32 {
            // SAFETY: as above. A copy, as the key of a map; on the stack, as others may come in between on this CPU.
            let Some(tuple) = (unsafe { tuple.as_ref() }).copied() else { return 0 };
            flow_gc::remove_one(&tuple, now, what)
        }
    };
}

functions!(V4, SCRATCH4, create_flow4, open_flow4, hairpin_flows4, remove_listed4);
functions!(V6, SCRATCH6, create_flow6, open_flow6, hairpin_flows6, remove_listed6);
