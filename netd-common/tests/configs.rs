//! What programs read of the node while the daemon writes it.

use netd_common::{
    V4, V6,
    abi::{Config, Configs},
    wire::Be16,
};

/// An entry all of whose bytes are these.
fn config(byte: u8) -> Config<V6> {
    let (half, word) = (u16::from_ne_bytes([byte; 2]), u32::from_ne_bytes([byte; 4]));
    Config {
        uplink: word,
        address: V6([word; 4]),
        underlay4: V4(word),
        underlay6: V6([word; 4]),
        first_port: half,
        last_port: half,
        quota: word,
        flows: word,
        ring: word,
        seed: word,
        mtu: word,
        overlay: word,
        overlay_port: Be16::from_raw(half),
        reserved: half,
    }
}

fn bytes(configs: &Configs<V6>) -> Vec<u8> {
    let start = std::ptr::from_ref(configs).cast::<u8>();
    // SAFETY: a plain struct without padding.
    unsafe { std::slice::from_raw_parts(start, size_of::<Configs<V6>>()) }.to_vec()
}

fn read(bytes: &[u8]) -> Config<V6> {
    // SAFETY: as many bytes as it has, any of which are one.
    *unsafe { bytes.as_ptr().cast::<Configs<V6>>().read_unaligned() }.get()
}

/// A write is a copy of bytes that may stop anywhere while a program reads: from either end, what the program sees is the old entry or
/// the new one, and never some of both.
#[test]
fn an_entry_is_seen_whole_while_it_is_written() {
    for backward in [false, true] {
        let mut now = Configs { current: 0, places: [config(0), config(0)] };
        for round in 1..10 {
            let (old, new) = (*now.get(), config(round));
            let mut memory = bytes(&now);
            for (write, to) in now.change(new).iter().enumerate() {
                let to = bytes(to);
                let order: Vec<usize> =
                    if backward { (0..to.len()).rev().collect() } else { (0..to.len()).collect() };
                for at in order {
                    memory[at] = to[at];
                    let seen = read(&memory);
                    assert!(seen == old || seen == new && write == 1, "round {round}, byte {at}: {seen:?}");
                }
            }
            now = now.change(new)[1];
            assert_eq!(read(&memory), new);
        }
    }
}
