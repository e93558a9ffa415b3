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

/// Adds `n` to a half word that other CPUs add to as well.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub(crate) unsafe fn add32(word: *mut u32, n: u32) {
    // SAFETY: one atomic instruction on a word that the caller vouches for.
    unsafe { asm!("lock *(u32 *)({word} + 0) += w1", word = in(reg) word, in("r1") u64::from(n)) };
}

/// Adds `n` to a word; returns what it was.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub(crate) unsafe fn fetch_add(word: *mut u64, n: u64) -> u64 {
    let was;
    // SAFETY: one atomic instruction on a word that the caller vouches for.
    unsafe {
        asm!("{n} = atomic_fetch_add((u64 *)({word} + 0), {n})", word = in(reg) word, n = inout(reg) n => was)
    };
    was
}

/// Puts `new` into a half word; returns what it was.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub(crate) unsafe fn exchange32(word: *mut u32, new: u32) -> u32 {
    let was: u64;
    // SAFETY: one atomic instruction on a word that the caller vouches for.
    unsafe {
        asm!("w0 = xchg32_32({word} + 0, w0)", word = in(reg) word, inout("r0") u64::from(new) => was)
    };
    was as u32
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
