//! Sums over bytes: `sum`, `xor` and `fletcher`.

/// Adds all bytes; the caller keeps as many low bits as it writes.
pub(super) fn sum(data: &[u8]) -> u128 {
    data.iter().map(|b| u64::from(*b)).sum::<u64>().into()
}

/// Exclusive or of all bytes.
pub(super) fn xor(data: &[u8]) -> u128 {
    data.iter().fold(0u8, |sum, byte| sum ^ byte).into()
}

/// The 8-bit Fletcher algorithm of RFC 1145 as u-blox uses it: two sums modulo 256, CK_A before CK_B.
pub(super) fn fletcher(data: &[u8]) -> u128 {
    let (mut a, mut b) = (0u8, 0u8);
    for byte in data {
        a = a.wrapping_add(*byte);
        b = b.wrapping_add(a);
    }
    u128::from(a) << 8 | u128::from(b)
}
