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
};

use crate::maps::Maps;

/// What a null pointer gets, which nobody passes.
const NOTHING: u32 = Drop::NoRoute as u32;

macro_rules! functions {
    ($address:ty, $create:ident, $open:ident, $hairpin:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $create(
            tuple: *const Tuple<$address>,
            slot: u32,
            mapping: *mut Mapping<$address>,
        ) -> u32 {
            // SAFETY: see above; the caller has both borrowed.
            match unsafe { (tuple.as_ref(), mapping.as_mut()) } {
                (Some(tuple), Some(mapping)) => nat::create(&Maps, tuple, slot, mapping),
                _ => NOTHING,
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $open(
            inward: *const Tuple<$address>,
            tcp_flags: u32,
            mapping: *mut Mapping<$address>,
        ) -> u32 {
            // SAFETY: as above.
            match unsafe { (inward.as_ref(), mapping.as_mut()) } {
                (Some(inward), Some(mapping)) => published::open(&Maps, inward, tcp_flags, mapping),
                _ => NOTHING,
            }
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
            match unsafe { (tuple.as_ref(), rewrite.as_mut()) } {
                (Some(tuple), Some(rewrite)) => hairpin::translate(&Maps, tuple, tcp_flags, slot, rewrite),
                _ => NOTHING,
            }
        }
    };
}

functions!(V4, create_flow4, open_flow4, hairpin_flows4);
functions!(V6, create_flow6, open_flow6, hairpin_flows6);
