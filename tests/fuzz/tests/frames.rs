//! The data path under frames of any kind, in a process of its own: what it keeps in memory is bounded.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use common::bounded;

/// What the process may grow by from its first inputs to its last: what the limits of some connections at a time allow, a debug build's
/// stacks and the heap's own waste. A leak of 10 kB for each input would be above it in the usual seconds.
const GROWTH: u64 = 48 << 20;

/// Returns a line of what the kernel says of this process, in bytes.
fn status(line: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = text.lines().find_map(|it| it.strip_prefix(line)).unwrap();
    let kib = value.trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() * 1024
}

#[test]
fn frames() {
    // Everything is there, and was used once.
    let target = fuzz::target("frames").unwrap();
    (target.run)(b"");
    let before = status("RssAnon:");
    bounded("frames");
    let (after, peak) = (status("RssAnon:"), status("VmHWM:"));
    println!("memory: {before} bytes before, {after} after, {peak} at most, code included");
    assert!(after < before + GROWTH, "from {before} to {after}");
}
