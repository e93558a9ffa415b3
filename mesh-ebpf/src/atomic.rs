//! Atomic operations on shared words, which core has none of for this target.

use core::arch::asm;

/// Adds `n` to a word that other CPUs add to as well.
///
/// # Safety
///
/// `word` must point into a map value, aligned.
#[inline(always)]
pub(crate) unsafe fn add(word: *mut u64, n: u64) {
    // SAFETY: one atomic instruction on a word that the caller vouches for.
    unsafe { asm!("lock *(u64 *)({word} + 0) += {n}", word = in(reg) word, n = in(reg) n) };
}

/// Stores `new` if the word still is `old`; returns what it was.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub(crate) unsafe fn compare_exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    let was;
    // SAFETY: one atomic instruction on a word that the caller vouches for.
    unsafe {
        asm!("r0 = cmpxchg_64({word} + 0, r0, {new})", word = in(reg) word, new = in(reg) new, inout("r0") old => was)
    };
    was
}
/// Sets the bits `bits` of a word.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub(crate) unsafe fn or(word: *mut u64, bits: u64) {
    // SAFETY: one atomic instruction on a word that the caller vouches for.
    unsafe {
        asm!("lock *(u64 *)({word} + 0) |= {bits}", word = in(reg) word, bits = in(reg) bits)
    };
}
