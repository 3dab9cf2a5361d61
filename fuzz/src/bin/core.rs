//! The decision core under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| netd_fuzz::play(bytes));
