//! The internet checksum, by difference (RFC 1624). Sums are 32 bits wide and not folded, as the kernel's `__wsum`; the
//! byte order of what is summed does not matter as long as it is the same everywhere (RFC 1071 section 2).

/// One's complement sum of two sums.
#[inline(always)]
pub const fn add(a: u32, b: u32) -> u32 {
    let sum = a as u64 + b as u64;
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

/// What is to be added to a sum over data when `old` in it becomes `new`.
#[inline(always)]
pub const fn diff(old: u32, new: u32) -> u32 {
    add(!old, new)
}

/// A checksum field (the complement of the sum) after the sum changed by `diff`: `HC' = ~(~HC + diff)`.
#[inline(always)]
pub const fn update(field: u16, diff: u32) -> u16 {
    !fold(add(!field as u32, diff))
}

/// A sum in 16 bits.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
