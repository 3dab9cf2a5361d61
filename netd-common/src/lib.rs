//! What netd's programs and its daemon share.
#![cfg_attr(not(feature = "host"), no_std)]
